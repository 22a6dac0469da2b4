"""Random values of a device at the beginning of an episode; the same in every mode and process.

It depends only on the episode's seed and the device's name, and uses the standard library's generator. So
environment, proxy and emulator, each in its own process, get the same device.
"""

from __future__ import annotations

import random
from typing import NamedTuple, Protocol

from powergrid.devices.base import Device, DeviceSpecBase, clip
from powergrid.devices.registry import make_device

__all__ = [
    "DelayDraw",
    "DelayRanges",
    "DeviceDraw",
    "DeviceRanges",
    "draw_delays",
    "draw_device",
    "drawn_device",
    "drawn_soc",
]


class DeviceRanges(Protocol):
    """The part of ``[randomisation]`` that devices follow."""

    @property
    def initial_soc(self) -> tuple[float, float] | None:
        """Range of a battery's state of charge at the beginning; None = its nameplate's."""

    @property
    def efficiency_factor(self) -> tuple[float, float]:
        """Range of a factor on efficiencies, within (0, 1]."""


class DelayRanges(Protocol):
    """The part of ``[randomisation]`` that says how slow devices are."""

    @property
    def response_delay_s(self) -> tuple[float, float]:
        """Range of a dead time, of simulated and emulated devices, simulated s."""

    @property
    def answer_delay_s(self) -> tuple[float, float]:
        """Range of the time from setpoint to telemetry, of emulated devices, wall-clock s."""


class DelayDraw(NamedTuple):
    """How much slower a device is in one episode.

    Attributes:
        response_delay_s: Before it moves, simulated s.
        answer_delay_s: From setpoint to telemetry, wall-clock s.
    """

    response_delay_s: float
    answer_delay_s: float


class DeviceDraw(NamedTuple):
    """What was drawn for one device and episode.

    Attributes:
        soc: State of charge to begin with, fraction; None = the nameplate's.
        efficiency_factor: On its efficiencies, in (0, 1].
    """

    soc: float | None = None
    efficiency_factor: float = 1.0


NOTHING_DRAWN = DeviceDraw()


def draw_device(ranges: DeviceRanges, seed: int | None, agent: str, device: str) -> DeviceDraw:
    """Return the device with the values that an episode's seed draws; None = no seed, nothing is drawn.

    Uniform within each range. Both numbers are drawn always, so that one range does not change what the
    other gives.
    """
    if seed is None:
        return NOTHING_DRAWN
    rng = random.Random(f"{seed}/{agent}/{device}")  # noqa: S311 - not for secrets
    soc, factor = rng.random(), rng.random()
    low, high = ranges.efficiency_factor
    return DeviceDraw(
        soc=None
        if ranges.initial_soc is None
        else ranges.initial_soc[0] + soc * (ranges.initial_soc[1] - ranges.initial_soc[0]),
        efficiency_factor=low + factor * (high - low),
    )


def draw_delays(ranges: DelayRanges, seed: int, agent: str, device: str) -> DelayDraw:
    """Return how slow an episode's seed makes a device; uniform, in a stream of its own."""
    rng = random.Random(f"{seed}/{agent}/{device}/delays")  # noqa: S311 - not for secrets
    drawn = (
        low + rng.random() * (high - low) for low, high in (ranges.response_delay_s, ranges.answer_delay_s)
    )
    return DelayDraw(*drawn)


def drawn_soc(spec: DeviceSpecBase, draw: DeviceDraw) -> float:
    """Return the state of charge with which a storage device begins: within its own limits.

    Only kinds whose state of charge has a preferred band begin elsewhere than their nameplate says.
    """
    if draw.soc is None or not spec.soc_has_band:
        return spec.soc_at_reset
    return clip(draw.soc, getattr(spec, "min_soc", 0.0), getattr(spec, "max_soc", 1.0))


def drawn_device(spec: DeviceSpecBase, draw: DeviceDraw) -> Device:
    """Return a device in the state with which the episode begins."""
    device = make_device(spec if draw.efficiency_factor == 1.0 else spec.derated(draw.efficiency_factor))
    if draw.soc is not None and spec.soc_has_band:
        device.restore(device.state.p_mw, soc=drawn_soc(spec, draw))
    return device

"""The devices' models as the gateway needs them, and the bounding of a step's setpoints with them."""

from __future__ import annotations

import math
from collections.abc import Container, Mapping
from typing import Protocol

from heron_mqtt.field.gateway.device_link import SetpointRequest
from heron_mqtt.field.gateway.envelope import Band, SetpointLimits, clamp
from heron_mqtt.messages import Telemetry


class DeviceTwins(Protocol):
    """The devices' models, as the gateway needs them; a ``GridAgent`` is one."""

    def limits(self, device: str) -> SetpointLimits:
        """Return what bounds a device's setpoint in this step."""

    def simulate(
        self, device: str, reason: str | None = None, *, setpoint: SetpointRequest | None = None
    ) -> None:
        """Let the device's model take the step."""

    def measured(
        self, device: str, telemetry: Telemetry, *, setpoint: SetpointRequest | None = None
    ) -> float:
        """Let the model follow the device; return measured minus modelled power, MW."""

    def shadowed(self, device: str, telemetry: Telemetry) -> float:
        """Compare a device that is read but not driven with its model; return the residual, MW."""

    def reseed(self, device: str, telemetry: Telemetry) -> None:
        """Put the model where the device is; no time passes."""


def clamp_setpoints(
    twins: DeviceTwins,
    wanted: Mapping[str, SetpointRequest],
    bands: Mapping[str, Band] | None = None,
    explained: Container[str] = (),
) -> tuple[dict[str, SetpointRequest], dict[str, str]]:
    """Return setpoints inside every bound of their devices, and by device which bounds changed it.

    Args:
        twins: The devices' models.
        wanted: By device.
        bands: By device, where authority is limited.
        explained: Devices for which the bounds that the agent has kept by itself are also reported.
    """
    allowed, reasons = {}, {}
    for name, want in wanted.items():
        band = bands.get(name) if bands else None
        # a source of unknown power offers nothing
        available, reach_mw = _known(want.p_available_mw), _known(want.reach_mw)
        limits = twins.limits(name)
        done = clamp(want.p_mw, want.q_mvar, limits, band, p_available_mw=available)
        allowed[name] = SetpointRequest(done.p_mw, done.q_mvar, available, reach_mw=reach_mw)
        hit = done.bound_by
        if name in explained and want.asked_p_mw is not None and want.asked_p_mw != want.p_mw:
            # the agent has bounded it itself, by the same limits: say by which
            hit = tuple(dict.fromkeys((*clamp(want.asked_p_mw, 0.0, limits).bound_by, *hit)))
        if hit:
            reasons[name] = ", ".join(hit)
    return allowed, reasons


def _known(p_mw: float | None) -> float | None:
    return 0.0 if p_mw is not None and not math.isfinite(p_mw) else p_mw

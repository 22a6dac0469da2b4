"""The devices' models as the gateway needs them, and the bounding of a step's setpoints with them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol

from heron_mqtt.field.gateway.device_link import Wanted
from heron_mqtt.field.gateway.envelope import Band, Limits, bound
from heron_mqtt.messages import Telemetry


class Models(Protocol):
    """The devices' models, as the gateway needs them; a ``GridAgent`` is one."""

    def limits(self, device: str) -> Limits:
        """Return what bounds a device's setpoint in this step."""

    def simulate(self, device: str, reason: str | None = None, *, setpoint: Wanted | None = None) -> None:
        """Let the device's model take the step."""

    def measured(self, device: str, telemetry: Telemetry, *, setpoint: Wanted | None = None) -> float:
        """Let the model follow the device; return measured minus modelled power, MW."""

    def shadowed(self, device: str, telemetry: Telemetry) -> float:
        """Compare a device that is read but not driven with its model; return the residual, MW."""

    def reseed(self, device: str, telemetry: Telemetry) -> None:
        """Put the model where the device is; no time passes."""


def bounded(
    models: Models, wanted: Mapping[str, Wanted], bands: Mapping[str, Band] | None = None
) -> tuple[dict[str, Wanted], dict[str, str]]:
    """Return setpoints inside every bound of their devices, and by device which bounds changed it."""
    allowed, reasons = {}, {}
    for name, want in wanted.items():
        band = bands.get(name) if bands else None
        available = want.p_available_mw
        if available is not None and not math.isfinite(available):
            available = 0.0  # a source that nobody can put a number on offers nothing
        done = bound(want.p_mw, want.q_mvar, models.limits(name), band, p_available_mw=available)
        allowed[name] = Wanted(done.p_mw, done.q_mvar, available)
        if done.bound_by:
            reasons[name] = ", ".join(done.bound_by)
    return allowed, reasons

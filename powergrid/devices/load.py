"""A load that follows its profile and, where agreed, sheds a part of it.

Source: docs/models.md, load.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

from pydantic import Field

from powergrid.devices.base import (
    Device,
    DeviceSpecBase,
    DeviceState,
    Fraction,
    Measurement,
    PolicyThresholds,
    PositivePowerMw,
    finite,
    hours,
)

__all__ = ["Load", "LoadSpec"]


class LoadSpec(DeviceSpecBase):
    """Nameplate of a load."""

    profile_says: ClassVar[str | None] = "its demand"
    controls_q: ClassVar[bool] = False
    rests_when_safe: ClassVar[bool] = False  # whoever consumes goes on without us

    kind: Literal["load"] = Field(default="load", description="Kind of device")
    max_p_mw: PositivePowerMw = Field(description="Largest consumption, MW, magnitude (p_mw >= -this)")
    max_shed_fraction: Fraction = Field(
        default=0.0, description="Part of the demand that may be shed, [0, 1]; 0 = not sheddable"
    )

    @property
    def power_range_mw(self) -> tuple[float, float]:
        """Smallest and largest power of the nameplate, MW, positive = injected."""
        return -self.max_p_mw, 0.0

    @property
    def rated_s_mva(self) -> float:
        """No limit of its own: reactive power follows the demand."""
        return math.inf

    @property
    def profile_mw(self) -> float:
        """What the per-unit profile multiplies, MW, as an injection."""
        return -self.max_p_mw

    @property
    def action_range_mw(self) -> tuple[float, float, float] | None:
        """Setpoint, MW, at -1, 0 and +1 of the action: -1 sheds nothing; no action where nothing may be."""
        if self.max_shed_fraction == 0.0:
            return None
        return -self.max_p_mw, -0.5 * self.max_p_mw, 0.0

    def part_mw(self, planned_mw: float, factor: float) -> float:
        """Return a part of what was planned: at least what cannot be shed."""
        return planned_mw * max(factor, 1.0 - self.max_shed_fraction)


class Load(Device):
    """A load; consuming is a negative injection.

    The demand of a step is handed in as ``p_available_mw`` (<= 0); the setpoint may go from it up to
    ``(1 - max_shed_fraction)`` of it. Without a demand the device is a load bank: it draws what it is
    told, from 0 to ``max_p_mw``. ``q_mvar`` is the profile's reactive power at full demand, as an
    injection (negative = inductive); shedding takes the same part of it.
    """

    spec_type = LoadSpec
    script = "load_meter"
    description = "A metered load, emulated; it sheds as far as its nameplate allows."

    spec: LoadSpec
    state: DeviceState

    def __init__(self, spec: LoadSpec) -> None:
        self.spec = spec
        self.reset()

    def reset(self) -> None:
        """Go back to zero power."""
        self.state = DeviceState(p_mw=0.0)

    def feasible(self, dt_s: float, p_available_mw: float | None = None) -> tuple[float, float]:
        """Return (full demand, demand left after the largest shedding), MW, both <= 0; see ``Device``."""
        hours(dt_s)
        if p_available_mw is None:
            return -self.spec.max_p_mw, 0.0
        demand = max(_demand(p_available_mw), -self.spec.max_p_mw)
        return demand, demand * (1.0 - self.spec.max_shed_fraction) + 0.0

    def step(
        self, p_mw: float, q_mvar: float, dt_s: float, p_available_mw: float | None = None
    ) -> Measurement:
        """Draw the demand less what is shed; see ``Device`` and the class for ``q_mvar``."""
        wanted_p, full_q = finite("p_mw", p_mw), finite("q_mvar", q_mvar)
        p = self.project(wanted_p, dt_s, p_available_mw)
        demand = p if p_available_mw is None else _demand(p_available_mw)
        # A demand of 0 MW sheds nothing, and p / demand is exactly 1 where nothing is shed.
        q = full_q if demand == 0.0 else full_q * (p / demand) + 0.0
        self.state = DeviceState(p_mw=p)
        return Measurement(p_mw=p, q_mvar=q, soc=None, running=None, cost=0.0, clipped=p != wanted_p)

    def restore(
        self,
        p_mw: float,
        soc: float | None = None,
        running: bool | None = None,
        time_in_state_s: float | None = None,
    ) -> None:
        """Take the power from telemetry; see ``Device``."""
        self.state = DeviceState(p_mw=finite("p_mw", p_mw))

    def usual_p_mw(
        self, price: float, policy: PolicyThresholds, dt_s: float, p_available_mw: float | None
    ) -> float:
        """Shed nothing, whatever the price."""
        return -self.spec.max_p_mw


def _demand(p_available_mw: float) -> float:
    demand = finite("p_available_mw", p_available_mw)
    if demand > 0.0:
        raise ValueError(
            f"p_available_mw of a load is its demand as an injection and must be <= 0, got {p_available_mw}"
        )
    return demand

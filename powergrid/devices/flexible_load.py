"""A controllable load with rebound: what is shed now is wanted later.

Source: docs/models.md, flexible load.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, NamedTuple

from pydantic import Field

from powergrid.devices.base import (
    S_PER_H,
    ConsumerSpecBase,
    Fraction,
    PolicyThresholds,
    PositivePowerMw,
    PowerMw,
)
from powergrid.devices.formulas import FormulaDevice, Ops, Value

__all__ = ["FlexibleLoad", "FlexibleLoadSpec", "FlexibleLoadState"]


class FlexibleLoadSpec(ConsumerSpecBase):
    """Nameplate of a load that may be shed for a while and draws the shed energy afterwards."""

    has_soc: ClassVar[bool] = True
    profile_says: ClassVar[str | None] = "its demand"
    profile_bounds: ClassVar[bool] = False
    rests_when_safe: ClassVar[bool] = False  # consumption continues without a setpoint

    kind: Literal["flexible_load"] = Field(default="flexible_load", description="Kind of device")
    max_p_mw: PositivePowerMw = Field(
        description="Largest consumption, rebound included, MW, magnitude (p_mw >= -this)"
    )
    max_shed_fraction: Fraction = Field(
        default=0.5, description="Part of the demand that may be shed, [0, 1]"
    )
    max_backlog_mwh: float = Field(
        ge=1e-9,
        le=1e6,
        description="Largest energy that is owed (shed and not caught up); then no more is shed, MWh, > 0",
    )
    max_rebound_mw: PowerMw = Field(description="Largest power above the demand, to catch up, MW")
    rebound_factor: float = Field(
        default=1.0, ge=0.0, le=10.0, description="Energy owed per energy shed; above 1: extra consumption"
    )

    @property
    def soc_at_reset(self) -> float:
        """State with which an episode begins: nothing is owed."""
        return 1.0

    def part_mw(self, planned_mw: float, factor: float) -> float:
        """Return a part of what was planned: at least what cannot be shed."""
        return planned_mw * max(factor, 1.0 - self.max_shed_fraction)


class FlexibleLoadState(NamedTuple):
    """State of a flexible load; values are numbers, or arrays over copies.

    Attributes:
        p_mw: Power of the last step, MW, <= 0.
        soc: Flexibility that is left: 1 - energy owed / ``max_backlog_mwh``.
    """

    p_mw: Any
    soc: Any


class FlexibleLoad(FormulaDevice):
    """A load whose shed energy comes back; consuming is a negative injection.

    The demand of a step is handed in as ``p_available_mw`` (<= 0). The setpoint may go from the demand down
    to what may be shed of it, and up by ``max_rebound_mw`` while energy is owed. Without a demand only the
    nameplate bounds a setpoint, and nothing is shed.
    """

    spec_type = FlexibleLoadSpec
    description = "A controllable load with rebound, emulated."

    spec: FlexibleLoadSpec
    state: FlexibleLoadState

    def begin(self) -> FlexibleLoadState:
        """Return: nothing is owed."""
        return FlexibleLoadState(0.0, 1.0)

    def limits(
        self, state: FlexibleLoadState, dt_s: float, available: Value | None, x: Ops
    ) -> tuple[Value, Value]:
        """Return (demand and rebound, demand less shedding), MW, both <= 0; see ``FormulaDevice``."""
        spec, dt_h = self.spec, dt_s / S_PER_H
        if available is None:
            return -spec.max_p_mw, 0.0
        demand_mw = x.minimum(0.0 - available, spec.max_p_mw)
        owed_mw = (1.0 - state.soc) * spec.max_backlog_mwh / dt_h
        most_mw = x.minimum(demand_mw + x.minimum(owed_mw, spec.max_rebound_mw), spec.max_p_mw)
        shed_mw = spec.max_shed_fraction * demand_mw
        if spec.rebound_factor > 0.0:
            shed_mw = x.minimum(shed_mw, state.soc * spec.max_backlog_mwh / spec.rebound_factor / dt_h)
        return 0.0 - most_mw, 0.0 - x.maximum(demand_mw - shed_mw, 0.0)

    def after(
        self, state: FlexibleLoadState, p_mw: Value, dt_s: float, available: Value | None, x: Ops
    ) -> tuple[FlexibleLoadState, Value, Value]:
        """Owe what was shed, and catch up what was drawn above the demand; see ``FormulaDevice``."""
        spec, dt_h = self.spec, dt_s / S_PER_H
        drawn_mw = 0.0 - p_mw
        demand_mw = drawn_mw if available is None else x.minimum(0.0 - available, spec.max_p_mw)
        shed_mw = x.maximum(demand_mw - drawn_mw, 0.0)
        caught_up_mw = x.maximum(drawn_mw - demand_mw, 0.0)
        owed_mwh = (shed_mw * spec.rebound_factor - caught_up_mw) * dt_h
        soc = x.clip(state.soc - owed_mwh / spec.max_backlog_mwh, 0.0, 1.0)
        return FlexibleLoadState(p_mw, soc), 0.0, 0.0

    def usual(
        self,
        state: FlexibleLoadState,
        price: Value,
        policy: PolicyThresholds,
        dt_s: float,
        available: Value | None,
        x: Ops,
    ) -> Value:
        """Shed when energy is dear, else draw the demand and catch up."""
        return x.where(price >= policy.discharge_above, 0.0, -self.spec.max_p_mw)

"""A load that follows its profile and, where agreed, sheds a part of it.

Source: docs/models.md, load.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal, NamedTuple

from pydantic import Field

from powergrid.devices.base import ConsumerSpecBase, Fraction, PolicyThresholds
from powergrid.devices.formulas import FormulaDevice, Ops, Value

__all__ = ["Load", "LoadSpec"]


class LoadSpec(ConsumerSpecBase):
    """Nameplate of a load."""

    profile_says: ClassVar[str | None] = "its demand"
    rests_when_safe: ClassVar[bool] = False  # consumption continues without a setpoint

    kind: Literal["load"] = Field(default="load", description="Kind of device")
    max_shed_fraction: Fraction = Field(
        default=0.0, description="Part of the demand that may be shed, [0, 1]; 0 = not sheddable"
    )

    @property
    def rated_s_mva(self) -> float:
        """No limit of its own: reactive power follows the demand."""
        return math.inf

    @property
    def action_range_mw(self) -> tuple[float, float, float] | None:
        """Setpoint, MW, at -1, 0 and +1 of the action: -1 sheds nothing; no action where nothing may be."""
        if self.max_shed_fraction == 0.0:
            return None
        return -self.max_p_mw, -0.5 * self.max_p_mw, 0.0

    def part_mw(self, planned_mw: float, factor: float) -> float:
        """Return a part of what was planned: at least what cannot be shed."""
        return planned_mw * max(factor, 1.0 - self.max_shed_fraction)


class LoadState(NamedTuple):
    """``p_mw``: power of the last step, MW, <= 0; a number, or an array over copies."""

    p_mw: Any


class Load(FormulaDevice):
    """A load; consuming is a negative injection.

    The demand of a step is handed in as ``p_available_mw`` (<= 0); the setpoint may go from it up to
    ``(1 - max_shed_fraction)`` of it. Without a demand the device is a load bank: it draws what it is
    told, from 0 to ``max_p_mw``. ``q_mvar`` is the profile's reactive power at full demand, as an
    injection (negative = inductive); shedding takes the same part of it.
    """

    spec_type = LoadSpec
    script = "load_meter"
    description = "A metered load, emulated; it sheds as far as its nameplate allows."
    q_is_the_demands = True

    spec: LoadSpec
    state: LoadState

    def begin(self) -> LoadState:
        """Return zero power."""
        return LoadState(0.0)

    def limits(self, state: LoadState, dt_s: float, available: Value | None, x: Ops) -> tuple[Value, Value]:
        """Return (full demand, demand left after the largest shedding), MW; see ``FormulaDevice``."""
        spec = self.spec
        if available is None:
            return -spec.max_p_mw, 0.0
        demand = x.maximum(available, -spec.max_p_mw)
        return demand, demand * (1.0 - spec.max_shed_fraction) + 0.0

    def reactive(self, q_mvar: Value, p_mw: Value, available: Value | None, x: Ops) -> Value:
        """Return the reactive power of what is drawn: shedding keeps the power factor."""
        demand = p_mw if available is None else available
        nothing = demand == 0.0
        # A demand of 0 MW sheds nothing, and p / demand is exactly 1 where nothing is shed.
        return q_mvar * x.where(nothing, 1.0, p_mw / x.where(nothing, 1.0, demand)) + 0.0

    def after(
        self, state: LoadState, p_mw: Value, dt_s: float, available: Value | None, x: Ops
    ) -> tuple[LoadState, Value, Value]:
        """Remember the power; see ``FormulaDevice``."""
        return LoadState(p_mw), 0.0, 0.0

    def usual(
        self,
        state: LoadState,
        price: Value,
        policy: PolicyThresholds,
        dt_s: float,
        available: Value | None,
        x: Ops,
    ) -> Value:
        """Shed nothing, whatever the price."""
        return -self.spec.max_p_mw

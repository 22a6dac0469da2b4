"""A heat pump with a thermal store: heat demand first, electricity when it suits.

Source: docs/models.md, heat pump.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self

from pydantic import Field

from powergrid.devices.base import (
    S_PER_H,
    ConsumerSpecBase,
    Fraction,
    PolicyThresholds,
    PositivePowerMw,
    PowerMw,
    hours,
)
from powergrid.devices.formulas import FormulaDevice, Ops, Value

__all__ = ["HeatPump", "HeatPumpSpec", "HeatPumpState"]


class HeatPumpSpec(ConsumerSpecBase):
    """Nameplate of a heat pump with its store. Powers are electric unless a name says heat."""

    has_soc: ClassVar[bool] = True
    has_cost: ClassVar[bool] = True
    profile_says: ClassVar[str | None] = "its heat demand, per unit of max_heat_mw"
    profile_bounds: ClassVar[bool] = False
    rests_when_safe: ClassVar[bool] = False  # its own controller continues heating

    kind: Literal["heat_pump"] = Field(default="heat_pump", description="Kind of device")
    max_p_mw: PositivePowerMw = Field(description="Largest electric power, MW, magnitude (p_mw >= -this)")
    cop: Annotated[float, Field(ge=0.1, le=20.0)] = Field(
        default=3.0, description="Coefficient of performance: heat per electric energy"
    )
    max_heat_mw: PositivePowerMw = Field(description="Heat demand where the profile is 1, MW of heat")
    max_e_mwh: float = Field(ge=1e-9, le=1e6, description="Heat in the store at soc = 1, MWh of heat, > 0")
    initial_soc: Fraction = Field(
        default=0.5, description="State of charge of the store after reset, fraction"
    )
    standby_loss_mw: PowerMw = Field(
        default=0.0, description="Constant heat loss of the store, MW of heat; none when empty"
    )
    unserved_usd_per_mwh: float = Field(
        default=0.0, ge=0.0, le=1e8, description="Cost of heat demand that is not met, $/MWh of heat"
    )

    @property
    def profile_mw(self) -> float:
        """What the per-unit profile multiplies, MW: the electric power that covers the demand at once."""
        return -self.max_heat_mw / self.cop

    @property
    def soc_at_reset(self) -> float:
        """State of charge with which an episode begins."""
        return self.initial_soc

    def derated(self, efficiency_factor: float) -> Self:
        """Return the heat pump with a worse coefficient of performance."""
        return self.model_copy(update={"cop": self.cop * efficiency_factor})


class HeatPumpState(NamedTuple):
    """State of a heat pump; values are numbers, or arrays over copies.

    Attributes:
        p_mw: Power of the last step, MW, <= 0.
        soc: Of the store, fraction of ``max_e_mwh``.
    """

    p_mw: Any
    soc: Any


class HeatPump(FormulaDevice):
    """A heat pump that feeds a store, from which a demand is served.

    Its own controller limits the heat, whatever the setpoint: at least what the demand needs, and at most
    what the store has room for. The profile gives the demand as the electric power that would cover it at
    once (<= 0); without it only the nameplate bounds a setpoint.
    """

    spec_type = HeatPumpSpec
    description = "A heat pump with a thermal store, emulated."

    spec: HeatPumpSpec
    state: HeatPumpState

    def begin(self) -> HeatPumpState:
        """Return: off, the store as it is at the beginning."""
        return HeatPumpState(0.0, self.spec.initial_soc)

    def limits(
        self, state: HeatPumpState, dt_s: float, available: Value | None, x: Ops
    ) -> tuple[Value, Value]:
        """Return (what the store has room for, what the demand needs), MW; see ``FormulaDevice``."""
        spec, dt_h = self.spec, dt_s / S_PER_H
        if available is None:
            return -spec.max_p_mw, 0.0
        heat_mw, stored_mwh = -available * spec.cop, state.soc * spec.max_e_mwh
        out_mw = heat_mw + self._loss_mwh(state, dt_h, x) / dt_h
        room_mw = ((spec.max_e_mwh - stored_mwh) / dt_h + out_mw) / spec.cop
        need_mw = (out_mw - stored_mwh / dt_h) / spec.cop
        most = x.clip(room_mw, 0.0, spec.max_p_mw)
        return 0.0 - most, 0.0 - x.clip(need_mw, 0.0, most)

    def after(
        self, state: HeatPumpState, p_mw: Value, dt_s: float, available: Value | None, x: Ops
    ) -> tuple[HeatPumpState, Value, Value]:
        """Heat the store and serve the demand; see ``FormulaDevice``."""
        spec, dt_h = self.spec, dt_s / S_PER_H
        heat_mw = 0.0 if available is None else -available * spec.cop
        loss_mwh = self._loss_mwh(state, dt_h, x)
        stored_mwh = state.soc * spec.max_e_mwh - loss_mwh - (p_mw * spec.cop + heat_mw) * dt_h
        # Less than nothing is heat that was not served; but for rounding it is not in the store.
        unmet_mwh = x.where(stored_mwh < -1e-12, 0.0 - stored_mwh, 0.0)
        soc = x.clip(stored_mwh / spec.max_e_mwh, 0.0, 1.0)
        return HeatPumpState(p_mw, soc), unmet_mwh * spec.unserved_usd_per_mwh, loss_mwh

    def usual(
        self,
        state: HeatPumpState,
        price: Value,
        policy: PolicyThresholds,
        dt_s: float,
        available: Value | None,
        x: Ops,
    ) -> Value:
        """Fill the store when energy is cheap, live on it when it is dear, else cover the demand."""
        demand = 0.0 if available is None else available
        return x.where(
            price <= policy.charge_below,
            -self.spec.max_p_mw,
            x.where(price >= policy.discharge_above, 0.0, demand),
        )

    def missing_mw(self, soc: float, measured_soc: float, dt_s: float) -> float:
        """Return the electric power that would explain the difference; see ``Device``."""
        return (soc - measured_soc) * self.spec.max_e_mwh / self.spec.cop / hours(dt_s)

    def _loss_mwh(self, state: HeatPumpState, dt_h: float, x: Ops) -> Value:
        return x.minimum(self.spec.standby_loss_mw * dt_h, state.soc * self.spec.max_e_mwh)

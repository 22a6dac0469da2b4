"""A charging point with its car: energy wanted by a deadline, a minimum current or nothing.

Source: docs/models.md, EV charger.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from powergrid.devices.base import (
    S_PER_H,
    ConsumerSpecBase,
    Fraction,
    PolicyThresholds,
    PositivePowerMw,
    PowerMw,
)
from powergrid.devices.formulas import FormulaDevice, Ops, Value

__all__ = ["EvCharger", "EvChargerSpec", "EvChargerState"]


class EvChargerSpec(ConsumerSpecBase):
    """Nameplate of a charging point, and the energy demand of its cars."""

    has_soc: ClassVar[bool] = True
    has_cost: ClassVar[bool] = True
    profile_says: ClassVar[str | None] = "what a connected car may draw, 0 = no car"

    kind: Literal["ev_charger"] = Field(default="ev_charger", description="Kind of device")
    max_p_mw: PositivePowerMw = Field(description="Largest charging power, MW, magnitude (p_mw >= -this)")
    min_p_mw: PowerMw = Field(
        default=0.0, description="Smallest charging power other than 0, MW, magnitude: 6 A per phase"
    )
    max_e_mwh: float = Field(ge=1e-9, le=1e6, description="Energy in the car's battery at soc = 1, MWh, > 0")
    efficiency_charge: Annotated[float, Field(ge=0.01, le=1.0)] = Field(
        default=0.9, description="Energy into the battery per energy taken at the terminal, (0, 1]"
    )
    arrival_soc: Fraction = Field(
        default=0.3, description="State of charge with which a car arrives, fraction"
    )
    target_soc: Fraction = Field(
        default=0.8, description="State of charge wanted, fraction; charging ends there"
    )
    stay_s: float = Field(default=28_800.0, gt=0.0, le=1e8, description="From plugging in to the deadline, s")
    unserved_usd_per_mwh: float = Field(
        default=0.0, ge=0.0, le=1e8, description="Cost of energy that is missing at the deadline, $/MWh"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.min_p_mw > self.max_p_mw:
            raise ValueError(f"min_p_mw must not exceed max_p_mw, got {self.min_p_mw} and {self.max_p_mw}")
        if self.arrival_soc > self.target_soc:
            raise ValueError(
                f"arrival_soc must not exceed target_soc, got {self.arrival_soc} and {self.target_soc}"
            )
        return self

    @property
    def gap_mw(self) -> tuple[float, float]:
        """The powers between these two, MW, cannot be held: below the minimum nothing is charged."""
        return -self.min_p_mw, 0.0

    @property
    def soc_at_reset(self) -> float:
        """State of charge with which an episode begins: that of the next car."""
        return self.arrival_soc

    def part_mw(self, planned_mw: float, factor: float) -> float:
        """Return a part of what was planned: nothing, or at least the minimum power."""
        told_mw = -planned_mw * factor
        if told_mw < self.min_p_mw <= -planned_mw:
            told_mw = self.min_p_mw if told_mw > 0.5 * self.min_p_mw else 0.0  # the rule of EvCharger
        return 0.0 - told_mw

    def derated(self, efficiency_factor: float) -> Self:
        """Return the charger with a worse efficiency."""
        worse = self.efficiency_charge * efficiency_factor
        return self.model_copy(update={"efficiency_charge": worse})


class EvChargerState(NamedTuple):
    """State of a charging point; values are numbers, or arrays over copies.

    Attributes:
        p_mw: Power of the last step, MW, <= 0.
        soc: Of the car that is connected, or of the next one.
        connected: 1 while a car is connected, else 0.
        connected_s: How long it has been, s.
    """

    p_mw: Any
    soc: Any
    connected: Any
    connected_s: Any


class EvCharger(FormulaDevice):
    """A charging point; ``p_mw`` is 0 or within [-max_p_mw, -min_p_mw].

    - The profile says whether a car is connected (0 = no car) and what it may draw; without it a car is.
    - A setpoint weaker than half the minimum means nothing, one between that and the minimum means the
      minimum. Charging ends at ``target_soc``, within a step too: then the mean power is less.
    - When a car leaves, the next one will come with ``arrival_soc``.
    - What is missing at the deadline, or when the car leaves before, costs ``unserved_usd_per_mwh``.
    """

    spec_type = EvChargerSpec
    description = "A charging point for electric vehicles, emulated."

    spec: EvChargerSpec
    state: EvChargerState

    def begin(self) -> EvChargerState:
        """Return: no car, and none was there."""
        return EvChargerState(0.0, self.spec.arrival_soc, 0.0, 0.0)

    def limits(
        self, state: EvChargerState, dt_s: float, available: Value | None, x: Ops
    ) -> tuple[Value, Value]:
        """Return (strongest charging, 0), MW; see ``FormulaDevice``."""
        low, _ = self._range(state, dt_s, available, x)
        return low, 0.0

    def realised(
        self, state: EvChargerState, p_mw: Value, dt_s: float, available: Value | None, x: Ops
    ) -> Value:
        """Return 0, or a power between the minimum and the strongest possible."""
        low, weakest = self._range(state, dt_s, available, x)
        return x.where(p_mw >= 0.5 * weakest, 0.0, x.clip(p_mw, low, weakest))

    def after(
        self, state: EvChargerState, p_mw: Value, dt_s: float, available: Value | None, x: Ops
    ) -> tuple[EvChargerState, Value, Value]:
        """Charge the car, or see it leave; see ``FormulaDevice``."""
        spec, dt_h = self.spec, dt_s / S_PER_H
        here = 1.0 if available is None else x.where(available < 0.0, 1.0, 0.0)
        charged = state.soc - p_mw * spec.efficiency_charge * dt_h / spec.max_e_mwh
        # ``p_mw`` keeps the target; this takes away the last rounding and nothing else.
        charged = x.minimum(charged, x.maximum(state.soc, spec.target_soc))
        until_s = state.connected_s + dt_s
        # The deadline falls into this step, or the car left in it, before its deadline.
        due = x.where(
            here > 0.0,
            x.where(state.connected_s < spec.stay_s, x.where(until_s >= spec.stay_s, 1.0, 0.0), 0.0),
            x.where(state.connected_s < spec.stay_s, state.connected, 0.0),
        )
        had = x.where(here > 0.0, charged, state.soc)
        missing_mwh = due * x.maximum(spec.target_soc - had, 0.0) * spec.max_e_mwh
        loss_mwh = 0.0 - p_mw * (1.0 - spec.efficiency_charge) * dt_h
        moved = EvChargerState(
            p_mw,
            x.where(here > 0.0, charged, spec.arrival_soc),
            here,
            x.where(here > 0.0, until_s, 0.0),
        )
        return moved, missing_mwh * spec.unserved_usd_per_mwh, loss_mwh

    def usual(
        self,
        state: EvChargerState,
        price: Value,
        policy: PolicyThresholds,
        dt_s: float,
        available: Value | None,
        x: Ops,
    ) -> Value:
        """Charge when energy is cheap, wait when it is dear, else evenly; in time for the deadline always."""
        spec, dt_h = self.spec, dt_s / S_PER_H
        wanted_mwh = x.maximum(spec.target_soc - state.soc, 0.0) * spec.max_e_mwh / spec.efficiency_charge
        left_h = x.maximum(spec.stay_s - state.connected_s, dt_s) / S_PER_H
        if_waiting_mwh = spec.max_p_mw * (left_h - dt_h)  # what could still be taken after this step
        evenly = -x.minimum(wanted_mwh / left_h, spec.max_p_mw)
        by_price = x.where(
            price <= policy.charge_below,
            -spec.max_p_mw,
            x.where(price >= policy.discharge_above, 0.0, evenly),
        )
        return x.where(wanted_mwh > if_waiting_mwh, -spec.max_p_mw, by_price)

    def _range(
        self, state: EvChargerState, dt_s: float, available: Value | None, x: Ops
    ) -> tuple[Value, Value]:
        """Return the strongest charging, and the weakest that is not nothing, MW, both <= 0."""
        spec = self.spec
        cable_mw = spec.max_p_mw if available is None else x.minimum(-available, spec.max_p_mw)
        wanted_mwh = x.maximum(spec.target_soc - state.soc, 0.0) * spec.max_e_mwh / spec.efficiency_charge
        strongest = x.minimum(cable_mw, wanted_mwh / (dt_s / S_PER_H))
        strongest = x.where(cable_mw < spec.min_p_mw, 0.0, strongest)  # the minimum current or nothing
        return 0.0 - strongest, 0.0 - x.minimum(strongest, spec.min_p_mw)

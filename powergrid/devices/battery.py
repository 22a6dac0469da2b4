"""A battery with its inverter: linear store, constant efficiencies, standby loss.

Source: docs/models.md, battery.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from powergrid.devices.base import (
    UNKNOWN,
    Device,
    DeviceSpecBase,
    Fraction,
    Measurement,
    PandapowerTable,
    PolicyThresholds,
    PositivePowerMw,
    PowerMw,
    clip,
    clip_q,
    finite,
    hours,
    hours_of,
    make_tuple,
    no_profile,
)

__all__ = ["Battery", "BatterySpec", "BatteryState"]

# Below 1 % a conversion is a fault, not an efficiency; and it keeps 1 / efficiency well inside floats.
Efficiency = Annotated[float, Field(ge=0.01, le=1.0)]


class BatterySpec(DeviceSpecBase):
    """Nameplate of a battery. Power limits are magnitudes at the grid terminal."""

    pandapower_table: ClassVar[PandapowerTable] = "storage"
    has_soc: ClassVar[bool] = True
    soc_has_band: ClassVar[bool] = True

    kind: Literal["battery"] = "battery"
    max_e_mwh: float = Field(ge=1e-9, le=1e6, description="Energy in the cells at soc = 1, MWh, > 0")
    max_p_charge_mw: PowerMw = Field(description="Largest charging power, MW, magnitude (p_mw >= -this)")
    max_p_discharge_mw: PowerMw = Field(description="Largest discharging power, MW (p_mw <= this)")
    s_max_mva: PositivePowerMw | None = Field(
        default=None,
        description="Apparent power of the inverter, MVA, bounds |p_mw| too; None = the larger power limit",
    )
    efficiency_charge: Efficiency = Field(
        default=1.0, description="Energy into the cells per energy taken at the terminal, (0, 1]"
    )
    efficiency_discharge: Efficiency = Field(
        default=1.0, description="Energy given at the terminal per energy out of the cells, (0, 1]"
    )
    min_soc: Fraction = Field(default=0.0, description="Lowest state of charge used, fraction of max_e_mwh")
    max_soc: Fraction = Field(default=1.0, description="Highest state of charge used, fraction of max_e_mwh")
    initial_soc: Fraction = Field(
        default=0.5, description="State of charge after reset, fraction of max_e_mwh"
    )
    ramp_mw_per_s: PositivePowerMw | None = Field(
        default=None, description="Largest change of p_mw, MW/s, both directions; None = unlimited"
    )
    standby_loss_mw: PowerMw = Field(
        default=0.0, description="Constant power loss of the cells, MW, >= 0; none at min_soc"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.min_soc >= self.max_soc:
            raise ValueError(f"min_soc must be below max_soc, got {self.min_soc} and {self.max_soc}")
        if not self.min_soc <= self.initial_soc <= self.max_soc:
            raise ValueError(
                f"initial_soc must be within [min_soc, max_soc] = [{self.min_soc}, {self.max_soc}], "
                f"got {self.initial_soc}"
            )
        if self.max_p_charge_mw == 0.0 and self.max_p_discharge_mw == 0.0:
            raise ValueError("max_p_charge_mw and max_p_discharge_mw must not both be 0")
        return self

    @property
    def power_range_mw(self) -> tuple[float, float]:
        """Smallest and largest power of the nameplate, MW, positive = injected."""
        return -self.max_p_charge_mw + 0.0, self.max_p_discharge_mw

    @property
    def rated_s_mva(self) -> float:
        """Apparent-power limit, MVA, with the default filled in."""
        return (
            max(self.max_p_charge_mw, self.max_p_discharge_mw) if self.s_max_mva is None else self.s_max_mva
        )

    @property
    def soc_at_reset(self) -> float:
        """State of charge with which an episode begins, fraction."""
        return self.initial_soc

    @property
    def action_range_mw(self) -> tuple[float, float, float]:
        """Setpoint, MW, at -1, 0 and +1 of the action: 0 is rest."""
        return -self.max_p_charge_mw, 0.0, self.max_p_discharge_mw

    def derated(self, efficiency_factor: float) -> Self:
        """Return the battery with both efficiencies worse by a factor."""
        if efficiency_factor == 1.0:
            return self
        return self.model_copy(
            update={
                "efficiency_charge": self.efficiency_charge * efficiency_factor,
                "efficiency_discharge": self.efficiency_discharge * efficiency_factor,
            }
        )


class BatteryState(NamedTuple):
    """``p_mw``: MW, positive = discharging; ``soc``: state of charge, fraction of ``max_e_mwh``."""

    p_mw: float
    soc: float


class Battery(Device):
    """A battery; ``p_mw`` positive = discharging into the grid.

    Limits, the stronger first: energy in the cells and nameplate, then ramp. Where the ramp would
    demand more than the cells hold, the battery stops at what they hold.
    """

    spec_type = BatterySpec
    description = "A battery inverter, emulated."

    spec: BatterySpec
    state: BatteryState

    def __init__(self, spec: BatterySpec) -> None:
        self.spec = spec
        # Attributes of a nameplate, which pydantic guards, take several times as long to read as these.
        self._max_e_mwh, self._min_soc, self._max_soc = spec.max_e_mwh, spec.min_soc, spec.max_soc
        self._efficiency_charge = spec.efficiency_charge
        self._efficiency_discharge = spec.efficiency_discharge
        self._standby_loss_mw, self._ramp_mw_per_s = spec.standby_loss_mw, spec.ramp_mw_per_s
        self._max_charge_mw = min(spec.max_p_charge_mw, spec.rated_s_mva)
        self._max_discharge_mw = min(spec.max_p_discharge_mw, spec.rated_s_mva)
        self._rated_s_mva = spec.rated_s_mva
        self.reset()
        # The last question, and the answer: a plan asks before the step, and with the same setpoint.
        self._asked: tuple[BatteryState, float, float, float] = self.state, UNKNOWN, UNKNOWN, UNKNOWN

    def reset(self) -> None:
        """Go back to ``initial_soc`` at zero power."""
        self.state = BatteryState(p_mw=0.0, soc=self.spec.initial_soc)

    def feasible(self, dt_s: float, p_available_mw: float | None = None) -> tuple[float, float]:
        """Return (largest charging as a negative number, largest discharging), MW; see ``Device``."""
        no_profile("battery", p_available_mw)
        return self._limits(dt_s)

    def project(self, p_mw: float, dt_s: float, p_available_mw: float | None = None) -> float:
        """Return the active power, MW, that ``step`` would realise; worked out once, moves nothing."""
        if p_available_mw is not None:
            no_profile("battery", p_available_mw)
        state, of_p_mw, of_dt_s, realised = self._asked
        if state is not self.state or of_p_mw != p_mw or of_dt_s != dt_s:
            wanted = float(p_mw) + 0.0
            if wanted - wanted != 0.0:  # as ``finite`` finds, without its call
                finite("p_mw", p_mw)
            low, high = self._limits(dt_s)
            realised = low if wanted < low else min(wanted, high)
            self._asked = self.state, wanted, dt_s, realised
        return realised

    def _limits(self, dt_s: float) -> tuple[float, float]:
        """Return ``feasible``."""
        (p_mw, soc), dt_h = self.state, hours_of(float(dt_s))
        above_mwh = (soc - self._min_soc) * self._max_e_mwh
        below_mwh = (self._max_soc - soc) * self._max_e_mwh
        # The standby loss comes out of the cells first: it takes from a discharge and makes room for a
        # charge. Telemetry may put the state of charge outside its band, hence the zeros.
        can_give_mw = (above_mwh / dt_h - self._standby_loss_mw) * self._efficiency_discharge
        can_take_mw = (below_mwh / dt_h + self._standby_loss_mw) / self._efficiency_charge
        # As ``clip`` does, without its calls: every step of every battery comes here.
        most_mw = self._max_charge_mw
        low = 0.0 - most_mw if can_take_mw > most_mw else -can_take_mw if can_take_mw > 0.0 else 0.0
        most_mw = self._max_discharge_mw
        high = most_mw if can_give_mw > most_mw else max(0.0, can_give_mw)
        if self._ramp_mw_per_s is None:
            return low, high
        reach_mw = self._ramp_mw_per_s * float(dt_s)
        return clip(p_mw - reach_mw, low, high), clip(p_mw + reach_mw, low, high)

    def step(
        self, p_mw: float, q_mvar: float, dt_s: float, p_available_mw: float | None = None
    ) -> Measurement:
        """Charge or discharge for ``dt_s``; see ``Device``."""
        state, of_p_mw, of_dt_s, p = self._asked
        if p_available_mw is not None or state is not self.state or of_p_mw != p_mw or of_dt_s != dt_s:
            p = Battery.project(self, p_mw, dt_s, p_available_mw)  # which keeps what was asked
        wanted_p, wanted_q = self._asked[1], finite("q_mvar", q_mvar) if q_mvar != 0.0 else 0.0
        q = clip_q(wanted_q, p, self._rated_s_mva) if wanted_q else 0.0
        soc, loss_mwh = self._after(p, hours_of(float(dt_s)))
        self.state = make_tuple(BatteryState, (p, soc))
        clipped = p != wanted_p or q != wanted_q
        return make_tuple(Measurement, (p, q, soc, None, 0.0, clipped, loss_mwh))

    def restore(
        self,
        p_mw: float,
        soc: float | None = None,
        running: bool | None = None,
        time_in_state_s: float | None = None,
    ) -> None:
        """Take power and state of charge from telemetry; see ``Device``.

        A ``soc`` outside [min_soc, max_soc] is kept as it is: the battery then refuses to go further
        out, and no energy is invented by pulling it in.
        """
        p = finite("p_mw", p_mw)
        if soc is None:
            self.state = self.state._replace(p_mw=p)
            return
        if not 0.0 <= soc <= 1.0:
            raise ValueError(f"soc must be within [0, 1], got {soc}")
        self.state = BatteryState(p_mw=p, soc=float(soc))

    def usual_p_mw(
        self, price: float, policy: PolicyThresholds, dt_s: float, p_available_mw: float | None
    ) -> float:
        """Charge when energy is cheap, discharge when it is dear, else rest."""
        if price <= policy.charge_below:
            return -policy.battery_share * self.spec.max_p_charge_mw
        if price >= policy.discharge_above:
            return policy.battery_share * self.spec.max_p_discharge_mw
        return 0.0

    def missing_mw(self, soc: float, measured_soc: float, dt_s: float) -> float:
        """Return the power that would explain the difference; see ``Device``."""
        return (soc - measured_soc) * self.spec.max_e_mwh / hours(dt_s)

    def _after(self, p_mw: float, dt_h: float) -> tuple[float, float]:
        """Return (soc, energy lost in MWh) after holding a feasible ``p_mw`` for ``dt_h``."""
        soc, max_e_mwh = self.state.soc, self._max_e_mwh
        if p_mw >= 0.0:
            from_cells_mwh = p_mw / self._efficiency_discharge * dt_h
            conversion_mwh = from_cells_mwh * (1.0 - self._efficiency_discharge)
        else:
            from_cells_mwh = p_mw * self._efficiency_charge * dt_h
            conversion_mwh = -p_mw * (1.0 - self._efficiency_charge) * dt_h
        left_mwh = (soc - self._min_soc) * max_e_mwh - from_cells_mwh
        standby_mwh = self._standby_loss_mw * dt_h
        if left_mwh < standby_mwh:
            standby_mwh = max(0.0, left_mwh)
        after = soc - (from_cells_mwh + standby_mwh) / max_e_mwh
        if not self._min_soc <= after <= self._max_soc:
            # ``p_mw`` keeps the band; this takes away the last rounding (a few 1e-16) and nothing else.
            after = clip(after, min(soc, self._min_soc), max(soc, self._max_soc))
        return after, conversion_mwh + standby_mwh

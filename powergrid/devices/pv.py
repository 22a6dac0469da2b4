"""A photovoltaic plant: what the sun offers, curtailment, and the inverter's apparent power.

Source: docs/models.md, PV.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import Field

from powergrid.devices.base import (
    DeviceSpecBase,
    PandapowerTable,
    PolicyThresholds,
    PositivePowerMw,
    finite,
    make_tuple,
)
from powergrid.devices.formulas import FormulaDevice, Ops, Value

__all__ = ["Pv", "PvSpec"]

_STC_IRRADIANCE_W_PER_M2 = 1000.0
_STC_CELL_TEMPERATURE_C = 25.0


class PvSpec(DeviceSpecBase):
    """Nameplate of a photovoltaic plant."""

    pandapower_table: ClassVar[PandapowerTable] = "sgen"
    profile_says: ClassVar[str | None] = "what the sun offers"
    profile_holds: ClassVar[bool] = False

    kind: Literal["pv"] = "pv"
    max_p_mw: PositivePowerMw = Field(
        description="Power of the modules at standard test conditions (1000 W/m^2, 25 C), MW, injected"
    )
    s_max_mva: PositivePowerMw | None = Field(
        default=None, description="Apparent power of the inverter, MVA, bounds p_mw too; None = max_p_mw"
    )
    temperature_coefficient_per_k: Annotated[float, Field(ge=-0.05, le=0.05)] = Field(
        default=0.0, description="Relative change of power per kelvin of cell temperature, 1/K (about -0.004)"
    )

    @property
    def power_range_mw(self) -> tuple[float, float]:
        """Smallest and largest power of the nameplate, MW, positive = injected."""
        return 0.0, self.max_p_mw

    @property
    def rated_s_mva(self) -> float:
        """Apparent-power limit, MVA, with the default filled in."""
        return self.max_p_mw if self.s_max_mva is None else self.s_max_mva

    @property
    def profile_mw(self) -> float:
        """What the per-unit profile multiplies, MW."""
        return self.max_p_mw


class PvState(NamedTuple):
    """``p_mw``: power of the last step, MW, >= 0; a number, or an array over copies."""

    p_mw: Any


class Pv(FormulaDevice):
    """A PV plant; the setpoint is an upper limit (curtailment) and active power has priority.

    Reactive power gets what active power leaves of the inverter; it is there at night too.
    """

    spec_type = PvSpec
    script = "pv_inverter"
    description = "A curtailable PV inverter, emulated."

    spec: PvSpec
    state: PvState

    def __init__(self, spec: PvSpec) -> None:
        super().__init__(spec)
        self._max_p_mw = min(spec.max_p_mw, spec.rated_s_mva)

    def begin(self) -> PvState:
        """Return zero power."""
        return PvState(0.0)

    def available_mw(
        self, irradiance_w_per_m2: float, cell_temperature_c: float = _STC_CELL_TEMPERATURE_C
    ) -> float:
        """Return the modules' power, MW, >= 0, for use as ``p_available_mw``.

        Args:
            irradiance_w_per_m2: In the plane of the modules, W/m^2, >= 0.
            cell_temperature_c: Of the cells, degrees Celsius.

        Raises:
            ValueError: A value is not finite, or the irradiance is negative.
        """
        irradiance = finite("irradiance_w_per_m2", irradiance_w_per_m2)
        if irradiance < 0.0:
            raise ValueError(f"irradiance_w_per_m2 must be >= 0, got {irradiance_w_per_m2}")
        warmer_k = finite("cell_temperature_c", cell_temperature_c) - _STC_CELL_TEMPERATURE_C
        factor = max(0.0, 1.0 + self.spec.temperature_coefficient_per_k * warmer_k)
        return self.spec.max_p_mw * (irradiance / _STC_IRRADIANCE_W_PER_M2) * factor

    def limits(self, state: PvState, dt_s: float, available: Value | None, x: Ops) -> tuple[Value, Value]:
        """Return (0, what sun, modules and inverter allow), MW; see ``FormulaDevice``."""
        return 0.0, self._max_p_mw if available is None else x.clip(available, 0.0, self._max_p_mw)

    def after(
        self, state: PvState, p_mw: Value, dt_s: float, available: Value | None, x: Ops
    ) -> tuple[PvState, Value, Value]:
        """Remember the power; see ``FormulaDevice``."""
        return make_tuple(PvState, (p_mw,)), 0.0, 0.0

    def usual(
        self,
        state: PvState,
        price: Value,
        policy: PolicyThresholds,
        dt_s: float,
        available: Value | None,
        x: Ops,
    ) -> Value:
        """Give all it can, whatever the price."""
        return self.spec.max_p_mw

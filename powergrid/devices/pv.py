"""A photovoltaic plant: what the sun offers, curtailment, and the inverter's apparent power.

Source: docs/models.md, PV.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from powergrid.devices.base import (
    Device,
    DeviceSpecBase,
    DeviceState,
    Measurement,
    PandapowerTable,
    PolicyThresholds,
    PositivePowerMw,
    clip,
    clip_q,
    finite,
    hours,
)

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


class Pv(Device):
    """A PV plant; the setpoint is an upper limit (curtailment) and active power has priority.

    Reactive power gets what active power leaves of the inverter; it is there at night too.
    """

    spec_type = PvSpec
    script = "pv_inverter"
    description = "A curtailable PV inverter, emulated."

    spec: PvSpec
    state: DeviceState

    def __init__(self, spec: PvSpec) -> None:
        self.spec = spec
        self._rated_s_mva = spec.rated_s_mva
        self._max_p_mw = min(spec.max_p_mw, spec.rated_s_mva)
        self.reset()

    def reset(self) -> None:
        """Go back to zero power."""
        self.state = DeviceState(p_mw=0.0)

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

    def feasible(self, dt_s: float, p_available_mw: float | None = None) -> tuple[float, float]:
        """Return (0, what sun, modules and inverter allow), MW; see ``Device``."""
        hours(dt_s)
        if p_available_mw is None:
            return 0.0, self._max_p_mw
        available = finite("p_available_mw", p_available_mw)
        if available < 0.0:
            raise ValueError(f"p_available_mw of a pv must be >= 0, got {p_available_mw}")
        return 0.0, clip(available, 0.0, self._max_p_mw)

    def step(
        self, p_mw: float, q_mvar: float, dt_s: float, p_available_mw: float | None = None
    ) -> Measurement:
        """Inject what the sun offers, at most ``p_mw``; see ``Device``."""
        wanted_p, wanted_q = finite("p_mw", p_mw), finite("q_mvar", q_mvar)
        p = clip(wanted_p, *self.feasible(dt_s, p_available_mw))
        q = clip_q(wanted_q, p, self._rated_s_mva)
        self.state = DeviceState(p)
        clipped = p != wanted_p or q != wanted_q
        return Measurement(p, q, None, None, 0.0, clipped)

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
        """Give all it can, whatever the price."""
        return self.spec.max_p_mw

"""A device kind in a package of its own: a small wind turbine, whose setpoint is an upper limit.

``pip install -e .`` in this folder registers it; then scenarios may say ``kind = "wind_turbine"``.
"""

from typing import Any, ClassVar, Literal, NamedTuple

from pydantic import Field

from powergrid.devices import DeviceSpecBase
from powergrid.devices.formulas import FormulaDevice


class WindTurbineSpec(DeviceSpecBase):
    """Nameplate: the keys of the device's table in a scenario."""

    pandapower_table: ClassVar = "sgen"
    profile_says: ClassVar = "what the wind offers"  # it needs a column of the data
    profile_holds: ClassVar = False  # an upper limit, not a demand that must be met
    controls_q: ClassVar = False  # unity power factor

    kind: Literal["wind_turbine"] = "wind_turbine"
    max_p_mw: float = Field(gt=0.0, description="Rated power, MW, injected")
    cut_in_mw: float = Field(default=0.0, ge=0.0, description="Below this offer it stands still, MW")

    @property
    def power_range_mw(self) -> tuple[float, float]:
        """Smallest and largest power, MW, positive = injected."""
        return 0.0, self.max_p_mw

    @property
    def rated_s_mva(self) -> float:
        """Apparent-power limit, MVA."""
        return self.max_p_mw

    @property
    def profile_mw(self) -> float:
        """What the per-unit column is multiplied by, MW."""
        return self.max_p_mw


class WindTurbineState(NamedTuple):
    """Power of the last step, MW: a number, or an array over copies."""

    p_mw: Any


class WindTurbine(FormulaDevice):
    """The model. Formulas use ``x.where`` in place of ``if``: they run on arrays of copies, too."""

    spec_type = WindTurbineSpec
    description = "A small wind turbine, emulated."

    def begin(self) -> WindTurbineState:
        """Return the state with which an episode begins."""
        return WindTurbineState(0.0)

    def limits(self, state: Any, dt_s: float, available: Any, x: Any) -> tuple[Any, Any]:
        """Return the powers between which it can be set in the coming step, MW."""
        if available is None:
            return 0.0, self.spec.max_p_mw
        offered = x.clip(available, 0.0, self.spec.max_p_mw)
        return 0.0, x.where(offered < self.spec.cut_in_mw, 0.0, offered)

    def after(self, state: Any, p_mw: Any, dt_s: float, available: Any, x: Any) -> tuple[Any, Any, Any]:
        """Return the state after the step, its cost, $, and its loss, MWh."""
        return WindTurbineState(p_mw), 0.0, 0.0

    def usual(self, state: Any, price: Any, policy: Any, dt_s: float, available: Any, x: Any) -> Any:
        """Return the setpoint of the agents' own rule, MW: all that there is."""
        return self.spec.max_p_mw

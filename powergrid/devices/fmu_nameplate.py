"""What a scenario says of a functional mock-up unit: bounds, and which of its variables are our quantities.

Source: docs/models.md, FMU.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from heron_mqtt.deferred_model import DeferredModel
from powergrid.devices.base import DeviceSpecBase, Fraction, PandapowerTable, PositivePowerMw, clip

__all__ = ["FmuNameplate"]

SignedPowerMw = Annotated[float, Field(ge=-1e5, le=1e5)]
VariableName = Annotated[str, Field(min_length=1, max_length=500)]
Sign = Literal[1, -1]


class FmuLink(DeferredModel):
    """The variable of the unit for this quantity."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    variable: VariableName = Field(description="Name of the variable in the unit")


class FmuPower(FmuLink):
    """A variable that is an active power."""

    unit: Literal["W", "kW", "MW"] | None = Field(
        default=None, description="Unit of the variable; None = as the unit's description says"
    )
    sign: Sign = Field(default=1, description="-1 where the unit counts consumption as positive")


class FmuReactivePower(FmuLink):
    """A variable that is a reactive power."""

    unit: Literal["var", "kvar", "Mvar"] | None = Field(
        default=None, description="Unit of the variable; None = as the unit's description says"
    )
    sign: Sign = Field(default=1, description="-1 where the unit counts consumption as positive")


class FmuSoc(FmuLink):
    """A variable that is a state of charge."""

    unit: Literal["percent", "fraction"] | None = Field(
        default=None, description="Unit of the variable; None = as the unit's description says"
    )
    start: VariableName | None = Field(
        default=None, description="Parameter that sets it at the beginning, in the same unit"
    )


class FmuNameplate(DeviceSpecBase):
    """What a scenario says of a functional mock-up unit, and of its variables."""

    pandapower_table: ClassVar[PandapowerTable] = "sgen"
    is_any_kind: ClassVar[bool] = True
    runs_foreign_code: ClassVar[bool] = True

    kind: Literal["fmu"] = Field(default="fmu", description="Kind of device")
    file: Annotated[str, Field(min_length=1, max_length=1000)] = Field(
        description="The unit, a .fmu file beside the scenario. It is native code and runs with your rights"
    )
    max_p_mw: SignedPowerMw = Field(description="Largest setpoint, MW, positive = injected")
    min_p_mw: SignedPowerMw = Field(default=0.0, description="Smallest setpoint, MW; negative = consumption")
    s_max_mva: PositivePowerMw | None = Field(
        default=None,
        description="Apparent power, MVA, bounds q_setpoint; None = the larger end of its power range",
    )
    communication_step_s: float | None = Field(
        default=None,
        gt=0.0,
        le=86_400.0,
        description="Longest communication step, s; None = the step of the run",
    )
    initial_soc: Fraction | None = Field(
        default=None,
        description="State of charge at the beginning, fraction, set by soc.start; None = its own",
    )
    p_setpoint: FmuPower = Field(description="Input: the power setpoint")
    p: FmuPower = Field(description="Output: the power at its terminals")
    q_setpoint: FmuReactivePower | None = Field(
        default=None, description="Input: the reactive power setpoint; needs q"
    )
    q: FmuReactivePower | None = Field(default=None, description="Output: its reactive power")
    soc: FmuSoc | None = Field(default=None, description="Output: its state of charge")
    running: FmuLink | None = Field(default=None, description="Output: not 0 while it runs")
    available: FmuPower | None = Field(
        default=None, description="Input: the available power, or the demand; then the device needs a profile"
    )
    start: dict[VariableName, bool | int | float | str] = Field(
        default={}, max_length=1000, description="Parameters and start values of the unit, by name"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not self.min_p_mw < self.max_p_mw:
            raise ValueError(f"min_p_mw must be below max_p_mw, got {self.min_p_mw} and {self.max_p_mw}")
        if self.q_setpoint is not None and self.q is None:
            raise ValueError("q_setpoint needs q, the output that is the reactive power")
        if self.s_max_mva is not None and self.s_max_mva < max(abs(self.min_p_mw), abs(self.max_p_mw)):
            raise ValueError(f"s_max_mva = {self.s_max_mva} is less than its largest power")
        if self.initial_soc is not None and (self.soc is None or self.soc.start is None):
            raise ValueError("initial_soc needs soc.start, the parameter that sets it")
        if self.soc is not None and self.soc.start is not None and self.soc.start in self.start:
            raise ValueError(f"start.{self.soc.start}: is set by initial_soc; give one of them")
        return self

    # What its variables say of the kind: the environment asks the nameplate.

    @property
    def controls_q(self) -> bool:  # type: ignore[override]
        """Whether it can be asked for a reactive power."""
        return self.q_setpoint is not None

    @property
    def has_soc(self) -> bool:  # type: ignore[override]
        """Whether it shows a state of charge."""
        return self.soc is not None

    @property
    def profile_says(self) -> str | None:  # type: ignore[override]
        """What its profile column says; None = it takes none."""
        return None if self.available is None else "what sun or load offer the unit"

    @property
    def profile_mw(self) -> float:
        """What the per-unit profile multiplies, MW: the end of its range that is farther from 0."""
        if self.available is None:
            return 0.0
        return self.max_p_mw if self.max_p_mw >= -self.min_p_mw else self.min_p_mw

    @property
    def power_range_mw(self) -> tuple[float, float]:
        """Smallest and largest power, MW, positive = injected."""
        return self.min_p_mw, self.max_p_mw

    @property
    def rated_s_mva(self) -> float:
        """Its apparent power, MVA; if it is not given the larger end of its power range."""
        return self.s_max_mva or max(abs(self.min_p_mw), abs(self.max_p_mw))

    def safe_p_mw(self, p_available_mw: float | None) -> float:
        """Return 0, or the nearest that it can do: without its agent it is asked for nothing."""
        return clip(0.0, self.min_p_mw, self.max_p_mw)

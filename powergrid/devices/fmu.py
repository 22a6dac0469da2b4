"""A functional mock-up unit as a device: a manufacturer's or tool's model, run through FMI co-simulation.

Source: docs/models.md, FMU.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from heron_mqtt.errors import ConfigError, ModelFailed
from powergrid.devices.base import (
    Device,
    DeviceSpecBase,
    Fraction,
    Measurement,
    PandapowerTable,
    PolicyThresholds,
    PositivePowerMw,
    clip,
    finite,
    hours,
)
from powergrid.devices.fmu_file import FmuFile, FmuVariable, fmu_file
from powergrid.devices.fmu_instance import FmuInstance

__all__ = ["Fmu", "FmuSpec", "FmuState"]

PER_MW = {"W": 1e6, "kW": 1e3, "MW": 1.0}
PER_MVAR = {"var": 1e6, "kvar": 1e3, "Mvar": 1.0}
PER_ONE = {"percent": 100.0, "fraction": 1.0}
SPELLINGS = {"%": "percent", "1": "fraction", "kVAr": "kvar", "VAr": "var", "Var": "var", "MVAr": "Mvar"}
ROUNDING = 1e-6  # how far a state of charge may lie outside [0, 1]
MOST_MW = 1e5  # more is a unit that is wrong
INSTANCES = 4  # of one device: the model, its twin, and what was looked at besides

PowerMw = Annotated[float, Field(ge=-1e5, le=1e5)]
VariableName = Annotated[str, Field(min_length=1, max_length=500)]
Sign = Literal[1, -1]


class _Link(BaseModel):
    """The variable of the unit for this quantity."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    variable: VariableName = Field(description="Name of the variable in the unit")


class FmuPower(_Link):
    """A variable that is an active power."""

    unit: Literal["W", "kW", "MW"] | None = Field(
        default=None, description="Unit of the variable; None = as the unit's description says"
    )
    sign: Sign = Field(default=1, description="-1 where the unit counts consumption as positive")


class FmuReactivePower(_Link):
    """A variable that is a reactive power."""

    unit: Literal["var", "kvar", "Mvar"] | None = Field(
        default=None, description="Unit of the variable; None = as the unit's description says"
    )
    sign: Sign = Field(default=1, description="-1 where the unit counts consumption as positive")


class FmuSoc(_Link):
    """A variable that is a state of charge."""

    unit: Literal["percent", "fraction"] | None = Field(
        default=None, description="Unit of the variable; None = as the unit's description says"
    )
    start: VariableName | None = Field(
        default=None, description="Parameter that sets it at the beginning, in the same unit"
    )


class FmuSpec(DeviceSpecBase):
    """Nameplate of a functional mock-up unit (FMI 2 or 3, co-simulation), and its variables."""

    pandapower_table: ClassVar[PandapowerTable] = "sgen"
    is_any_kind: ClassVar[bool] = True
    runs_foreign_code: ClassVar[bool] = True

    kind: Literal["fmu"] = Field(default="fmu", description="Kind of device")
    file: Annotated[str, Field(min_length=1, max_length=1000)] = Field(
        description="The unit, a .fmu file beside the scenario. It is native code and runs with your rights"
    )
    max_p_mw: PowerMw = Field(description="Largest setpoint, MW, positive = injected")
    min_p_mw: PowerMw = Field(default=0.0, description="Smallest setpoint, MW; negative = consumption")
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
    running: _Link | None = Field(default=None, description="Output: not 0 while it runs")
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

    @property
    def soc_at_reset(self) -> float:
        """State of charge with which an episode begins, as the unit itself shows it."""
        return _first_soc(self)

    def safe_p_mw(self, p_available_mw: float | None) -> float:
        """Return 0, or the nearest that it can do: without its agent it is asked for nothing."""
        return clip(0.0, self.min_p_mw, self.max_p_mw)

    def located(self, find: Callable[[str], Path]) -> Self:
        """Return it with the whole path of its file, and check what the unit says of itself.

        Raises:
            ConfigError: One line for each mistake, with its key.
        """
        spec = self.model_copy(update={"file": str(find(self.file).absolute())})
        _Wiring(spec)
        return spec


class _Wiring:
    """The unit's variables for our quantities, checked.

    Raises:
        ConfigError: One line for each mistake, with its key.
    """

    def __init__(self, spec: FmuSpec) -> None:
        self.file: FmuFile = fmu_file(Path(spec.file))
        self._problems: list[str] = []
        self.setpoint, self.setpoint_scale = self._link("p_setpoint", spec.p_setpoint, PER_MW, is_input=True)
        self.q_setpoint, self.q_setpoint_scale = self._link(
            "q_setpoint", spec.q_setpoint, PER_MVAR, is_input=True
        )
        self.available, self.available_scale = self._link("available", spec.available, PER_MW, is_input=True)
        shown = [
            self._link("p", spec.p, PER_MW),
            self._link("q", spec.q, PER_MVAR),
            self._link("soc", spec.soc, PER_ONE),
            self._link("running", spec.running, None),
        ]
        self.shown = [variable for variable, _ in shown if variable is not None]
        self.scales = [scale for variable, scale in shown if variable is not None]
        self.soc_start = self._soc_start(spec)
        for name, value in spec.start.items():
            self.file.check_start(name, value, lambda key, text: self._complain(f"start.{key}", text))
        if self._problems:
            raise ConfigError(*self._problems)
        self.start = {self.file.variables[name]: value for name, value in spec.start.items()}

    def _complain(self, key: str, text: str) -> None:
        self._problems.append(f"{key}: {text} ({self.file.path.name})")

    def _link(
        self, key: str, link: Any, per: dict[str, float] | None, *, is_input: bool = False
    ) -> tuple[FmuVariable | None, float]:
        """Return the variable, and how many of its units make one of ours, with the sign; NaN without one."""
        if link is None:
            return None, math.nan
        found = self.file.variable(link.variable, lambda part, text: self._complain(f"{key}.{part}", text))
        if found is None:
            return None, math.nan
        fit = {"input"} if is_input else {"output", "local", "calculatedParameter"}
        if found.causality not in fit:
            expected = "an input" if is_input else "an output"
            text = f"{link.variable!r} is {_a(found.causality)} of the unit; expected {expected}"
            self._complain(f"{key}.variable", text)
        if per is None:
            return found, 1.0
        if not found.is_number:
            text = f"{link.variable!r} is of type {found.type}; expected a real number"
            self._complain(f"{key}.variable", text)
        return found, getattr(link, "sign", 1) * self._per(key, link, found, per)

    def _per(self, key: str, link: Any, found: FmuVariable, per: dict[str, float]) -> float:
        said = SPELLINGS.get(found.unit, found.unit)
        if link.unit is None and said not in per:
            says = f"says {found.unit!r}" if found.unit else "says none"
            self._complain(
                f"{key}.unit", f"missing; the unit's description {says}: expected one of {', '.join(per)}"
            )
            return math.nan
        if link.unit is not None and said and said != link.unit:
            self._complain(
                f"{key}.unit", f"is {link.unit!r} here; the unit's description says {found.unit!r}"
            )
        return per[link.unit or said]

    def _soc_start(self, spec: FmuSpec) -> FmuVariable | None:
        if spec.soc is None or spec.soc.start is None:
            return None

        def complain(_: str, text: str) -> None:
            self._complain("soc.start", text)

        self.file.check_start(spec.soc.start, 0.5, complain)
        found, shown = (self.file.variables.get(name) for name in (spec.soc.start, spec.soc.variable))
        if found is not None and shown is not None and found.unit and shown.unit != found.unit:
            text = (
                f"is in {found.unit!r}, and {spec.soc.variable} in {shown.unit!r}, by the unit's description"
            )
            self._complain("soc.start", text)
        return found


FmuInputs = tuple[float, float, float]


class FmuHistory:
    """What a unit was given since it began; it never changes, so it is the unit's state as a value.

    Args:
        before: What it was given before the last step; None = it has just begun.
        inputs: Of the last step: setpoint, MW, reactive power, Mvar, and what was available, MW; NaN before.
        dt_s: Length of that step, s; NaN before.
        start_soc: State of charge that it began with, fraction; None = its own.
    """

    __slots__ = ("before", "dt_s", "inputs", "start_soc")

    def __init__(
        self,
        before: FmuHistory | None = None,
        inputs: FmuInputs = (math.nan, math.nan, math.nan),
        dt_s: float = math.nan,
        start_soc: float | None = None,
    ) -> None:
        self.before, self.inputs, self.dt_s, self.start_soc = before, inputs, dt_s, start_soc

    def steps(self) -> list[FmuHistory]:
        """Return every step since the beginning, the first one first."""
        found, at = [], self
        while at.before is not None:
            found.append(at)
            at = at.before
        return found[::-1]

    def __reduce__(self) -> Any:
        return _history, (self.start_soc, [(step.inputs, step.dt_s) for step in self.steps()])


def _history(start_soc: float | None, steps: list[tuple[FmuInputs, float]]) -> FmuHistory:
    at = FmuHistory(start_soc=start_soc)
    for inputs, dt_s in steps:
        at = FmuHistory(at, inputs, dt_s, start_soc)
    return at


class FmuState(NamedTuple):
    """State of a unit.

    Attributes:
        p_mw: Power of the last step, MW.
        soc: State of charge, fraction; None = it shows none.
        running: Whether it runs; None = it does not say.
        history: What it was given since it began.
    """

    p_mw: float
    soc: float | None
    running: bool | None
    history: FmuHistory


class Fmu(Device):
    """A unit; its power is whatever it makes of the setpoint, known after the step.

    - A setpoint is clipped to the nameplate, which is what ``feasible`` gives: its own limits the unit keeps
      to itself. A reactive power is clipped to what the apparent power leaves beside it.
    - The power of a step is the mean of what the unit shows at the end of each communication step.
    - The state is what the unit was given since it began. A state that was put back is reached by FMI's own
      undo where the unit has one and it is one step, else by running the unit again from its beginning; so
      the unit must be deterministic.
    - Of telemetry only the state of charge can be handed to it, by beginning anew with ``soc.start``.
    """

    spec_type = FmuSpec
    description = "A functional mock-up unit (FMI 2 or 3, co-simulation), emulated."

    spec: FmuSpec
    state: FmuState

    def __init__(self, spec: FmuSpec) -> None:
        self.spec = spec
        self._units = _Units(spec)
        self.reset()
        _FIRST[spec.model_dump_json()] = self.state.soc

    def __copy__(self) -> Fmu:
        """Return a twin with the same state; the instances are shared, each goes on by itself."""
        twin = object.__new__(type(self))
        twin.spec, twin._units, twin.state = self.spec, self._units, self.state
        return twin

    def __reduce__(self) -> Any:
        return _device, (self.spec, self.state)

    def reset(self) -> None:
        """Begin anew."""
        if hasattr(self, "state"):
            self._units.release(self.state.history)
        self.state = self._begin(self.spec.initial_soc)

    def _begin(self, start_soc: float | None) -> FmuState:
        history = FmuHistory(start_soc=start_soc)
        p_mw, _, soc, running = self._units.shown(self._units.at(history).read(self._units.wiring.shown))
        return FmuState(p_mw, soc, running, history)

    def feasible(self, dt_s: float, p_available_mw: float | None = None) -> tuple[float, float]:
        """Return the nameplate; see ``Device``."""
        hours(dt_s)
        self._check_available(p_available_mw)
        return self.spec.power_range_mw

    def step(
        self, p_mw: float, q_mvar: float, dt_s: float, p_available_mw: float | None = None
    ) -> Measurement:
        """Ask the unit for a power and let it take the step; see ``Device``.

        Raises:
            ModelFailed: The unit could not; the state has not moved.
        """
        wanted, wanted_q = finite("p_mw", p_mw), finite("q_mvar", q_mvar)
        asked = clip(wanted, *self.feasible(dt_s, p_available_mw))
        asked_q = self._reactive(wanted_q, asked)
        available = self.spec.profile_mw if p_available_mw is None else float(p_available_mw)
        history = FmuHistory(
            self.state.history, (asked, asked_q, available), float(dt_s), self.state.history.start_soc
        )
        p, q, soc, running = self._units.take(history)
        self.state = FmuState(p, soc, running, history)
        return Measurement(p, q, soc, running, 0.0, p != wanted or q != q_mvar)

    def _reactive(self, q_mvar: float, p_mw: float) -> float:
        """Return the reactive power that it is asked for, Mvar: what the apparent power leaves, or none."""
        if not self.spec.controls_q:
            return 0.0
        s_mva = self.spec.rated_s_mva
        most = math.sqrt((s_mva - p_mw) * (s_mva + p_mw))
        return clip(q_mvar, -most, most)

    def restore(
        self,
        p_mw: float,
        soc: float | None = None,
        running: bool | None = None,
        time_in_state_s: float | None = None,
    ) -> None:
        """Take telemetry; a state of charge that differs lets the unit begin anew with it, where it can."""
        p = finite("p_mw", p_mw)
        state = self.state
        if soc is not None and self.spec.has_soc:
            if not 0.0 <= soc <= 1.0:
                raise ValueError(f"soc must be within [0, 1], got {soc}")
            if soc != state.soc and self._units.wiring.soc_start is not None:
                self._units.release(state.history)
                state = self._begin(float(soc))
            state = state._replace(soc=float(soc))
        if running is not None and state.running is not None:
            state = state._replace(running=running)
        self.state = state._replace(p_mw=p)

    def usual_p_mw(
        self, price: float, policy: PolicyThresholds, dt_s: float, p_available_mw: float | None
    ) -> float:
        """Return what the profile offers; else charge when energy is cheap and discharge when it is dear."""
        low, high = self.spec.power_range_mw
        if p_available_mw is not None:
            return clip(p_available_mw, low, high)
        if self.spec.has_soc and price <= policy.charge_below:
            return low
        if self.spec.has_soc and price >= policy.discharge_above:
            return high
        return clip(0.0, low, high)

    def _check_available(self, p_available_mw: float | None) -> None:
        if p_available_mw is None:
            return
        if self.spec.available is None:
            raise ValueError(f"p_available_mw must be None for a unit without profile, got {p_available_mw}")
        if finite("p_available_mw", p_available_mw) * self.spec.profile_mw < 0.0:
            expected = ">= 0" if self.spec.profile_mw > 0.0 else "<= 0"
            raise ValueError(f"p_available_mw of this unit must be {expected}, got {p_available_mw}")


def _device(spec: FmuSpec, state: FmuState) -> Fmu:
    made = Fmu(spec)
    made.state = state
    return made


class _Units:
    """The instances of one device, each at a point of some history.

    Args:
        spec: Of the device.

    Raises:
        ConfigError: The unit cannot be used.
    """

    def __init__(self, spec: FmuSpec) -> None:
        self._spec = spec
        self.wiring = _Wiring(spec)
        once = self.wiring.file.interface.canBeInstantiatedOnlyOncePerProcess
        self._most = 1 if once else INSTANCES
        self._instances: list[tuple[FmuInstance, FmuHistory]] = []  # the one used last is the last
        weakref.finalize(self, _close, self._instances)

    def at(self, history: FmuHistory) -> FmuInstance:
        """Return an instance that has been given just that; it is taken out of the list of those at hand.

        Raises:
            ModelFailed: The unit could not be brought there.
        """
        for place, (_, there) in enumerate(self._instances):
            if there is history:
                return self._moved(place, history)
        for place, (instance, there) in enumerate(self._instances):
            if there.before is history and instance.can_undo:
                del self._instances[place]
                instance.undo()
                self._instances.append((instance, history))
                return instance
        return self._again(history)

    def _moved(self, place: int, history: FmuHistory) -> FmuInstance:
        instance, _ = self._instances.pop(place)
        self._instances.append((instance, history))
        return instance

    def _again(self, history: FmuHistory) -> FmuInstance:
        """Begin an instance and give it the whole history."""
        while len(self._instances) >= self._most:
            self._instances.pop(0)[0].close()
        wiring = self.wiring
        start: dict[FmuVariable, Any] = dict(wiring.start)
        start |= self._inputs(clip(0.0, *self._spec.power_range_mw), 0.0, self._spec.profile_mw)
        if wiring.soc_start is not None and history.start_soc is not None:
            start[wiring.soc_start] = history.start_soc * wiring.scales[wiring.shown.index(self._soc)]
        instance = FmuInstance(wiring.file, f"unit {Path(self._spec.file).stem}", start)
        try:
            for step in history.steps():
                self._step(instance, step)
        except BaseException:
            instance.close()
            raise
        self._instances.append((instance, history))
        return instance

    def take(self, history: FmuHistory) -> tuple[float, float, float | None, bool | None]:
        """Take the last step of a history; return p, q, state of charge and whether it runs.

        Raises:
            ModelFailed: The unit could not.
        """
        assert history.before is not None
        instance = self.at(history.before)
        place = len(self._instances) - 1
        try:
            rows = self._step(instance, history)
            mean = [math.fsum(column) / len(rows) for column in zip(*rows, strict=True)]
            last = rows[-1]
            shown = self.shown([mean[0], *last[1:]])
        except BaseException:
            self._instances.pop(place)[0].close()
            raise
        self._instances[place] = (instance, history)
        return shown

    def _step(self, instance: FmuInstance, step: FmuHistory) -> list[list[float]]:
        longest_s = self._spec.communication_step_s or step.dt_s
        parts = max(1, math.ceil(step.dt_s / longest_s * (1.0 - 1e-12)))
        interface = self.wiring.file.interface
        is_even = abs(parts * longest_s - step.dt_s) <= 1e-9 * step.dt_s
        if not interface.canHandleVariableCommunicationStepSize and not is_even:
            raise ModelFailed(
                f"{Path(self._spec.file).name}: takes only equal communication steps; a step of "
                f"{step.dt_s:g} s is no multiple of communication_step_s = {longest_s:g}"
            )
        return instance.step(self._inputs(*step.inputs), step.dt_s, parts, self.wiring.shown)

    def _inputs(self, p_mw: float, q_mvar: float, available_mw: float) -> dict[FmuVariable, Any]:
        wiring = self.wiring
        assert wiring.setpoint is not None
        inputs = {wiring.setpoint: p_mw * wiring.setpoint_scale + 0.0}
        if wiring.q_setpoint is not None:
            inputs[wiring.q_setpoint] = q_mvar * wiring.q_setpoint_scale + 0.0
        if wiring.available is not None:
            inputs[wiring.available] = available_mw * wiring.available_scale + 0.0
        return inputs

    @property
    def _soc(self) -> FmuVariable:
        assert self._spec.soc is not None
        return self.wiring.file.variables[self._spec.soc.variable]

    def shown(self, values: list[float]) -> tuple[float, float, float | None, bool | None]:
        """Return p, MW, q, Mvar, state of charge and whether it runs.

        Raises:
            ModelFailed: A value cannot be what it should be.
        """
        spec, scaled = self._spec, iter(v / s + 0.0 for v, s in zip(values, self.wiring.scales, strict=True))
        p = next(scaled)
        q = 0.0 if spec.q is None else next(scaled)
        soc = None if spec.soc is None else next(scaled)
        running = None if spec.running is None else next(scaled) != 0.0
        name = Path(spec.file).name
        if max(abs(p), abs(q)) > MOST_MW:
            raise ModelFailed(f"{name}: a power of {max(abs(p), abs(q)):g} MW or Mvar: is its unit right?")
        if soc is not None and not -ROUNDING <= soc <= 1.0 + ROUNDING:
            raise ModelFailed(f"{name}: a state of charge of {soc:g}: expected 0 to 1; is its unit right?")
        return p, q, None if soc is None else clip(soc, 0.0, 1.0), running

    def release(self, history: FmuHistory) -> None:
        """Release the instance that was given this: it is not continued."""
        for place, (instance, there) in enumerate(self._instances):
            if there is history:
                del self._instances[place]
                instance.close()
                return


def _close(instances: list[tuple[FmuInstance, FmuHistory]]) -> None:
    for instance, _ in instances:
        instance.close()
    instances.clear()


_FIRST: dict[str, float | None] = {}
"""Nameplate -> state of charge with which its unit begins."""


def _first_soc(spec: FmuSpec) -> float:
    """Return the state of charge with which a unit begins; it is begun for that unless one has been."""
    key = spec.model_dump_json()
    if key not in _FIRST:
        Fmu(spec)
    return _FIRST[key] or 0.0


def _a(word: str) -> str:
    return f"an {word}" if word[:1] in "aeiou" else f"a {word}"

"""The running instances of a functional mock-up unit, and what each was given since it began."""

from __future__ import annotations

import math
import weakref
from pathlib import Path
from typing import Any

from heron_mqtt.errors import ModelFailed
from powergrid.devices.base import clip
from powergrid.devices.fmu_file import FmuVariable
from powergrid.devices.fmu_instance import FmuInstance
from powergrid.devices.fmu_nameplate import FmuNameplate
from powergrid.devices.fmu_wiring import FmuWiring

__all__ = ["FmuHistory", "FmuUnits"]

ROUNDING = 1e-6  # how far a state of charge may lie outside [0, 1]
MOST_MW = 1e5  # more is a unit that is wrong
INSTANCES = 4  # of one device: the model, its twin, and what was looked at besides

FmuInputs = tuple[float, float, float]


class FmuHistory:
    """The inputs of a unit since it began; it never changes, so it is the unit's state as a value.

    Args:
        before: The inputs before the last step; None = it has just begun.
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


class FmuUnits:
    """The instances of one device, each at a point of some history.

    Args:
        spec: Of the device.

    Raises:
        ConfigError: The unit cannot be used.
    """

    def __init__(self, spec: FmuNameplate) -> None:
        self._spec = spec
        self.wiring = FmuWiring(spec)
        once = self.wiring.file.interface.canBeInstantiatedOnlyOncePerProcess
        self._most = 1 if once else INSTANCES
        self._instances: list[tuple[FmuInstance, FmuHistory]] = []  # the one used last is the last
        weakref.finalize(self, _close, self._instances)

    def at(self, history: FmuHistory) -> FmuInstance:
        """Return an instance with exactly this history; it is removed from the list of free ones.

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

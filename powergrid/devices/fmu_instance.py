"""One running instance of a functional mock-up unit, through FMPy: begun, stepped, read, ended.

What goes wrong in it is a ``ModelFailed`` with what the unit said; an instance that has failed is not used
again.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from heron_mqtt.errors import ConfigError, ModelFailed
from powergrid.devices.fmu_file import FmuFile, FmuVariable

log = logging.getLogger("powergrid.fmu")

VariableValues = Mapping[FmuVariable, float | int | bool | str]
ERROR = 3  # statuses of FMI from which on an instance is lost
FMI2_TYPES = {"Enumeration": "Integer"}
FMI3_TYPES = {"Enumeration": "Int64"}


class FmuInstance:
    """An instance, initialised at time 0.

    Args:
        file: Of the unit.
        name: For messages.
        start: Values to begin with: parameters, and inputs at time 0.

    Raises:
        ConfigError: Its library cannot be loaded.
        ModelFailed: It does not begin.
    """

    def __init__(self, file: FmuFile, name: str, start: VariableValues) -> None:
        self._file = file
        self._name = name
        self._said: deque[str] = deque(maxlen=3)
        self.t_s = 0.0
        self._before: tuple[Any, float] | None = None  # its state before the last step, and that one's time
        self._unit: Any = self._load()
        try:
            self._instantiate()
            self._set(start)
            if file.is_fmi3:
                self._unit.enterInitializationMode(startTime=0.0)
            else:
                self._unit.setupExperiment(startTime=0.0)
                self._unit.enterInitializationMode()
            self._unit.exitInitializationMode()
        except Exception as exc:
            self._lost("does not begin", exc)

    def _load(self) -> Any:
        from fmpy.fmi2 import FMU2Slave
        from fmpy.fmi3 import FMU3Slave

        make = FMU3Slave if self._file.is_fmi3 else FMU2Slave
        try:
            return make(
                guid=self._file.token,
                modelIdentifier=self._file.interface.modelIdentifier,
                unzipDirectory=str(self._file.unpacked()),
                instanceName=self._name,
            )
        except ConfigError:
            raise
        except Exception as exc:  # FMPy has no error class; a library may lack a function or another library
            why = " ".join(str(exc).split())[:300]
            raise ConfigError(f"file = {str(self._file.path)!r}: its library cannot be used: {why}") from None

    def _instantiate(self) -> None:
        if self._file.is_fmi3:
            self._unit.instantiate(logMessage=self._log3)
            return
        from ctypes import byref

        from fmpy import calloc, fmi2, free
        from fmpy.logging import addLoggerProxy

        callbacks = fmi2.fmi2CallbackFunctions()
        callbacks.logger = fmi2.fmi2CallbackLoggerTYPE(self._log2)
        callbacks.allocateMemory = fmi2.fmi2CallbackAllocateMemoryTYPE(calloc)
        callbacks.freeMemory = fmi2.fmi2CallbackFreeMemoryTYPE(free)
        addLoggerProxy(byref(callbacks))  # which formats: Python cannot take C's variable arguments
        self._unit.instantiate(callbacks=callbacks)

    def _log2(self, _environment: Any, _name: Any, status: int, _category: Any, message: Any) -> None:
        self._log3(None, status, None, message)

    def _log3(self, _environment: Any, status: int, _category: Any, message: Any) -> None:
        text = (message or b"").decode(errors="replace").strip()[:300]
        self._said.append(text)
        log.log(logging.WARNING if status else logging.DEBUG, "%s: %s", self._name, text)

    # -- steps -------------------------------------------------------------------------------------

    @property
    def can_undo(self) -> bool:
        """Whether its last step can be taken back."""
        return bool(self._file.interface.canGetAndSetFMUstate)

    def step(
        self, inputs: VariableValues, dt_s: float, parts: int, wanted: Sequence[FmuVariable]
    ) -> list[list[float]]:
        """Take a step in equal parts, and return what it showed at the end of each.

        Args:
            inputs: Held during the step.
            dt_s: Its length, s.
            parts: Communication steps in it.
            wanted: What to read.

        Returns:
            A row for each part, a column for each of ``wanted``.

        Raises:
            ModelFailed: The unit could not do it, or showed no finite number.
        """
        begun_s, shown = self.t_s, []
        try:
            self._keep()
            self._set(inputs)
            for part in range(parts):
                at_s = begun_s + dt_s * part / parts
                flags = self._unit.doStep(at_s, begun_s + dt_s * (part + 1) / parts - at_s)
                if flags is not None and (flags[1] or flags[2]):
                    what = "asked to end" if flags[1] else "returned early"
                    raise ModelFailed(f"{self._name}: it {what} at {flags[3]:g} s")
                shown.append(self.read(wanted))
        except Exception as exc:
            self._lost(f"failed in the step from {begun_s:g} s, of {dt_s:g} s", exc)
        self.t_s = begun_s + dt_s
        return shown

    def undo(self) -> None:
        """Take the last step back; of one that ``can_undo``."""
        assert self._before is not None
        state, self.t_s = self._before
        try:
            (self._unit.setFMUState if self._file.is_fmi3 else self._unit.setFMUstate)(state)
        except Exception as exc:
            self._lost("cannot go back a step", exc)

    def _keep(self) -> None:
        """Keep its state, to take the coming step back."""
        if not self.can_undo:
            return
        self._forget()
        get = self._unit.getFMUState if self._file.is_fmi3 else self._unit.getFMUstate
        self._before = get(), self.t_s

    def _forget(self) -> None:
        if self._before is not None:
            free = self._unit.freeFMUState if self._file.is_fmi3 else self._unit.freeFMUstate
            free(self._before[0])
            self._before = None

    def read(self, wanted: Sequence[FmuVariable]) -> list[float]:
        """Return the values of variables.

        Raises:
            ModelFailed: One is not a finite number.
        """
        found = []
        for variable in wanted:
            value = float(self._call("get", variable, [variable.reference])[0])
            if not math.isfinite(value):
                raise ModelFailed(f"{self._name}: {variable.name} is {value} at {self.t_s:g} s")
            found.append(value)
        return found

    def _set(self, values: VariableValues) -> None:
        for variable, value in values.items():
            self._call("set", variable, [variable.reference], [value])

    def _call(self, verb: str, variable: FmuVariable, *given: Any) -> Any:
        types = FMI3_TYPES if self._file.is_fmi3 else FMI2_TYPES
        return getattr(self._unit, verb + types.get(variable.type, variable.type))(*given)

    # -- its end -----------------------------------------------------------------------------------

    def _lost(self, what: str, exc: Exception) -> None:
        """Give the instance up and raise.

        Raises:
            ModelFailed: Always.
        """
        unit, self._unit = self._unit, None
        if getattr(exc, "status", 0) <= ERROR and unit.component is not None:
            self._quietly(unit.freeInstance)
        if isinstance(exc, ModelFailed):
            raise exc
        said = f"; it said: {' / '.join(self._said)}" if self._said else ""
        why = " ".join(str(exc).split()).rstrip(".")
        raise ModelFailed(f"{self._name}: {self._file.path.name} {what}: {why}{said}") from exc

    def close(self) -> None:
        """End the instance and free its memory. Idempotent."""
        unit, self._unit = self._unit, None
        if unit is None:
            return
        self._unit, before = unit, self._before
        if before is not None:
            self._quietly(self._forget)
        self._unit = None
        self._quietly(unit.terminate)
        self._quietly(unit.freeInstance)

    @staticmethod
    def _quietly(work: Any) -> None:
        try:
            work()
        except Exception as exc:  # it is at its end anyway
            log.debug("ending a unit: %s", exc)

"""The variables of a functional mock-up unit that are our quantities, with their units checked."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from heron_mqtt.errors import ConfigError
from heron_mqtt.units import KW_PER_MW, W_PER_MW
from powergrid.devices.fmu_file import FmuFile, FmuVariable, fmu_file
from powergrid.devices.fmu_nameplate import FmuNameplate

__all__ = ["FmuWiring"]

PER_MW = {"W": W_PER_MW, "kW": KW_PER_MW, "MW": 1.0}
PER_MVAR = {"var": 1e6, "kvar": 1e3, "Mvar": 1.0}
PER_ONE = {"percent": 100.0, "fraction": 1.0}
SPELLINGS = {"%": "percent", "1": "fraction", "kVAr": "kvar", "VAr": "var", "Var": "var", "MVAr": "Mvar"}


class FmuWiring:
    """The unit's variables for our quantities, checked.

    Raises:
        ConfigError: One line for each mistake, with its key.
    """

    def __init__(self, spec: FmuNameplate) -> None:
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

    def _soc_start(self, spec: FmuNameplate) -> FmuVariable | None:
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


def _a(word: str) -> str:
    return f"an {word}" if word[:1] in "aeiou" else f"a {word}"

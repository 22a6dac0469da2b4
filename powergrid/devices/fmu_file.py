"""A functional mock-up unit (FMI 2 or 3, co-simulation) as a file: what it says of itself, and its library.

Nothing of the unit is executed here. FMPy (extra ``fmu``) reads it.
"""

from __future__ import annotations

import logging
import re
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heron_mqtt.errors import ConfigError
from heron_mqtt.input_files import is_file
from heron_mqtt.program_folders import program_folder

log = logging.getLogger("powergrid.fmu")

_VERSION = re.compile(rb"""\bfmiVersion\s*=\s*["']([^"']{1,20})["']""")
MAX_UNPACKED_BYTES = 1 << 30
START_TYPES: Mapping[str, tuple[type, ...]] = {
    "Real": (int, float),
    "Float": (int, float),
    "Integer": (int,),
    "Int": (int,),
    "UInt": (int,),
    "Enumeration": (int,),
    "Boolean": (bool,),
    "String": (str,),
}
NUMBERS = ("Real", "Float64", "Float32")
SETTABLE = {"parameter", "structuralParameter", "input"}
OnMistake = Callable[[str, str], None]
"""Takes note of a mistake: key, and what is wrong with it."""


@dataclass(frozen=True, slots=True)
class FmuVariable:
    """One variable of a unit.

    Attributes:
        name: As its description has it.
        reference: By which it is read and set.
        type: Real, Float64, Integer, Boolean, ...
        causality: input, output, parameter, local, ...
        initial: exact, approx or calculated; empty = by causality.
        unit: As its description has it; empty = it says none.
    """

    name: str
    reference: int
    type: str
    causality: str
    initial: str
    unit: str

    @property
    def is_number(self) -> bool:
        """Whether it is a real number."""
        return self.type in NUMBERS


class FmuFile:
    """A unit's file.

    Args:
        path: Of the ``.fmu``.

    Raises:
        ConfigError: It cannot be read, is no unit, or none that can be run here; one line.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        fmpy = _fmpy(path)
        if not is_file(path):
            raise ConfigError(
                f"file = {str(path)!r}: no such file; expected a functional mock-up unit (.fmu)"
            )
        try:
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
                size = sum(member.file_size for member in archive.infolist())
            version = _version(path)
        except (zipfile.BadZipFile, OSError, KeyError, ValueError) as exc:
            raise ConfigError(f"file = {str(path)!r}: is no functional mock-up unit: {exc}") from None
        if size > MAX_UNPACKED_BYTES:
            raise ConfigError(
                f"file = {str(path)!r}: unpacks to {size} bytes, at most {MAX_UNPACKED_BYTES} are taken"
            )
        if not version.startswith(("2.", "3.")):
            raise ConfigError(
                f"file = {str(path)!r}: is of FMI {version}; expected 2 or 3: export it again as one of these"
            )
        try:
            description: Any = fmpy.read_model_description(str(path))
        except Exception as exc:  # of the XML library, of FMPy's own checks: FMPy has no error class
            why = " ".join(str(exc).split())[:300]
            raise ConfigError(f"file = {str(path)!r}: its description cannot be read: {why}") from None
        if description.coSimulation is None:
            raise ConfigError(
                f"file = {str(path)!r}: is for model exchange only; expected one for co-simulation, which "
                "has its own solver: export it so"
            )
        self.is_fmi3 = version.startswith("3.")
        self.interface: Any = description.coSimulation
        self.token = str(description.guid)
        self._check_platform(fmpy, names)
        self.variables = {v.name: _variable(v) for v in description.modelVariables}
        self._folder: Path | None = None

    def _check_platform(self, fmpy: Any, names: list[str]) -> None:
        here = fmpy.platform_tuple if self.is_fmi3 else fmpy.platform
        library = f"binaries/{here}/{self.interface.modelIdentifier}{fmpy.sharedLibraryExtension}"
        if library in names:
            return
        there = sorted({name.split("/")[1] for name in names if name.startswith("binaries/") and name[9:]})
        raise ConfigError(
            f"file = {str(self.path)!r}: has no binary for {here}; it has {', '.join(there) or 'none'}: "
            "export it for this platform"
        )

    def variable(self, name: str, complain: OnMistake) -> FmuVariable | None:
        """Return a variable by its name; complain if there is none."""
        found = self.variables.get(name)
        if found is None:
            close = [v for v in self.variables if v.lower() == name.lower()]
            close = close or [v.name for v in self.variables.values() if v.causality in {"input", "output"}]
            complain(
                "variable", f"the unit has no variable {name!r}; it has {', '.join(close[:20]) or 'none'}"
            )
        return found

    def check_start(self, name: str, value: Any, complain: OnMistake) -> None:
        """Complain about a start value that cannot be set."""
        found = self.variable(name, lambda _, text: complain(name, text))
        if found is None:
            return
        if found.causality not in SETTABLE and found.initial not in {"exact", "approx"}:
            complain(name, f"is {found.causality or 'local'}, which the unit works out: it cannot be set")
        types = next((types for word, types in START_TYPES.items() if found.type.startswith(word)), ())
        if type(value) not in types:
            complain(name, f"{value!r}: the unit wants a value of type {found.type}")

    def unpacked(self) -> Path:
        """Return the directory with its content; unpacked once, removed at the end of the program."""
        if self._folder is None:
            self._folder = program_folder("heron-fmu-")
            try:
                _fmpy(self.path).extract(str(self.path), str(self._folder))
            except Exception as exc:  # FMPy raises Exception for paths that leave the directory
                raise ConfigError(f"file = {str(self.path)!r}: cannot be unpacked: {exc}") from None
        return self._folder


_FILES: dict[tuple[str, int, int], FmuFile] = {}


def fmu_file(path: Path) -> FmuFile:
    """Return a unit's file; the same one for the same content.

    Raises:
        ConfigError: As ``FmuFile``.
    """
    try:
        stat = path.stat()
    except OSError:
        return FmuFile(path)  # which says what is wrong
    key = (str(path), stat.st_mtime_ns, stat.st_size)
    if key not in _FILES:
        _FILES[key] = FmuFile(path)
    return _FILES[key]


def _fmpy(path: Path) -> Any:
    try:
        import fmpy
    except ImportError:
        raise ConfigError(f"file = {str(path)!r}: units need FMPy: pip install 'heron-mqtt[fmu]'") from None
    return fmpy


def _version(path: Path) -> str:
    """Return the FMI version that a unit is of.

    Raises:
        KeyError, ValueError: It has no description, or one without a version.
    """
    with zipfile.ZipFile(path) as archive, archive.open("modelDescription.xml") as file:
        found = _VERSION.search(file.read(1 << 16))
    if found is None:
        raise ValueError("its modelDescription.xml names no fmiVersion")
    return found[1].decode(errors="replace")


def _variable(given: Any) -> FmuVariable:
    declared = getattr(given, "declaredType", None)
    unit = given.unit or getattr(declared, "unit", None) or ""
    return FmuVariable(
        given.name, given.valueReference, given.type, given.causality or "local", given.initial or "", unit
    )

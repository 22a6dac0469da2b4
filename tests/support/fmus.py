"""Functional mock-up units that the tests build: the battery of docs/examples, and variations of it."""

from __future__ import annotations

import functools
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from powergrid.devices import FmuSpec
from support.doc_pages import ROOT
from support.script_module import load_script

EXAMPLE = ROOT / "docs" / "examples" / "fmu_battery"


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    """Return a folder of this process: workers are forked from one that has imported this."""
    return tempfile.TemporaryDirectory(prefix="heron-tests-fmu-")


@functools.cache
def battery(version: int = 2) -> Path:
    """Return the battery as a unit of FMI 2 or 3; built once."""
    module = load_script(EXAMPLE / "build.py")
    built = module.build(version, Path(_folder().name) / f"battery{version}.fmu")
    assert isinstance(built, Path)
    return built


def changed(
    to: Path,
    words: Mapping[str, str] | None = None,
    *,
    version: int = 2,
    names: Mapping[str, str] | None = None,
    library: bytes | None = None,
) -> Path:
    """Write the battery with other words in its description, other names of its files, or another library."""
    with zipfile.ZipFile(battery(version)) as old, zipfile.ZipFile(to, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name == "modelDescription.xml":
                text = data.decode()
                for word, other in (words or {}).items():
                    assert word in text, word
                    text = text.replace(word, other)
                data = text.encode()
            elif library is not None:
                data = library
            there = name
            for part, other in (names or {}).items():
                there = there.replace(part, other)
            new.writestr(there, data)
    return to


def table(file: Path, **more: Any) -> dict[str, Any]:
    """Return the battery as a scenario has it, with other keys."""
    return {
        "kind": "fmu",
        "file": str(file),
        "min_p_mw": -0.005,
        "max_p_mw": 0.005,
        "communication_step_s": 60.0,
        "p_setpoint": {"variable": "p_set", "sign": -1},
        "p": {"variable": "p", "sign": -1},
        "soc": {"variable": "soc", "start": "soc_start"},
        "running": {"variable": "running"},
        "initial_soc": 0.4,
        "start": {"capacity_kwh": 15.0, "lag_s": 30.0},
        **more,
    }


def spec(file: Path | None = None, **more: Any) -> FmuSpec:
    """Return its nameplate."""
    return FmuSpec.model_validate(table(file or battery(), **more))

"""Which modules are people's own, and that a changed one is noticed when it is loaded."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy
import pytest

import heron_mqtt.errors
import powergrid
from heron_mqtt.app.loaded_modules import LoadedModules, own_file
from heron_mqtt.errors import ConfigError
from heron_mqtt.record.facts import digest

Event = tuple[str, str, str, Any]


def test_python_what_is_installed_and_this_product_are_not_people_s_own() -> None:
    for module in (json, sys, numpy, heron_mqtt.errors, powergrid, pytest):
        assert own_file(module.__name__, module) is None
    assert own_file("__main__", sys.modules[__name__]) is None
    assert own_file(__name__, sys.modules[__name__]) == Path(__file__).resolve()


def own(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = folder / f"{name}.py"
    path.write_text("X = 1\n")
    module = ModuleType(name)
    module.__file__ = str(path)
    monkeypatch.setitem(sys.modules, name, module)
    return path


def test_a_module_is_noted_once_and_with_its_hash_and_not_where_it_is_noted_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = own(tmp_path, "named_one", monkeypatch)
    events: list[Event] = []
    loaded = LoadedModules([named], {}, lambda *told: events.append(told))
    loaded.note()
    before = len(events)
    path = own(tmp_path, "new_one", monkeypatch)
    loaded.note()
    loaded.note()
    (event,) = events[before:]
    assert event == (
        "modules",
        "",
        "loaded: new_one",
        {"new_one": {"name": "new_one.py", "sha256": digest(path)}},
    )
    assert not any("named_one" in told[3] for told in events)


def test_one_that_is_not_as_recorded_is_refused_and_one_that_is_is_not_noted_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = own(tmp_path, "new_one", monkeypatch)
    events: list[Event] = []
    LoadedModules([], {"new_one": digest(path)}, lambda *told: events.append(told)).note()
    assert not any("new_one" in told[3] for told in events)
    with pytest.raises(ConfigError, match=r"module new_one: the file has changed .*of r\.heron began"):
        LoadedModules([], {"new_one": "00"}, lambda *told: None, Path("r.heron")).note()

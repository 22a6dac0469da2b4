"""Registries: names given once, found when asked for, also from packages that are installed beside us."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pytest
from pydantic import TypeAdapter, ValidationError

from heron_mqtt.errors import ConfigError
from heron_mqtt.registry import NameIn, Registry


class Thing:
    def __init__(self, name: str) -> None:
        self.name = name


def registry(group: str = "heron_mqtt.test_things") -> Registry[Thing]:
    return Registry("kind of thing", group, lambda thing: thing.name)


def test_names_are_listed_in_the_order_of_registration() -> None:
    things = registry()
    for name in ("b", "a", "c"):
        things.add(Thing(name))
    assert list(things) == ["b", "a", "c"]
    assert [thing.name for thing in things.values()] == ["b", "a", "c"]


def test_an_unknown_name_is_refused_with_those_that_there_are() -> None:
    things = registry()
    things.add(Thing("a"))
    assert things.get("b") is None
    assert "b" not in things
    with pytest.raises(ConfigError, match="unknown kind of thing 'b'; expected a"):
        things["b"]


def test_a_second_thing_of_a_name_is_refused_and_the_first_stays() -> None:
    things, first = registry(), Thing("a")
    things.add(first)
    with pytest.raises(ValueError, match="kind of thing 'a' is there already"):
        things.add(Thing("a"))
    assert things.add(first) is first
    assert things["a"] is first


def test_what_is_added_for_a_while_is_gone_afterwards() -> None:
    things = registry()
    with things.added(Thing("a")):
        assert "a" in things
    assert "a" not in things


def test_an_installed_package_adds_by_an_entry_point_when_its_name_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "their_things.py").write_text("class Their:\n    name = 'theirs'\n")
    folder = tmp_path / "their_things-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: their-things\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text("[heron_mqtt.test_things]\ntheirs = their_things:Their\n")
    monkeypatch.syspath_prepend(tmp_path)
    things = registry()
    assert list(things) == [], "nothing is searched before it is asked for"
    assert things["theirs"].name == "theirs"
    assert registry("heron_mqtt.other_things").get("theirs") is None


def test_a_scenario_names_what_is_registered_at_that_time() -> None:
    things = registry()
    things.add(Thing("a"))
    names: TypeAdapter[str] = TypeAdapter(Annotated[str, NameIn(things)])
    with pytest.raises(ValidationError, match="should be 'a'"):
        names.validate_python("b")
    things.add(Thing("b"))
    assert names.validate_python("b") == "b"
    assert names.json_schema()["enum"] == ["a", "b"]

"""While modules are imported there is no garbage collection, and what they made is old afterwards."""

from __future__ import annotations

import gc
import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from heron_mqtt.importing import importing

pytestmark = pytest.mark.usefixtures("unfrozen")


class _Made:
    """Something that the collector tracks."""


@pytest.fixture
def unknown_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a module that this process has not imported."""
    name = "heron_mqtt_unknown_module"
    (tmp_path / f"{name}.py").write_text("", "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield name
    sys.modules.pop(name, None)


def _generation_of(thing: object) -> int:
    return next(n for n in range(3) if any(held is thing for held in gc.get_objects(n)))


def test_the_collector_does_nothing_meanwhile() -> None:
    seen: list[str] = []

    def look(phase: str, _info: dict[str, int]) -> None:
        seen.append(phase)

    gc.callbacks.append(look)
    try:
        with importing():
            made = [[n] for n in range(10_000)]
            looked = len(seen)
    finally:
        gc.callbacks.remove(look)
    assert looked == 0
    assert len(made) == 10_000
    assert gc.isenabled()


def test_what_was_made_is_in_the_oldest_generation(unknown_module: str) -> None:
    with importing():
        importlib.import_module(unknown_module)
        made = _Made()
        before = _generation_of(made)
    assert (before, _generation_of(made)) == (0, 2)
    assert gc.get_freeze_count() == 0


def test_it_is_on_again_after_an_error() -> None:
    try:
        with importing():
            raise ImportError("no such module")
    except ImportError:
        pass
    assert gc.isenabled()


def test_a_collector_that_was_off_stays_off() -> None:
    gc.disable()
    try:
        with importing():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_what_somebody_holds_back_stays_held_back(unknown_module: str) -> None:
    gc.freeze()
    try:
        held = gc.get_freeze_count()
        with importing():
            importlib.import_module(unknown_module)
        assert gc.get_freeze_count() >= held - 100  # some of it is gone by itself
    finally:
        gc.unfreeze()


def test_models_that_are_made_meanwhile_get_no_plugins_and_later_ones_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from pydantic.plugin import _loader

    plugin = object()
    monkeypatch.setattr(_loader, "_plugins", {"a plugin": plugin})
    monkeypatch.delenv("PYDANTIC_DISABLE_PLUGINS", raising=False)
    with importing():
        assert list(_loader.get_plugins()) == []
        with importing():
            pass
        assert list(_loader.get_plugins()) == []
    assert list(_loader.get_plugins()) == [plugin]


def test_what_the_user_says_of_plugins_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYDANTIC_DISABLE_PLUGINS", "one-of-them")
    with importing():
        assert os.environ["PYDANTIC_DISABLE_PLUGINS"] == "one-of-them"
    assert os.environ["PYDANTIC_DISABLE_PLUGINS"] == "one-of-them"

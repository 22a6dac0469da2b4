"""A path that is no readable file is named for what it is, wherever a file is asked for."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from heron_mqtt.config import find_scenario
from heron_mqtt.errors import ConfigError, DataError
from heron_mqtt.field.vendor.mapping import load_mapping
from heron_mqtt.messaging.mqtt import MqttBroker
from heron_mqtt.record.reader import RecordFile


def looping(path: Path) -> None:
    path.symlink_to(path.name)


def dangling(path: Path) -> None:
    path.symlink_to("gone")


def mapped(path: Path) -> object:
    return load_mapping({"profile": str(path)}, agent="MG1", device="ess", source="mine.toml", find=Path)


def with_ca(path: Path) -> object:
    return MqttBroker("mqtts://127.0.0.1", ca=str(path))


@pytest.mark.parametrize("read", [find_scenario, RecordFile, mapped, with_ca], ids=lambda f: f.__name__)
@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda path: None, "no such "),
        (Path.mkdir, "a folder"),
        (dangling, "a symbolic link that leads to no file"),
        (looping, "cannot be read: Too many levels of symbolic links"),
        (os.mkfifo, "a device, pipe or socket; expected a file"),
    ],
    ids=["gone", "folder", "dangling link", "looping link", "pipe"],
)
def test_a_path_that_is_no_file_is_named_for_what_it_is(
    tmp_path: Path, make: Callable[[Path], None], why: str, read: Callable[[Path], object]
) -> None:
    path = tmp_path / "it"
    make(path)
    with pytest.raises((ConfigError, DataError)) as caught:
        read(path)
    assert why in str(caught.value)
    assert str(path) in str(caught.value)


def test_an_empty_file_is_no_database_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "run.heron").touch()
    with pytest.raises(DataError, match=r"run\.heron: not a record of a run \(it is empty\)"):
        RecordFile(tmp_path / "run.heron")

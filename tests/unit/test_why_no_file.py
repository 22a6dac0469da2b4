"""A path that is no readable file is named for what it is, wherever a file is asked for."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from heron_mqtt.config import find_scenario, read_toml
from heron_mqtt.errors import ConfigError, DataError
from heron_mqtt.field.vendor.mapping import load_mapping
from heron_mqtt.messaging.embedded.auth.credentials import add_credentials, remove_credentials
from heron_mqtt.messaging.mqtt import MqttBroker
from heron_mqtt.record.reader import RecordFile
from powergrid.profiles.csv_reader import read_table


def looping(path: Path) -> None:
    path.symlink_to(path.name)


def dangling(path: Path) -> None:
    path.symlink_to("gone")


def mapped(path: Path) -> object:
    return load_mapping({"profile": str(path)}, agent="MG1", device="ess", source="mine.toml", find=Path)


def add_user(path: Path) -> None:
    add_credentials("MG1", "agent", b"x", users_file=path, acl_file=path.with_name("acl"))


def read_csv(path: Path) -> object:
    return read_table(path, {}, 900.0, 1)


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


LONG = "x" * 300


@pytest.mark.parametrize("read", [find_scenario, RecordFile, mapped, with_ca, read_toml, add_user, read_csv])
def test_a_name_that_is_too_long_is_told_as_such(tmp_path: Path, read: Callable[[Path], object]) -> None:
    with pytest.raises((ConfigError, DataError), match="File name too long"):
        read(tmp_path / LONG)


def test_toml_that_is_nested_too_deep_is_no_toml(tmp_path: Path) -> None:
    path = tmp_path / "deep.toml"
    path.write_text(f"a = {'[' * 5000}{']' * 5000}")
    with pytest.raises(ConfigError, match=r"deep\.toml: not valid TOML: "):
        read_toml(path)


def test_toml_with_a_number_that_python_does_not_read_is_no_toml(tmp_path: Path) -> None:
    path = tmp_path / "long.toml"
    path.write_text(f"step_s = {'9' * 5000}")
    with pytest.raises(ConfigError, match=r"long\.toml: not valid TOML: .*4300 digits") as told:
        read_toml(path)
    assert "sys." not in str(told.value)


@pytest.mark.parametrize("make", [Path.mkdir, dangling, looping, os.mkfifo])
@pytest.mark.parametrize("which", ["users", "acl"])
def test_credentials_replace_nothing_but_a_file(
    tmp_path: Path, which: str, make: Callable[[Path], None]
) -> None:
    """With the right to do so, what was a device or pipe would be a file from then on."""
    make(tmp_path / which)
    before = (tmp_path / which).lstat()
    with pytest.raises(ConfigError, match=f"credentials: .*{which}: "):
        add_credentials("MG1", "agent", b"x", users_file=tmp_path / "users", acl_file=tmp_path / "acl")
    after = (tmp_path / which).lstat()
    assert (after.st_ino, after.st_mode) == (before.st_ino, before.st_mode)
    assert sorted(path.name for path in tmp_path.iterdir()) == [which]


@pytest.mark.parametrize("content", [b"-----BEGIN PRIVATE KEY-----\n", b"\xff\xfe"])
def test_credentials_are_not_removed_from_a_file_of_something_else(tmp_path: Path, content: bytes) -> None:
    users, acl = tmp_path / "users", tmp_path / "acl"
    add_user(users)
    acl.write_bytes(content)
    before = users.read_bytes()
    with pytest.raises(DataError, match="acl: "):
        remove_credentials("MG1", users_file=users, acl_file=acl)
    assert (users.read_bytes(), acl.read_bytes()) == (before, content)


def test_credentials_follow_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").touch()
    (tmp_path / "users").symlink_to("real")
    add_user(tmp_path / "users")
    assert (tmp_path / "users").is_symlink()
    assert (tmp_path / "real").read_text().startswith("MG1:$argon2id$")

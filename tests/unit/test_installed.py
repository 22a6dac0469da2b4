"""The version of an installed package is what importlib.metadata says, however it was installed."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

import heron_mqtt
from heron_mqtt.installed import installed_version, own_version


@pytest.mark.parametrize(
    "package", ["heron-mqtt", "pandapower", "lightsim2grid", "numpy", "paho-mqtt", "typing_extensions"]
)
def test_it_is_what_the_metadata_say(package: str) -> None:
    try:
        expected: str | None = version(package)
    except PackageNotFoundError:
        expected = None
    assert installed_version(package) == expected


def test_the_metadata_are_not_read_for_what_its_folder_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "Some_Thing-1.2.dist-info").mkdir()
    (tmp_path / "something_else-3.dist-info").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path / "not there"), str(tmp_path)])
    assert installed_version("some-thing") == "1.2"


@pytest.mark.parametrize(
    "folders",
    [
        ["thing-1.0.dist-info", "thing-2.0.dist-info"],  # what an interrupted upgrade leaves
        ["thing-2.0_local.dist-info"],
        ["thing-2.0.egg-info"],
        ["thing.egg-info"],
    ],
)
def test_where_the_name_does_not_decide_the_metadata_are_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folders: list[str]
) -> None:
    for folder in folders:
        (tmp_path / folder).mkdir()
        for file in ("METADATA", "PKG-INFO"):
            (tmp_path / folder / file).write_text("Metadata-Version: 2.1\nName: thing\nVersion: 7.7\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert installed_version("thing") == "7.7" == version("thing")


def test_what_is_not_installed_has_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert installed_version("no-such-package-of-ours") is None
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert own_version() == heron_mqtt.__version__ == "0+unknown"

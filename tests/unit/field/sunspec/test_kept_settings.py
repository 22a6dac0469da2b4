"""KeptSettings: the own settings of an inverter in a file, which neither a kill nor a power cut takes."""

from __future__ import annotations

import os
from pathlib import Path
from unittest.mock import Mock

import pytest

from heron_mqtt.field.sunspec.controls import OwnSettings
from heron_mqtt.field.sunspec.kept_settings import KeptSettings
from heron_mqtt.field.sunspec.power_limit import PowerLimit
from support.disk import Disk, soon

IDENTITY = ("Heron Works", "PV-50", "0815")
OWN = OwnSettings({"WMaxLimPct": 6000}, {"WMaxLimPct_SF": -2})


def a_limit() -> PowerLimit:
    return PowerLimit(Mock(), Mock(), 1.0)


def test_what_is_kept_is_forced_to_the_disk_with_its_new_folders_and_so_is_its_deletion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch)
    folder = tmp_path / "state" / "sunspec"
    kept = KeptSettings(folder, "box unit 1")
    kept.save(IDENTITY, a_limit(), OWN)
    [file] = folder.iterdir()
    soon(lambda: disk.forced == [file, folder, folder.parent, tmp_path], "the file and each new folder")
    kept.drop(IDENTITY)
    soon(lambda: disk.forced[4:] == [folder], "the folder, which does not have it any more")
    kept.save((*IDENTITY[:2], ""), a_limit(), OWN)
    assert (list(folder.iterdir()), len(disk.forced)) == ([], 5)


def test_a_disk_that_hangs_holds_up_no_one_and_has_the_newest_at_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    disk = Disk(monkeypatch)
    disk.works.clear()
    kept = KeptSettings(tmp_path, "box unit 1")
    for _ in range(3):
        kept.save(IDENTITY, a_limit(), OWN)
        assert KeptSettings(tmp_path, "box unit 1").load(IDENTITY, a_limit()) == OWN
        kept.drop(IDENTITY)
    disk.works.set()
    soon(lambda: disk.forced[-1:] == [tmp_path], "the deletion")
    assert disk.files <= 1
    assert caplog.messages == []


def test_a_disk_that_refuses_is_named_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    Disk(monkeypatch)

    def refuses(_: int) -> None:
        raise OSError("Input/output error")

    monkeypatch.setattr(os, "fsync", refuses)
    kept = KeptSettings(tmp_path, "box unit 1")
    for _ in range(2):
        kept.save(IDENTITY, a_limit(), OWN)
        soon(lambda: bool(caplog.messages), "the refusal")
    Disk(monkeypatch)  # it waits for the threads
    assert caplog.messages == [
        f"{tmp_path}: the settings of an inverter cannot be forced to the disk, a power cut may take them: "
        "Input/output error"
    ]

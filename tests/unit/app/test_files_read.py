"""Which files are seen that the code of a policy opens by itself."""

from __future__ import annotations

import importlib.util
import io
import os
import threading
from pathlib import Path

import pytest

from heron_mqtt.app.files_read import FilesRead
from heron_mqtt.app.loaded_modules import LoadedModules
from heron_mqtt.errors import ConfigError
from heron_mqtt.record.facts import digest


@pytest.fixture
def beside(tmp_path: Path) -> Path:
    folder = tmp_path / "scenario"
    for name in ("weights.npz", "inner/table.csv", ".cache/fonts.json", "log.txt", "late.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("1")
    (tmp_path / "elsewhere.txt").write_text("1")
    return folder


def test_what_is_read_beside_the_scenario_counts_and_nothing_else(beside: Path) -> None:
    read = FilesRead(beside, beside / "inner", Path("/"))
    with read.watching():
        (beside / "weights.npz").read_bytes()
        os.close(os.open(beside / "inner" / "table.csv", os.O_RDONLY))
        for path in (beside / ".cache" / "fonts.json", beside.parent / "elsewhere.txt"):
            path.read_text()
        with (beside / "log.txt").open("a") as log:
            log.write("made")
        (beside / "log.txt").read_text()
        with pytest.raises(FileNotFoundError):
            (beside / "missing.txt").read_text()
        with io.open(os.fsencode(beside / "weights.npz"), "rb"):  # noqa: UP020 - by bytes, as some do
            pass
        other = threading.Thread(target=(beside / "late.txt").read_text)
        other.start()
        other.join()
    (beside / "late.txt").read_text()
    assert read.found() == {
        "file weights.npz": (beside / "weights.npz").resolve(),
        "file inner/table.csv": (beside / "inner" / "table.csv").resolve(),
    }


def test_code_that_is_loaded_by_its_path_counts_by_its_source_also_from_the_cache(
    beside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.dont_write_bytecode", False)
    source = beside / "by_path.py"
    source.write_text("P_MW = 1.0\n")
    for _ in range(2):
        read = FilesRead(beside)
        with read.watching():
            spec = importlib.util.spec_from_file_location("by_path", source)
            assert spec is not None
            assert spec.loader is not None
            spec.loader.exec_module(importlib.util.module_from_spec(spec))
        assert read.found() == {"file by_path.py": source.resolve()}


def test_a_file_that_a_policy_reads_is_kept_with_its_hash_and_refused_where_it_has_changed(
    beside: Path,
) -> None:
    path = beside / "weights.npz"
    told: list[dict[str, object]] = []

    def note(recorded: dict[str, str]) -> None:
        read = FilesRead(beside)
        with read.watching():
            path.read_bytes()
        modules = LoadedModules([], recorded, lambda *event: told.append(dict(event[3])), Path("r"), read)
        modules.note()
        modules.note()

    note({})
    kept = {"name": "weights.npz", "sha256": digest(path)}
    assert [event["file weights.npz"] for event in told if "file weights.npz" in event] == [kept]
    del told[:]
    note({"file weights.npz": digest(path)})
    assert not any("file weights.npz" in event for event in told)
    with pytest.raises(ConfigError, match=r"file weights\.npz, which a policy reads: the file has changed"):
        note({"file weights.npz": "00"})

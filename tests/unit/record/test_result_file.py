"""Where results go: only an earlier result of the kind is overwritten, which is said before the work."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from heron_mqtt.errors import ConfigError
from heron_mqtt.record.result_file import JUNIT, PAGE, require_places, write_result


def test_an_earlier_result_is_replaced_and_anything_else_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "result"
    write_result(path, "<!doctype html>one", PAGE)
    write_result(path, "<!doctype html>two", PAGE)
    assert path.read_text() == "<!doctype html>two"
    with pytest.raises(ConfigError, match="holds something else than an earlier result of this kind"):
        write_result(path, "<testsuites/>", JUNIT)
    assert path.read_text() == "<!doctype html>two"
    path.write_text(" \n")
    write_result(path, "<testsuites/>", JUNIT)
    assert path.read_text() == "<testsuites/>"


def test_where_a_result_cannot_be_written_is_said_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "site.toml").write_text("name = 'site'")
    for path, what in (
        (Path("-"), "standard output is /dev/stdout"),
        (tmp_path, "--junit .*: a folder; expected a file"),
        (tmp_path / "nowhere" / "x.xml", "--junit .*: there is no folder"),
        (tmp_path / "site.toml", "holds something else"),
    ):
        with pytest.raises(ConfigError, match=what):
            require_places([("--html", None, PAGE), ("--junit", path, JUNIT)])
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)  # root may write anywhere
    with pytest.raises(ConfigError, match=r"--junit .*: cannot be written: permission denied"):
        require_places([("--junit", tmp_path / "new.xml", JUNIT)])
    monkeypatch.undo()
    require_places([("--junit", tmp_path / "new.xml", JUNIT), ("--html", Path("/dev/stdout"), PAGE)])

"""What a shell completes: commands and options as ever, and the names that a user would have to look up."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from heron_mqtt.cli.run_commands import app


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "site.toml").touch()
    (tmp_path / "notes.txt").touch()
    (tmp_path / "sites").mkdir()
    (tmp_path / "sites" / "north.toml").touch()
    return tmp_path


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("check three", ["three_microgrids"]),
        ("run si", ["site.toml", "sites/"]),
        ("run sites/", ["sites/north.toml"]),
        ("run nowhere/", []),
        ("home-assistant hil", ["hil_battery"]),
        ("run --network lte", ["lte_good", "lte_poor"]),
        ("device mod", ["modbus_bridge"]),
        ("schema s", ["scenario", "suite"]),
        ("list pol", ["policies"]),
        ("run --max", ["--max-fallbacks"]),
        ("eva", ["evaluate"]),
    ],
)
def test_names_are_completed(words: str, expected: list[str]) -> None:
    line = f"heron-mqtt {words}"
    asked = {
        "_HERON_MQTT_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(line.split(" ")) - 1),
    }
    done = CliRunner().invoke(app, prog_name="heron-mqtt", env=asked)
    assert done.output.split() == expected

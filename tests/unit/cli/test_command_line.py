"""The command line before a command is called: only what is called is made, and it is the same as ever."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from heron_mqtt.cli import command_line
from heron_mqtt.cli.run_commands import app


def made(words: Sequence[str]) -> Any:
    return command_line._only_what_is_called(words)


def names() -> list[str]:
    return [command_line._name_of(command) for command in app.registered_commands] + [
        str(group.name) for group in app.registered_groups
    ]


def test_each_command_is_made_alone() -> None:
    for name in names():
        narrow = made(["-v", name, "--json"])
        called = [*narrow.registered_commands, *narrow.registered_groups]
        assert len(called) == 1, name
        assert called[0] in [*app.registered_commands, *app.registered_groups]


@pytest.mark.parametrize(
    "words", [[], ["--help"], ["--version"], ["rnu"], ["-v", "rnu", "run"], ["--help", "run"]]
)
def test_without_a_command_that_is_known_all_of_them_are_made(words: list[str]) -> None:
    assert made(words) is app


@pytest.mark.parametrize("words", [["run", "--help"], ["credentials", "--help"], ["run", "--step", "3"]])
def test_one_alone_says_what_it_says_among_the_others(
    words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code = command_line.run_command_line(words)
    alone = capsys.readouterr()
    monkeypatch.setattr(command_line, "_only_what_is_called", lambda _: app)
    assert command_line.run_command_line(words) == code
    assert capsys.readouterr() == alone
    assert alone.out or alone.err


@pytest.mark.parametrize("words", [["-h"], ["run", "-h"], ["credentials", "add", "-h"], ["device", "-h"]])
def test_help_has_a_short_name_everywhere(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.run_command_line(words) == 0
    assert "Usage: heron-mqtt" in capsys.readouterr().out


@pytest.mark.parametrize("columns", ["0", "30", "40", "80", "200"])
def test_help_is_complete_in_a_narrow_terminal(
    columns: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert command_line.run_command_line(["run", "--help"]) == 0
    told = capsys.readouterr().out
    for option in ("--accept-broker-limits", "--no-record-messages", "--max-fallbacks", "--strict"):
        assert option in told, option
    assert command_line.run_command_line(["--help"]) == 0
    told = capsys.readouterr().out
    assert "home-assistant" in told
    assert "..." not in told.partition("Commands:")[2]
    assert "pages of docs" in " ".join(told.split())


def test_more_of_the_log_may_be_asked_for_twice() -> None:
    assert command_line._options_first(["run", "-vv", "--", "-v"]) == ["-v", "run", "--", "-v"]
    assert command_line._options_first(["-v", "run", "-v", "-vx"]) == ["-v", "run", "-vx"]


def test_a_command_that_is_misspelt_is_guessed_among_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.run_command_line(["rnu"]) == 2
    assert "run" in capsys.readouterr().err


def _commands_with(option: str) -> list[list[str]]:
    """Return each command that has an option, with what else it needs."""
    found = []
    for command in app.registered_commands:
        parameters = inspect.signature(command.callback).parameters  # type: ignore[arg-type]
        if option in parameters:
            found.append([command_line._name_of(command)])
    return found


def test_no_command_takes_what_cannot_be_an_environment(capsys: pytest.CaptureFixture[str]) -> None:
    commands = [*_commands_with("env_id"), ["credentials", "add"]]
    assert {"status", "estop", "take", "replay", "probe", "doctor", "tail"} <= {c[0] for c in commands}
    for command in commands:
        for wrong in ("", " ", "a\nb", "\udc80", "x" * 201):
            assert command_line.run_command_line([*command, "--env-id", wrong]) == 2, command
            said = capsys.readouterr()
            assert said.out == ""
            assert said.err.startswith("heron-mqtt: --env-id "), (command, said.err)
            assert said.err.count("\n") == 1


def test_a_file_that_the_user_names_is_no_bug_and_one_of_ours_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    named = str(tmp_path / "named")

    def fails(*_: object, **__: object) -> int:
        raise PermissionError(13, "Permission denied", failing)

    monkeypatch.setattr(command_line, "_only_what_is_called", lambda _: fails)
    for failing in (named, f"{named}/below"):
        for words in (["run", named], ["run", f"--record={named}"], ["run", "--record", named]):
            assert command_line.run_command_line(words) == 2
            assert capsys.readouterr().err == f"heron-mqtt: {failing}: Permission denied\n"
    for ours in (f"{named}-other", "/etc/ours"):
        failing = ours
        with pytest.raises(PermissionError):
            command_line.run_command_line(["run", named])


def test_a_complaint_holds_nothing_that_a_terminal_obeys(capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.run_command_line(["check", "\x1b[2J\u202eé"]) == 2
    assert capsys.readouterr().err.startswith("heron-mqtt: \\x1b[2J\\u202eé: no such scenario file")


def test_options_of_the_connection_are_a_section_of_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.run_command_line(["status", "--help"]) == 0
    own, _, connection = capsys.readouterr().out.partition("Connection to the broker:")
    assert "--listen SECONDS" in own
    assert "--help" in own
    assert "--keepalive-s SECONDS" in connection
    assert "--keepalive-s" not in own


@pytest.mark.parametrize("command", app.registered_commands, ids=command_line._name_of)
def test_examples_of_a_command_are_in_one_place(command: Any) -> None:
    assert not (command.epilog and "Example: " in (inspect.getdoc(command.callback) or ""))


@pytest.mark.parametrize("words", [["init", "site"], ["run", "mine.toml"], ["schema", "suite"]])
def test_a_current_folder_that_is_gone_is_one_line(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    code = command_line.run_command_line(words)
    told = capsys.readouterr()
    assert (code, told.err.count("\n")) == ((0, 0) if words[0] == "schema" else (2, 1))
    if words[0] == "init":
        assert (
            told.err == "heron-mqtt: the current folder does not exist any more; change to one that exists\n"
        )


@pytest.mark.parametrize("given", [{}, {"COMP_WORDS": "heron-mqtt ch", "COMP_CWORD": "x"}])
def test_a_shell_that_says_too_little_to_complete_gets_one_line(
    given: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {command_line.COMPLETE: "complete_bash", **given}.items():
        monkeypatch.setenv(name, value)
    assert command_line.run_command_line([]) == 1
    told = capsys.readouterr().err
    assert told.startswith("heron-mqtt: _HERON_MQTT_COMPLETE=complete_bash: the shell passes too little")
    assert told.count("\n") == 1


def test_a_changed_value_that_cannot_be_read_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run.heron").touch()
    words = ["what-if", str(tmp_path / "run.heron"), "--set", f"lease_s={'9' * 5000}"]
    assert command_line.run_command_line(words) == 2
    assert capsys.readouterr().err.startswith("heron-mqtt: --set lease_s: cannot be read: ")

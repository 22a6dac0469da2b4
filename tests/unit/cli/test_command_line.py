"""The command line before a command is called: only what is called is made, and it is the same as ever."""

from __future__ import annotations

from collections.abc import Sequence
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


def test_a_command_that_is_misspelt_is_guessed_among_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.run_command_line(["rnu"]) == 2
    assert "run" in capsys.readouterr().err

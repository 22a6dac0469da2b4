"""What a program says of the error that ends it: of one that took the place of another, both."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from heron_mqtt import errors
from heron_mqtt.cli.complaints import report
from heron_mqtt.cli.run_commands import app
from heron_mqtt.errors import ConfigError, Displaced, HeronError, NotHandedBack, NotReady, told_at_the_end
from powergrid.emulators.script import _tell


def raised(first: HeronError, second: HeronError, *, is_translated: bool = False) -> HeronError:
    """Return the second of two errors, raised while the first was cleaned up after, or made of it."""
    try:
        try:
            raise first
        except HeronError as exc:
            if is_translated:
                raise second from exc
            raise
        finally:
            if not is_translated:
                raise second
    except HeronError as exc:
        return exc


def test_one_that_is_displaced_and_not_handed_back_says_both_and_keeps_its_exit_code(
    capsys: pytest.CaptureFixture[str],
) -> None:
    error = raised(Displaced("MG1/ess was taken over"), NotHandedBack("MG1/ess: the contactor is stuck"))
    assert told_at_the_end(error) == (["MG1/ess was taken over", "MG1/ess: the contactor is stuck"], 3)
    assert report(error) == _tell("battery.py", error) == 3
    told = capsys.readouterr().err.splitlines()
    assert [line.partition(": ")[2] for line in told] == [*told_at_the_end(error)[0]] * 2


def test_what_an_error_was_made_of_is_not_told_and_what_it_repeats_is_told_once() -> None:
    translated = raised(NotHandedBack("inner"), NotReady("outer"), is_translated=True)
    assert told_at_the_end(translated) == (["outer"], 1)
    joined = raised(NotHandedBack("MG1/a: stuck"), NotHandedBack("MG1/a: stuck; MG1/b: stuck"))
    assert told_at_the_end(joined) == (["MG1/a: stuck; MG1/b: stuck"], 1)
    assert told_at_the_end(ConfigError("one", "two")) == (["one", "two"], 2)


def test_every_command_has_its_exit_codes_in_the_table_and_every_class_of_error_one_of_them() -> None:
    page = (Path(__file__).parents[2] / "docs/operating.md").read_text()
    table = page[page.index("## Exit codes") :]
    first_column = [row.split("|")[1] for row in table.splitlines() if row.startswith("| `")]
    listed = {name for cell in first_column for name in re.findall(r"`([a-z-]+)`", cell)}
    commands = {
        str(c.name or c.callback.__name__.replace("_", "-")) for c in app.registered_commands if c.callback
    }
    assert listed == commands | {str(group.name) for group in app.registered_groups}
    codes = {name: getattr(errors, name).exit_code for name in errors.__all__}
    assert {name: code for name, code in codes.items() if code != 1} == {
        "ConfigError": 2,
        "DataError": 2,
        "Displaced": 3,
    }

"""Wrong arguments of a program that is no command are told as those of the commands: one line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import heron_mqtt
from heron_mqtt.field.sunspec import bridge as sunspec_bridge
from heron_mqtt.field.vendor import modbus_bridge
from heron_mqtt.program_arguments import ProgramArguments, wrong_argument
from powergrid.emulators import run_script
from support.rows import each_row

ROOT = Path(heron_mqtt.__file__).parents[1]


def _run_sunspec(arguments: list[str]) -> int:
    return sunspec_bridge.run(arguments, lambda _: "lab")


def _run_modbus(arguments: list[str]) -> int:
    return modbus_bridge.run(arguments, lambda _: pytest.fail("no scenario is opened"))


def _run_battery(arguments: list[str]) -> int:
    return run_script("battery", arguments)


@pytest.mark.parametrize("run", [_run_sunspec, _run_modbus, _run_battery])
@pytest.mark.parametrize("arguments", [[], ["--name"], ["--period", "soon"]])
def test_one_line_says_what_is_wrong_and_where_to_look(
    run: object, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert callable(run)
    with pytest.raises(SystemExit) as ended:
        run(arguments)
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    program = line.partition(":")[0]
    assert program.startswith("heron-mqtt device ")
    assert line.endswith(f"; see {program} --help")


@pytest.mark.parametrize("run", [_run_sunspec, _run_modbus, _run_battery])
@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["--agent", ""], "--agent '': an empty argument; give it a value, or leave it out"),
        (["--env-id= "], "--env-id ' ': an empty argument"),
        (["--name", "ess", "\t"], "'\\t': an empty argument"),
        (["--env-id", "a\x1bb"], "argument --env-id: 'a\\x1bb': expected the name of an environment"),
        (["--env-id", "x" * 201], "argument --env-id: 'xxx"),
    ],
)
def test_a_name_that_is_empty_or_none_is_not_taken_for_the_default(
    run: object, arguments: list[str], what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert callable(run)
    with pytest.raises(SystemExit) as ended:
        run(arguments)
    assert ended.value.code == 2
    assert capsys.readouterr().err.partition(": ")[2].startswith(what)


@each_row(
    ("words", "is_wrong"),
    [
        (["run", ""], True),
        (["run", "--record="], True),
        (["run", "--record", "\u3000"], True),
        (["estop", "on", "--why", ""], False),
        (["estop", "on", "--why="], False),
        (["estop", "on", "--why", "smoke", ""], True),
        (["what-if", "day.heron", "--set", "a="], False),
        (["conformance", "--device", "MG1/ess", "--", "./mine", "--name", ""], False),
        (["-v", "-x="], True),
        (["check", "\udc80"], True),
        (["estop", "on", "--why=a\udcff"], True),
        (["estop", "on", "--why", "ä\U0001f50b"], False),
        (["conformance", "--device", "MG1/ess", "--", "\udc80"], False),
        ([], False),
    ],
)
def test_which_arguments_are_refused_whatever_they_are_for(words: list[str], is_wrong: bool) -> None:
    assert (wrong_argument(words) is not None) == is_wrong


def test_what_argparse_says_in_several_lines_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        ProgramArguments(prog="p").error("two\n  lines")
    assert capsys.readouterr().err == "p: two lines; see p --help\n"


def test_every_program_of_the_packages_tells_its_arguments_so() -> None:
    parsers = [
        str(path.relative_to(ROOT))
        for package in ("heron_mqtt", "powergrid")
        for path in sorted((ROOT / package).rglob("*.py"))
        if re.search(r"ArgumentParser\(", path.read_text(encoding="utf-8"))
    ]
    assert parsers == []


def test_options_are_written_in_full(capsys: pytest.CaptureFixture[str]) -> None:
    """As those of the commands: an abbreviation would come to mean another option."""
    parser = ProgramArguments(prog="p")
    parser.add_argument("--duration")
    with pytest.raises(SystemExit):
        parser.parse_args(["--dur", "1"])
    assert capsys.readouterr().err == "p: unrecognized arguments: --dur 1; see p --help\n"


def test_a_locale_that_has_no_such_characters_is_not_blamed_on_the_text() -> None:
    in_ascii = "ü".encode().decode("ascii", "surrogateescape")
    assert wrong_argument([in_ascii]) == (
        f"{in_ascii!r}: this locale has ASCII alone; set LC_ALL=C.UTF-8 or PYTHONUTF8=1"
    )

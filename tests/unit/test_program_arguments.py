"""Wrong arguments of a program that is no command are told as those of the commands: one line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import heron_mqtt
from heron_mqtt.field.sunspec import bridge as sunspec_bridge
from heron_mqtt.field.vendor import modbus_bridge
from heron_mqtt.program_arguments import ProgramArguments
from powergrid.emulators import run_script

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

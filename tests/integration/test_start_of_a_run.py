"""What a run imports is most of its start: what it does not need stays out, unnoticed where it is needed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

NOT_FOR_A_RUN = {
    *("numpy.ma", "numpy.polynomial", "numpy.testing", "numpy.f2py", "numpy.ctypeslib", "numpy.rec"),
    *("scipy.sparse.linalg", "scipy.linalg", "pandas", "pandapower", "multiprocessing", "rich"),
    *("gymnasium", "pettingzoo", "powergrid.envs.multi_agent_microgrids", "powergrid.envs.batched"),
    *("heron_mqtt.messaging.impaired.broker", "heron_mqtt.record.recorder", "heron_mqtt.app.broker_probe"),
    *("heron_mqtt.field.vendor", "heron_mqtt.dashboard", "heron_mqtt.testing", "heron_mqtt.bench"),
}
NOT_FOR_HELP = {"pydantic", "numpy", "scipy", "paho", "amqtt", "gymnasium", "powergrid", "heron_mqtt.app"}


def imported(*arguments: str, folder: Path) -> set[str]:
    """Return the modules that the command and the programs that it forks import."""
    command = [sys.executable, "-X", "importtime", "-m", "heron_mqtt", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True, timeout=120)
    lines = [line for line in done.stderr.splitlines() if "import time:" in line]
    return {line.rpartition("|")[2].strip() for line in lines}


@pytest.mark.slow_but("a step")
@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(["--devices", "simulated"], id="a step"),
        pytest.param(["--devices", "emulated"], id="emulated devices"),
        pytest.param(["--broker", "memory"], id="in memory"),
    ],
)
def test_a_run_imports_nothing_that_it_has_no_use_for(arguments: list[str], tmp_path: Path) -> None:
    found = imported("run", "--no-record", "--json", "--steps", "1", *arguments, folder=tmp_path)
    assert {"numpy", "powergrid.envs.microgrid_environment"} <= found
    assert not found & NOT_FOR_A_RUN


@pytest.mark.slow_but("--help")
@pytest.mark.parametrize("option", ["--version", "--help"])
def test_help_and_version_import_little(option: str, tmp_path: Path) -> None:
    found = imported(option, folder=tmp_path)
    assert "heron_mqtt.cli.command_line" in found
    assert not found & NOT_FOR_HELP


TELL_IMPORTS_OF_STEPS = """
import sys

from heron_mqtt.app.step_clock import StepClock
from heron_mqtt.cli.main import main


class Told:
    def find_spec(self, name, path=None, target=None):
        sys.stderr.write(f"IMPORT {name}\\n")


def begun(clock, told=Told(), next_step=StepClock.next_step):
    if told not in sys.meta_path:
        sys.meta_path.insert(0, told)
    return next_step(clock)


StepClock.next_step = begun
main()
"""


@pytest.mark.slow
def test_no_step_imports_anything(tmp_path: Path) -> None:
    """At 100 Hz the milliseconds that it takes make the steps after it begin late."""
    options = ("--no-record", "--json", "--broker", "memory", "--steps", "2", "--realtime", "0.01")
    command = [sys.executable, "-c", TELL_IMPORTS_OF_STEPS, "run", *options]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=120)
    assert '"steps": 2' in done.stdout
    assert not [line for line in done.stderr.splitlines() if line.startswith("IMPORT")]

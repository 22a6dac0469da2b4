"""Programs under a service manager: ready when they work, alive while they do, stopping when told to."""

from __future__ import annotations

import configparser
import shlex
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from heron_mqtt.end_signals import EXIT_INTERRUPTED
from heron_mqtt.errors import Displaced
from heron_mqtt.testing.embedded_server import EmbeddedServer
from support.heron_command import Program, heron, run_heron, until
from support.small_runs import write_scenario

DEPLOY = Path(__file__).resolve().parents[2] / "config" / "deploy"
UNITS = sorted(DEPLOY.glob("*.service"))


class Manager:
    """The socket of a service manager, and all that came to it."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.setblocking(False)
        self.environment = {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "200000"}
        self._told: list[str] = []

    def told(self) -> list[str]:
        while True:
            try:
                self._told.append(self.socket.recv(4096).decode())
            except BlockingIOError:
                return self._told

    def until(self, what: str) -> None:
        until(lambda: any(what in one for one in self.told()), what, 60.0)


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    made = Manager(tmp_path / "notify")
    yield made
    made.socket.close()


@pytest.fixture(scope="module")
def broker_url() -> Iterator[str]:
    server = EmbeddedServer().start()
    yield server.url
    server.stop()


def end(program: Program) -> None:
    program.signal(signal.SIGTERM)
    assert program.wait(20.0).code in {0, 130}


def test_a_broker_is_ready_when_it_listens(manager: Manager) -> None:
    with heron("broker", "--port", "0", environment=manager.environment) as program:
        manager.until("READY=1\nSTATUS=listening mqtt://127.0.0.1:")
        manager.until("WATCHDOG=1")
        end(program)
    assert manager.told()[-1] == "STOPPING=1"


def test_a_device_is_ready_when_it_is_online_and_silent_while_it_stands_still(
    manager: Manager, tmp_path: Path, broker_url: str
) -> None:
    device = ["device", "battery", "--agent", "MG1", "--name", "ess", "--broker", broker_url]
    with heron(*device, environment=manager.environment) as program:
        manager.until("READY=1\nSTATUS=battery MG1/ess online")
        program.signal(signal.SIGSTOP)
        time.sleep(0.1)
        count = len(manager.told())
        time.sleep(0.4)
        assert len(manager.told()) == count, "it stands still, and says that it lives"
        program.signal(signal.SIGCONT)
        until(lambda: len(manager.told()) > count, "a sign of life")
        end(program)
    assert [one for one in manager.told() if one != "WATCHDOG=1"][-1] == "STOPPING=1"


@pytest.mark.slow
def test_a_proxy_is_ready_when_its_agents_are_online(
    manager: Manager, tmp_path: Path, broker_url: str
) -> None:
    scenario = write_scenario(tmp_path, {"microgrids.MG1.remote": True})
    proxy = ["proxy", str(scenario), "--all", "--broker", broker_url, "--devices", "simulated"]
    with heron(*proxy, environment=manager.environment) as program:
        manager.until("READY=1\nSTATUS=online: MG1")
        end(program)
    assert "STOPPING=1" in manager.told()


@pytest.mark.slow
def test_a_run_is_ready_when_every_agent_is_and_its_children_say_nothing(
    manager: Manager, tmp_path: Path
) -> None:
    scenario = write_scenario(tmp_path)
    with heron("run", str(scenario), "--realtime", "0.3", environment=manager.environment) as program:
        manager.until("\nSTATUS=small: every")
        until(lambda: any(one.startswith("STATUS=small: step ") for one in manager.told()), "a step", 60.0)
        end(program)
    told = manager.told()
    assert [one for one in told if one.startswith("READY=1")] == [
        "READY=1\nSTATUS=small: every agent and device is ready"
    ]
    assert told.count("STOPPING=1") == 1


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_systemd_understands_every_line_where_it_is_installed(unit: Path, tmp_path: Path) -> None:
    systemd = shutil.which("systemd-analyze")
    if systemd is None:
        return  # what matters of it is looked at below; it comes with Debian's systemd
    there = tmp_path / unit.name.replace("@.", "@roof.")
    program = shutil.which("true")  # ours is not installed where the unit says
    assert program is not None
    there.write_text(unit.read_text().replace("/opt/heron/bin/heron-mqtt", program))
    command = [systemd, "verify", "--man=no", str(there)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    ours = [line for line in done.stderr.splitlines() if str(there.name) in line]
    assert (done.returncode, ours) == (0, [])


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_a_unit_waits_for_ready_has_a_watchdog_and_starts_a_command_of_ours(unit: Path) -> None:
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(unit)
    service = parser["Service"]
    assert service["Type"] == "notify"
    assert 2 <= int(service["WatchdogSec"]) <= 60
    program, command, *_ = shlex.split(service["ExecStart"])
    assert program.endswith("/heron-mqtt")
    assert (service["KillSignal"], service["Restart"]) in {("SIGTERM", "always"), ("SIGTERM", "on-failure")}
    assert command in {"proxy", "run", "device"}
    assert service["KillMode"] == "mixed", "a record writer that is ended beside its program writes no end"
    assert service["RestartPreventExitStatus"] == str(Displaced.exit_code), "each would end the other"
    ends_with = 0 if command == "device" else EXIT_INTERRUPTED  # after SIGTERM
    assert service.getint("SuccessExitStatus", 0) == ends_with, "stopped is not failed"
    options = [word for word in shlex.split(service["ExecStart"]) if word.startswith("--")]
    help_text = run_heron(command, *(["battery"] if command == "device" else []), "--help").out
    assert all(option in help_text for option in options), options

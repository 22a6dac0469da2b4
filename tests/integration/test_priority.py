"""``--priority``: which processes of a command have a real-time priority, and who is refused one."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from heron_mqtt.messaging.embedded.auth.credentials import add_credentials
from heron_mqtt.messaging.schemes import open_broker
from heron_mqtt.record.reader import RecordFile
from heron_mqtt.scheduling import priority_problem
from support.heron_command import HERON, heron, run_heron, until
from support.mosquitto_server import Mosquitto
from support.real_time import FIFO, ORDINARY, PRIORITY, require_rights, scheduling, without_rights
from support.small_runs import write_scenario

STEP_WAITS_FOR = {"embedded-broker", "emulators", "devices"}
WANTED = ("--priority", str(PRIORITY))


def _name(process: int) -> str:
    return Path(f"/proc/{process}/comm").read_text().strip()


@pytest.mark.slow  # those of a proxy, a broker and a device: the tests that follow
def test_a_run_its_broker_and_devices_have_it_and_its_record_and_page_have_not(tmp_path: Path) -> None:
    require_rights()
    record = tmp_path / "run.heron"
    options = ("--realtime", "0.3", "--steps", "200", "--devices", "emulated", "--dashboard", "0")
    with heron("run", str(write_scenario(tmp_path)), *options, *WANTED, "--record", str(record)) as program:
        program.wait_for("step 2/200")
        names = {child.pid: _name(child.pid) for child in program.descendants()}
        within = {pid for pid, name in names.items() if name in STEP_WAITS_FOR}
        beside = set(names) - within
        assert (len(within), len(beside)) == (3, 2), names
        for pid in {program.pid, *within}:
            assert scheduling(pid) == {FIFO}, names.get(pid, "the run")
        until(lambda: all(scheduling(pid) == {ORDINARY} for pid in beside), "an ordinary writer and page")
        program.process.terminate()
        program.wait()
    with RecordFile(record) as kept:
        assert kept.options["priority"] == PRIORITY


def test_a_run_tells_in_its_result_which_one_it_had(tmp_path: Path) -> None:
    require_rights()
    file = str(write_scenario(tmp_path))
    done = run_heron("run", file, "--centralized", "--steps", "2", "--realtime", "0.01", "--json", *WANTED)
    assert done.result["priority"] == PRIORITY
    assert run_heron("run", file, "--centralized", "--steps", "2", "--json").result["priority"] is None


def test_a_broker_and_a_device_alone_have_it() -> None:
    require_rights()
    with heron("broker", "--port", "0", *WANTED) as broker:
        url = broker.wait_for("listening").split()[1]
        assert scheduling(broker.pid) == {FIFO}
        with heron(
            "device", "battery", "--agent", "MG1", "--name", "ess", "--broker", url, *WANTED
        ) as device:
            device.wait_for("online")
            assert scheduling(device.pid) == {FIFO}


async def test_a_broker_checks_passwords_without_it(tmp_path: Path) -> None:
    """What computes for tens of milliseconds holds no message up, on whichever core it is."""
    require_rights()
    users, acl = tmp_path / "users", tmp_path / "acl"
    add_credentials("MG1", "agent", b"right", users_file=users, acl_file=acl)
    options = ("--port", "0", "--users", str(users), "--acl", str(acl))
    with heron("broker", *options, *WANTED) as broker:
        url = broker.wait_for("listening").split()[1]
        async with open_broker(url.replace("//", "//MG1:right@"), env_id="prior"):
            assert scheduling(broker.pid) == {FIFO, ORDINARY}


def test_a_proxy_and_its_devices_have_it(tmp_path: Path, mosquitto: Mosquitto) -> None:
    require_rights()
    file = write_scenario(tmp_path, {"env_id": "prior", "microgrids.MG1.remote": True})
    record = tmp_path / "proxy.heron"
    options = ("--agent", "MG1", "--broker", mosquitto.url, "--record", str(record))
    with heron("proxy", str(file), *options, *WANTED) as proxy:
        proxy.wait_for("agent MG1 online")
        until(lambda: len(proxy.descendants()) == 3, "the emulators, their devices, the record's writer")
        names = {child.pid: _name(child.pid) for child in proxy.descendants()}
        programs = {proxy.pid, *(pid for pid, name in names.items() if name in STEP_WAITS_FOR)}
        until(lambda: all(scheduling(pid) == {FIFO} for pid in programs), "a priority of all")
        (writer,) = set(names) - programs
        assert scheduling(writer) == {ORDINARY}
        proxy.process.terminate()
        proxy.wait()
    with RecordFile(record) as kept:
        assert kept.options["priority"] == PRIORITY


def test_a_run_that_waits_for_no_clock_is_refused_it(tmp_path: Path) -> None:
    done = run_heron("run", str(write_scenario(tmp_path)), "--steps", "1", *WANTED)
    assert done.code == 2
    assert done.errors[-1] == (
        f"heron-mqtt: --priority {PRIORITY}: a run without a clock never waits, and would leave no CPU time "
        "to other programs; give --realtime SECONDS_PER_STEP with it"
    )


@pytest.mark.slow_but("run")  # a program that has fewer rights is not forked
@pytest.mark.parametrize(
    "command",
    [
        ["run", "hil_battery", "--steps", "1", "--no-record"],
        ["proxy", "REMOTE", "--all", "--broker", "mqtt://127.0.0.1:1"],
        ["broker", "--port", "0"],
        ["device", "battery", "--agent", "MG1", "--name", "ess", "--broker", "mqtt://127.0.0.1:1"],
        [
            *("device", "sunspec_bridge", "--agent", "MG1", "--name", "pv"),
            *("--broker", "mqtt://127.0.0.1:1", "--modbus", "127.0.0.1:1"),
        ],
    ],
    ids=lambda command: command[0] if command[0] != "device" else command[1],
)
def test_who_may_not_have_it_is_told_so_before_anything_begins(tmp_path: Path, command: list[str]) -> None:
    remote = str(write_scenario(tmp_path, {"microgrids.MG1.remote": True}))
    words = [remote if word == "REMOTE" else word for word in command]
    limited = without_rights([HERON, *words, "--priority", "40"])
    done = subprocess.run(limited, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert ": --priority 40: not allowed" in line
    assert "CAP_SYS_NICE" in line


def test_check_says_whether_it_is_possible_here() -> None:
    told = run_heron("check", "hil_battery").out.splitlines()
    (line,) = [line for line in told if line.startswith("real time")]
    problem = priority_problem(40)
    said = "--priority 40: possible here" if problem is None else problem
    assert line == f"real time   a step each 0.4 s; {said}"


@pytest.mark.slow  # like who is told so before anything begins
def test_check_says_that_this_user_may_not_have_it() -> None:
    limited = without_rights([HERON, "check", "hil_battery"])
    done = subprocess.run(limited, capture_output=True, text=True, timeout=60, check=True)
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("real time")]
    assert "--priority 40: not allowed" in line

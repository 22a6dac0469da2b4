"""Ctrl-C, SIGTERM and SIGKILL at every moment of a run: it ends soon, tells what ran, leaves no process."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from support.heron_command import Process, Program, heron, until
from support.mosquitto_server import Mosquitto
from support.small_runs import write_scenario

INTERRUPTED, FAILED = 130, 1
END_S = 2.0  # the promise
SLACK_S = 6.0  # for a machine that is busy with other tests
LONG = 100_000  # steps

Record = Callable[[str, object], None]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scenario file, in which one battery shares no process with the other devices."""
    changes = {"microgrids.MG2.devices.ess.own_process": True}
    return write_scenario(tmp_path_factory.mktemp("scenario"), changes)


@pytest.fixture(scope="module")
def waiting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scenario whose reset waits: for an agent that is never started."""
    changes = {"microgrids.MG3.remote": True, "deadlines.ready_s": 60.0}
    return write_scenario(tmp_path_factory.mktemp("scenario"), changes)


def _end(program: Program, number: int, record: Record) -> str:
    """Signal it; check that it and all it started are gone in time; return what it printed."""
    started = program.descendants()
    port = _broker_port(program)
    begin = time.monotonic()
    program.signal(number)
    done = program.wait(END_S + SLACK_S)
    took_s = time.monotonic() - begin
    record("took_s", round(took_s, 2))
    assert done.code == INTERRUPTED, f"{done.code}: {done.err}"
    assert "Traceback" not in done.err
    assert [process for process in started if process.is_alive] == []
    if port is not None:
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.1", port), timeout=5.0).close()
    return done.out


def _broker_port(program: Program) -> int | None:
    told = re.search(r"broker: mqtt://127\.0\.0\.1:(\d+)", "".join(program.out))
    return int(told[1]) if told else None


@pytest.mark.slow_but("Ctrl-C")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_while_it_imports(small: Path, number: int, record_property: Record) -> None:
    """Nothing has been said yet; the interpreter itself takes 50 ms to be able to take a signal."""
    with heron("run", str(small), environment={"HERON_FRESH_PROCESSES": "1"}) as program:
        until(lambda: _modules_are_being_read(program.pid), "the imports")
        _end(program, number, record_property)
    assert program.err == []


@pytest.mark.slow_but("device")
@pytest.mark.parametrize("command", ["device", "broker"])
def test_a_program_that_serves_ends_with_0_while_it_imports(command: str) -> None:
    """SIGTERM is its regular end: a service manager that stops it early must not count a failure."""
    device = ["battery", "--agent", "MG1", "--name", "ess", "--broker", "mqtt://127.0.0.1:1"]
    arguments = device if command == "device" else ["--port", "0"]
    with heron(command, *arguments, environment={"HERON_FRESH_PROCESSES": "1"}) as program:
        until(lambda: _modules_are_being_read(program.pid), "the imports")
        program.signal(signal.SIGTERM)
        done = program.wait(END_S + SLACK_S)
    assert (done.code, done.err) == (0, "")


def test_before_the_broker_is_up_there_may_be_no_run_yet_to_tell_of(
    small: Path, record_property: Record
) -> None:
    with heron("run", str(small)) as program:
        until(program.descendants, "the first child", 30.0)
        out = _end(program, signal.SIGINT, record_property)
    assert not out.strip() or "interrupted after 0 steps" in out  # it is forked before the run begins


@pytest.mark.slow
def test_while_the_environment_is_built(small: Path, record_property: Record) -> None:
    with heron("run", str(small)) as program:
        program.wait_for("devices: 9 emulated")
        out = _end(program, signal.SIGINT, record_property)
    assert "interrupted after 0 steps" in out


@pytest.mark.slow  # in the middle of a run: below
def test_while_it_waits_for_an_agent(waiting: Path, record_property: Record) -> None:
    with heron("run", str(waiting)) as program:
        program.wait_for("waiting for a remote agent")
        until(lambda: _is_idle(program.pid), "the wait", 30.0)
        out = _end(program, signal.SIGTERM, record_property)
    assert "interrupted after 0 steps" in out


def test_in_the_middle_of_a_run(small: Path, record_property: Record) -> None:
    with heron("run", str(small), "--steps", str(LONG)) as program:
        program.wait_for(f"step 8/{LONG}")
        out = _end(program, signal.SIGINT, record_property)
    told = re.search(r"interrupted after (\d+) steps", out)
    assert told is not None
    assert int(told[1]) >= 8
    assert "messages" in out
    assert program.err == []


def test_in_the_middle_of_a_run_that_waits_for_nothing(small: Path, record_property: Record) -> None:
    """A centralized run is direct calls: a signal must not wait for its last step."""
    with heron("run", str(small), "--centralized", "--steps", str(LONG)) as program:
        program.wait_for(f"step 8/{LONG}")
        out = _end(program, signal.SIGTERM, record_property)
    assert re.search(r"interrupted after \d+ steps", out)


@pytest.mark.slow
def test_while_it_waits_for_the_clock(small: Path, record_property: Record) -> None:
    """And with --json: what ran is one object, marked as interrupted."""
    kept = small.parent / "clock.heron"
    options = ("--steps", "90", "--realtime", "300", "--json", "--record", str(kept))
    with heron("run", str(small), *options) as program:
        program.wait_for("devices: 9 emulated")
        until(lambda: _steps_in(kept) == 1, "the first step", 30.0)
        until(lambda: _is_idle(program.pid), "the wait for the clock", 30.0)
        _end(program, signal.SIGINT, record_property)
        result = program.wait().result
    assert result["interrupted"] is True
    assert result["steps"] == 1  # the second begins after five minutes
    assert all(isinstance(reward, float) for reward in result["rewards"].values())


@pytest.mark.slow
def test_again_and_again(small: Path) -> None:
    """Five times Ctrl-C ends it as cleanly as once: no traceback, no process left."""
    with heron("run", str(small), "--steps", str(LONG)) as program:
        program.wait_for(f"step 8/{LONG}")
        started = program.descendants()
        for _ in range(5):
            if program.process.poll() is None:
                program.signal(signal.SIGINT)
            time.sleep(0.02)  # a key that is held down
        done = program.wait(END_S + SLACK_S)
    assert done.code == INTERRUPTED
    assert "Traceback" not in done.err
    until(lambda: not any(process.is_alive for process in started), "the end of the children", SLACK_S)


@pytest.mark.slow
def test_when_the_broker_is_gone_too(small: Path, tmp_path: Path, record_property: Record) -> None:
    """Last messages that are not taken do not delay it."""
    server = Mosquitto(tmp_path).start()
    with heron("run", str(small), "--steps", str(LONG), "--broker", server.url) as program:
        program.wait_for(f"step 8/{LONG}")
        server.kill()
        program.wait_for("connection lost")
        out = _end(program, signal.SIGINT, record_property)
    assert "interrupted after" in out


def test_killed_it_takes_its_children_with_it(small: Path) -> None:
    """No parent is there to end them: they notice by themselves."""
    with heron("run", str(small), "--steps", str(LONG)) as program:
        program.wait_for(f"step 8/{LONG}")
        started = program.descendants()
        port = _broker_port(program)
        assert len(started) == 4  # the broker, the devices, one of them alone, and what started those
        program.process.kill()
        until(lambda: not any(process.is_alive for process in started), "their end", 5.0 + SLACK_S)
    assert port is not None
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port), timeout=5.0).close()


@pytest.mark.parametrize("command", ["broker", "proxy"])
def test_what_serves_ends_as_asked(
    command: str, waiting: Path, mosquitto: Mosquitto, record_property: Record
) -> None:
    arguments = {
        "broker": ["broker", "--port", "0"],
        "proxy": ["proxy", str(waiting), "--agent", "MG3", "--broker", mosquitto.url],
    }[command]
    with heron(*arguments) as program:
        program.wait_for({"broker": "listening mqtt://127.0.0.1:", "proxy": "agent MG3 online"}[command])
        started = program.descendants()
        program.signal(signal.SIGTERM)
        done = program.wait(END_S + SLACK_S)
    assert done.code == {"broker": 0, "proxy": INTERRUPTED}[command]
    assert "Traceback" not in done.err
    assert not any(process.is_alive for process in started)


# -- brokers that die ----------------------------------------------------------------------------------


def test_a_run_without_its_embedded_broker_ends_and_says_why(small: Path) -> None:
    with heron("run", str(small), "--steps", str(LONG)) as program:
        program.wait_for(f"step 8/{LONG}")
        started = program.descendants()
        (broker,) = [p for p in started if _name(p.pid) == "embedded-broker"]
        broker.kill()
        done = program.wait(END_S + SLACK_S)
    assert done.code == FAILED
    assert f"the embedded broker (process {broker.pid}) ended unexpectedly by signal 9" in done.errors[-1]
    assert re.search(r"ran \d+ steps", done.out)
    assert not any(process.is_alive for process in started)


@pytest.mark.slow
def test_a_run_without_its_mosquitto_ends_and_says_why(tmp_path: Path) -> None:
    """Not at once, as brokers come back; but what it waits for is bounded."""
    deadlines = {"upstream_s": 0.3, "peer_s": 0.3, "device_s": 0.3, "action_s": 1.0, "ready_s": 12.0}
    file = write_scenario(tmp_path, {"deadlines": deadlines})
    server = Mosquitto(tmp_path).start()
    with heron("run", str(file), "--steps", str(LONG), "--broker", server.url) as program:
        program.wait_for(f"step 8/{LONG}")
        started = program.descendants()
        server.kill()
        done = program.wait(12.0 + END_S + SLACK_S)
    assert done.code == FAILED
    assert done.errors[-1].startswith(f"heron-mqtt: no connection to {server.url} within 12 s")
    assert re.search(r"ran \d+ steps", done.out)
    assert not any(process.is_alive for process in started)


def test_a_device_that_ends_before_the_run_begins_is_not_waited_for(small: Path) -> None:
    """Not for the half minute that a device may take to come, as this one will not come any more."""
    with heron("run", str(small), "--steps", str(LONG)) as program:
        program.wait_for("devices: 9 emulated")
        batteries: list[Process] = []

        def is_there() -> bool:
            batteries.extend(p for p in program.descendants() if _name(p.pid) == "MG2/ess")
            return bool(batteries)

        until(is_there, "the battery", 30.0)
        batteries[0].kill()
        done = program.wait(20.0)
    assert done.code == FAILED
    assert done.errors[-1] == "heron-mqtt: device MG2/ess ended by itself with signal 9"
    assert "Traceback" not in done.err


# -- looking at a process ------------------------------------------------------------------------------


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text(errors="replace").strip()
    except OSError:
        return ""


def _modules_are_being_read(pid: int) -> bool:
    """Whether the interpreter has begun to import what heron-mqtt needs: typer's or pydantic's libraries."""
    return "pydantic_core" in _maps(pid) or "typer" in _maps(pid) or "/_socket." in _maps(pid)


def _maps(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/maps").read_text(errors="replace")
    except OSError:
        return ""


def _steps_in(record: Path) -> int:
    if not record.exists():
        return 0
    with contextlib.closing(sqlite3.connect(record)) as connection:
        return int(connection.execute("SELECT count(*) FROM step_row").fetchone()[0])


def _is_idle(pid: int) -> bool:
    """Whether a process has used no processor time for a while, with pandapower in memory."""
    if "pandas" not in _maps(pid):
        return False
    before = _ticks(pid)
    time.sleep(0.3)
    return _ticks(pid) - before <= 3  # of 10 ms: telemetry still comes in


def _ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])

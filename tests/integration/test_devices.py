"""The device scripts as a user starts them, spoken to by mosquitto_pub and mosquitto_sub alone."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from heron_mqtt.testing.loopback_server import free_port
from support.heron_command import HERON, HeronProgram, heron, script, until
from support.mosquitto_clients import Watcher, publish, retained
from support.mosquitto_server import Mosquitto

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("numpy", "pandas", "pandapower", "scipy", "gymnasium", "amqtt", "rich", "typer")
KINDS = {"battery": "ess", "genset": "gen", "pv_inverter": "pv"}
Record = Callable[[str, object], None]


class Device(HeronProgram):
    """One device of the shipped scenario in an environment of its own, with an observer."""

    def __init__(self, url: str, *options: str, script: str = "battery", start: str = "heron-mqtt") -> None:
        self.url = url
        self.env_id = f"device-{uuid.uuid4().hex[:8]}"
        self.at = f"heron/{self.env_id}/devices/MG1/{KINDS[script]}/"
        self.watcher = Watcher(url, f"heron/{self.env_id}/#")
        command = [HERON, "device", script] if start == "heron-mqtt" else [sys.executable, _path(script)]
        named = ["--agent", "MG1", "--name", KINDS[script], "--broker", url, "--env-id", self.env_id]
        super().__init__([*command, *named, *options])

    def __exit__(self, *exc: Any) -> None:
        super().__exit__(*exc)
        self.watcher.__exit__(*exc)

    def online(self) -> dict[str, Any]:
        """Return its birth."""
        return self.watcher.wait_seen(f"{self.at}status", lambda m: m["state"] == "online")

    def send(self, **setpoint: Any) -> None:
        publish(self.url, f"{self.at}setpoint", {"type": "setpoint", "lease_s": 60.0, **setpoint})

    def telemetry(self, accept: Callable[[dict[str, Any]], object] = lambda _: True) -> dict[str, Any]:
        return self.watcher.wait_seen(f"{self.at}telemetry", accept)

    def answer(self, seq: int) -> dict[str, Any]:
        """Return the telemetry that acknowledges a setpoint."""
        return self.telemetry(lambda m: m.get("ack_seq") == seq)

    def offline(self) -> dict[str, Any]:
        return self.watcher.wait_seen(f"{self.at}status", lambda m: m["state"] == "offline")


def _path(script: str) -> str:
    return str(ROOT / "devices" / f"{script}.py")


# -- start ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_scripts_import_nothing_heavy() -> None:
    """They start fast, and on small machines, because the physics is plain Python.

    Quicker: ``test_import_arrows.py`` asks the same of them, among other modules.
    """
    program = f"import sys, powergrid.emulators.script; print([m for m in {HEAVY} if m in sys.modules])"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.slow
def test_what_a_device_imports_is_imported_before_it_is_forked(mosquitto: Mosquitto) -> None:
    """Beside a run nine of them share one import; what is left to each is paid for nine times."""
    program = f"""
import importlib, sys
from powergrid.emulators import run_script
from powergrid.emulators.__main__ import NEEDED
for module in NEEDED:
    importlib.import_module(module)
before = set(sys.modules)
code = run_script("battery", ["--agent", "MG1", "--name", "ess", "--broker", {mosquitto.url!r},
                              "--env-id", "forked-{uuid.uuid4().hex[:8]}", "--duration", "0.2"])
little = ("encodings", "importlib", "pwd")  # of the standard library: to read a file, and a home folder
print(code, sorted(m for m in set(sys.modules) - before if m.partition(".")[0] not in little))
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == "0 []", done.stdout + done.stderr


@pytest.mark.slow_but("battery")
@pytest.mark.parametrize("script", KINDS)
def test_a_birth_tells_the_nameplate_and_stays(script: str, mosquitto: Mosquitto) -> None:
    expected = {
        "battery": ("battery", -0.05, 0.05, 0.2),
        "genset": ("generator", 0.0, 0.1, None),
        "pv_inverter": ("pv", 0.0, 0.12, None),
    }[script]
    with Device(mosquitto.url, script=script) as device:
        birth = device.online()
        told = (birth["kind"], birth["p_min_mw"], birth["p_max_mw"], birth.get("max_e_mwh"))
        assert told == pytest.approx(expected) if script == "battery" else told == expected
        assert birth["sender"] == f"MG1/{KINDS[script]}"
        assert birth["env_id"] == device.env_id
        assert retained(device.url, f"{device.at}status") == {f"{device.at}status": birth}
        line = device.wait_for("online at")
        assert f"MG1/{KINDS[script]} online at {device.url}, topics heron/{device.env_id}/#" in line


def test_a_device_is_online_soon(mosquitto: Mosquitto, record_property: Record) -> None:
    begin = time.monotonic()
    with Device(mosquitto.url, start="python") as device:
        device.online()
        record_property("birth_after_s", round(time.monotonic() - begin, 2))
        assert time.monotonic() - begin < 10.0  # under a second, if the machine has nothing else to do


@pytest.mark.slow_but("battery")
@pytest.mark.parametrize("script", ["battery", "pv_inverter"])
def test_both_ways_to_start_a_device_are_equal(script: str, mosquitto: Mosquitto) -> None:
    said: dict[str, list[dict[str, Any]]] = {}
    for start in ("heron-mqtt", "python"):
        with Device(mosquitto.url, "--once", "--period", "0", script=script, start=start) as device:
            device.online()
            device.telemetry()  # follows the birth, so that a setpoint can echo it
            device.send(p_mw=0.04, q_mvar=0.01, dt_s=900.0, p_available_mw=0.03, seq=3, boot="b")
            done = device.wait()
            device.offline()
            said[start] = [
                seen.json for seen in device.watcher.seen if seen.topic.endswith(("status", "etry"))
            ]
        assert done.code == 0
        assert done.err == ""
    own = {"boot", "sent_at", "env_id"}
    plain = {s: [{k: v for k, v in m.items() if k not in own} for m in ms] for s, ms in said.items()}
    assert plain["heron-mqtt"] == plain["python"]
    assert [m["type"] for m in plain["python"]] == ["status", "telemetry", "telemetry", "status"]
    assert ["ack_seq" in m for m in plain["python"]] == [False, False, True, False]


# -- setpoints -----------------------------------------------------------------------------------------


@pytest.fixture
def battery(mosquitto: Mosquitto) -> Any:
    """A battery that only answers, online."""
    with Device(mosquitto.url, "--period", "0") as device:
        device.online()
        yield device


def test_a_setpoint_is_done_and_acknowledged(battery: Device) -> None:
    """0.04 MW for a quarter of an hour take 0.01 MWh / 0.95 out of 0.2 MWh."""
    before = battery.online()["soc"]
    battery.send(p_mw=0.04, dt_s=900.0, seq=7, boot="gateway")
    answer = battery.answer(7)
    assert (answer["ack_boot"], answer["ack_seq"]) == ("gateway", 7)
    assert answer["p_mw"] == pytest.approx(0.04)
    standby_mwh = 0.0001 * 0.25
    assert before - answer["soc"] == pytest.approx((0.01 / 0.95 + standby_mwh) / 0.2, abs=1e-6)
    assert answer["safe"] is False


def test_a_setpoint_without_metadata_is_done_too(battery: Device) -> None:
    battery.send(p_mw=-0.03)
    assert battery.telemetry(lambda m: not m["safe"])["p_mw"] == pytest.approx(-0.03)
    battery.send(p_mw=-0.01)
    assert battery.telemetry(lambda m: not m["safe"] and m["p_mw"] > -0.02)["p_mw"] == pytest.approx(-0.01)


def test_copies_and_old_setpoints_move_nothing(battery: Device) -> None:
    battery.telemetry()  # follows the birth
    battery.send(p_mw=0.04, dt_s=900.0, seq=7, boot="gateway")
    first = battery.answer(7)
    for seq in (7, 7, 6, 0):
        battery.send(p_mw=0.04, dt_s=900.0, seq=seq, boot="gateway")
    battery.send(p_mw=0.0, dt_s=0.001, seq=8, boot="gateway")  # what comes after them has passed them
    last = battery.answer(8)
    assert last["soc"] == pytest.approx(first["soc"], abs=1e-6)
    answers = [s.json for s in battery.watcher.seen if s.topic.endswith("/telemetry")]
    assert [m.get("ack_seq") for m in answers] == [None, 7, 8]


def test_a_new_boot_of_the_sender_is_another_owner_and_waits_for_the_lease(battery: Device) -> None:
    battery.send(p_mw=0.04, seq=100, boot="first")
    battery.answer(100)
    battery.send(p_mw=0.02, seq=0, boot="second")
    refused = battery.answer(0)
    assert refused["p_mw"] == pytest.approx(0.04)
    assert "the lease is held by an unnamed sender (boot first) for another " in refused["rejected"]


@pytest.mark.parametrize("how", ["take_over", "release"])
def test_a_new_boot_of_the_sender_counts_anew(how: str, battery: Device) -> None:
    battery.send(p_mw=0.04, seq=100, boot="first")
    battery.answer(100)
    if how == "release":
        battery.send(p_mw=0.0, seq=101, boot="first", release=True)
        assert battery.answer(101)["safe"] is True
    battery.send(p_mw=0.02, seq=0, boot="second", take_over=how == "take_over")
    answer = battery.answer(0)
    assert (answer["ack_boot"], answer["p_mw"]) == ("second", pytest.approx(0.02))
    assert "rejected" not in answer


def test_a_retained_setpoint_of_an_earlier_day_moves_nothing(mosquitto: Mosquitto) -> None:
    env_id = f"device-{uuid.uuid4().hex[:8]}"
    at = f"heron/{env_id}/devices/MG1/ess/"
    kept = {"type": "setpoint", "p_mw": 0.04, "lease_s": 60.0, "seq": 5, "boot": "gateway"}
    publish(mosquitto.url, f"{at}setpoint", kept, retain=True)
    named = ["--agent", "MG1", "--name", "ess", "--broker", mosquitto.url, "--env-id", env_id]
    with Watcher(mosquitto.url, f"{at}telemetry") as watcher:
        with heron("device", "battery", *named, "--period", "0.05") as program:
            assert "must not be retained" in program.wait_for("rejected on ")
            count = len(watcher.seen)
            until(lambda: len(watcher.seen) >= count + 5, "telemetry after it")
        assert {s.json["p_mw"] for s in watcher.seen} == {0.0}
        assert not any("ack_seq" in s.json for s in watcher.seen)


def test_without_a_newer_setpoint_it_goes_safe(battery: Device) -> None:
    battery.send(p_mw=0.04, seq=1, boot="gateway", lease_s=0.3)
    assert battery.answer(1)["p_mw"] > 0.03
    safe = battery.telemetry(lambda m: "safe_after_s" in m)
    assert (safe["p_mw"], safe["safe"]) == (0.0, True)
    assert safe["safe_after_s"] >= 0.3  # by hand, without an echo: from its arrival
    assert "MG1/ess: no setpoint for 0.3" in battery.wait_for("safe state")
    battery.send(p_mw=0.02, seq=2, boot="gateway")  # and back
    assert battery.answer(2)["safe"] is False


def test_a_lease_is_counted_from_the_telemetry_that_the_setpoint_echoes(battery: Device) -> None:
    heard = battery.telemetry()
    echo = {"heard_boot": heard["boot"], "heard_seq": heard["seq"]}
    time.sleep(0.4)  # the age of what is echoed is what is tested
    battery.send(p_mw=0.04, seq=1, boot="gateway", lease_s=0.3, **echo)
    stale = battery.answer(1)
    assert (stale["p_mw"], stale["safe"]) == (0.0, True)
    assert stale["rejected"].startswith("stale: it is older than its lease of 0.3 s")
    battery.send(p_mw=0.04, seq=2, boot="gateway", **{**echo, "heard_boot": "another"})
    assert "another boot of this device" in battery.answer(2)["rejected"]
    battery.send(p_mw=0.04, seq=3, boot="gateway", **{**echo, "heard_seq": 1_000})
    assert "telemetry that this device does not remember" in battery.answer(3)["rejected"]
    battery.send(p_mw=0.04, seq=4, boot="gateway", **echo)
    assert battery.answer(4)["p_mw"] == pytest.approx(0.04)


@pytest.mark.slow
def test_a_renewal_keeps_it_going_and_moves_nothing(battery: Device) -> None:
    """Eight renewals, each within the lease, together twice as long as it."""
    battery.send(p_mw=0.04, dt_s=900.0, seq=0, boot="gateway", lease_s=1.5)
    first = battery.answer(0)
    for seq in range(1, 9):
        time.sleep(0.4)  # the passage of time is what is tested
        battery.send(p_mw=0.04, dt_s=900.0, seq=seq, boot="gateway", lease_s=1.5, renewal=True)
    battery.send(p_mw=0.0, dt_s=0.001, seq=9, boot="gateway")
    last = battery.answer(9)
    assert last["soc"] == pytest.approx(first["soc"], abs=1e-6)
    told = [s.json for s in battery.watcher.seen if s.topic.endswith("/telemetry")]
    assert not any(m["safe"] for m in told[told.index(first) :])


def test_wrong_payloads_are_named_and_nothing_stops(battery: Device) -> None:
    setpoint = f"{battery.at}setpoint"
    wrong: list[str | dict[str, Any]] = [
        "no json",
        "[1, 2]",
        '{"p_mw": NaN, "lease_s": 1}',
        {"type": "setpoint", "p_mw": "much", "lease_s": 60.0},
        {"type": "setpoint", "p_mw": 0.04},
        {"type": "setpoint", "p_mw": 0.04, "lease_s": -1.0},
        {"type": "price", "value": 1.0},
    ]
    for payload in wrong:
        publish(battery.url, setpoint, payload)
    battery.send(p_mw=0.02, seq=1)
    assert battery.answer(1)["p_mw"] == pytest.approx(0.02)
    battery.signal(signal.SIGTERM)
    done = battery.wait()
    assert done.code == 0
    assert done.err.count("rejected on ") == len(wrong)
    assert done.err.count("setpoint") >= len(wrong)  # each names its topic
    assert "Traceback" not in done.err


def test_a_sun_that_takes_power_away_is_refused(mosquitto: Mosquitto) -> None:
    with Device(mosquitto.url, "--period", "0", script="pv_inverter") as device:
        device.online()
        device.send(p_mw=0.1, p_available_mw=-0.05, seq=1)
        answer = device.answer(1)
        assert answer["rejected"] == "p_available_mw of a pv must be >= 0, got -0.05"
        device.send(p_mw=0.1, p_available_mw=0.05, seq=2)
        assert device.answer(2)["p_mw"] == pytest.approx(0.05)
        assert device.err == []


def test_limits_of_the_nameplate_hold_whatever_is_asked(battery: Device) -> None:
    battery.send(p_mw=1e9, q_mvar=-1e9, dt_s=60.0, seq=1)
    answer = battery.answer(1)
    assert 0.0 < answer["p_mw"] <= 0.05
    assert abs(answer["q_mvar"]) <= 0.06


# -- life ----------------------------------------------------------------------------------------------


def test_it_speaks_by_itself(mosquitto: Mosquitto) -> None:
    """At its period, without ever having heard a setpoint; and ends after its time."""
    with Device(mosquitto.url, "--period", "0.05", "--duration", "0.6") as device:
        born = device.online()
        assert device.telemetry()["safe"] is True
        done = device.wait()
        device.offline()
        said = [s.json for s in device.watcher.seen if s.topic.endswith("/telemetry")]
    assert done.code == 0
    begin, end = (datetime.fromisoformat(one["sent_at"]) for one in (born, said[-1]))  # by its own clock
    periods = (end - begin).total_seconds() / 0.05
    assert 2 <= len(said) <= 2 + periods, "one at the birth, and one a period; times are rounded to 1 ms"


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 0), (signal.SIGKILL, -9)],
    ids=str,
)
def test_however_it_ends_it_is_seen_as_offline(number: int, code: int, mosquitto: Mosquitto) -> None:
    with Device(mosquitto.url) as device:
        device.online()
        device.wait_for("online at")
        device.signal(number)
        done = device.wait()
        device.offline()
        assert retained(device.url, f"{device.at}status")[f"{device.at}status"]["state"] == "offline"
    assert done.code == code
    assert "Traceback" not in done.err


def test_a_supervised_one_ends_with_its_supervisor(mosquitto: Mosquitto) -> None:
    with Device(mosquitto.url, "--supervised") as device:
        device.online()
        assert device.process.stdin is not None
        device.process.stdin.close()
        assert device.wait().code == 0
        device.offline()


def test_a_supervised_one_that_waits_for_its_broker_ends_with_its_supervisor_too() -> None:
    named = ["--agent", "MG1", "--name", "ess", "--broker", f"mqtt://127.0.0.1:{free_port()}"]
    with heron("device", "battery", *named, "--supervised") as device:
        device.wait_for("no answer")  # it tries for 30 s: the run may be starting its broker
        assert device.process.stdin is not None
        device.process.stdin.close()
        assert device.wait(10.0).code == 0


def test_it_is_back_after_its_broker_was(own_mosquitto: Callable[..., Mosquitto]) -> None:
    """Born again for a broker that has forgotten it, and obeying."""
    server = own_mosquitto()
    with Device(server.url, "--period", "0") as device:
        device.online()
        device.send(p_mw=0.04, seq=1, boot="gateway")
        device.answer(1)
        server.kill()
        device.wait_for("connection lost")
        server.start()
        with Watcher(server.url, f"heron/{device.env_id}/#") as anew:
            anew.wait_seen(f"{device.at}status", lambda m: m["state"] == "online")
            device.send(p_mw=0.02, seq=2, boot="gateway")
            answer = anew.wait_seen(f"{device.at}telemetry", lambda m: m["ack_seq"] == 2)
        assert answer["p_mw"] == pytest.approx(0.02)


# -- mistakes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "why"),
    [
        (["--agent", "MG9", "--name", "ess"], 2, "--agent MG9: not in "),
        (["--agent", "MG1", "--name", "nix"], 2, "--name nix: MG1 has no such device in "),
        (["--agent", "MG1", "--name", "pv"], 2, "--name pv: MG1/pv is a pv in "),
        (["--agent", "MG1", "--name", "ess", "--scenario", "nix"], 2, "nix: no such scenario file"),
        (
            ["--agent", "MG1", "--name", "ess", "--period", "-1"],
            2,
            "argument --period: '-1': expected",
        ),
        (["--agent", "MG1", "--name", "ess", "--broker", "mqtt://127.0.0.1:1"], 1, "no answer at"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], code: int, why: str) -> None:
    broker = [] if "--broker" in arguments else ["--broker", "mqtt://127.0.0.1:1"]
    with heron("device", "battery", *arguments, *broker) as program:
        done = program.wait()
    assert done.code == code
    (line,) = done.errors
    assert line.startswith("heron-mqtt device battery: ")
    assert why in line
    assert "Traceback" not in done.err


def test_missing_arguments_are_named() -> None:
    with script(Path(_path("battery")), "--agent", "MG1") as program:
        done = program.wait()
    assert done.code == 2
    (line,) = done.errors
    assert line == (
        "heron-mqtt device battery: the following arguments are required: --name, --broker; "
        "see heron-mqtt device battery --help"
    )

"""The device scripts as a user starts them, spoken to by mosquitto_pub and mosquitto_sub alone."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.heron_command import HERON, Program
from support.mosquitto_clients import Watcher, publish, retained
from support.mosquitto_server import Mosquitto

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("numpy", "pandas", "pandapower", "scipy", "gymnasium", "amqtt", "rich", "typer")
KINDS = {"battery": "ess", "genset": "gen", "pv_inverter": "pv"}
Record = Callable[[str, object], None]


class Device(Program):
    """One device of the shipped scenario in an environment of its own, with somebody watching it."""

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

    def offline(self) -> dict[str, Any]:
        return self.watcher.wait_seen(f"{self.at}status", lambda m: m["state"] == "offline")


def _path(script: str) -> str:
    return str(ROOT / "devices" / f"{script}.py")


# -- start ---------------------------------------------------------------------------------------------


def test_the_scripts_import_nothing_heavy() -> None:
    """They start fast, and on small machines, because the physics is plain Python."""
    program = f"import sys, powergrid.emulators.script; print([m for m in {HEAVY} if m in sys.modules])"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"


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


@pytest.mark.parametrize("script", ["battery", "pv_inverter"])
def test_both_ways_to_start_a_device_are_equal(script: str, mosquitto: Mosquitto) -> None:
    said: dict[str, list[dict[str, Any]]] = {}
    for start in ("heron-mqtt", "python"):
        with Device(mosquitto.url, "--once", "--period", "0", script=script, start=start) as device:
            device.online()
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
    assert [m["type"] for m in plain["python"]] == ["status", "telemetry", "status"]


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
    answer = battery.telemetry()
    assert (answer["ack_boot"], answer["ack_seq"]) == ("gateway", 7)
    assert answer["p_mw"] == pytest.approx(0.04)
    standby_mwh = 0.0001 * 0.25
    assert before - answer["soc"] == pytest.approx((0.01 / 0.95 + standby_mwh) / 0.2, abs=1e-6)
    assert answer["safe"] is False


def test_a_setpoint_without_metadata_is_done_too(battery: Device) -> None:
    battery.send(p_mw=-0.03)
    assert battery.telemetry()["p_mw"] == pytest.approx(-0.03)
    battery.send(p_mw=-0.01)
    assert battery.telemetry(lambda m: m["p_mw"] > -0.02)["p_mw"] == pytest.approx(-0.01)


def test_copies_and_old_setpoints_move_nothing(battery: Device) -> None:
    battery.send(p_mw=0.04, dt_s=900.0, seq=7, boot="gateway")
    first = battery.telemetry()
    for seq in (7, 7, 6, 0):
        battery.send(p_mw=0.04, dt_s=900.0, seq=seq, boot="gateway")
    battery.send(p_mw=0.0, dt_s=0.001, seq=8, boot="gateway")  # what comes after them has passed them
    last = battery.telemetry(lambda m: m["ack_seq"] == 8)
    assert last["soc"] == pytest.approx(first["soc"], abs=1e-6)
    assert len([s for s in battery.watcher.seen if s.topic.endswith("/telemetry")]) == 2


def test_a_new_boot_of_the_sender_counts_anew(battery: Device) -> None:
    battery.send(p_mw=0.04, seq=100, boot="first")
    battery.telemetry(lambda m: m["ack_seq"] == 100)
    battery.send(p_mw=0.02, seq=0, boot="second")
    assert battery.telemetry(lambda m: m["ack_boot"] == "second")["p_mw"] == pytest.approx(0.02)


def test_without_a_newer_setpoint_it_goes_safe(battery: Device) -> None:
    battery.send(p_mw=0.04, seq=1, boot="gateway", lease_s=0.3)
    battery.telemetry(lambda m: m["p_mw"] > 0.03)
    safe = battery.telemetry(lambda m: m["safe"])
    assert safe["p_mw"] == 0.0
    assert safe["safe_after_s"] >= 0.3
    assert "MG1/ess: no setpoint for 0.3" in battery.wait_for("safe state")
    battery.send(p_mw=0.02, seq=2, boot="gateway")  # and back
    assert battery.telemetry(lambda m: m["ack_seq"] == 2)["safe"] is False


@pytest.mark.slow
def test_a_renewal_keeps_it_going_and_moves_nothing(battery: Device) -> None:
    """Eight renewals, each within the lease, together twice as long as it."""
    battery.send(p_mw=0.04, dt_s=900.0, seq=0, boot="gateway", lease_s=1.5)
    first = battery.telemetry()
    for seq in range(1, 9):
        time.sleep(0.4)  # the passage of time is what is tested
        battery.send(p_mw=0.04, dt_s=900.0, seq=seq, boot="gateway", lease_s=1.5, renewal=True)
    battery.send(p_mw=0.0, dt_s=0.001, seq=9, boot="gateway")
    last = battery.telemetry(lambda m: m["ack_seq"] == 9)
    assert last["soc"] == pytest.approx(first["soc"], abs=1e-6)
    assert not any(s.json["safe"] for s in battery.watcher.seen if s.topic.endswith("/telemetry"))


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
    assert battery.telemetry()["p_mw"] == pytest.approx(0.02)
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
        answer = device.telemetry()
        assert answer["rejected"] == "p_available_mw of a pv must be >= 0, got -0.05"
        device.send(p_mw=0.1, p_available_mw=0.05, seq=2)
        assert device.telemetry(lambda m: m["ack_seq"] == 2)["p_mw"] == pytest.approx(0.05)
        assert device.err == []


def test_limits_of_the_nameplate_hold_whatever_is_asked(battery: Device) -> None:
    battery.send(p_mw=1e9, q_mvar=-1e9, dt_s=60.0, seq=1)
    answer = battery.telemetry()
    assert answer["p_mw"] <= 0.05
    assert abs(answer["q_mvar"]) <= 0.06


# -- life ----------------------------------------------------------------------------------------------


def test_it_speaks_by_itself(mosquitto: Mosquitto) -> None:
    """At its period, without ever having heard a setpoint; and ends after its time."""
    with Device(mosquitto.url, "--period", "0.05", "--duration", "0.6") as device:
        device.online()
        assert device.telemetry()["safe"] is True
        done = device.wait()
        device.offline()
        count = len([s for s in device.watcher.seen if s.topic.endswith("/telemetry")])
    assert done.code == 0
    assert 2 <= count <= 12


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


def test_it_is_back_after_its_broker_was(own_mosquitto: Callable[..., Mosquitto]) -> None:
    """Born again for a broker that has forgotten it, and obeying."""
    server = own_mosquitto()
    with Device(server.url, "--period", "0") as device:
        device.online()
        device.send(p_mw=0.04, seq=1, boot="gateway")
        device.telemetry()
        server.kill()
        device.wait_for("connection lost")
        server.start()
        with Watcher(server.url, f"heron/{device.env_id}/#") as anew:
            anew.wait_seen(f"{device.at}status", lambda m: m["state"] == "online")
            device.send(p_mw=0.02, seq=2, boot="gateway")
            answer = anew.wait_seen(f"{device.at}telemetry")
        assert (answer["ack_seq"], answer["p_mw"]) == (2, pytest.approx(0.02))


# -- mistakes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "why"),
    [
        (["--agent", "MG9", "--name", "ess"], 2, "--agent MG9: not in "),
        (["--agent", "MG1", "--name", "nix"], 2, "--name nix: MG1 has no such device in "),
        (["--agent", "MG1", "--name", "pv"], 2, "--name pv: MG1/pv is a pv in "),
        (["--agent", "MG1", "--name", "ess", "--scenario", "nix"], 2, "nix: no such scenario file"),
        (["--agent", "MG1", "--name", "ess", "--period", "-1"], 2, "--period -1.0: expected seconds"),
        (["--agent", "MG1", "--name", "ess", "--broker", "mqtt://127.0.0.1:1"], 1, "nobody answers at"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], code: int, why: str) -> None:
    broker = [] if "--broker" in arguments else ["--broker", "mqtt://127.0.0.1:1"]
    with Program([HERON, "device", "battery", *arguments, *broker]) as program:
        done = program.wait()
    assert done.code == code
    (line,) = done.errors
    assert line.startswith("heron-mqtt device battery: ")
    assert why in line
    assert "Traceback" not in done.err


def test_missing_arguments_are_named() -> None:
    with Program([sys.executable, _path("battery"), "--agent", "MG1"]) as program:
        done = program.wait()
    assert done.code == 2
    assert "the following arguments are required: --name, --broker" in done.err

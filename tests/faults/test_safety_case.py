"""The safety case, attacked from outside: plain paho on mosquitto and on the embedded broker."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.heron_command import Program, heron, run_heron, write_toml
from support.mosquitto_server import Mosquitto
from support.observer import Observer, PlainDevice
from support.small_grid import scenario as small

LEASE_S, STEP_S = 1.0, 0.15
DEADLINES = {"upstream_s": 0.4, "peer_s": 0.3, "device_s": 0.2, "action_s": 2.0}
FULL = {"authority": "full", "external": True, "gateway": {"gate_steps": 2}}


def write(folder: Path, ess: dict[str, Any] | None = None, **changes: Any) -> Path:
    """Write a scenario in which MG1/ess is real, and everything else simulated."""
    data = small(
        {
            "lease_s": LEASE_S,
            "realtime_s": STEP_S,
            "steps": 400,
            "deadlines": {
                "upstream_s": 0.4,
                "peer_s": 0.3,
                "device_s": 0.2,
                "action_s": 2.0,
                "ready_s": 15.0,
            },
            **{
                f"microgrids.{a}.devices.{d}.authority": "simulated"
                for a in ("MG1", "MG2", "MG3")
                for d in ("gen", "pv", "ess")
            },
            # always worth discharging: the device is told something other than 0
            "microgrids.MG1.policy": {"charge_below": -1000.0, "discharge_above": -999.0},
            **changes,
        }
    )
    data["microgrids"]["MG1"]["devices"]["ess"].update(FULL if ess is None else ess)
    data["microgrids"]["MG1"]["devices"]["ess"]["max_e_mwh"] = 5.0  # it lasts the whole run
    return write_toml(folder / "small.toml", data)


@pytest.fixture(params=["mosquitto", "embedded"])
def url(request: pytest.FixtureRequest, own_mosquitto: Callable[..., Mosquitto]) -> Iterator[str]:
    """A broker of this test's own."""
    if request.param == "mosquitto":
        yield own_mosquitto().url
        return
    with heron("broker", "--port", "0") as program:
        yield program.wait_for("listening").split()[-1]


def run(scenario: Path, url: str, *more: str) -> Program:
    return heron("run", str(scenario), "--broker", url, "--json", *more)


def proxy(scenario: Path, url: str, *more: str) -> Program:
    return heron("proxy", str(scenario), "--agent", "MG1", "--broker", url, "--devices", "simulated", *more)


def until_driven(observer: Observer, device: PlainDevice) -> None:
    observer.wait("the device is driven", lambda: device.p_mw != 0.0 and len(observer.driving()) > 3)


def assert_never_driven(observer: Observer, during_s: float) -> None:
    time.sleep(during_s)
    assert observer.driving() == []


# -- nobody renews for the dead ------------------------------------------------------------------------


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_nothing_is_sent_or_renewed_for_a_dead_environment(
    tmp_path: Path, url: str, how: signal.Signals
) -> None:
    scenario = write(tmp_path, **{"microgrids.MG1.remote": True})
    with (
        Observer(url) as observer,
        PlainDevice(url, "small") as device,
        proxy(scenario, url),
        run(scenario, url) as environment,
    ):
        until_driven(observer, device)
        os.kill(environment.pid, how)
        died = time.monotonic()
        time.sleep(3.5 * LEASE_S)
        late = observer.setpoints(after=died + LEASE_S)
        assert late == [], "one lease after the last sign of life nothing is sent any more"
        assert device.p_mw == 0.0
        went_safe = device.power[-1][0]
        assert went_safe - died <= LEASE_S + 0.3
        os.kill(environment.pid, signal.SIGCONT)


def test_environment_and_broker_die_together_and_the_broker_returns(
    tmp_path: Path, own_mosquitto: Callable[..., Mosquitto]
) -> None:
    server = own_mosquitto()
    scenario = write(tmp_path, **{"microgrids.MG1.remote": True})
    with (
        Observer(server.url) as observer,
        PlainDevice(server.url, "small") as device,
        proxy(scenario, server.url),
        run(scenario, server.url) as environment,
    ):
        until_driven(observer, device)
        server.kill()
        environment.process.kill()
        died = time.monotonic()
        time.sleep(0.3)
        server.start()
        time.sleep(3.0 * LEASE_S)
        assert observer.setpoints(after=died + LEASE_S) == []
        assert device.p_mw == 0.0
        assert device.power[-1][0] - died <= LEASE_S + 0.3


# -- the ladder has no side door -----------------------------------------------------------------------


def test_no_word_makes_an_emulator_of_a_real_device(tmp_path: Path, url: str) -> None:
    scenario = write(tmp_path, {"authority": "shadow", "external": True})
    with Observer(url) as observer, PlainDevice(url, "small"), run(scenario, url):
        observer.wait("steps", lambda: len(observer.on("run/state")) > 5)
        for level in ("emulated", "full", "limited"):
            asked = run_heron(
                "authority", "MG1/ess", level, "--broker", url, "--env-id", "small", "--why", "side door"
            )
            assert asked.code == 1, asked.out
        assert_never_driven(observer, 1.0)


@pytest.mark.parametrize(
    ("ess", "told"),
    [
        ({"authority": "emulated", "external": True}, "authority = 'emulated' is for emulators"),
        ({"authority": "limited", "external": True}, "needs gateway.band"),
        ({"authority": "limited"}, "needs gateway.band"),
        (
            {"authority": "limited", "gateway": {"band": {"p_min_mw": 0.0, "p_max_mw": 9.0}}},
            "beyond the nameplate",
        ),
    ],
)
def test_check_refuses_levels_that_cannot_be_held(tmp_path: Path, ess: dict[str, Any], told: str) -> None:
    checked = run_heron("check", str(write(tmp_path, ess)))
    assert checked.code == 2
    assert told in checked.err


def test_a_device_that_never_spoke_is_sent_nothing_and_named(tmp_path: Path, url: str) -> None:
    deadlines = {**DEADLINES, "ready_s": 2.0}
    scenario = write(tmp_path, deadlines=deadlines)
    with Observer(url) as observer, run(scenario, url) as program:
        done = program.wait()
        assert observer.setpoints() == []
    assert done.code == 1
    (line,) = done.errors
    assert "MG1/ess" in line
    assert "devices/MG1/ess/telemetry" in line


def test_two_messages_are_no_evidence(tmp_path: Path, url: str) -> None:
    deadlines = {**DEADLINES, "ready_s": 2.0}
    ess = {"authority": "full", "external": True, "gateway": {"gate_steps": 6, "stale_after_s": 60.0}}
    scenario = write(tmp_path, ess, deadlines=deadlines)
    with Observer(url) as observer, PlainDevice(url, "small", period_s=1000.0) as device, run(scenario, url):
        observer.wait("the agent listens", lambda: observer.on("agents/MG1/status"))
        device.say()
        device.say()
        observer.wait("steps", lambda: len(observer.on("run/state")) > 12)
        asked = run_heron(
            "authority", "MG1/ess", "limited", "--broker", url, "--env-id", "small", "--why", "hearsay"
        )
        assert asked.code == 1
        assert observer.setpoints() == []


def test_a_demotion_outlives_a_kill(tmp_path: Path, url: str) -> None:
    scenario = write(tmp_path, **{"microgrids.MG1.remote": True})
    with Observer(url) as observer, PlainDevice(url, "small") as device, run(scenario, url):
        with proxy(scenario, url) as first:
            until_driven(observer, device)
            asked = run_heron("authority", "MG1/ess", "shadow", "--broker", url, "--env-id", "small")
            assert asked.code == 0, asked.err
            observer.wait("it is let go", lambda: device.p_mw == 0.0)
            first.process.kill()
        demoted = time.monotonic()
        with proxy(scenario, url):
            observer.wait(
                "it acts again",
                lambda: [m for m in observer.on("agents/MG1/action") if m.at > demoted + 2.0],
            )
            time.sleep(1.5)
            assert observer.setpoints(after=demoted) == []
            asked = run_heron("status", "--broker", url, "--env-id", "small", "--json")


# -- two of everything ---------------------------------------------------------------------------------


def test_a_second_run_ends_before_it_sends(tmp_path: Path, url: str) -> None:
    scenario = write(tmp_path)
    with Observer(url) as observer, PlainDevice(url, "small") as device, run(scenario, url) as first:
        until_driven(observer, device)
        boots = {m.json["boot"] for m in observer.setpoints()}
        second = run(scenario, url).wait()
        assert second.code == 1
        (line,) = second.errors
        assert "environment 'small' is held by" in line
        assert "--take-over" in line
        assert {m.json["boot"] for m in observer.setpoints()} == boots
        assert first.process.poll() is None
        taken = time.monotonic()
        with run(scenario, url, "--take-over") as third:
            done = first.wait()
            assert done.code == 1
            assert "was taken over by" in done.errors[-1]
            observer.wait(
                "the other one drives", lambda: {m.json["boot"] for m in observer.driving()} - boots
            )
            (new,) = {m.json["boot"] for m in observer.driving()} - boots
            order = [m.json["boot"] for m in observer.driving(after=taken)]
            assert order == sorted(order, key=lambda boot: boot == new), "never in turn"
            assert third.process.poll() is None


def test_a_second_proxy_and_a_second_device_end_before_they_act(tmp_path: Path, url: str) -> None:
    scenario = write(
        tmp_path,
        {"authority": "full", "external": True, "gateway": {"gate_steps": 2}},
        **{"microgrids.MG1.remote": True},
    )
    arguments = ["device", "battery", "--agent", "MG1", "--name", "ess", "--broker", url]
    arguments += ["--scenario", str(scenario), "--period", "0.2"]
    with Observer(url) as observer, heron(*arguments) as device, proxy(scenario, url), run(scenario, url):
        observer.wait("the device is driven", lambda: len(observer.driving()) > 3)
        before = {m.json["boot"] for m in observer.on("devices/MG1/ess/telemetry")}
        second = heron(*arguments).wait()
        assert second.code == 1
        assert "device MG1/ess in environment 'small' is held by" in second.err
        assert {m.json["boot"] for m in observer.on("devices/MG1/ess/telemetry")} == before
        boots = {m.json["boot"] for m in observer.setpoints()}
        other = proxy(scenario, url).wait()
        assert other.code == 1
        assert "agent MG1 in environment 'small' is held by" in other.errors[0]
        assert {m.json["boot"] for m in observer.setpoints()} == boots
        assert device.process.poll() is None


# -- a setpoint proves its own age ---------------------------------------------------------------------


def test_nothing_that_was_recorded_moves_a_device_again(tmp_path: Path, url: str) -> None:
    scenario = write(tmp_path)
    arguments = ["device", "battery", "--agent", "MG1", "--name", "ess", "--broker", url]
    arguments += ["--scenario", str(scenario), "--period", "0.1"]
    with Observer(url) as observer, heron(*arguments):
        with run(scenario, url) as program:
            observer.wait("the device is driven", lambda: len(observer.driving()) > 8)
            program.signal(signal.SIGINT)
            program.wait()
        recorded = observer.driving()
        time.sleep(LEASE_S)
        begun = time.monotonic()
        for message in recorded:
            observer.publish(message.topic, message.payload)
            observer.publish(message.topic, {**message.json, "seq": message.json["seq"] + 1000})
            observer.publish(message.topic, {**message.json, "boot": "another", "sender": "MG1"})
        observer.publish(recorded[0].topic, recorded[0].payload, retain=True)
        time.sleep(0.5)
        moved = [
            m.json for m in observer.on("devices/MG1/ess/telemetry") if m.at > begun and m.json["p_mw"] != 0.0
        ]
        assert moved == []


def test_a_gateway_that_was_stopped_sends_nothing_old(tmp_path: Path, url: str) -> None:
    scenario = write(tmp_path)
    with (
        Observer(url) as observer,
        PlainDevice(url, "small", judges_age=False) as device,
        run(scenario, url) as program,
    ):
        until_driven(observer, device)
        os.kill(program.pid, signal.SIGSTOP)
        time.sleep(0.2)
        observer.publish("heron/small/estop", {"type": "estop", "active": True, "who": "test"}, retain=True)
        time.sleep(2 * LEASE_S)
        go_on = time.monotonic()
        os.kill(program.pid, signal.SIGCONT)
        time.sleep(1.5)
        # what had left its process before it was stopped is in the sockets; nothing is made afterwards
        assert observer.driving(after=go_on + 0.05) == []


# -- coming back is not a jump -------------------------------------------------------------------------


def test_a_reborn_battery_is_asked_for_what_it_says_it_has(tmp_path: Path, url: str) -> None:
    scenario = write(tmp_path)
    with Observer(url) as observer, PlainDevice(url, "small") as device, run(scenario, url):
        until_driven(observer, device)
        device.reborn(soc=0.1)  # its minimum
        born = time.monotonic()
        time.sleep(1.5)
        after = [m.json["p_mw"] for m in observer.setpoints(after=born + 0.05)]
        assert after, "it is driven on"
        assert max(after) <= 1e-9, "an empty battery gives nothing"


# -- a stop is a stop ----------------------------------------------------------------------------------


def test_a_stop_outlives_a_broker_that_forgets(
    tmp_path: Path, own_mosquitto: Callable[..., Mosquitto]
) -> None:
    server = own_mosquitto()
    scenario = write(tmp_path)
    with (
        Observer(server.url) as observer,
        PlainDevice(server.url, "small") as device,
        run(scenario, server.url) as program,
    ):
        until_driven(observer, device)
        observer.publish("heron/small/estop", {"type": "estop", "active": True, "who": "jane"}, retain=True)
        observer.wait("the stop is heard", lambda: device.p_mw == 0.0)
        server.kill()
        time.sleep(0.2)
        server.start()
        back = time.monotonic()
        observer.wait("it is said again", lambda: [m for m in observer.on("small/estop") if m.at > back])
        time.sleep(0.5)
        assert observer.driving(after=back) == []
        program.signal(signal.SIGINT)
        program.wait()
        with run(scenario, server.url):
            observer.wait(
                "a new run steps", lambda: len([m for m in observer.on("run/state") if m.at > back]) > 20
            )
            assert observer.driving(after=back) == []


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"stop",
        b"\xef\xbb\xbf" + b'{"active": false}',
        b'{"active": 1}',
        b'{"active": "true"}',
        b'{"active": 0}',
        b'{"active": true, "why": "' + b"x" * 2000 + b'"}',
        b'{"active": true, "sent_at": "gestern"}',
        b'{"active": true, "seq": 1.0, "boot": "a", "sender": "s"}',
        b'{"active": true, "env_id": ""}',
        b'{"type": "estop"}',
        b"[false]",
    ],
)
def test_whatever_comes_on_estop_stops(
    tmp_path: Path, own_mosquitto: Callable[..., Mosquitto], payload: bytes
) -> None:
    server = own_mosquitto()
    arguments = ["device", "battery", "--agent", "MG1", "--name", "ess", "--broker", server.url]
    with Observer(server.url) as observer, heron(*arguments) as program:
        program.wait_for("online")
        at = "heron/three_microgrids/devices/MG1/ess"
        told = {"type": "setpoint", "p_mw": 0.02, "lease_s": 60}
        observer.publish(f"{at}/setpoint", told)
        observer.wait("it runs", lambda: [m for m in observer.on("ess/telemetry") if m.json["p_mw"] == 0.02])
        observer.publish("heron/three_microgrids/estop", payload)
        observer.wait(
            "it stops",
            lambda: (
                observer.on("ess/telemetry")[-1].json["p_mw"] == 0.0
                and observer.on("ess/telemetry")[-1].json.get("stopped")
            ),
            5.0,
        )
        observer.wait("it confirms", lambda: observer.on("estop/confirm/MG1/ess"), 5.0)


# -- one bad message harms nothing else ----------------------------------------------------------------


def test_a_number_without_end_ends_nothing(tmp_path: Path, url: str) -> None:
    scenario = write(tmp_path, **{"envelope.grid_check": True})
    huge = b"1" + b"0" * 400
    with Observer(url) as observer, PlainDevice(url, "small") as device, run(scenario, url) as program:
        until_driven(observer, device)
        state = observer.on("run/state")[-1].json
        now = f'"episode": {state["episode"]}, "step": {state["step"] + 1}'.encode()
        for leaf, field in (
            ("agents/MG1/plan", b"p_ess"),
            ("agents/MG1/command", b"p_ess"),
            ("agents/MG1/action", b"p_ess"),
            ("agents/MG1/observation", b"p_available_pv"),
            ("agents/MG1/clearance", b"p_ess"),
            ("agents/MG1/status", b"soc_ess"),
            ("devices/MG1/ess/telemetry", b"p_mw"),
            ("devices/MG1/ess/telemetry", b"soc"),
            ("devices/MG1/ess/telemetry", b"seq"),
            ("devices/MG1/ess/setpoint", b"lease_s"),
            ("devices/MG1/ess/authority", b"level"),
            ("devices/MG1/ess/take", b"for_s"),
            ("p2p/MG2/MG1", b"quantity"),
            ("operators/system_operator/price", b"value"),
            ("run/state", b"seed"),
            ("run/owner", b"state"),
        ):
            payload = b'{"type": "%s", "%s": %s, "p_mw": 0.001, %s}'
            kind = leaf.rsplit("/", 1)[-1].encode()
            observer.publish(f"heron/small/{leaf}", payload % (kind, field, huge, now))
        sent = time.monotonic()
        observer.wait("it goes on", lambda: len(observer.driving(after=sent)) > 3)
        assert program.process.poll() is None

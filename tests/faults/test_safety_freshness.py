"""A setpoint proves its age, coming back is no jump, a bad message harms nothing: seen from outside."""

from __future__ import annotations

import contextlib
import datetime
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from heron_mqtt.testing.faults.tcp_link import LinkFaults, TcpLink
from support.heron_command import heron
from support.observer import Observed, Observer, PlainDevice
from support.safety_runs import (
    FULL,
    LEASE_S,
    cut,
    on_mosquitto,
    proxy,
    run,
    through,
    until_driven,
    write,
)

BATTERY = ["device", "battery", "--agent", "MG1", "--name", "ess", "--period", "0.1"]
SETPOINTS = "heron/small/devices/MG1/ess/setpoint"


@on_mosquitto
def test_nothing_that_was_recorded_moves_a_device_again(tmp_path: Path, url: str) -> None:
    scenario = write(tmp_path)
    with Observer(url) as observer, heron(*BATTERY, "--broker", url, "--scenario", str(scenario)):
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
        time.sleep(0.5)
        moved = [
            m.json for m in observer.on("devices/MG1/ess/telemetry") if m.at > begun and m.json["p_mw"] != 0.0
        ]
        assert moved == []


@on_mosquitto
def test_a_retained_setpoint_moves_no_device_that_starts(tmp_path: Path, url: str) -> None:
    by_hand = {"type": "setpoint", "p_mw": 0.005, "lease_s": 60.0}
    arguments = [*BATTERY, "--broker", url, "--scenario", str(write(tmp_path))]
    with Observer(url) as observer:
        observer.publish(SETPOINTS, by_hand, retain=True)
        with heron(*arguments) as device:
            device.wait_for("online")
            observer.wait("telemetry", lambda: len(observer.on("MG1/ess/telemetry")) > 10)
            assert {m.json["p_mw"] for m in observer.on("MG1/ess/telemetry")} == {0.0}
            observer.publish(SETPOINTS, by_hand)
            observer.wait("live it is done", lambda: _shown_mw(observer) == 0.005)


@on_mosquitto
def test_setpoints_that_the_network_held_back_move_nothing(tmp_path: Path, url: str, link: TcpLink) -> None:
    """The network is down, the gateway dies, the device goes safe, the network is up again."""
    scenario = write(tmp_path)
    arguments = [*BATTERY, "--broker", through(link), "--scenario", str(scenario)]
    with Observer(url) as observer, heron(*arguments), run(scenario, url) as program:
        observer.wait("the device is driven", lambda: _shown_mw(observer) != 0.0)
        link.faults = LinkFaults(is_silent=True)
        silent = time.monotonic()
        observer.wait("setpoints are on their way", lambda: len(observer.driving(after=silent + 0.1)) > 1)
        program.process.kill()
        time.sleep(2.0 * LEASE_S)
        mended = datetime.datetime.now(datetime.UTC)
        link.mend()

        def said() -> list[dict[str, Any]]:  # what it had said before comes late as well
            return [m.json for m in observer.on("MG1/ess/telemetry") if _sent_at(m) > mended]

        observer.wait("it is heard again", lambda: len(said()) > 8)
        assert {message["p_mw"] for message in said()} == {0.0}


@contextlib.contextmanager
def driven_over(link: TcpLink, scenario: Path, url: str) -> Iterator[tuple[Observer, PlainDevice]]:
    """A device that does not judge ages, driven by a remote agent that is connected over a link."""
    with (
        Observer(url) as observer,
        PlainDevice(url, "small", judges_age=False) as device,
        proxy(scenario, through(link)),
        run(scenario, url),
    ):
        until_driven(observer, device)
        yield observer, device


@on_mosquitto
def test_a_gateway_that_was_cut_off_sends_nothing_from_before(
    tmp_path: Path, url: str, link: TcpLink
) -> None:
    """A device that does not judge ages is told only what is made after the connection is back."""
    scenario = write(tmp_path, **{"microgrids.MG1.remote": True})
    with driven_over(link, scenario, url) as (observer, device):
        cut(link)
        time.sleep(2.0 * LEASE_S)
        newest, back = device.seq, time.monotonic()
        link.mend()
        observer.wait("it is driven again", lambda: len(observer.driving(after=back)) > 3)
        assert [m.json for m in observer.setpoints(after=back) if m.json["heard_seq"] < newest] == []

        cut(link)
        off = time.monotonic()
        observer.publish("heron/small/estop", {"type": "estop", "active": True, "who": "test"}, retain=True)
        time.sleep(2.0 * LEASE_S)
        link.mend()
        observer.wait(
            "the gateway confirms the stop",
            lambda: [m for m in observer.on("estop/confirm/MG1") if m.at > off and m.json["active"]],
        )
        time.sleep(1.0)
        assert observer.driving(after=off + 0.05) == []


@on_mosquitto
def test_a_renewal_that_was_due_while_the_gateway_was_cut_off_is_not_sent_within_its_lease_either(
    tmp_path: Path, url: str, link: TcpLink
) -> None:
    scenario = write(tmp_path, lease_s=3.0, **{"microgrids.MG1.remote": True})
    with driven_over(link, scenario, url) as (observer, _device):
        cut(link)
        time.sleep(1.6)  # due after a third of the lease
        back, back_at = time.monotonic(), datetime.datetime.now(datetime.UTC)
        link.mend()
        observer.wait("it is driven again", lambda: len(observer.driving(after=back)) > 3)
        # One that is made as soon as it is back may echo what it heard before. One clock times all of this,
        # in messages to a millisecond.
        earliest = back_at - datetime.timedelta(milliseconds=1)
        made = [datetime.datetime.fromisoformat(m.json["sent_at"]) for m in observer.setpoints(after=back)]
        assert [each for each in made if each < earliest] == []


@on_mosquitto
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


@on_mosquitto
def test_a_gateway_that_was_stopped_renews_no_lease_that_is_over(tmp_path: Path, url: str) -> None:
    scenario = write(tmp_path, realtime_s=1.3)  # each step is renewed
    with Observer(url) as observer, PlainDevice(url, "small") as device, run(scenario, url) as program:
        until_driven(observer, device)
        for stopped_s in (1.05, 1.2, 1.6):
            time.sleep(0.7)
            os.kill(program.pid, signal.SIGSTOP)
            time.sleep(stopped_s * LEASE_S)
            os.kill(program.pid, signal.SIGCONT)
            time.sleep(0.8)
        ends_at, renewed = 0.0, 0
        for told in observer.setpoints():
            if told.json["renewal"]:
                assert told.at <= ends_at + 0.05, "the device has gone safe by itself"
                renewed += 1
            ends_at = max(ends_at, told.at + told.json["lease_s"])
        assert renewed > 3


@on_mosquitto
def test_a_restarted_battery_is_asked_for_no_more_than_the_charge_it_reports(
    tmp_path: Path, url: str
) -> None:
    scenario = write(tmp_path)
    with Observer(url) as observer, PlainDevice(url, "small") as device, run(scenario, url):
        until_driven(observer, device)
        device.reborn(soc=0.1)  # its minimum
        born = time.monotonic()
        time.sleep(1.5)
        after = [m.json["p_mw"] for m in observer.setpoints(after=born + 0.05)]
        assert after, "it is driven on"
        assert max(after) <= 1e-9, "an empty battery gives nothing"


@on_mosquitto
def test_a_reborn_generator_is_asked_for_no_more_than_its_ramp(tmp_path: Path, url: str) -> None:
    reachable_mw = 0.013  # in a step of 900 s from rest: its least power, 0.004, and its ramp
    generator = {"microgrids.MG1.devices.gen." + key: value for key, value in FULL.items()}
    birth = {"kind": "generator", "p_min_mw": 0.0, "p_max_mw": 0.02}
    with (
        Observer(url) as observer,
        PlainDevice(url, "small", "MG1/gen", birth=birth) as device,
        run(write(tmp_path, {"authority": "simulated"}, **generator), url),
    ):
        observer.wait("it runs above its ramp", lambda: device.p_mw > reachable_mw)
        device.reborn(soc=0.5)
        boot = device.boot

        def told() -> list[Observed]:
            return [m for m in observer.setpoints("MG1/gen") if m.json["heard_boot"] == boot]

        observer.wait("it is driven again", lambda: len(told()) > 1)
        assert 0.0 < told()[0].json["p_mw"] <= reachable_mw + 1e-9


@on_mosquitto
def test_a_number_of_hundreds_of_digits_ends_nothing(tmp_path: Path, url: str) -> None:
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


def _shown_mw(observer: Observer) -> float:
    """Return what the battery says that it does; 0 before it has said anything."""
    said = observer.on("MG1/ess/telemetry")
    return float(said[-1].json["p_mw"]) if said else 0.0


def _sent_at(message: Observed) -> datetime.datetime:
    return datetime.datetime.fromisoformat(message.json["sent_at"])

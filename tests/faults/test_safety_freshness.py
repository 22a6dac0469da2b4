"""A setpoint proves its age, coming back is no jump, a bad message harms nothing: seen from outside."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from support.heron_command import heron
from support.observer import Observer, PlainDevice
from support.safety_runs import (
    LEASE_S,
    on_mosquitto,
    run,
    until_driven,
    write,
)


@on_mosquitto
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

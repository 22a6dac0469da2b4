"""Of one name there is one: attacked from outside, with plain paho on real brokers."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from heron_mqtt.testing.faults.tcp_link import LinkFaults, TcpLink
from heron_mqtt.testing.faults.trial_broker import TrialBroker
from support.heron_command import heron
from support.observer import Observer, PlainDevice
from support.safety_runs import (
    DEADLINES,
    on_both_restarted,
    on_mosquitto,
    proxy,
    run,
    through,
    until_driven,
    write,
)


@on_mosquitto
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
        said = {m.json["state"] for m in observer.on("run/state")}
        assert said <= {"reset", "running"}, (
            "the will of the one that was refused must not stand for the first"
        )
        taken = time.monotonic()
        with run(scenario, url, "--take-over") as third:
            done = first.wait()
            assert done.code == 3
            assert "was taken over by" in done.errors[-1]
            observer.wait(
                "the other one drives", lambda: {m.json["boot"] for m in observer.driving()} - boots
            )
            (new,) = {m.json["boot"] for m in observer.driving()} - boots
            order = [m.json["boot"] for m in observer.driving(after=taken)]
            assert order == sorted(order, key=lambda boot: boot == new), "never in turn"
            assert third.process.poll() is None


@on_mosquitto
@pytest.mark.parametrize(
    "lost", [LinkFaults(is_refused=True), pytest.param(LinkFaults(is_silent=True), marks=pytest.mark.slow)]
)
def test_a_run_that_loses_its_broker_while_it_asks_for_its_name_ends(
    tmp_path: Path, url: str, link: TcpLink, lost: LinkFaults
) -> None:
    """Nothing else watches the connection yet: it waited for ever for what it had published."""
    scenario = write(tmp_path, deadlines={**DEADLINES, "ready_s": 2.0})
    dead = {"type": "owner", "state": "holds", "boot": "dead", "seq": 1, "term": 1}
    with Observer(url) as observer:
        observer.publish("heron/small/run/owner", dead, retain=True)  # has it wait
        with run(scenario, through(link)) as program:
            observer.wait(
                "it asks", lambda: [m for m in observer.on("run/owner") if m.json["state"] == "asks"]
            )
            link.faults = lost
            if lost.is_refused:
                link.reset()
            done = program.wait()
        assert done.code == 1
        assert f"no connection to {through(link)} within 2 s" in done.errors[-1]


@on_mosquitto
def test_a_displaced_proxy_and_a_displaced_device_end_with_a_code_of_their_own(
    tmp_path: Path, url: str
) -> None:
    """A service manager starts again what failed; what was displaced on purpose it must not."""
    scenario = write(tmp_path, **{"microgrids.MG1.remote": True})
    arguments = ["device", "battery", "--agent", "MG1", "--name", "ess", "--broker", url]
    with proxy(scenario, url) as first, heron(*arguments) as device:
        first.wait_for("agent MG1 online")
        device.wait_for("online")
        with proxy(scenario, url, "--take-over") as second, heron(*arguments, "--take-over") as other:
            for displaced in (first, device):
                done = displaced.wait()
                assert done.code == 3
                assert "was taken over by" in done.errors[-1]
            second.wait_for("agent MG1 online")
            assert other.process.poll() is None


@on_mosquitto
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
        assert "offline" not in [m.json["state"] for m in observer.on("agents/MG1/status")]
        assert device.process.poll() is None
        said = [m.json["state"] for m in observer.on("devices/MG1/ess/status")]
        assert "offline" not in said, "the will of the one that was refused must not stand for the other"


@on_both_restarted
def test_a_name_is_held_on_a_broker_that_has_forgotten_it(trial_broker: TrialBroker) -> None:
    server = trial_broker
    arguments = ["device", "battery", "--agent", "MG1", "--name", "ess", "--broker", server.url]
    with Observer(server.url) as observer, heron(*arguments) as device:
        device.wait_for("online")
        server.kill()
        gone = (
            time.monotonic()
        )  # a device that is back at once has spoken before the broker counts as started
        server.start()
        observer.wait(
            "the holder says so again",
            lambda: [
                m for m in observer.on("ess/owner", live=False) if m.at > gone and m.json["state"] == "holds"
            ],
        )
        with Observer(server.url, ["heron/+/devices/MG1/ess/owner"]) as late:
            late.wait("it is retained", lambda: [m for m in late.seen if m.retained])
            (held,) = {m.json["boot"] for m in late.seen if m.retained}
        second = heron(*arguments).wait()
        assert second.code == 1
        assert "is held by" in second.err
        observer.wait("telemetry of the holder", lambda: observer.on("ess/telemetry"))
        assert {m.json["boot"] for m in observer.on("ess/telemetry")} == {held}
        assert device.process.poll() is None

"""A stop is a stop: attacked from outside, with plain paho on real brokers."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from heron_mqtt.testing.faults.trial_broker import TrialBroker, why_no_broker
from support.heron_command import heron
from support.mosquitto_clients import retained
from support.observer import Observer, PlainDevice
from support.safety_runs import (
    on_both_brokers,
    on_both_restarted,
    run,
    until_driven,
    write,
)


@on_both_restarted
def test_a_stop_outlives_a_broker_that_forgets(tmp_path: Path, trial_broker: TrialBroker) -> None:
    server = trial_broker
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


def said_again(observer: Observer, after: float) -> list[Any]:
    """Return the stops that the run has published since."""
    return [m for m in observer.on("small/estop") if m.at > after and m.json.get("boot") not in DESK]


DESK = {None, "desk"}


@on_both_brokers
def test_a_stop_that_the_broker_keeps_no_longer_is_there_for_who_comes_later(
    tmp_path: Path, url: str
) -> None:
    topic = "heron/small/estop"
    scenario = write(tmp_path)
    with Observer(url) as observer, PlainDevice(url, "small") as device, run(scenario, url):
        until_driven(observer, device)
        told = [
            {"type": "estop", "active": active, "who": "jane", "boot": "desk", "seq": seq}
            for seq, active in enumerate((True, False, True))
        ]
        for each in told:
            observer.publish(topic, each, retain=True)
        observer.wait("the stop is heard", lambda: device.p_mw == 0.0)
        for lost in (told[1], b""):  # a replayed release, and what removes the kept message
            begin = time.monotonic()
            observer.publish(topic, lost, retain=True)
            observer.wait("it is said again", lambda begin=begin: said_again(observer, begin))
            assert retained(url, topic)[topic]["active"] is True
            assert observer.driving(after=begin) == []


BASE = "heron/three_microgrids"


@pytest.fixture(scope="module", params=["mosquitto", pytest.param("embedded", marks=pytest.mark.slow)])
def battery(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Observer]:
    """A battery of ours on a broker of its own, and who watches it; one for all forms of a stop."""
    server = TrialBroker(request.param, tmp_path_factory.mktemp("broker"))
    if why := why_no_broker(request.param):
        pytest.skip(why)
    server.start()
    arguments = ["device", "battery", "--agent", "MG1", "--name", "ess", "--broker", server.url]
    with Observer(server.url) as observer, heron(*arguments) as program:
        program.wait_for("online")
        yield observer
    server.kill()


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
        b'{"active": true, "active": false}',
    ],
)
def test_whatever_comes_on_estop_stops(battery: Observer, payload: bytes) -> None:
    release = {"type": "estop", "active": False, "boot": "t", "seq": int(time.monotonic() * 1e6)}
    battery.publish(f"{BASE}/estop", release)
    told = {"type": "setpoint", "p_mw": 0.02, "lease_s": 60}

    def last() -> dict[str, Any]:
        return battery.on("ess/telemetry")[-1].json

    def runs() -> bool:
        battery.publish(f"{BASE}/devices/MG1/ess/setpoint", told)
        time.sleep(0.1)
        return last()["p_mw"] == 0.02

    battery.wait("it runs", runs)
    pressed = time.monotonic()
    battery.publish(f"{BASE}/estop", payload)
    battery.wait("it stops", lambda: last()["p_mw"] == 0.0 and last().get("stopped"), 5.0)
    battery.wait(
        "it confirms",
        lambda: [m for m in battery.on("estop/confirm/MG1/ess") if m.at > pressed and m.json["active"]],
        5.0,
    )


def test_a_stop_with_a_number_that_was_heard_before_stops_again(battery: Observer) -> None:
    """A replayed stop, or one of a sender that has begun to count anew, is a stop."""
    stop = {"type": "estop", "active": True, "boot": "desk", "seq": 7}
    for seq in (8, 9):
        pressed = time.monotonic()
        battery.publish(f"{BASE}/estop", stop)
        battery.wait("it stops", lambda at=pressed: _stopped_since(battery, at) is True, 5.0)
        released = time.monotonic()
        battery.publish(f"{BASE}/estop", {**stop, "active": False, "seq": seq})
        battery.wait("it is released", lambda at=released: _stopped_since(battery, at) is False, 5.0)


def _stopped_since(battery: Observer, moment: float) -> bool | None:
    """Return whether the battery's newest confirmation since then says that a stop is in force."""
    said = [m.json["active"] for m in battery.on("estop/confirm/MG1/ess") if m.at > moment]
    return said[-1] if said else None

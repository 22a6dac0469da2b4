"""A device in the hand of a person: attacked from outside, with plain paho on real brokers."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import pytest

from support.observer import Observer, PlainDevice
from support.safety_runs import LEASE_S, ask_for, on_mosquitto, proxy, run, until_driven, write

HAND_MW = 0.000123  # nothing else asks for that
REMOTE = {"microgrids.MG1.remote": True}


def take(observer: Observer, **fields: Any) -> float:
    """Ask as a person would; return the number of the request."""
    seq = int(time.monotonic() * 1e6)
    told = {"type": "take", "p_mw": HAND_MW, "for_s": 60.0, "who": "ann", "boot": "t", "seq": seq}
    observer.publish("heron/small/devices/MG1/ess/take", {**told, **fields})
    return seq


def answer_to(observer: Observer, seq: float) -> dict[str, Any]:
    """Return what the gateway says of a request."""
    found: list[dict[str, Any]] = []

    def answered() -> bool:
        found.extend(
            m.json for m in observer.on("MG1/ess/authority_state") if m.json.get("request_seq") == seq
        )
        return bool(found)

    observer.wait("an answer", answered)
    return found[0]


def until_in_hand(observer: Observer, device: PlainDevice) -> None:
    assert answer_to(observer, take(observer))["granted"] is True
    observer.wait("the device is in hand", lambda: device.p_mw == HAND_MW)


def until_stepping(observer: Observer, after: float, steps: int = 8) -> None:
    observer.wait(
        "the run goes on",
        lambda: len({m.json.get("step") for m in observer.on("run/state") if m.at > after}) > steps,
    )


@on_mosquitto
def test_a_stop_or_a_demotion_ends_manual_control_in_every_order_and_nothing_restores_it(
    tmp_path: Path, url: str
) -> None:
    with Observer(url) as observer, PlainDevice(url, "small") as device, run(write(tmp_path), url):
        until_driven(observer, device)
        until_in_hand(observer, device)
        observer.publish("heron/small/estop", {"active": True, "who": "jane"}, retain=True)
        observer.wait("the stop is heard", lambda: device.p_mw == 0.0)
        refused = answer_to(observer, take(observer))
        assert (refused["granted"], refused["reason"]) == (False, "an emergency stop is in force")
        released = time.monotonic()
        observer.publish("heron/small/estop", {"active": False, "who": "jane"}, retain=True)
        observer.wait("the agent drives it", lambda: device.p_mw not in {0.0, HAND_MW})
        assert HAND_MW not in [m.json["p_mw"] for m in observer.setpoints() if m.at > released]
        until_in_hand(observer, device)
        assert answer_to(observer, take(observer, for_s=1.0, p_mw=2.0 * HAND_MW))["granted"] is True
        observer.wait("the newer hand holds", lambda: device.p_mw == 2.0 * HAND_MW)
        observer.wait("it runs out", lambda: device.p_mw not in {0.0, HAND_MW, 2.0 * HAND_MW})
        until_in_hand(observer, device)
        assert ask_for(observer, "shadow")["granted"] is True
        observer.wait("it is safe", lambda: device.p_mw == 0.0)
        demoted = time.monotonic()
        assert answer_to(observer, take(observer))["granted"] is False
        until_stepping(observer, demoted)
        assert observer.driving(after=demoted + 0.25) == []


@pytest.mark.slow
@pytest.mark.parametrize("url", ["mosquitto"], indirect=True)
def test_manual_control_ends_with_its_gateway(tmp_path: Path, url: str) -> None:
    scenario = write(tmp_path, **REMOTE)
    with Observer(url) as observer, PlainDevice(url, "small") as device, run(scenario, url):
        with proxy(scenario, url) as gateway:
            until_driven(observer, device)
            until_in_hand(observer, device)
            gateway.signal(signal.SIGKILL)
            gateway.wait()
            killed = time.monotonic()
        observer.wait("it is safe", lambda: device.p_mw == 0.0)
        assert time.monotonic() - killed <= LEASE_S + 1.0
        with proxy(scenario, url):
            observer.wait("the agent drives it", lambda: device.p_mw != 0.0)
            until_stepping(observer, time.monotonic())
            assert HAND_MW not in [m.json["p_mw"] for m in observer.setpoints() if m.at > killed]


@pytest.mark.slow
@pytest.mark.parametrize("url", ["mosquitto"], indirect=True)
def test_a_take_that_waited_for_a_paused_gateway_moves_nothing(tmp_path: Path, url: str) -> None:
    """With a clock by hand: ``test_a_request_that_has_waited_takes_nothing_raises_nothing_and_lowers``, in
    ``unit/field/gateway/test_authority_manager.py``.
    """
    scenario = write(tmp_path, **REMOTE)
    with (
        Observer(url) as observer,
        PlainDevice(url, "small") as device,
        run(scenario, url),
        proxy(scenario, url) as gateway,
    ):
        until_driven(observer, device)
        gateway.signal(signal.SIGSTOP)
        asked = take(observer)
        time.sleep(2.0 * LEASE_S)
        assert device.p_mw == 0.0
        gateway.signal(signal.SIGCONT)
        refused = answer_to(observer, asked)
        assert (refused["granted"], refused["reason"]) == (
            False,
            "the request may be old: ask again",
        )
        observer.wait("the agent drives it again", lambda: device.p_mw != 0.0)
        assert HAND_MW not in [m.json["p_mw"] for m in observer.setpoints()]
        until_in_hand(observer, device)


@pytest.mark.slow
@pytest.mark.parametrize("url", ["mosquitto"], indirect=True)
def test_a_hand_that_runs_out_while_the_gateway_stands_still_is_over(tmp_path: Path, url: str) -> None:
    """With a clock by hand: ``test_a_hand_holds_to_its_last_moment_and_not_longer``, in
    ``unit/field/gateway/test_authority_manager.py``.
    """
    scenario = write(tmp_path, **REMOTE)
    with (
        Observer(url) as observer,
        PlainDevice(url, "small") as device,
        run(scenario, url),
        proxy(scenario, url) as gateway,
    ):
        until_driven(observer, device)
        assert answer_to(observer, take(observer, for_s=1.5))["granted"] is True
        observer.wait("the device is in hand", lambda: device.p_mw == HAND_MW)
        gateway.signal(signal.SIGSTOP)
        observer.wait("it is safe", lambda: device.p_mw == 0.0)
        time.sleep(1.5)
        woken = time.monotonic()
        gateway.signal(signal.SIGCONT)
        observer.wait("the agent drives it again", lambda: device.p_mw not in {0.0, HAND_MW})
        assert HAND_MW not in [m.json["p_mw"] for m in observer.setpoints() if m.at > woken]


@on_mosquitto
def test_no_setpoint_of_manual_control_outlives_it_however_long_a_step_takes(
    tmp_path: Path, url: str
) -> None:
    scenario = write(tmp_path, realtime_s=4.0)
    with Observer(url) as observer, PlainDevice(url, "small") as device, run(scenario, url):
        observer.wait("the device is driven", lambda: device.p_mw != 0.0)
        for_s = 5.0
        assert answer_to(observer, take(observer, for_s=for_s))["granted"] is True
        granted = time.monotonic()
        observer.wait("the device is in hand", lambda: device.p_mw == HAND_MW)
        observer.wait("it is safe before the agent's next step", lambda: device.p_mw == 0.0)
        observer.wait("the agent drives it again", lambda: device.p_mw not in {0.0, HAND_MW})
        told = [m for m in observer.setpoints() if m.json["p_mw"] == HAND_MW]
        assert len(told) > 1, "it was renewed while it lasted"
        assert max(m.at + m.json["lease_s"] for m in told) <= granted + for_s + 0.1


@on_mosquitto
def test_the_agents_setpoint_is_renewed_no_more_once_a_person_has_the_device_in_hand(
    tmp_path: Path, url: str
) -> None:
    """In a step of many leases it went on for the rest of the step, though the hand was granted."""
    scenario = write(tmp_path, realtime_s=4.0 * LEASE_S)
    with Observer(url) as observer, PlainDevice(url, "small") as device, run(scenario, url):
        observer.wait("the device is driven", lambda: device.p_mw != 0.0)
        begun = time.monotonic()
        observer.wait("it is renewed", lambda: len(observer.driving(after=begun)) > 1)
        assert answer_to(observer, take(observer))["granted"] is True
        in_hand = time.monotonic()
        observer.wait("the person's setpoint", lambda: device.p_mw == HAND_MW)
        observer.wait("and one more", lambda: len(observer.driving(after=in_hand)) > 1)
        assert {m.json["p_mw"] for m in observer.driving(after=in_hand)} == {HAND_MW}

"""Nothing is renewed for the dead: attacked from outside, with plain paho on real brokers."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from heron_mqtt.testing.faults.tcp_link import TcpLink
from heron_mqtt.testing.faults.trial_broker import TrialBroker
from support.observer import Observer, PlainDevice
from support.safety_runs import (
    LEASE_S,
    cut,
    on_both_restarted,
    on_mosquitto,
    proxy,
    run,
    through,
    until_driven,
    write,
)

REMOTE = {"microgrids.MG1.remote": True}


@pytest.mark.parametrize(
    ("url", "how"),
    [
        ("mosquitto", signal.SIGKILL),
        ("mosquitto", signal.SIGSTOP),
        ("embedded", signal.SIGKILL),
        pytest.param("embedded", signal.SIGSTOP, marks=pytest.mark.slow),
    ],
    indirect=["url"],
)
def test_nothing_is_sent_or_renewed_for_a_dead_environment(
    tmp_path: Path, url: str, how: signal.Signals
) -> None:
    scenario = write(tmp_path, **REMOTE)
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
        if how is signal.SIGSTOP:
            os.kill(environment.pid, signal.SIGCONT)


@on_both_restarted
def test_environment_and_broker_die_together_and_the_broker_returns(
    tmp_path: Path, trial_broker: TrialBroker
) -> None:
    url = trial_broker.url
    scenario = write(tmp_path, **REMOTE)
    with (
        Observer(url) as observer,
        PlainDevice(url, "small") as device,
        proxy(scenario, url),
        run(scenario, url) as environment,
    ):
        until_driven(observer, device)
        trial_broker.kill()
        environment.process.kill()
        died = time.monotonic()
        time.sleep(0.3)
        trial_broker.start()
        time.sleep(3.0 * LEASE_S)
        assert observer.setpoints(after=died + LEASE_S) == []
        assert device.p_mw == 0.0
        assert device.power[-1][0] - died <= LEASE_S + 0.3


@on_mosquitto
def test_an_end_that_the_broker_kept_for_a_gateway_that_was_away_counts_at_once(
    tmp_path: Path, url: str, link: TcpLink
) -> None:
    """The will of the environment is retained; the lease is long, and nothing is renewed within it."""
    scenario = write(tmp_path, lease_s=6.0, **REMOTE)
    with (
        Observer(url) as observer,
        PlainDevice(url, "small"),
        proxy(scenario, through(link)),
        run(scenario, url) as environment,
    ):
        observer.wait("the device is driven", lambda: len(observer.driving()) > 3)
        began_at = time.monotonic()  # its absence may be told before the environment is dead
        cut(link)
        environment.process.kill()
        died = time.monotonic()
        observer.wait("its will", lambda: observer.on("run/state")[-1].json["state"] == "lost")
        link.mend()
        observer.wait(
            "the gateway is back", lambda: _states_since(observer, began_at)[-2:] == ["offline", "online"]
        )
        time.sleep(4.5)  # a renewal would be due every 2 s
        assert observer.setpoints(after=died + 0.3) == []


def _states_since(observer: Observer, moment: float) -> list[str]:
    """Return what the agent's presence has been since; the same twice counts once."""
    said = [m.json["state"] for m in observer.on("agents/MG1/status") if m.at > moment]
    return [state for i, state in enumerate(said) if state not in said[i - 1 : i]]


@on_mosquitto
def test_a_foreign_or_replayed_run_state_is_no_sign_of_life(tmp_path: Path, url: str) -> None:
    scenario = write(tmp_path, **REMOTE)
    with (
        Observer(url) as observer,
        PlainDevice(url, "small") as device,
        proxy(scenario, url),
        run(scenario, url) as environment,
    ):
        until_driven(observer, device)
        os.kill(environment.pid, signal.SIGSTOP)
        stood_still = time.monotonic()
        time.sleep(0.1)
        topic, newest = "heron/small/run/state", observer.on("run/state")[-1].json
        told = observer.on("agents/MG1/observation")[-1].json
        while time.monotonic() < stood_still + 3.0 * LEASE_S:
            newest["step"] += 1
            after = {**newest, "seq": newest["seq"] + newest["step"]}
            for foreign in (
                {**after, "boot": "another"},
                {**after, "env_id": "elsewhere"},
                {key: value for key, value in newest.items() if key not in {"boot", "seq"}},
                newest,  # its number was there before
            ):
                observer.publish(topic, foreign)
            observer.publish("heron/small/agents/MG1/observation", {**told, "boot": "another"})
            time.sleep(0.1)
        assert observer.setpoints(after=stood_still + LEASE_S) == []
        assert device.p_mw == 0.0
        assert device.power[-1][0] - stood_still <= LEASE_S + 0.3
        os.kill(environment.pid, signal.SIGCONT)


@on_mosquitto
def test_the_end_of_another_run_or_environment_ends_nothing(tmp_path: Path, url: str) -> None:
    scenario = write(tmp_path, **REMOTE)
    with (
        Observer(url) as observer,
        PlainDevice(url, "small") as device,
        proxy(scenario, url),
        run(scenario, url),
    ):
        until_driven(observer, device)
        served, changes = observer.on("run/state")[-1].json["boot"], len(device.power)
        for state in ("finished", "lost"):
            for foreign in ({"boot": "another"}, {"boot": served, "env_id": "elsewhere"}):
                observer.publish("heron/small/run/state", {"type": "run_state", "state": state, **foreign})
        ended = time.monotonic()
        observer.wait("it is driven on", lambda: len(observer.driving(after=ended)) > 5)
        assert [p_mw for _, p_mw in device.power[changes:] if p_mw == 0.0] == []
        assert not [m for m in observer.on("MG1/ess/setpoint") if m.json.get("release")]

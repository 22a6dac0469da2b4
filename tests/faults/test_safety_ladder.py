"""The ladder has no side door: attacked from outside, with plain paho on real brokers."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from support.heron_command import run_heron
from support.observer import Observer, PlainDevice
from support.safety_runs import (
    DEADLINES,
    ask_for,
    assert_never_driven,
    on_mosquitto,
    proxy,
    run,
    until_driven,
    write,
)


@on_mosquitto
def test_no_level_that_is_asked_for_makes_an_emulator_of_a_real_device(tmp_path: Path, url: str) -> None:
    scenario = write(tmp_path, {"authority": "shadow", "external": True})
    with Observer(url) as observer, PlainDevice(url, "small"), run(scenario, url):
        observer.wait("steps", lambda: len(observer.on("run/state")) > 5)
        for level in ("emulated", "full", "limited"):
            assert ask_for(observer, level)["granted"] is False, level
        assert_never_driven(observer, 1.0)


@on_mosquitto
def test_a_real_device_at_limited_is_no_emulator_either_and_stays_in_its_band(
    tmp_path: Path, url: str
) -> None:
    band = {"p_min_mw": -0.002, "p_max_mw": 0.002}
    ess = {"authority": "limited", "external": True, "gateway": {"gate_steps": 2, "band": band}}
    with (
        Observer(url) as observer,
        PlainDevice(url, "small") as device,
        run(write(tmp_path, ess), url),
    ):
        until_driven(observer, device)
        assert ask_for(observer, "emulated")["granted"] is False
        asked = time.monotonic()
        observer.wait("it is driven on", lambda: len(observer.driving(after=asked)) > 5)
        assert {m.json["p_mw"] for m in observer.driving()} == {0.002}, "the policy asks for more"


@on_mosquitto
def test_a_device_without_a_retained_birth_keeps_no_run_from_starting_and_is_sent_nothing(
    tmp_path: Path, url: str
) -> None:
    scenario = write(tmp_path, steps=10, deadlines={**DEADLINES, "ready_s": 2.0})
    with Observer(url) as observer, PlainDevice(url, "small") as device:
        observer.wait("its birth", lambda: observer.on("devices/MG1/ess/status", live=False))
        observer.publish(f"{device.base}/status", b"", retain=True)
        with run(scenario, url) as program:
            done = program.wait()
        assert done.code == 0, done.err
        assert observer.setpoints() == []
    assert [line for line in done.err.splitlines() if "MG1/ess" in line and "no birth on" in line]


@on_mosquitto
def test_a_device_that_is_born_live_while_a_run_listens_counts_without_the_broker(
    tmp_path: Path, url: str
) -> None:
    with Observer(url) as observer, PlainDevice(url, "small") as device:
        observer.wait("its birth", lambda: observer.on("devices/MG1/ess/status", live=False))
        birth = observer.on("devices/MG1/ess/status", live=False)[-1].json
        observer.publish(f"{device.base}/status", b"", retain=True)
        with run(write(tmp_path), url):
            observer.wait("steps", lambda: len(observer.on("run/state")) > 5)
            assert observer.setpoints() == []
            observer.publish(f"{device.base}/status", birth)
            observer.wait("it is driven", lambda: len(observer.driving()) > 3)


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


def test_check_refuses_a_lease_that_outlasts_everything(tmp_path: Path) -> None:
    checked = run_heron("check", str(write(tmp_path, lease_s=1e300)))
    assert checked.code == 2
    (line,) = checked.errors
    assert "lease_s" in line
    assert "86400" in line


def test_check_refuses_a_band_below_the_least_that_a_generator_can_do(tmp_path: Path) -> None:
    """It would be set to a power that it cannot have, without a report that it is not met."""
    limited = {"authority": "limited", "gateway": {"band": {"p_min_mw": 0.0, "p_max_mw": 0.001}}}
    at = "microgrids.MG1.devices.gen"
    changes = {
        f"{at}.{key}": value for key, value in (limited | {"external": True, "min_p_mw": 0.02}).items()
    }
    checked = run_heron("check", str(write(tmp_path, **changes)))
    assert checked.code == 2
    (line,) = checked.errors
    assert (
        "microgrids.MG1.devices.gen: gateway.band.p_max_mw = 0.001: nearer to 0 than min_p_mw = 0.02" in line
    )


@on_mosquitto
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


@on_mosquitto
def test_two_messages_are_not_enough_to_pass_a_gate(tmp_path: Path, url: str) -> None:
    deadlines = {**DEADLINES, "ready_s": 2.0}
    ess = {"authority": "full", "external": True, "gateway": {"gate_steps": 6, "stale_after_s": 60.0}}
    scenario = write(tmp_path, ess, deadlines=deadlines)
    with Observer(url) as observer, PlainDevice(url, "small", period_s=1000.0) as device, run(scenario, url):
        observer.wait("the agent listens", lambda: observer.on("agents/MG1/status"))
        device.say()
        device.say()
        observer.wait("steps", lambda: len(observer.on("run/state")) > 12)
        assert ask_for(observer, "limited")["granted"] is False
        assert observer.setpoints() == []


@on_mosquitto
def test_a_demotion_outlives_a_kill(tmp_path: Path, url: str) -> None:
    scenario = write(tmp_path, **{"microgrids.MG1.remote": True})
    with Observer(url) as observer, PlainDevice(url, "small") as device, run(scenario, url):
        with proxy(scenario, url) as first:
            until_driven(observer, device)
            assert ask_for(observer, "shadow")["granted"] is True
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

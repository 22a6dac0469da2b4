"""One real battery, everything else simulated: what the tests of the safety case stand on."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from heron_mqtt.testing.faults.tcp_link import LinkFaults, TcpLink
from support.heron_command import Program, heron, until, write_toml
from support.observer import Observer, PlainDevice
from support.small_grid import scenario as small

LEASE_S, STEP_S = 1.0, 0.15
DEADLINES = {"upstream_s": 0.4, "peer_s": 0.3, "device_s": 0.2, "action_s": 2.0}
FULL = {"authority": "full", "external": True, "gateway": {"gate_steps": 2}}

on_both_brokers = pytest.mark.parametrize("url", ["mosquitto", "embedded"], indirect=True)
on_mosquitto = pytest.mark.parametrize(
    "url", ["mosquitto", pytest.param("embedded", marks=pytest.mark.slow)], indirect=True
)
"""And on the embedded broker with the slow tests."""
on_both_restarted = pytest.mark.parametrize(
    "trial_broker", ["mosquitto", pytest.param("embedded", marks=pytest.mark.slow)], indirect=True
)
"""The same for a broker that is killed and comes back with nothing kept."""


def write(folder: Path, ess: dict[str, Any] | None = None, **changes: Any) -> Path:
    """Write a scenario in which MG1/ess is real, and everything else simulated."""
    data = small(
        {
            "lease_s": LEASE_S,
            "realtime_s": STEP_S,
            "steps": 400,
            "deadlines": {**DEADLINES, "ready_s": 15.0},
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


def run(scenario: Path, url: str, *more: str) -> Program:
    return heron("run", str(scenario), "--broker", url, "--json", *more)


def proxy(scenario: Path, url: str, *more: str) -> Program:
    return heron("proxy", str(scenario), "--agent", "MG1", "--broker", url, "--devices", "simulated", *more)


def through(link: TcpLink) -> str:
    """Return the URL of the test's broker over a link."""
    return f"mqtt://127.0.0.1:{link.port}"


def cut(link: TcpLink) -> None:
    """End all connections over a link, and refuse new ones until it is mended."""
    link.faults = LinkFaults(is_refused=True)
    link.reset()


def until_driven(observer: Observer, device: PlainDevice) -> None:
    observer.wait("the device is driven", lambda: device.p_mw != 0.0 and len(observer.driving()) > 3)


def assert_never_driven(observer: Observer, during_s: float) -> None:
    time.sleep(during_s)
    assert observer.driving() == []


def ask_for(observer: Observer, level: str) -> dict[str, Any]:
    """Ask for a level over MG1/ess, as a person would, and return the gateway's answer."""
    asked = time.monotonic()
    told = {"type": "authority_request", "level": level, "who": "test", "boot": "t", "seq": int(asked * 1e6)}
    observer.publish("heron/small/devices/MG1/ess/authority", told)
    answers: list[dict[str, Any]] = []

    def answered() -> bool:
        states = [m.json for m in observer.on("MG1/ess/authority_state") if m.at > asked]
        answers.extend(s for s in states if s.get("request_seq") == told["seq"])
        return bool(answers)

    until(answered, f"an answer to the request for {level}", 20.0)
    return answers[0]

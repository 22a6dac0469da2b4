"""``heron-mqtt authority`` and ``estop`` against a run that goes on, as an independent client sees it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from support.heron_command import Ended, Program, heron, run_heron, until, write_toml
from support.mosquitto_clients import Watcher, retained
from support.mosquitto_server import Mosquitto
from support.setpoints import setpoints
from support.small_grid import scenario as small

BAND_MW, LEASE_S = 0.001, 0.6
TOPIC = "heron/small/devices/MG1/ess"


@dataclass(frozen=True)
class Running:
    """A run that goes on, and who watches it."""

    url: str
    program: Program
    watcher: Watcher

    def authority(self, level: str, device: str = "MG1/ess") -> Ended:
        told = ["--broker", self.url, "--env-id", "small", "--who", "ann", "--why", "test"]
        return run_heron("authority", device, level, *told)

    def sent(self, name: str = "MG1/ess") -> list[dict[str, Any]]:
        return [message for device, message in setpoints(self.watcher.seen) if device == name]

    def steps(self) -> int:
        state = self.watcher.latest("heron/small/run/state")
        return -1 if state is None else state.get("step", -1)

    def wait_steps(self, more: int) -> None:
        goal = self.steps() + more
        until(lambda: self.steps() >= goal, f"step {goal}", 30.0)


@pytest.fixture
def running(own_mosquitto: Any, tmp_path: Path) -> Iterator[Running]:
    changes = {
        "lease_s": LEASE_S,
        "realtime_s": 0.06,
        "steps": 500,
        "profiles.repeat": True,
        "microgrids.MG1.policy": {"charge_below": 1.0, "discharge_above": 2.0, "battery_share": 0.2},
        "microgrids.MG1.devices.ess.max_e_mwh": 10.0,  # it discharges all the time
        "microgrids.MG1.devices.ess.authority": "full",
        "microgrids.MG1.devices.ess.gateway": {
            "band": {"p_min_mw": -BAND_MW, "p_max_mw": BAND_MW},
            "stale_after_s": 5.0,
        },
        **{
            f"microgrids.{a}.devices.{d}.authority": "simulated"
            for a in ("MG1", "MG2", "MG3")
            for d in ("gen", "pv")
        },
        **{f"microgrids.{a}.devices.ess.authority": "simulated" for a in ("MG2", "MG3")},
    }
    server: Mosquitto = own_mosquitto()
    path = write_toml(tmp_path / "small.toml", small(changes))
    with (
        Watcher(server.url) as watcher,
        heron("run", str(path), "--broker", server.url, "--json") as program,
    ):
        # the first level passes the gates too: shadow, limited, full
        watcher.wait_seen(f"{TOPIC}/setpoint", lambda m: m["p_mw"] > BAND_MW, within_s=60.0)
        yield Running(server.url, program, watcher)


@pytest.mark.slow
def test_the_ladder_down_and_up_again_while_the_run_goes_on(running: Running) -> None:
    begun = [m["p_mw"] for m in running.sent()]
    assert begun[0] == pytest.approx(BAND_MW), "full is reached through limited"
    assert begun[-1] == pytest.approx(0.002)
    done = running.authority("shadow")
    assert (done.code, done.out) == (0, "MG1/ess: shadow\n")
    state = running.watcher.wait_seen(f"{TOPIC}/authority_state", lambda m: m.get("demoted"))
    assert (state["level"], state["ceiling"]) == ("shadow", "shadow")
    at = next(k for k, s in enumerate(running.watcher.seen) if s.payload and s.json == state)
    running.wait_steps(3)

    refused = running.authority("full")
    assert refused.code == 1
    assert "refused: gate ladder: full is reached from limited, not from shadow" in refused.out

    # its lease is given back with the demotion: it says that it is safe
    running.wait_steps(15)  # longer than the lease
    later = running.watcher.seen[at:]
    powers = [s.json for s in later if s.topic == f"{TOPIC}/telemetry"]
    assert [m for m in powers if m["safe"]], "it has gone safe"
    assert {m["p_mw"] for m in powers if m["safe"]} == {0.0}
    assert powers[-1]["safe"], "and stays so"
    sent = [s.json for s in later if s.topic == f"{TOPIC}/setpoint"]
    assert all(m.get("release") and m["p_mw"] == 0.0 for m in sent), "nothing else is ever sent in shadow"
    assert len(sent) <= 1

    until(lambda: running.authority("limited").code == 0, "the gate of steady steps", 30.0)
    count = len(running.sent())
    until(lambda: len(running.sent()) >= count + 5, "setpoints again", 20.0)
    assert all(m["p_mw"] == BAND_MW for m in running.sent()[count:]), "its own band"
    kept = retained(running.url, f"{TOPIC}/authority_state")
    assert kept[f"{TOPIC}/authority_state"]["level"] == "limited"

    unknown = running.authority("shadow", "MG1/nothing")
    assert unknown.code == 1
    assert "no gateway answered for MG1/nothing" in unknown.err

    running.program.signal(2)
    result = running.program.wait().result
    changes = result["devices"]["MG1/ess"]["changes"]
    assert "shadow -> limited by scenario (the gates have passed): granted" in changes[0]
    assert "limited -> full by scenario (the gates have passed): granted" in changes[1]
    assert "full -> shadow by ann (test): granted" in changes[2]
    assert "shadow -> full by ann (test): gate ladder" in changes[3]
    assert "shadow -> limited by ann (test): granted" in changes[-1]


@pytest.mark.slow
def test_a_person_takes_the_battery_in_hand_and_gives_it_back(running: Running) -> None:
    """By commands; the gateway's side, quickly: ``unit/field/gateway/test_authority_manager.py``."""
    until(lambda: running.sent()[-1]["p_mw"] > 0.0, "power by the agent", 20.0)
    taken = run_heron("take", "MG1/ess", "--p-kw", "-0.5", "--for", "1m", "--broker", running.url)
    assert (taken.code, taken.err) == (0, "")
    until(lambda: running.sent()[-1]["p_mw"] == pytest.approx(-0.0005), "the person's setpoint", 20.0)
    status = run_heron("status", "--broker", running.url, "--json")
    (environment,) = json.loads(status.out)["environments"]
    assert environment["devices"]["MG1/ess"]["manual"]["p_mw"] == pytest.approx(-0.0005)
    assert run_heron("take", "MG1/ess", "--release", "--broker", running.url).code == 0
    until(lambda: running.sent()[-1]["p_mw"] > 0.0, "power by the agent again", 20.0)
    refused = run_heron("take", "MG2/ess", "--p-kw", "1", "--for", "1m", "--broker", running.url)
    assert refused.code == 1
    assert "refused: no setpoints are sent to the device at level simulated" in refused.out


@pytest.mark.slow
def test_a_stop_is_kept_until_it_is_released(running: Running) -> None:
    """Quicker: the next one; ``test_a_stop_that_all_confirm_is_proven`` (test_operating.py)."""
    pressed = run_heron("estop", "on", "--broker", running.url, "--who", "ann")
    assert (pressed.code, pressed.err) == (0, "")
    told = pressed.out.splitlines()
    assert told[0] == "emergency stop pressed in environment small"
    assert {"  gateway MG1: confirmed", "  device MG1/ess: confirmed"} <= set(told)
    assert run_heron("status", "--broker", running.url).code == 1
    running.watcher.wait_seen("heron/small/estop", lambda m: m["active"])
    safe = running.watcher.wait_seen(f"{TOPIC}/telemetry", lambda m: m.get("safe"), within_s=2.0)
    assert safe["p_mw"] == 0.0
    running.wait_steps(2)
    count = len(running.sent())
    until(lambda: len(running.sent()) >= count + 10, "setpoints while stopped", 20.0)
    assert {m["p_mw"] for m in running.sent()[count:]} == {0.0}
    assert not any(m.get("renewal") for m in running.sent()[count:])
    assert retained(running.url, "heron/small/estop")["heron/small/estop"]["active"] is True

    count = len(running.sent())
    assert run_heron("estop", "off", "--broker", running.url, "--env-id", "small").code == 0
    assert run_heron("status", "--broker", running.url).code == 0, "nothing warns any more"
    until(lambda: running.sent()[-1]["p_mw"] == pytest.approx(0.002), "power again", 20.0)
    moved = running.watcher.wait_seen(f"{TOPIC}/telemetry", lambda m: m["p_mw"] > 0.0)
    assert moved["p_mw"] > 0.0


def test_a_run_that_begins_while_stopped_sends_nothing_but_zero(own_mosquitto: Any, tmp_path: Path) -> None:
    server: Mosquitto = own_mosquitto()
    path = write_toml(tmp_path / "small.toml", small({"steps": 4}))
    pressed = run_heron("estop", "on", "--broker", server.url, "--env-id", "small", "--wait", "0.5")
    assert (pressed.code, "there is no confirmation" in pressed.err) == (1, True)
    with Watcher(server.url, "heron/small/devices/#") as watcher:
        done = run_heron("run", str(path), "--broker", server.url, "--json")
        assert done.code == 0, done.err
        assert done.result["estop"]["active"] is True
        assert {m["p_mw"] for _, m in setpoints(watcher.seen)} == {0.0}
        released = [bool(m.get("release")) for _, m in setpoints(watcher.seen)]
        assert (released.count(False), released.count(True)) == (4 * 9, 9)

"""SIGKILL to a device, a broker or the run, at any step: setpoints stay in the envelope, devices go safe."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.heron_command import Process, Program, descendants, heron, script, until, write_toml
from support.mosquitto_clients import Watcher
from support.mosquitto_server import Mosquitto
from support.setpoints import assert_inside_nameplate, read_scenario, setpoints
from support.small_grid import scenario as small

STEPS, REALTIME_S, LEASE_S = 24, 0.12, 0.5
DEADLINES = {"upstream_s": 0.4, "peer_s": 0.3, "device_s": 0.2, "action_s": 2.0, "ready_s": 30.0}


@pytest.fixture
def scenario(tmp_path: Path) -> Path:
    changes: dict[str, Any] = {
        "lease_s": LEASE_S,
        "realtime_s": REALTIME_S,
        "steps": STEPS,
        "deadlines": DEADLINES,
        "envelope.grid_check": True,
    }
    changes |= {
        f"microgrids.{a}.devices.{d}.authority": "simulated"
        for a in ("MG1", "MG2", "MG3")
        for d in ("gen", "pv")
    }
    changes |= {f"microgrids.{a}.devices.ess.own_process": True for a in ("MG1", "MG2", "MG3")}
    return write_toml(tmp_path / "small.toml", small(changes))


def device_processes(program: Program) -> list[Process]:
    """Return the processes of the emulated devices: the grandchildren, beside no other's."""
    return [child for mother in mothers(program) for child in descendants(mother.pid)]


def mothers(program: Program) -> list[Process]:
    """Return the processes that the emulated devices were forked from."""
    return [p for p in program.descendants() if _name(p.pid) == "emulators"]


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def step_of(watcher: Watcher) -> int:
    state = watcher.latest("heron/small/run/state")
    return -1 if state is None or state["state"] != "running" else int(state["step"])


@pytest.mark.slow_but("0")
@pytest.mark.parametrize("seed", range(2))
def test_a_device_killed_at_any_step_leaves_the_others_alone_and_the_run_finishes(
    scenario: Path, own_mosquitto: Callable[..., Mosquitto], seed: int
) -> None:
    server, rng = own_mosquitto(), random.Random(seed)
    at = rng.randrange(2, STEPS - 8)
    with (
        Watcher(server.url) as watcher,
        heron("run", str(scenario), "--broker", server.url, "--json") as program,
    ):
        until(lambda: step_of(watcher) >= at, f"step {at}", 60.0)
        victims = device_processes(program)
        assert len(victims) == 3
        rng.choice(victims).kill()
        done = program.wait()
        assert done.code == 0, done.err
        assert assert_inside_nameplate(read_scenario(scenario), watcher.seen) > STEPS
    devices = done.result["devices"]
    hit = [name for name, device in devices.items() if device["fallbacks"]]
    assert len(hit) == 1, devices
    assert devices[hit[0]]["fallbacks"] >= STEPS - at - 3
    assert devices[hit[0]]["fallback_delay_s"] <= DEADLINES["device_s"] + 0.2
    assert done.result["fallbacks"] == devices[hit[0]]["fallbacks"]
    told = [m for name, m in setpoints(watcher.seen) if name == hit[0]]
    after = [m["step"] for m in told if not m.get("release")]
    assert max(after) <= at + 4, "nothing is sent to who is gone"
    assert all(m["p_mw"] == 0.0 for m in told if m.get("release")), "but its lease is given back at the end"
    assert f"{hit[0]}: its model replaces it" in done.err


@pytest.mark.slow  # connections that come back: test_mqtt_outage.py; a device that is killed: above
def test_a_broker_that_dies_and_comes_back_costs_steps_and_nothing_else(
    scenario: Path, own_mosquitto: Callable[..., Mosquitto]
) -> None:
    server, at = own_mosquitto(), random.Random(7).randrange(3, 10)
    with (
        Watcher(server.url) as watcher,
        heron("run", str(scenario), "--broker", server.url, "--json") as program,
    ):
        until(lambda: step_of(watcher) >= at, f"step {at}", 60.0)
        begun_s = time.monotonic()
        server.kill()
        for agent in ("MG1", "MG2", "MG3"):  # the outage is longer than the lease, which ends by itself
            program.wait_for(f"{agent}/ess: no setpoint for ")
        outage_s = time.monotonic() - begun_s
        server.start()
        done = program.wait(90.0)
        seen = watcher.seen
    assert done.code == 0, done.err
    result = done.result
    assert (result["steps"], result["error"]) == (STEPS, None)
    assert assert_inside_nameplate(read_scenario(scenario), seen) > 0
    assert result["fallbacks"] >= sum(device["fallbacks"] for device in result["devices"].values())
    safe = [device["time_to_safe_s"] for device in result["devices"].values()]
    # A lease counts from the telemetry that the setpoint echoed, so it may end a little earlier.
    assert all(s is not None and LEASE_S / 2 <= s < LEASE_S + outage_s for s in safe), safe


@pytest.mark.slow  # a quicker one: test_cli_interrupt.py
def test_an_embedded_broker_that_dies_ends_the_run_soon_and_with_one_line(scenario: Path) -> None:
    with heron("run", str(scenario), "--json") as program:
        url = program.wait_for("broker: mqtt://").split()[1]
        program.wait_for("devices: 3 emulated")
        with Watcher(url) as watcher:  # a device that is still connecting would have a word of its own
            until(lambda: step_of(watcher) >= 1, "a step", 60.0)
        devices = {p.pid for p in (*mothers(program), *device_processes(program))}
        brokers = [p for p in program.descendants() if p.pid not in devices]
        assert len(brokers) == 1
        begun = time.monotonic()
        brokers[0].kill()
        done = program.wait(15.0)
        assert time.monotonic() - begun < 5.0
    assert done.code == 1
    assert len(done.errors) == 1, done.err
    assert "Traceback" not in done.err


@pytest.mark.slow  # a signal to the run alone: test_end_signals.py
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_signal_to_all_processes_of_a_run_at_once_ends_it_as_one_to_the_run_does(
    scenario: Path, number: int
) -> None:
    """So does ``pkill -f "heron-mqtt run"``: forks have the command line of the run."""
    with heron("run", str(scenario), "--json") as program:
        url = program.wait_for("broker: mqtt://").split()[1]
        program.wait_for("devices: 3 emulated")
        with Watcher(url) as watcher:
            until(lambda: step_of(watcher) >= 1, "a step", 60.0)
        started = program.descendants()
        assert len(started) >= 5, "a broker, the emulators, three devices"
        for process in started:  # those that were started last come first, at worst
            os.kill(process.pid, number)
        program.signal(number)
        done = program.wait(15.0)
        until(lambda: not any(process.is_alive for process in started), "the end of all of them", 5.0)
    assert done.code == 130, done.err
    assert "the embedded broker" not in done.err
    assert "the program of the emulated devices" not in done.err
    assert "Traceback" not in done.err


@pytest.fixture
def own_device(tmp_path: Path, own_mosquitto: Callable[..., Mosquitto]) -> Iterator[tuple[Path, Mosquitto]]:
    """A scenario whose battery of MG1 is a device of its own: no child of the run, it outlives it."""
    changes = {
        "lease_s": LEASE_S,
        "realtime_s": REALTIME_S,
        "steps": 400,
        "profiles.repeat": True,
        "microgrids.MG1.policy": {"charge_below": 1.0, "discharge_above": 2.0, "battery_share": 0.2},
        "microgrids.MG1.devices.ess.max_e_mwh": 10.0,
        "microgrids.MG1.devices.ess.authority": "full",
        "microgrids.MG1.devices.ess.external": True,
        **{
            f"microgrids.{a}.devices.{d}.authority": "simulated"
            for a in ("MG1", "MG2", "MG3")
            for d in ("gen", "pv")
        },
        **{f"microgrids.{a}.devices.ess.authority": "simulated" for a in ("MG2", "MG3")},
    }
    path = write_toml(tmp_path / "own.toml", small(changes))
    server = own_mosquitto()
    root = Path(__file__).resolve().parents[2]
    where = ["--agent=MG1", "--name=ess", f"--broker={server.url}", f"--scenario={path}"]
    with script(root / "devices" / "battery.py", *where):
        yield path, server


def test_a_run_killed_with_9_leaves_a_device_that_goes_safe_within_its_lease(
    own_device: tuple[Path, Mosquitto], record_property: Callable[[str, object], None]
) -> None:
    path, server = own_device
    topic = "heron/small/devices/MG1/ess/telemetry"
    with (
        Watcher(server.url) as watcher,
        heron("run", str(path), "--broker", server.url, "--json") as program,
    ):
        watcher.wait_seen(topic, lambda m: m["p_mw"] > 0.0 and not m.get("safe"), within_s=60.0)
        os.kill(program.pid, signal.SIGKILL)
        begun = time.monotonic()
        count = len(watcher.seen)

        def safe() -> list[dict[str, Any]]:
            return [s.json for s in watcher.seen[count:] if s.topic == topic and s.json.get("safe")]

        until(safe, "the device is safe", LEASE_S + 3.0)
        took_s = time.monotonic() - begun
    record_property("time_to_safe_s", round(took_s, 3))
    assert took_s < LEASE_S + 0.5
    assert safe()[0]["p_mw"] == 0.0
    assert [m for _, m in setpoints(watcher.seen[count:]) if m["p_mw"] != 0.0][2:] == []

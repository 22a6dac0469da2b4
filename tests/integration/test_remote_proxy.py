"""An agent in a process of its own: ``heron-mqtt proxy`` beside ``heron-mqtt run``, over mosquitto."""

from __future__ import annotations

import signal
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from heron_mqtt.record.reader import RecordFile
from support.heron_command import Program, heron, run_heron
from support.mosquitto_clients import Watcher
from support.mosquitto_server import Mosquitto
from support.small_runs import STEPS, centralized, write_scenario

HASTY = {"upstream_s": 0.5, "peer_s": 0.2, "device_s": 0.5, "action_s": 1.0, "ready_s": 20.0}


@pytest.fixture
def env_id() -> str:
    return f"remote-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def remote(tmp_path: Path, env_id: str) -> Path:
    """A scenario whose MG1 is elsewhere."""
    return _scenario(tmp_path, {"env_id": env_id})


@pytest.fixture(scope="module")
def rewards() -> dict[str, float]:
    """What everyone earns with all agents in one process."""
    found = centralized().result["rewards"]
    assert isinstance(found, dict)
    return found


def _scenario(folder: Path, changes: dict[str, Any]) -> Path:
    return write_scenario(folder, {"microgrids.MG1.remote": True, **changes})


def _proxy(file: Path, url: str, *options: str) -> Program:
    return heron("proxy", "--agent", "MG1", "--broker", url, str(file), *options)


def _run(file: Path, url: str, *options: str) -> Program:
    return heron("run", str(file), "--broker", url, "--steps", str(STEPS), "--json", *options)


@pytest.mark.slow
def test_a_proxy_serves_one_run_after_another(
    remote: Path, own_mosquitto: Callable[..., Mosquitto], rewards: dict[str, float]
) -> None:
    """Started before them, with emulated devices of its own, and though the broker restarts in between."""
    server = own_mosquitto()
    with _proxy(remote, server.url) as proxy:
        assert "3 emulated" in proxy.wait_for("devices:")
        proxy.wait_for("agent MG1 online")
        for again in (True, False):
            with _run(remote, server.url) as program:
                done = program.wait()
            assert done.code == 0, done.err
            assert done.result["rewards"] == pytest.approx(rewards, abs=1e-9)
            assert done.result["fallbacks"] == done.result["deadline_misses"] == 0
            assert "devices: 6 emulated" in done.err  # MG1's are its proxy's
            if again:
                assert proxy.err == []
                server.kill()
                proxy.wait_for("connection lost")
                server.start()
        assert proxy.process.poll() is None


@pytest.mark.slow
def test_a_run_waits_for_its_proxy(
    remote: Path, env_id: str, mosquitto: Mosquitto, rewards: dict[str, float]
) -> None:
    """Started after it, as the run itself says how; with its devices simulated."""
    with _run(remote, mosquitto.url, "--devices", "simulated") as program:
        told = program.wait_for("waiting for a remote agent: ")
        command = told.partition(": ")[2].split()
        assert command[:2] == ["heron-mqtt", "proxy"]
        with Watcher(mosquitto.url, f"heron/{env_id}/#") as watcher:
            watcher.wait_seen(f"heron/{env_id}/run/state", lambda m: m["state"] == "reset")
            with heron(*command[1:], "--devices", "simulated") as proxy:
                done = program.wait()
            assert not any("/devices/" in s.topic for s in watcher.seen if "authority" not in s.topic)
    assert done.code == 0, done.err
    assert done.result["rewards"] == pytest.approx(rewards, abs=1e-9)
    assert "devices:" not in done.err
    assert "devices:" not in "".join(proxy.out)


def test_a_run_says_what_to_start_when_nobody_comes(tmp_path: Path, mosquitto: Mosquitto) -> None:
    changes = {"env_id": f"remote-{uuid.uuid4().hex[:8]}", "deadlines": {**HASTY, "ready_s": 2.0}}
    file = _scenario(tmp_path, changes)
    with _run(file, mosquitto.url, "--devices", "simulated") as program:
        done = program.wait()
    assert done.code == 1
    (line,) = done.errors
    assert "not ready after 2 s: agent MG1" in line
    assert f"heron-mqtt proxy --agent MG1 --broker {mosquitto.url} {file}" in line
    assert "MG2" not in line
    assert done.result["steps"] == 0
    assert "not ready" in done.result["error"]
    assert "Traceback" not in done.err


def test_a_run_goes_on_without_a_proxy_that_was_killed(tmp_path: Path, mosquitto: Mosquitto) -> None:
    env_id = f"remote-{uuid.uuid4().hex[:8]}"
    file = _scenario(tmp_path, {"env_id": env_id, "deadlines": HASTY})
    with (
        Watcher(mosquitto.url, f"heron/{env_id}/#") as watcher,
        _proxy(file, mosquitto.url, "--devices", "simulated") as proxy,
        heron(
            "run", str(file), "--broker", mosquitto.url, "--steps", "9", "--realtime", "0.3", "--json"
        ) as program,
    ):
        watcher.wait_seen(f"heron/{env_id}/agents/MG1/action", lambda m: m["step"] == 4)
        proxy.process.kill()
        watcher.wait_seen(f"heron/{env_id}/agents/MG1/status", lambda m: m["state"] == "offline")
        done = program.wait()
    assert done.code == 0, done.err
    result = done.result
    assert result["steps"] == 9
    assert 3 <= result["fallbacks"] <= 5
    assert "no action from MG1" in done.err
    assert all(isinstance(reward, float) for reward in result["rewards"].values())
    assert result["trades"]["void"] == 0  # no trades with an agent that is not there


@pytest.mark.slow
def test_an_order_book_is_kept_in_another_process(
    tmp_path: Path, mosquitto: Mosquitto, env_id: str, rewards: dict[str, float]
) -> None:
    book = {"protocol": {"horizontal": "order_book"}}
    file = _scenario(tmp_path, {"env_id": env_id, **book})
    (tmp_path / "alone").mkdir()
    whole = write_scenario(tmp_path / "alone", book)
    alone = run_heron("run", str(whole), "--steps", str(STEPS), "--centralized", "--json")
    assert alone.result["trades"]["count"] > 0
    assert alone.result["rewards"] != pytest.approx(rewards, abs=1e-9), "the price is another"
    with _proxy(file, mosquitto.url), _run(file, mosquitto.url) as program:
        done = program.wait()
    assert done.code == 0, done.err
    assert done.result["rewards"] == pytest.approx(alone.result["rewards"], abs=1e-9)
    assert done.result["trades"] == pytest.approx(alone.result["trades"])
    assert done.result["fallbacks"] == done.result["deadline_misses"] == 0


EVERYONE = {f"microgrids.{agent}.remote": True for agent in ("MG1", "MG2", "MG3")}


@pytest.mark.slow
def test_a_scenario_is_split_over_processes_by_the_same_file_and_the_url(
    tmp_path: Path, mosquitto: Mosquitto, env_id: str, rewards: dict[str, float]
) -> None:
    """Two agents in one process, the third in another; the environment runs none itself."""
    file = _scenario(tmp_path, {"env_id": env_id, **EVERYONE})
    record = tmp_path / "two.heron"
    broker = ["--broker", mosquitto.url]
    with (
        heron(
            "proxy", str(file), "--agent=MG2", "--agent=MG1", *broker, "--record", str(record)
        ) as two_agents,
        heron("proxy", str(file), "--agent", "MG3", *broker, "--devices", "simulated"),
    ):
        assert "6 emulated" in two_agents.wait_for("devices:")
        two_agents.wait_for("agent MG2 online")
        with _run(file, mosquitto.url, "--record", str(tmp_path / "run.heron")) as program:
            assert "proxy --all" in program.wait_for("waiting for 3 remote agents: ")
            done = program.wait()
        two_agents.signal(signal.SIGTERM)
        assert two_agents.wait().code == 130
    assert done.code == 0, done.err
    assert done.result["rewards"] == pytest.approx(rewards, abs=1e-9)
    assert done.result["fallbacks"] == done.result["deadline_misses"] == 0
    merged = run_heron("merge", str(tmp_path / "run.heron"), str(record), "--to", str(tmp_path / "all.heron"))
    assert merged.code == 0, merged.err
    with RecordFile(tmp_path / "all.heron") as both:
        acknowledged = "SELECT DISTINCT agent FROM device_row WHERE wanted_p_mw IS NOT NULL ORDER BY agent"
        assert [row["agent"] for row in both.query(acknowledged)] == ["MG1", "MG2"]


@pytest.mark.slow
def test_a_network_trained_on_unit_observations_does_the_same_in_a_proxy(
    tmp_path: Path, mosquitto: Mosquitto, env_id: str
) -> None:
    rng = np.random.default_rng(1)
    np.savez(tmp_path / "net.npz", weight_0=rng.normal(size=(4, 18)), bias_0=rng.normal(size=4))
    policy = {
        "use": "powergrid.policies:NetworkPolicy",
        "arguments": {"checkpoint": str(tmp_path / "net.npz")},
    }
    changes = {"env_id": env_id, "observation_scale": "unit", "microgrids.MG1.policy": policy}
    whole = str(write_scenario(tmp_path, changes))
    wanted = run_heron("run", whole, "--centralized", "--steps", str(STEPS), "--json").result["rewards"]
    file = _scenario(tmp_path, changes)
    with _proxy(file, mosquitto.url, "--devices", "simulated") as proxy:
        proxy.wait_for("agent MG1 online")
        with _run(file, mosquitto.url, "--devices", "simulated") as program:
            done = program.wait()
    assert done.code == 0, done.err
    assert done.result["rewards"] == wanted
    assert wanted != centralized().result["rewards"], "the network decides"


@pytest.mark.slow
def test_an_agent_that_is_taken_over_leaves_the_others_of_its_process_at_work(
    tmp_path: Path, mosquitto: Mosquitto, env_id: str, rewards: dict[str, float]
) -> None:
    file = _scenario(tmp_path, {"env_id": env_id, **EVERYONE})
    simulated = ["--devices", "simulated", "--broker", mosquitto.url]
    state = ["--state", str(tmp_path / "state")]
    with heron("proxy", str(file), "--all", *simulated, *state) as everyone:
        everyone.wait_for("agent MG3 online")
        refused = run_heron("proxy", str(file), "--agent=MG1", "--agent=MG2", *simulated)
        assert refused.code == 1
        held = [line.partition(" in environment")[0] for line in refused.errors if "is held by" in line]
        assert held == ["heron-mqtt: agent MG1", "heron-mqtt: agent MG2"]
        with heron("proxy", str(file), "--agent", "MG2", "--take-over", *simulated) as other:
            other.wait_for("agent MG2 online")
            assert "agent MG2" in everyone.wait_for("taken over")
            again = {
                agent: run_heron("proxy", str(file), "--agent", agent, *simulated, *state).errors[0]
                for agent in ("MG1", "MG2")
            }
            assert "which has not ended" in again["MG1"]
            assert "is held by" in again["MG2"], "the file of the one that was displaced is free"
            with _run(file, mosquitto.url) as program:
                done = program.wait()
            assert done.code == 0, done.err
            assert done.result["rewards"] == pytest.approx(rewards, abs=1e-9)
            with heron("proxy", str(file), "--agent=MG1", "--agent=MG3", "--take-over", *simulated) as last:
                last.wait_for("agent MG3 online")
                ended = everyone.wait()
    assert ended.code == 3, "nobody is left to serve"
    assert "taken over" in ended.errors[-1]


@pytest.mark.parametrize(
    ("arguments", "why", "code"),
    [
        (["--agent", "MG9"], "--agent MG9: not in ", 2),
        (["--agent", "MG2"], "microgrids.MG2.remote = false: the environment runs this agent itself", 2),
        ([], "--agent: expected an agent, once or more, or --all for every remote agent", 2),
        (["--agent", "MG1", "--all"], "--all: serves every remote agent; leave it or --agent out", 2),
        (["--agent", "MG1", "--broker", "memory"], "memory", 2),
        (["--agent", "MG1", "--broker", "mqtt://127.0.0.1:1"], "no answer at mqtt://127.0.0.1:1", 1),
    ],
)
def test_a_proxy_refuses_what_is_wrong_in_one_line(
    remote: Path, mosquitto: Mosquitto, arguments: list[str], why: str, code: int
) -> None:
    broker = [] if "--broker" in arguments else ["--broker", mosquitto.url]
    done = run_heron("proxy", str(remote), *arguments, *broker)
    assert done.code == code
    (line,) = done.errors
    assert why in line
    assert "Traceback" not in done.err

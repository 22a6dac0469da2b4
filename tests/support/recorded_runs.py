"""Short recorded runs of the small grid, made in this process; and ways to tamper with a record."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from heron_mqtt.app.recording import run_facts
from heron_mqtt.messaging.base import MessageBroker
from heron_mqtt.messaging.memory import InMemoryBroker
from heron_mqtt.record import chain
from heron_mqtt.record.recorder import RunRecorder
from heron_mqtt.record.schema import TABLES
from powergrid.emulators.emulator import Emulator
from powergrid.emulators.faults import FaultState, parse_fault
from powergrid.envs import MultiAgentMicrogrids
from powergrid.scenario import Scenario, scenario_from_dict
from support.field_rig import OpenMemoryBroker
from support.small_grid import scenario

STEPS = 6


def record_run(
    path: Path,
    *,
    steps: int = STEPS,
    changes: Mapping[str, Any] | None = None,
    broker: MessageBroker | None = None,
    centralized: bool = False,
    emulated: bool = False,
    faults: Mapping[str, str] | None = None,
    actions: Mapping[str, Any] | Callable[[int], Mapping[str, Any]] | None = None,
    truth: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Record a run of the small grid; return what ``close`` returned.

    Args:
        path: The record.
        steps: Of the run.
        changes: To the scenario; see ``small_grid.scenario``.
        broker: None = one in memory.
        centralized: Direct calls.
        emulated: Devices are emulators in this process, on the same broker.
        faults: By AGENT/DEVICE a fault as on an emulator's command line.
        actions: By agent, in every step; or of each step.
        truth: Changes to the scenario that the emulators are made by, where their nameplates are wrong.
    """
    loaded = scenario_from_dict(scenario(changes))
    real = loaded.scenario if truth is None else scenario_from_dict(scenario(truth)).scenario
    broker = broker or (OpenMemoryBroker() if emulated else InMemoryBroker())
    mode = "centralized" if centralized else "distributed"
    recorder = RunRecorder(path, run_facts(loaded, mode=mode, seed=3))
    config = {
        "scenario": loaded,
        "centralized": centralized,
        "message_broker": None if centralized else broker,
        "devices": "emulated" if emulated else "simulated",
        "max_episode_steps": steps,
        "recorder": recorder,
    }

    async def run() -> None:
        devices = await start_emulators(real, broker, faults or {}) if emulated else []
        env = MultiAgentMicrogrids(config)
        await env.reset_async(seed=3)
        step = 0
        while env.agents:
            await env.step_async(dict(actions(step) if callable(actions) else actions or {}))
            step += 1
        await env.close_async()
        for device in devices:
            device.cancel()
        await asyncio.gather(*devices, return_exceptions=True)

    asyncio.run(run())
    return recorder.close({"steps": steps})


async def start_emulators(
    grid: Scenario, broker: MessageBroker, faults: Mapping[str, str]
) -> list[asyncio.Task[None]]:
    """Start an emulator for every device; returns when all are online."""
    tasks, waiting = [], []
    for agent, microgrid in grid.microgrids.items():
        for name, table in microgrid.devices.items():
            plan = faults.get(f"{agent}/{name}")
            online = asyncio.Event()
            device = Emulator(
                table.spec,
                table.emulator,
                FaultState(planned=dict([parse_fault(plan)]) if plan else {}),
                agent,
                name,
                broker,
                env_id=grid.topic_env_id,
            )
            tasks.append(asyncio.create_task(device.run(on_online=online.set)))
            waiting.append(online.wait())
    await asyncio.gather(*waiting)
    return tasks


def forged(path: Path) -> Path:
    """Chain a record anew, as a forger would who knows how it is made."""
    connection = sqlite3.connect(path)
    meta = dict(connection.execute("SELECT key, value FROM meta"))
    files = dict(connection.execute("SELECT name, sha256 FROM input_file"))
    for table in TABLES:
        value, n = chain.seed(meta, files, table.name), 0
        for row in connection.execute(f"SELECT * FROM {table.name} ORDER BY id").fetchall():
            n += 1
            value = chain.link(value, (n, *row[1:-1]))
            connection.execute(f"UPDATE {table.name} SET id = ?, hash = ? WHERE id = ?", (n, value, row[0]))
        connection.execute(
            "UPDATE chain SET rows = ?, head = ? WHERE table_name = ?", (n, value.hex(), table.name)
        )
    connection.commit()
    connection.close()
    return path


def tampered(original: Path, copy: Path, *statements: str) -> Path:
    """Return a copy of a record with something changed by SQL."""
    shutil.copy(original, copy)
    connection = sqlite3.connect(copy)
    with connection:
        for statement in statements:
            changed = connection.execute(statement).rowcount
            assert changed, f"nothing changed: {statement}"
    connection.close()
    return copy

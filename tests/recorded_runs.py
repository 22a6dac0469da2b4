"""Short recorded runs of the small grid, made in this process; and ways to tamper with a record."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from small_grid import scenario

from heron_mqtt.app.recording import run_facts
from heron_mqtt.messaging.base import MessageBroker
from heron_mqtt.messaging.memory import InMemoryBroker
from heron_mqtt.record.recorder import RunRecorder
from powergrid.envs import MultiAgentMicrogrids
from powergrid.scenario import scenario_from_dict

STEPS = 6


def record_run(
    path: Path,
    *,
    steps: int = STEPS,
    changes: Mapping[str, Any] | None = None,
    broker: MessageBroker | None = None,
    centralized: bool = False,
    actions: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Record a run of the small grid; return what ``close`` returned."""
    loaded = scenario_from_dict(scenario(changes))
    mode = "centralized" if centralized else "distributed"
    recorder = RunRecorder(path, run_facts(loaded, mode=mode, seed=3))
    config = {
        "scenario": loaded,
        "centralized": centralized,
        "message_broker": None if centralized else broker or InMemoryBroker(),
        "max_episode_steps": steps,
        "recorder": recorder,
    }

    async def run() -> None:
        env = MultiAgentMicrogrids(config)
        await env.reset_async(seed=3)
        while env.agents:
            await env.step_async(dict(actions or {}))
        await env.close_async()

    asyncio.run(run())
    return recorder.close({"steps": steps})


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

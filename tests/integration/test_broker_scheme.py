"""A broker scheme of one's own, added in a test module only, carries a whole run."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from heron_mqtt.app.run_plan import RunOptions, plan_run
from heron_mqtt.app.runner import new_summary, run
from heron_mqtt.cli.quiet_progress import QuietProgress
from heron_mqtt.errors import ConfigError
from heron_mqtt.messaging import register_scheme, schemes
from heron_mqtt.messaging.base import MessageBroker
from support.small_runs import write_scenario

STEPS = 3
opened: list[str] = []


class ToyBroker(MessageBroker):
    """Two methods, and nothing else."""

    def __init__(self) -> None:
        self._queues: dict[str, asyncio.Queue[dict[str, Any]]] = defaultdict(asyncio.Queue)

    async def publish(self, channel: str, message: dict[str, Any]) -> None:  # type: ignore[override]
        await self._queues[channel].put(message)

    async def consume(self, channel: str) -> dict[str, Any]:
        return await self._queues[channel].get()


def make(url: str, **_: Any) -> ToyBroker:
    opened.append(url)
    return ToyBroker()


@pytest.fixture
def toy() -> Iterator[None]:
    register_scheme("toy", make)
    yield
    del schemes._SCHEMES["toy"]


async def rewards(path: Path, **options: Any) -> dict[str, float]:
    plan = plan_run(path, RunOptions(steps=STEPS, **options))
    summary = new_summary(plan)
    await run(plan, QuietProgress(), summary)
    assert summary.steps == STEPS
    found = summary.as_dict()["rewards"]
    assert isinstance(found, dict)
    return found


@pytest.mark.usefixtures("toy")
async def test_a_run_over_a_toy_scheme_earns_what_direct_calls_earn(tmp_path: Path) -> None:
    path = write_scenario(tmp_path)
    direct = await rewards(path, centralized=True)
    assert await rewards(path, broker="toy://anywhere") == pytest.approx(direct, abs=1e-9)
    assert opened[-1] == "toy://anywhere"
    assert plan_run(path, RunOptions(broker="toy://anywhere")).broker == "toy"


def test_without_its_registration_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match="--broker toy://anywhere: expected embedded, memory or mqtt://host:port"
    ):
        plan_run(write_scenario(tmp_path), RunOptions(broker="toy://anywhere"))


@pytest.mark.usefixtures("toy")
def test_what_needs_others_to_connect_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing can connect to --broker toy://x"):
        plan_run(write_scenario(tmp_path), RunOptions(broker="toy://x", devices="emulated"))

"""A run that still starts holds its name already: another one displaces it there, or is refused."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from heron_mqtt.agents.operator import SystemOperator
from heron_mqtt.app.infrastructure import THE_ENVIRONMENT, Infrastructure, mqtt_infrastructure, unless
from heron_mqtt.errors import Displaced, NameTaken
from powergrid.scenario import load_scenario
from support.mosquitto_server import Mosquitto
from support.small_runs import write_scenario


def starting(
    file: Path, broker: Mosquitto, *, take_over: bool = False
) -> AbstractAsyncContextManager[Infrastructure]:
    """Return what a run stands on while it starts."""
    return mqtt_infrastructure(
        broker.url,
        load_scenario(file),
        [],
        "simulated",
        lambda text: None,
        names=[THE_ENVIRONMENT],
        take_over=take_over,
    )


async def test_a_run_that_is_displaced_while_it_starts_ends_at_once_and_a_second_one_is_refused(
    mosquitto: Mosquitto, env_id: str, tmp_path: Path
) -> None:
    file = write_scenario(tmp_path, {"env_id": env_id})
    async with starting(file, mosquitto) as first:
        assert first.names is not None
        work = asyncio.create_task(unless(asyncio.sleep(60.0), *first.throughout))
        with pytest.raises(NameTaken, match=f"environment '{env_id}' is held by"):
            async with starting(file, mosquitto):
                pass
        assert not work.done()
        async with starting(file, mosquitto, take_over=True) as second:
            with pytest.raises(Displaced, match=f"environment '{env_id}' was taken over by"):
                async with asyncio.timeout(5.0):
                    await work
            with pytest.raises(Displaced):
                await first.names.hand_over()
            assert second.names is not None
            assert second.broker is not None
            await second.names.hand_over()
            operator = SystemOperator("system_operator", [], second.broker, env_id=env_id)
            await operator.start()  # its name is free for it
            await operator.close()

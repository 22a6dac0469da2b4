"""A run that still starts holds its name already: another one displaces it there, or is refused."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from heron_mqtt.agents.operator import SystemOperator
from heron_mqtt.app.infrastructure import (
    THE_ENVIRONMENT,
    Infrastructure,
    SoleName,
    mqtt_infrastructure,
    unless,
)
from heron_mqtt.app.remote_agent import start_each
from heron_mqtt.errors import Displaced, NameTaken, told_at_the_end
from powergrid.agents.proxies import make_proxy
from powergrid.scenario import load_scenario
from support.mosquitto_server import Mosquitto
from support.small_runs import write_scenario

MG1, MG2 = (SoleName(f"agents/{agent}", f"agent {agent}") for agent in ("MG1", "MG2"))


def starting(
    file: Path, broker: Mosquitto, *names: SoleName, take_over: bool = False
) -> AbstractAsyncContextManager[Infrastructure]:
    """Return what a run stands on while it starts."""
    return mqtt_infrastructure(
        broker.url,
        load_scenario(file),
        [],
        "simulated",
        lambda text: None,
        names=names or [THE_ENVIRONMENT],
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


async def test_of_two_agents_that_are_taken_over_while_they_start_each_is_named(
    mosquitto: Mosquitto, env_id: str, tmp_path: Path
) -> None:
    file = write_scenario(tmp_path, {"env_id": env_id})
    async with starting(file, mosquitto, MG1, MG2) as first:
        assert first.names is not None
        with pytest.raises(NameTaken) as refused:
            async with starting(file, mosquitto, MG1, MG2):
                pass
        whose = [line.partition(" in environment")[0] for line in str(refused.value).splitlines()]
        assert whose == ["agent MG1", "agent MG2"]
        async with starting(file, mosquitto, MG1, MG2, take_over=True):
            with pytest.raises(Displaced) as displaced:
                async with asyncio.timeout(5.0):
                    await first.names.until_displaced()
    whose = [line.partition(" in environment")[0] for line in str(displaced.value).splitlines()]
    assert sorted(whose) == ["agent MG1", "agent MG2"]
    assert told_at_the_end(displaced.value) == (str(displaced.value).splitlines(), 3)


async def test_an_agent_that_is_taken_over_while_it_starts_leaves_the_others_of_its_process_to_begin(
    mosquitto: Mosquitto, env_id: str, tmp_path: Path
) -> None:
    file = write_scenario(tmp_path, {"env_id": env_id})
    told: list[str] = []
    async with (
        starting(file, mosquitto, MG1, MG2) as first,
        starting(file, mosquitto, MG1, take_over=True) as second,
    ):
        assert first.names is not None
        assert first.broker is not None
        assert second.names is not None
        lost = await first.names.hand_over()
        assert list(lost) == [MG1]
        scenario = load_scenario(file).scenario
        proxies = {
            agent: make_proxy(
                scenario, agent, first.broker, env_id=env_id, devices="simulated", take_over=True
            )
            for agent in ("MG1", "MG2")
        }
        await start_each(proxies, {"MG1": lost[MG1]}, {}, told.append)
        assert list(proxies) == ["MG2"]
        assert told == [f"{lost[MG1]}; the others continue"]
        late = {"MG2": make_proxy(scenario, "MG2", second.broker, env_id=env_id, devices="simulated")}
        with pytest.raises(Displaced, match="it has taken the name while this one started"):
            await start_each(late, {}, {}, told.append)
        await second.names.hand_over()  # it holds it still: MG1 was not taken back
        await proxies["MG2"].close()

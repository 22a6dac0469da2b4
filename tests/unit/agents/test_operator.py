"""SystemOperator: its signs of life, and a stop that an agent knows of and the broker does not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest

from heron_mqtt.agents.operator import SystemOperator
from heron_mqtt.messages import StopConfirm
from heron_mqtt.messaging import topics
from heron_mqtt.messaging.base import Received
from heron_mqtt.messaging.memory import InMemoryBroker
from support.waiting import until

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


class Site:
    def __init__(self, broker: InMemoryBroker, operator: SystemOperator) -> None:
        self.broker, self.operator = broker, operator
        self.states: list[Received] = []
        self.stops: list[Received] = []
        broker.subscribe(topics.RUN_STATE, self.states.append)
        broker.subscribe(topics.ESTOP, self.stops.append)


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with InMemoryBroker() as broker:
        operator = SystemOperator("grid", ["MG1"], broker, alive_every_s=0.02)
        await operator.start()
        yield Site(broker, operator)
        await operator.close()


async def test_where_the_run_stands_is_repeated_while_it_rests_and_numbered(site: Site) -> None:
    site.operator.begin_step(1, 0, 50.0, NOON)
    await site.operator.rest(0.15)
    assert len(site.states) >= 2
    assert [state["seq"] for state in site.states] == list(range(len(site.states)))
    assert {state["state"] for state in site.states} == {"running"}


async def test_a_rest_that_is_shorter_than_a_sign_of_life_repeats_nothing() -> None:
    async with InMemoryBroker() as broker:
        operator = SystemOperator("grid", ["MG1"], broker, alive_every_s=60.0)
        await operator.start()
        made = Site(broker, operator)
        operator.begin_step(1, 0, 50.0, NOON)
        await operator.rest(0.05)
        assert len(made.states) == 1
        await operator.close()


@pytest.mark.parametrize("channel", [topics.stop_confirm("MG1"), topics.stop_confirm("MG1", "ess")])
async def test_a_stop_that_only_an_agent_or_its_device_knows_of_is_said_again(
    site: Site, channel: str
) -> None:
    site.broker.publish(channel, StopConfirm(active=True, safe=True).model_dump(exclude_none=True))
    if channel.endswith("ess"):  # a device's word comes by its telemetry, or by its gateway
        await asyncio.sleep(0.05)
        assert site.stops == []
        return
    await until(lambda: site.stops, "the stop is said again")
    assert (site.stops[0]["active"], site.stops[0]["who"]) == (True, "MG1")


async def test_a_release_that_an_agent_confirms_stops_nothing(site: Site) -> None:
    told = StopConfirm(active=False, safe=True).model_dump(exclude_none=True)
    site.broker.publish(topics.stop_confirm("MG1"), told)
    await asyncio.sleep(0.05)
    assert site.stops == []
    assert site.operator.estop is None

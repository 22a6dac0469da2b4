"""The proxy of an agent: with which devices an episode begins."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from heron_mqtt.agents import Deadlines, Proxy
from heron_mqtt.field.gateway.settings import DeviceSettings, GatewayTable
from heron_mqtt.messaging import topics
from powergrid.agents import GridAgent
from powergrid.devices import Battery
from support.field_rig import BAND, DT_S, ESS, OpenMemoryBroker
from support.virtual import run_virtual


@pytest.mark.parametrize("is_heard", [True, False])
def test_an_episode_begins_without_a_real_device_that_was_heard_too_little_and_says_so(
    is_heard: bool,
) -> None:
    async def main() -> None:
        broker = OpenMemoryBroker()
        told: list[str] = []
        broker.stats.listeners.append(lambda report: told.append(f"{report.where}: {report.what}"))
        said: list[dict[str, Any]] = []
        broker.subscribe(topics.agent("MG1", "status"), said.append)
        proxy = Proxy(
            "p",
            GridAgent("MG1", {"ess": Battery(ESS)}, step_s=DT_S),
            broker,
            devices={
                "ess": DeviceSettings(authority="limited", is_real=True, gateway=GatewayTable(band=BAND))
            },
            env_id="test",
            deadlines=Deadlines(ready_s=5.0),
        )
        running = asyncio.create_task(proxy.run())
        await asyncio.sleep(0.1)
        meta = {"env_id": "test", "sender": "MG1/ess", "boot": "d1"}
        if is_heard:
            birth = {"type": "status", "state": "online", **meta, "seq": 1}
            broker.publish(topics.device("MG1", "ess", "status"), birth)
            news = {"type": "telemetry", "p_mw": 0.0, "soc": 0.5, **meta, "seq": 1}
            broker.publish(topics.device("MG1", "ess", "telemetry"), news)
        state = {"type": "run_state", "state": "reset", "env_id": "test", "boot": "b1", "episode": 1}
        broker.publish(topics.RUN_STATE, {**state, "sender": "operator"})
        await asyncio.sleep(6.0)
        shadow = [line for line in told if line.startswith("MG1/ess: begins in shadow: (")]
        assert len(shadow) == is_heard
        assert said[-1]["state"] == ("online" if is_heard else "fault")
        if not is_heard:
            assert "devices not ready: MG1/ess (" in said[-1]["reason"]
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await proxy.close()

    run_virtual(main())

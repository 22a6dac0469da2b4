"""A step that waits goes on the moment that what it waits for comes, not at its deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from heron_mqtt.agents.deadlines import Deadlines
from heron_mqtt.agents.operator import SystemOperator
from heron_mqtt.agents.proxy import Proxy
from heron_mqtt.field.gateway.settings import DeviceSettings, GatewayTable
from heron_mqtt.messaging.memory import InMemoryBroker
from heron_mqtt.messaging.stamping import MessageStamper
from powergrid.agents import GridAgent
from powergrid.devices import Battery
from support.field_rig import DT_S, ESS, OpenMemoryBroker
from support.virtual import run_virtual, virtual_now

LATE_S = 1.25  # after the step began; long before the deadlines, which are
DEADLINE_S = 20.0
DEADLINES = Deadlines(
    upstream_s=DEADLINE_S, peer_s=DEADLINE_S, device_s=DEADLINE_S, action_s=2 * DEADLINE_S, ready_s=DEADLINE_S
)
NOW = {"episode": 1, "step": 0, "boot": "env1"}


class Site:
    """The proxy of MG1, and what stands above and below it, as the test says."""

    def __init__(self, *, with_device: bool = False, asks_clearance: bool = False) -> None:
        self.broker = OpenMemoryBroker() if with_device else InMemoryBroker()
        devices = {"ess": DeviceSettings(authority="emulated", gateway=GatewayTable())} if with_device else {}
        self.proxy = Proxy(
            "proxy",
            GridAgent("MG1", {"ess": Battery(ESS)}, step_s=DT_S),
            self.broker,
            devices=devices,
            asks_clearance=asks_clearance,
            env_id="test",
            deadlines=DEADLINES,
            lease_s=60.0,
            stamper=MessageStamper("MG1", "test"),
        )

    def say(self, channel: str, **fields: Any) -> None:
        self.broker.publish(channel, {**NOW, **fields})

    async def begin(self) -> None:
        """Begin a step: nothing lacks but what the test holds back."""
        await self.proxy.start()
        self.say("run/state", type="run_state", state="running")

    def observation(self, commanded: bool = False) -> None:
        self.say("agents/MG1/observation", type="observation", dt_s=DT_S, commanded=commanded)

    def price(self) -> None:
        self.say("operators/system_operator/price", type="price", value=50.0)

    def command(self) -> None:
        self.say("agents/MG1/command", type="command", p_ess=0.02)

    def clearance(self) -> None:
        self.say("agents/MG1/clearance", type="clearance")

    def device(self, leaf: str, seq: int, **fields: Any) -> None:
        meta = {"type": leaf, "sender": "MG1/ess", "boot": "b1", "seq": seq}
        self.broker.publish(f"devices/MG1/ess/{leaf}", {**meta, **fields})

    async def step(self, late: Callable[[], None]) -> float:
        """Take a step in which something comes late; return how long it took, s."""
        began_s = virtual_now()
        asyncio.get_running_loop().call_later(LATE_S, late)
        self.report = await self.proxy.step_distributed()
        took_s = virtual_now() - began_s
        await self.proxy.close()
        return took_s


@pytest.mark.parametrize("what", ["observation", "price", "command"])
def test_a_step_goes_on_with_what_comes_late_from_upstream(what: str) -> None:
    async def main() -> None:
        site = Site()
        await site.begin()
        told: dict[str, Callable[[], None]] = {
            "observation": lambda: site.observation(commanded=True),
            "price": site.price,
            "command": site.command,
        }
        late = told.pop(what)
        for tell in told.values():
            tell()
        assert await site.step(late) == pytest.approx(LATE_S)
        assert site.report.missed == 0
        assert site.report.p_mw["ess"] == 0.02, "the command that came is followed"

    run_virtual(main())


def test_a_step_goes_on_with_a_late_clearance() -> None:
    async def main() -> None:
        site = Site(asks_clearance=True)
        await site.begin()
        site.observation(commanded=True)
        site.price()
        site.command()
        assert await site.step(site.clearance) == pytest.approx(LATE_S)
        assert (site.report.missed, site.report.p_mw["ess"]) == (0, 0.02)

    run_virtual(main())


def test_a_stop_ends_the_wait_for_a_clearance_and_nothing_but_zero_is_done() -> None:
    async def main() -> None:
        site = Site(asks_clearance=True)
        await site.begin()
        site.observation(commanded=True)
        site.price()
        site.command()

        def stop() -> None:
            site.broker.publish("estop", {"type": "estop", "active": True, "who": "ann"})

        assert await site.step(stop) == pytest.approx(LATE_S)
        assert (site.report.missed, site.report.p_mw["ess"]) == (0, 0.0)
        assert site.report.bounds == {"ess": "emergency stop"}

    run_virtual(main())


def test_with_a_stop_in_force_no_clearance_is_waited_for() -> None:
    async def main() -> None:
        site = Site(asks_clearance=True)
        await site.begin()
        site.broker.publish("estop", {"type": "estop", "active": True, "who": "ann"})
        site.observation(commanded=True)
        site.price()
        site.command()
        assert await site.step(lambda: None) == pytest.approx(0.0)
        assert (site.report.missed, site.report.p_mw["ess"]) == (0, 0.0)

    run_virtual(main())


async def with_a_device(late: Callable[[Site], None]) -> tuple[Site, float]:
    """Take a step whose device keeps its answer back."""
    site = Site(with_device=True)
    await site.begin()
    site.proxy.gateway.authority._held["ess"].level = "emulated"
    site.device("status", 0, state="online", run="none")
    site.device("telemetry", 1, p_mw=0.0, soc=0.5)
    site.observation(commanded=True)
    site.price()
    site.command()
    return site, await site.step(lambda: late(site))


def test_a_step_goes_on_when_its_device_says_that_it_cannot() -> None:
    async def main() -> None:
        site, took_s = await with_a_device(lambda site: site.device("status", 2, state="fault"))
        assert took_s == pytest.approx(LATE_S)
        assert site.report.fallbacks == {"ess": "device fault"}

    run_virtual(main())


def test_a_step_goes_on_when_its_device_is_taken_from_it() -> None:
    async def main() -> None:
        def demote(site: Site) -> None:
            fields = {"type": "authority_request", "level": "simulated", "who": "ann"}
            site.broker.publish("devices/MG1/ess/authority", fields)

        site, took_s = await with_a_device(demote)
        assert took_s == pytest.approx(LATE_S)
        assert site.report.missed == 0

    run_virtual(main())


def test_an_agent_takes_no_step_before_it_has_observed_something() -> None:
    async def main() -> None:
        site, actions = Site(), []
        site.broker.subscribe("agents/MG1/action", actions.append)
        running = asyncio.create_task(site.proxy.run())
        await asyncio.sleep(1.0)
        site.say("run/state", type="run_state", state="running")
        await asyncio.sleep(3 * DEADLINE_S)
        assert actions == []
        site.price()
        site.command()
        site.observation(commanded=True)
        await asyncio.sleep(1.0)
        assert [action["step"] for action in actions] == [0]
        await asyncio.sleep(3 * DEADLINE_S)
        assert len(actions) == 1, "one observation is one step"
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await site.proxy.close()

    run_virtual(main())


def test_the_operator_goes_on_with_the_last_action_that_comes() -> None:
    async def main() -> None:
        broker = InMemoryBroker()
        operator = SystemOperator("system_operator", ["MG1"], broker, env_id="test")
        await operator.start()
        operator._now = (1, 0)
        action = {"type": "action", "episode": 1, "step": 0, "env_id": "test", "p_ess": 0.02}
        asyncio.get_running_loop().call_later(LATE_S, broker.publish, "agents/MG1/action", action)
        began_s = virtual_now()
        assert (await operator.gather(DEADLINE_S))["MG1"].p_mw == {"ess": 0.02}
        assert virtual_now() - began_s == pytest.approx(LATE_S)
        offline = {"type": "status", "state": "offline", "env_id": "test"}
        operator._reports = {}
        asyncio.get_running_loop().call_later(LATE_S, broker.publish, "agents/MG1/status", offline)
        began_s = virtual_now()
        assert await operator.gather(DEADLINE_S) == {}
        assert virtual_now() - began_s == pytest.approx(LATE_S), "who has left is not waited for"
        await operator.close()

    run_virtual(main())

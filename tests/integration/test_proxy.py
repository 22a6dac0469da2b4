"""Proxies, and the environment over real MQTT: presence, brokers that are away, other people's messages."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from heron_mqtt.agents import Proxy, StepReport, operator
from heron_mqtt.errors import BrokerUnavailable, NotReady
from heron_mqtt.messages import Command, Observation
from heron_mqtt.messaging import ownership
from heron_mqtt.messaging.core.background_loop import run_sync
from heron_mqtt.messaging.memory import InMemoryBroker
from heron_mqtt.messaging.mqtt import MqttBroker, announcements, session_broker
from powergrid.agents import GridAgent
from powergrid.agents.proxies import make_proxy
from powergrid.envs import MultiAgentMicrogrids
from powergrid.scenario import scenario_from_dict
from support.mosquitto_server import Mosquitto
from support.small_grid import scenario as small
from support.virtual import run_virtual
from support.waiting import until

MGS = ["MG1", "MG2", "MG3"]
SHORT = {"upstream_s": 0.2, "peer_s": 0.2, "device_s": 0.2, "action_s": 1.0, "ready_s": 1.5}
FIRST = {"episode": 1, "step": 0}


pytestmark = pytest.mark.usefixtures("built_once")


def distributed(broker: Any, changes: dict[str, Any] | None = None, **config: Any) -> MultiAgentMicrogrids:
    return MultiAgentMicrogrids(
        {"scenario": small(changes), "centralized": False, "message_broker": broker, **config}
    )


def one_central_step(seed: int = 1) -> Any:
    env = MultiAgentMicrogrids({"scenario": small()})
    env.reset(seed=seed)
    return env.step({})


def agent(name: str = "MG1", **changes: Any) -> GridAgent:
    return GridAgent.from_scenario(scenario_from_dict(small(changes)).scenario, name)


# -- one proxy -----------------------------------------------------------------------------------------


async def test_a_proxy_says_online_and_offline_once_however_often_it_is_told() -> None:
    broker = InMemoryBroker()
    said: list[str] = []
    broker.subscribe("agents/MG1/status", lambda m: said.append(m["state"]))
    proxy = Proxy("p", agent(), broker, env_id="small")
    await proxy.close()
    await proxy.start()
    await proxy.start()
    await proxy.close()
    await proxy.close()
    assert said == ["online", "offline"]
    late: list[Any] = []
    broker.subscribe("agents/MG1/status", late.append)
    assert late[0]["state"] == "offline"
    assert late[0].retained


async def test_after_close_a_proxy_hears_nothing() -> None:
    broker = InMemoryBroker()
    proxy = Proxy("p", agent(), broker, env_id="small")
    await proxy.start()
    await proxy.close()
    broker.publish("agents/MG1/observation", {"type": "observation", "dt_s": -1.0})
    assert broker.stats.rejected == 0


async def test_a_proxy_that_could_not_start_does_not_listen_twice_when_it_is_started_again() -> None:
    class Mute(InMemoryBroker):
        mute = True

        async def announce(self, *args: Any) -> Any:
            if self.mute:
                raise BrokerUnavailable("nobody there")
            return await super().announce(*args)

    broker = Mute()
    proxy = Proxy("p", agent(), broker, env_id="small")
    with pytest.raises(BrokerUnavailable):
        await proxy.start()
    broker.mute = False
    await proxy.start()
    broker.publish("agents/MG1/observation", {"type": "observation", "dt_s": -1.0})
    assert broker.stats.rejected == 1, "one listener, one rejection"
    await proxy.close()


def has_grown(said: list[Any], n: int) -> bool:
    return len(said) > n


async def test_a_proxy_says_for_which_episode_of_which_run_it_is_ready() -> None:
    broker = InMemoryBroker()
    said: list[dict[str, Any]] = []
    broker.subscribe("agents/MG1/status", said.append)
    proxy = Proxy("p", agent(), broker, env_id="small")
    task = asyncio.create_task(proxy.run())
    await until(lambda: said)
    for run, episode in (("b1", 1), ("b1", 2), ("b2", 1)):
        n = len(said)
        state = {"type": "run_state", "state": "reset", "env_id": "small", "boot": run, "episode": episode}
        broker.publish("run/state", state)
        await until(partial(has_grown, said, n))
        assert (said[-1]["state"], said[-1]["run"], said[-1]["episode"]) == ("online", run, episode)
        broker.publish("run/state", {**state, "state": "running", "step": 0})  # no new episode
        if episode == 2:
            broker.publish("run/state", {**state, "boot": "b2", "episode": 1})  # beside one that is alive
            broker.publish("run/state", {**state, "state": "finished"})
    await asyncio.sleep(0)
    assert len(said) == 4
    assert proxy.dropped == 1, "of two environments that speak at once, the one that is served counts"
    task.cancel()
    await asyncio.wait([task])
    await proxy.close()


def test_a_person_with_an_mqtt_client_can_send_a_price_and_a_command() -> None:
    """No metadata at all: what foreign senders leave out is not held against them."""

    async def main() -> StepReport:
        broker = InMemoryBroker()
        proxy = Proxy("p", agent(protocol={"horizontal": "none"}), broker, env_id="small")
        await proxy.start()
        observed = {"type": "observation", "dt_s": 900.0, "p_load_mw": -0.01, **FIRST}
        broker.publish("operators/system_operator/price", {"type": "price", "value": 76.0})
        broker.publish("agents/MG1/command", {"type": "command", "p_ess": -0.005})
        broker.publish("agents/MG1/observation", observed)
        report = await proxy.step_distributed()
        await proxy.close()
        return report

    report = run_virtual(main())
    assert report.p_mw["ess"] == pytest.approx(-0.005)
    assert report.p_mw["gen"] == pytest.approx(0.013), "at such a price it starts, as far as its ramp allows"


async def test_an_error_in_an_agent_is_raised_from_the_step_and_everything_can_still_be_closed() -> None:
    class Broken(GridAgent):
        def decide(self, command: Command | None) -> None:
            raise ZeroDivisionError("a bug of the agent's author")

    broker = InMemoryBroker()
    env = distributed(broker)
    assert env._exchange is not None
    broken = Broken("MG2", env._exchange.proxies[1].agent.devices, peers=("MG1", "MG3"))  # type: ignore[attr-defined]
    env._exchange.proxies[1].agent = broken
    await env.reset_async(seed=1)
    with pytest.raises(ZeroDivisionError, match="a bug of the agent's author"):
        await env.step_async({})
    await env.close_async()
    assert not [t for t in asyncio.all_tasks() if t.get_name().startswith("proxy")]


def test_an_error_in_an_agent_is_raised_by_the_synchronous_step_too() -> None:
    class Broken(GridAgent):
        def observe(self, observation: Observation | None, price: float | None) -> None:
            raise ZeroDivisionError("a bug of the agent's author")

    env = distributed(InMemoryBroker())
    assert env._exchange is not None
    env._exchange.proxies[0].agent = Broken("MG1", {}, peers=("MG2", "MG3"))
    env.reset(seed=1)
    with pytest.raises(ZeroDivisionError):
        env.step({})
    env.close()


# -- over MQTT -----------------------------------------------------------------------------------------


async def test_the_synchronous_calls_work_inside_a_loop_in_which_the_broker_is_not_connected(
    embedded_url: str, env_id: str
) -> None:
    broker = MqttBroker(embedded_url, env_id=env_id)
    env = distributed(broker)
    env.reset(seed=1)
    assert env.step({})[1] == (await asyncio.to_thread(one_central_step))[1]
    env.close()
    await broker.close()


async def test_a_broker_connected_in_the_same_loop_needs_the_asynchronous_calls(
    embedded_url: str, env_id: str
) -> None:
    async with MqttBroker(embedded_url, env_id=env_id) as broker:
        env = distributed(broker)
        for call in (env.reset, lambda: env.step({}), env.close):
            with pytest.raises(RuntimeError, match=r"would block the event loop.*await reset_async\(\)"):
                call()
        await env.reset_async(seed=1)
        rewards = (await env.step_async({}))[1]
        await env.close_async()
    assert rewards == (await asyncio.to_thread(one_central_step))[1]


async def test_the_broker_is_usable_after_the_environment_has_left_it(embedded_url: str, env_id: str) -> None:
    async with MqttBroker(embedded_url, env_id=env_id) as broker:
        for _ in range(2):
            env = distributed(broker)
            await env.reset_async(seed=1)
            await env.step_async({})
            await env.close_async()
            await env.close_async()
        listening = asyncio.create_task(broker.consume("control"))
        await asyncio.sleep(0)
        await broker.publish("control", {"setpoint": 1.0}, retain=True)
        async with asyncio.timeout(5):
            assert await listening == {"setpoint": 1.0}


async def test_agents_elsewhere_take_part_as_if_they_were_here(embedded_url: str, env_id: str) -> None:
    """Each on a connection of its own, as in processes of their own, the environment on another."""
    changes = {f"microgrids.{mg}.remote": True for mg in ("MG2", "MG3")}
    scenario = scenario_from_dict(small(changes)).scenario
    async with (
        MqttBroker(embedded_url, env_id=env_id) as here,
        MqttBroker(embedded_url, env_id=env_id) as there,
        MqttBroker(embedded_url, env_id=env_id) as elsewhere,
    ):
        proxies = [
            make_proxy(scenario, mg, broker, env_id="small", devices="simulated")
            for mg, broker in (("MG2", there), ("MG3", elsewhere))
        ]
        tasks = [asyncio.create_task(proxy.run()) for proxy in proxies]
        env = distributed(here, changes)
        central = await asyncio.to_thread(lambda: MultiAgentMicrogrids({"scenario": small()}))
        for _ in range(2):  # two episodes
            await env.reset_async(seed=1)
            central.reset(seed=1)
            while env.agents:
                actions = {"MG2": np.full(4, 0.25)}
                result = await env.step_async(actions)
                assert result[1] == pytest.approx(central.step(actions)[1], abs=1e-9)
                assert all(info["missed"] == 0 for info in result[4].values())
        await env.close_async()
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        for proxy in proxies:
            await proxy.close()


async def test_what_is_not_json_is_counted_with_its_topic_and_stops_nothing(
    embedded_url: str, env_id: str
) -> None:
    async with MqttBroker(embedded_url, env_id=env_id) as broker:
        env = distributed(broker)
        await env.reset_async(seed=1)
        stranger = paho.Client(CallbackAPIVersion.VERSION2)
        stranger.connect("127.0.0.1", int(embedded_url.rsplit(":", 1)[1]))
        stranger.loop_start()
        garbage = [b"\x00\xff", b"[1, 2]", b'{"type": "action", "p_gen": NaN}', b"x" * 100_000]
        topic = f"heron/{env_id}/agents/MG1/action"
        for payload in garbage:
            stranger.publish(topic, payload, qos=1)
        await until(lambda: broker.stats.rejected >= len(garbage), "the garbage to arrive")
        stranger.disconnect()
        stranger.loop_stop()
        rejected = [report for report in broker.stats.reports if report.kind == "rejected"]
        assert {report.where for report in rejected} <= {topic, "agents/MG1/action"}
        rewards = (await env.step_async({}))[1]
        await env.close_async()
    assert rewards == (await asyncio.to_thread(one_central_step))[1]


# -- a broker that is away -----------------------------------------------------------------------------


def test_a_broker_that_is_not_there_is_named_within_a_bounded_wait() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    broker = MqttBroker(f"mqtt://127.0.0.1:{port}", connect_timeout_s=1.0)
    env = distributed(broker, {"deadlines": SHORT})
    begun = time.monotonic()
    with pytest.raises(BrokerUnavailable, match=f"127.0.0.1:{port}") as caught:
        env.reset(seed=1)
    assert time.monotonic() - begun < 5.0
    assert "\n" not in str(caught.value)
    env.close()
    run_sync(broker.close())


async def test_a_run_survives_its_brokers_death_and_goes_on_when_it_is_back(
    own_mosquitto: Callable[..., Mosquitto], env_id: str
) -> None:
    server = own_mosquitto()
    async with MqttBroker(server.url, env_id=env_id) as broker:
        env = distributed(broker, {"deadlines": SHORT})
        await env.reset_async(seed=1)
        first = (await env.step_async({}))[4]
        assert all(info["fallback"] is None for info in first.values())
        server.kill()
        begun = time.monotonic()
        infos = (await env.step_async({}))[4]
        assert all("no action" in info["fallback"] for info in infos.values())
        assert time.monotonic() - begun < 2.0 * SHORT["action_s"]
        server.start()
        await until(lambda: broker.connected, "the connection to come back", within_s=20.0)
        await step_until_calm(env)
        await env.close_async()


async def step_until_calm(env: MultiAgentMicrogrids) -> None:
    """The agents' own connections (they carry the wills) come back a little later."""
    for _ in range(5):
        infos = (await env.step_async({}))[4]
        if all(info["fallback"] is None and info["missed"] == 0 for info in infos.values()):
            return
    pytest.fail("the run does not recover")


async def test_reset_and_close_are_bounded_when_the_broker_has_died(
    own_mosquitto: Callable[..., Mosquitto], env_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, bound in [  # each is a second
        (operator, "LAST_MESSAGE_S"),
        (ownership, "RELEASE_S"),
        (announcements, "CLOSE_S"),
        (session_broker, "CLOSE_S"),
    ]:
        monkeypatch.setattr(module, bound, 0.05)
    server = own_mosquitto()
    broker = MqttBroker(server.url, env_id=env_id)
    await broker.connect()
    env = distributed(broker, {"deadlines": SHORT})
    await env.reset_async(seed=1)
    assert env._exchange is not None
    env._exchange._ready_s = 0.2
    server.kill()
    await until(lambda: not broker.connected, "the loss to be noticed")
    begun = time.monotonic()
    with pytest.raises(NotReady, match=r"the broker did not take run/state within 0.2 s"):
        await env.reset_async(seed=1)
    assert env.agents == []
    await env.close_async()
    await broker.close()
    assert time.monotonic() - begun < 15.0


async def test_episode_after_episode_nothing_is_taken_for_lost(embedded_url: str, env_id: str) -> None:
    """What an announcement says travels beside the broker's own messages, and has no number."""
    async with MqttBroker(embedded_url, env_id=env_id) as broker:
        env = distributed(broker)
        for _ in range(3):
            await env.reset_async(seed=1)
            await env.step_async({})
            await env.step_async({})
        await env.close_async()
        assert broker.stats.lost == 0
        assert list(broker.stats.reports) == []

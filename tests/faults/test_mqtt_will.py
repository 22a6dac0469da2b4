"""When a process dies, others hear its last word; when it leaves properly, they hear that."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Callable

import pytest

from heron_mqtt.messaging.mqtt import MqttBroker
from support.mosquitto_server import Mosquitto
from support.waiting import until

STATUS = "agents/MG1/status"
ONLINE = {"type": "status", "state": "online", "sender": "MG1", "boot": "b", "seq": 0}
OFFLINE = {"type": "status", "state": "offline", "sender": "MG1"}

AGENT = """
import asyncio, sys
from heron_mqtt.messaging.mqtt import MqttBroker
ONLINE, OFFLINE = {"state": "online"}, {"state": "offline"}
async def main(url, env_id, how):
    will = ("agents/MG1/status", OFFLINE) if how == "own will" else None
    async with MqttBroker(url, env_id=env_id, will=will) as broker:
        await broker.announce("agents/MG1/status", ONLINE, OFFLINE)
        await broker.announce("agents/MG2/status", ONLINE, OFFLINE)
        print("ready", flush=True)
        await asyncio.sleep(60)
asyncio.run(main(*sys.argv[1:]))
"""


class Watcher:
    """An independent client that keeps the states it hears."""

    def __init__(self, broker: MqttBroker) -> None:
        self.broker = broker
        self.states: dict[str, list[str]] = {"MG1": [], "MG2": []}

    async def watch(self) -> None:
        await self.broker.subscribe(
            "agents/+/status", lambda m: self.states[m.channel.split("/")[1]].append(m["state"])
        )


@pytest.fixture(params=["mosquitto", "embedded"])
async def watcher(request: pytest.FixtureRequest, env_id: str) -> AsyncIterator[Watcher]:
    if request.param == "mosquitto":
        url = request.getfixturevalue("mosquitto").url
    else:
        url = request.getfixturevalue("embedded_url")
    async with MqttBroker(url, env_id=env_id) as broker:
        watcher = Watcher(broker)
        await watcher.watch()
        yield watcher


@pytest.mark.slow_but("mosquitto-presence")
@pytest.mark.parametrize("how", ["presence", "own will"])
async def test_a_killed_process_is_heard_of(watcher: Watcher, env_id: str, how: str) -> None:
    agent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", AGENT, watcher.broker.options.address, env_id, how, stdout=subprocess.PIPE
    )
    try:
        assert agent.stdout is not None
        assert await asyncio.wait_for(agent.stdout.readline(), 60) == b"ready\n"
        await until(lambda: watcher.states == {"MG1": ["online"], "MG2": ["online"]})
        agent.kill()
        await until(lambda: all(s == ["online", "offline"] for s in watcher.states.values()), "the wills")
    finally:
        if agent.returncode is None:
            agent.kill()
        await agent.wait()


@pytest.mark.parametrize("own_will", [False, True])
async def test_leaving_by_an_exception_sends_the_wills(watcher: Watcher, env_id: str, own_will: bool) -> None:
    will = (STATUS, OFFLINE) if own_will else None
    with pytest.raises(RuntimeError, match="trouble"):  # noqa: PT012 - leaving is what is tested
        async with MqttBroker(watcher.broker.options.address, env_id=env_id, will=will) as broker:
            await broker.announce(STATUS, ONLINE, OFFLINE)
            await until(lambda: watcher.states["MG1"] == ["online"])
            raise RuntimeError("trouble")
    await until(lambda: watcher.states["MG1"] == ["online", "offline"], "the will")


async def test_a_will_alone_is_sent_on_an_exception_and_not_on_closing(watcher: Watcher, env_id: str) -> None:
    url = watcher.broker.options.address
    async with MqttBroker(url, env_id=env_id, will=("agents/MG2/status", OFFLINE)):
        pass
    with pytest.raises(RuntimeError):
        async with MqttBroker(url, env_id=env_id, will=(STATUS, OFFLINE)):
            raise RuntimeError
    await until(lambda: watcher.states["MG1"] == ["offline"])
    assert watcher.states["MG2"] == []


async def test_closing_says_offline_once(watcher: Watcher, env_id: str) -> None:
    async with MqttBroker(watcher.broker.options.address, env_id=env_id) as broker:
        await broker.announce(STATUS, ONLINE, OFFLINE)
        withdrawn = await broker.announce("agents/MG2/status", ONLINE, OFFLINE)
        await withdrawn.withdraw()
    await until(lambda: watcher.states == {"MG1": ["online", "offline"], "MG2": ["online", "offline"]})
    # a second connection makes sure that nothing is under way any more
    async with MqttBroker(watcher.broker.options.address, env_id=env_id) as broker:
        await broker.announce(STATUS, ONLINE, OFFLINE)
    await until(lambda: watcher.states["MG1"] == ["online", "offline"] * 2)
    assert watcher.states["MG2"] == ["online", "offline"]


@pytest.mark.parametrize("own_will", [False, True])
async def test_after_an_outage_the_latest_word_is_said_again(
    own_mosquitto: Callable[..., Mosquitto], own_will: bool
) -> None:
    server = own_mosquitto()
    will = (STATUS, OFFLINE) if own_will else None
    async with MqttBroker(server.url, will=will) as broker, MqttBroker(server.url) as observer:
        announcement = await broker.announce(STATUS, ONLINE, OFFLINE)
        await announcement.update({**ONLINE, "seq": 1, "state": "fault"})
        server.kill()
        await until(lambda: not broker.connected and not observer.connected)
        server.start()
        await observer.wait_connected(10)
        watcher = Watcher(observer)
        await watcher.watch()
        await until(lambda: watcher.states["MG1"][-1:] == ["fault"], "the repeated word")
        # what is repeated is no duplicate to those who heard it before, and still the latest word
        late: list[str] = []
        async with MqttBroker(server.url) as newcomer:
            await newcomer.subscribe(STATUS, lambda m: late.append(m["state"]))
            await until(lambda: late == ["fault"])


async def test_an_agent_heard_offline_is_heard_online_again(mosquitto: Mosquitto, env_id: str) -> None:
    """The connection of a presence dies alone; the same words come again and must not pass for duplicates."""
    async with MqttBroker(mosquitto.url, env_id=env_id) as observer:
        watcher = Watcher(observer)
        await watcher.watch()
        async with MqttBroker(mosquitto.url, env_id=env_id, client_id=f"{env_id}-a") as broker:
            await broker.announce(STATUS, ONLINE, OFFLINE)
            await until(lambda: watcher.states["MG1"] == ["online"])
            # another client takes over the presence's client id, and leaves
            thief = MqttBroker(mosquitto.url, env_id=env_id, client_id=f"{env_id}-a-w0")
            await thief.connect()
            await thief.close()
            await until(lambda: watcher.states["MG1"] == ["online", "offline", "online"])

"""Scripts that end without closing: what they published is delivered, and they end quietly and in time."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys

import pytest

from heron_mqtt.messaging.base import Received
from heron_mqtt.messaging.mqtt import MqttBroker
from support.mosquitto_server import Mosquitto
from support.waiting import until

HEAD = """
import asyncio, logging, sys
from heron_mqtt.messaging.mqtt import MqttBroker
logging.getLogger("asyncio").setLevel(logging.ERROR)  # with -X dev it warns of what took 0.1 s
url, env_id = sys.argv[1:]
"""
SYNCHRONOUS = (
    HEAD
    + """
broker = MqttBroker(url, env_id=env_id)
broker.subscribe("other", print)
for i in range(100):
    broker.publish("c", {"i": i})
"""
)
ASYNCHRONOUS = (
    HEAD
    + """
async def main():
    broker = MqttBroker(url, env_id=env_id)
    await broker.connect()
    await broker.subscribe("other", print)
    await broker.announce("agents/MG1/status", {"state": "online"}, {"state": "offline"})
    for i in range(100):
        await broker.publish("c", {"i": i})
asyncio.run(main())
"""
)
WAITING = (
    HEAD
    + """
async def main():
    async with MqttBroker(url, env_id=env_id) as broker:
        await broker.announce("agents/MG1/status", {"state": "online"}, {"state": "offline"})
        await broker.publish("c", {"i": 0})
        await broker.consume("never")
try:
    asyncio.run(main())
except KeyboardInterrupt:
    sys.exit(130)
"""
)


def _run(script: str, url: str, env_id: str) -> subprocess.CompletedProcess[str]:
    """Run it; on a busy machine its start alone takes some seconds, and it may take 5 s to give up."""
    command = [sys.executable, "-X", "dev", "-c", script, url, env_id]
    return subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)


@pytest.mark.slow_but("synchronous")  # the other script: test_a_loop_that_ends_without_closing
@pytest.mark.parametrize("script", [SYNCHRONOUS, ASYNCHRONOUS], ids=["synchronous", "asynchronous"])
async def test_a_script_that_never_closes_delivers_and_ends_quietly(
    mosquitto: Mosquitto, env_id: str, script: str
) -> None:
    got: list[int] = []
    async with MqttBroker(mosquitto.url, env_id=env_id) as observer:
        await observer.subscribe("c", lambda m: got.append(m["i"]))
        done = await asyncio.to_thread(_run, script, mosquitto.url, env_id)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        await until(lambda: len(got) == 100)
        assert got == list(range(100))


async def test_a_loop_that_ends_without_closing_leaves_the_will(mosquitto: Mosquitto, env_id: str) -> None:
    states: list[str] = []
    async with MqttBroker(mosquitto.url, env_id=env_id) as observer:
        await observer.subscribe("agents/MG1/status", lambda m: states.append(m["state"]))
        await asyncio.to_thread(_run, ASYNCHRONOUS, mosquitto.url, env_id)
        await until(lambda: states == ["online", "offline"])


@pytest.mark.slow
def test_a_script_without_a_broker_ends_in_time_and_says_why(env_id: str) -> None:
    done = _run(SYNCHRONOUS, "mqtt://127.0.0.1:1", env_id)
    assert done.returncode == 0
    assert "no answer at mqtt://127.0.0.1:1" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow  # a loop that ends: above
async def test_an_interrupt_ends_a_waiting_script_at_once_and_leaves_the_will(
    mosquitto: Mosquitto, env_id: str
) -> None:
    got: list[Received] = []
    states: list[str] = []
    async with MqttBroker(mosquitto.url, env_id=env_id) as observer:
        await observer.subscribe("c", got.append)
        await observer.subscribe("agents/MG1/status", lambda m: states.append(m["state"]))
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-X", "dev", "-c", WAITING, mosquitto.url, env_id, stderr=subprocess.PIPE
        )
        await until(lambda: got)
        process.send_signal(signal.SIGINT)
        _, stderr = await asyncio.wait_for(process.communicate(), 20)
        assert (process.returncode, stderr) == (130, b"")
        await until(lambda: states == ["online", "offline"])

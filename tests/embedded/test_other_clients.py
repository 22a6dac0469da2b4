"""Other people's clients: publish, subscribe, retained and will, each in one round. Installs nothing."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from heron_mqtt.messaging.embedded import EmbeddedBroker

pytestmark = pytest.mark.slow

WAIT_S = 10.0


async def run(*command: str, cwd: str | None = None) -> str:
    """Run a program to its end; return what it printed."""
    process = await asyncio.create_subprocess_exec(
        *command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=cwd
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(), 2 * WAIT_S)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, output.decode()
    return output.decode()


async def subscriptions(broker: EmbeddedBroker, count: int) -> None:
    """Wait until so many subscriptions are there."""
    async with asyncio.timeout(WAIT_S):
        while broker.stats.subscriptions < count:
            await asyncio.sleep(0.02)


async def test_mosquitto_pub_and_sub() -> None:
    if shutil.which("mosquitto_pub") is None:
        pytest.skip("mosquitto-clients is not installed")
    async with EmbeddedBroker(in_process=True) as broker:
        address = ["-h", "127.0.0.1", "-p", str(broker.port), "-V", "mqttv311"]

        def subscriber(count: int, *more: str) -> asyncio.Task[str]:
            line = "%t %p %q %r"
            command = [
                "mosquitto_sub",
                *address,
                "-t",
                "t/#",
                "-q",
                "2",
                "-C",
                str(count),
                "-W",
                "10",
                "-F",
                line,
            ]
            return asyncio.create_task(run(*command, *more))

        for qos in ("0", "1", "2"):
            watching = subscriber(1)
            await subscriptions(broker, 1)
            await run("mosquitto_pub", *address, "-t", "t/live", "-m", "hello", "-q", qos)
            assert await watching == f"t/live hello {qos} 0\n"
        await run("mosquitto_pub", *address, "-t", "t/kept", "-m", "retained", "-q", "1", "-r")
        assert await subscriber(1) == "t/kept retained 1 1\n"
        await run("mosquitto_pub", *address, "-t", "t/kept", "-n", "-r")
        watching = subscriber(1)
        await subscriptions(broker, 1)
        will = ["--will-topic", "t/will", "--will-payload", "gone", "--will-qos", "1"]
        dying = await asyncio.create_subprocess_exec("mosquitto_sub", *address, "-t", "other", *will)
        await subscriptions(broker, 2)
        dying.kill()
        await dying.wait()
        assert await watching == "t/will gone 1 0\n"
        refused = await asyncio.create_subprocess_exec(
            "mosquitto_pub", "-h", "127.0.0.1", "-p", str(broker.port), "-V", "mqttv5", "-t", "x", "-m", "x",
            stderr=subprocess.PIPE,
        )  # fmt: skip
        _, said = await asyncio.wait_for(refused.communicate(), WAIT_S)
        assert b"unsupported protocol version" in said.lower()
        assert refused.returncode != 0


async def test_paho() -> None:
    paho = pytest.importorskip("paho.mqtt.client")
    async with EmbeddedBroker(in_process=True) as broker:
        await asyncio.to_thread(_paho_round, paho, broker.port)


def _paho_round(paho: Any, port: int) -> None:
    import queue

    got: queue.Queue[tuple[str, bytes, int, bool]] = queue.Queue()

    def client(name: str, will: str | None = None) -> Any:
        made = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id=name, protocol=paho.MQTTv311)
        made.on_message = lambda _c, _u, m: got.put((m.topic, m.payload, m.qos, m.retain))
        if will is not None:
            made.will_set(will, b"gone", 1)
        ready: queue.Queue[None] = queue.Queue()
        made.on_connect = lambda *_: ready.put(None)
        made.on_subscribe = lambda *_: ready.put(None)
        made.connect("127.0.0.1", port)
        made.loop_start()
        ready.get(timeout=WAIT_S)
        return made, ready

    reader, ready = client("reader")
    writer, _ = client("writer", "p/will")
    reader.subscribe("p/#", 2)
    ready.get(timeout=WAIT_S)
    for qos in (0, 1, 2):
        writer.publish("p/live", b"%d" % qos, qos).wait_for_publish(WAIT_S)
        assert got.get(timeout=WAIT_S) == ("p/live", b"%d" % qos, qos, False)
    writer.publish("p/kept", b"retained", 1, retain=True).wait_for_publish(WAIT_S)
    assert got.get(timeout=WAIT_S) == ("p/kept", b"retained", 1, False)
    late, ready = client("late")
    late.subscribe("p/kept", 1)
    ready.get(timeout=WAIT_S)
    assert got.get(timeout=WAIT_S) == ("p/kept", b"retained", 1, True)
    writer._sock_close()  # the connection breaks
    assert got.get(timeout=WAIT_S) == ("p/will", b"gone", 1, False)
    for made in (reader, writer, late):
        made.disconnect()
        made.loop_stop()


async def test_aiomqtt() -> None:
    if importlib.util.find_spec("aiomqtt") is None:
        pytest.skip("aiomqtt is not installed")
    import aiomqtt

    async with (
        asyncio.timeout(WAIT_S),
        EmbeddedBroker(in_process=True) as broker,
        aiomqtt.Client("127.0.0.1", broker.port) as reader,
        aiomqtt.Client("127.0.0.1", broker.port, will=aiomqtt.Will("a/will", b"gone", 1)) as writer,
    ):
        await reader.subscribe("a/#", 2)
        messages = aiter(reader.messages)
        for qos in (0, 1, 2):
            await writer.publish("a/live", b"%d" % qos, qos)
            message = await anext(messages)
            assert (message.payload, message.qos) == (b"%d" % qos, qos)
        await writer.publish("a/kept", b"retained", 1, retain=True)
        assert not (await anext(messages)).retain
        async with aiomqtt.Client("127.0.0.1", broker.port) as late:
            await late.subscribe("a/kept", 1)
            assert (await anext(aiter(late.messages))).retain
        writer._client._sock_close()
        assert (await anext(messages)).payload == b"gone"


MQTT_JS = """
const mqtt = require("mqtt");
const url = process.argv[2];
const options = {protocolVersion: 4, reconnectPeriod: 0, connectTimeout: 5000};
const open = (more) => new Promise((resolve, reject) => {
  const client = mqtt.connect(url, {...options, ...more});
  client.once("connect", () => resolve(client)); client.once("error", reject);
});
const next = (client) => new Promise((resolve) =>
  client.once("message", (topic, payload, packet) =>
    resolve([topic, payload.toString(), packet.qos, packet.retain])));
(async () => {
  const out = [];
  const reader = await open({});
  const writer = await open({will: {topic: "j/will", payload: "gone", qos: 1}});
  await reader.subscribeAsync("j/#", {qos: 2});
  for (const qos of [0, 1, 2]) {
    const message = next(reader);
    await writer.publishAsync("j/live", "hello", {qos});
    out.push(await message);
  }
  let message = next(reader);
  await writer.publishAsync("j/kept", "retained", {qos: 1, retain: true});
  out.push(await message);
  const late = await open({});
  message = next(late);
  await late.subscribeAsync("j/kept", {qos: 1});
  out.push(await message);
  message = next(reader);
  writer.stream.destroy();
  out.push(await message);
  console.log(JSON.stringify(out));
  process.exit(0);
})().catch((error) => { console.error(error); process.exit(1); });
"""


@pytest.mark.parametrize("scheme", ["mqtt", "ws"])
async def test_mqtt_js(scheme: str, tmp_path: Path) -> None:
    """Needs Node.js and, in the folder that HERON_NODE_MODULES names, ``npm install mqtt``."""
    modules = os.environ.get("HERON_NODE_MODULES", "")
    if shutil.which("node") is None:
        pytest.skip("Node.js is not installed")
    if not (Path(modules) / "mqtt").is_dir():
        pytest.skip("MQTT.js is not installed: npm install mqtt, then HERON_NODE_MODULES=.../node_modules")
    script = tmp_path / "round.js"
    script.write_text(MQTT_JS)
    (tmp_path / "node_modules").symlink_to(modules)
    async with EmbeddedBroker(in_process=True, websocket_port=0) as broker:
        url = broker.url if scheme == "mqtt" else broker.websocket_url
        got = json.loads(await run("node", str(script), str(url)))
    assert got == [
        ["j/live", "hello", 0, False],
        ["j/live", "hello", 1, False],
        ["j/live", "hello", 2, False],
        ["j/kept", "retained", 1, False],
        ["j/kept", "retained", 1, True],
        ["j/will", "gone", 1, False],
    ]

"""What only brokers promise that MQTT clients can connect to."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import paho.mqtt.client as paho
import pytest

from heron_mqtt.messaging import topics
from heron_mqtt.messaging.base import Received
from heron_mqtt.messaging.mqtt import MqttBroker
from support.waiting import until


class Foreign:
    """A raw MQTT client, as any vendor's box is one: it knows topics and bytes, nothing of ours."""

    def __init__(self, broker: MqttBroker) -> None:
        self.got: list[tuple[str, bytes, bool]] = []
        self.prefix = broker.topic_map.prefix
        self._client = paho.Client(paho.CallbackAPIVersion.VERSION2)
        self._client.on_message = lambda c, d, m: self.got.append((m.topic, m.payload, bool(m.retain)))
        self._client.connect(broker.options.host, broker.options.port)
        self._client.loop_start()

    async def publish(self, channel: str, payload: bytes, *, retain: bool = False, topic: str = "") -> None:
        info = self._client.publish(topic or self.prefix + channel, payload, qos=1, retain=retain)
        await asyncio.to_thread(info.wait_for_publish, 5)

    async def subscribe(self, topic_filter: str) -> None:
        granted = asyncio.Event()
        loop = asyncio.get_running_loop()
        self._client.on_subscribe = lambda *_: loop.call_soon_threadsafe(granted.set)
        self._client.subscribe(topic_filter, qos=1)
        await asyncio.wait_for(granted.wait(), 5)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@pytest.fixture
def foreign(mqtt_broker: MqttBroker) -> Iterator[Foreign]:
    client = Foreign(mqtt_broker)
    yield client
    client.close()


@pytest.mark.parametrize(
    "payload",
    [b"\xff\xfe\x00", b"not json", b"[1]", b'{"p_mw": NaN}', b'"text"', b"{", b"x" * ((1 << 20) - 100)],
    ids=["binary", "text", "list", "nan", "string", "truncated", "huge"],
)
async def test_garbage_is_counted_with_its_topic_and_stops_nothing(
    mqtt_broker: MqttBroker, foreign: Foreign, payload: bytes
) -> None:
    got: list[Received] = []
    await mqtt_broker.subscribe("devices/MG1/ess/telemetry", got.append)
    await foreign.publish("devices/MG1/ess/telemetry", payload)
    await foreign.publish("devices/MG1/ess/telemetry", b'{"p_mw": 0.1}')
    await until(lambda: got)
    assert got == [{"p_mw": 0.1}]
    assert mqtt_broker.stats.rejected == 1
    (report,) = mqtt_broker.stats.reports
    assert report.kind == "rejected"
    assert report.where == foreign.prefix + "devices/MG1/ess/telemetry"


async def test_messages_travel_on_the_topics_of_the_wire_contract(
    mqtt_broker: MqttBroker, foreign: Foreign
) -> None:
    await foreign.subscribe("heron/#")
    await mqtt_broker.publish(topics.operator_price("op"), {"type": "price", "value": 55.0}, retain=True)
    await mqtt_broker.publish(topics.agent("MG/1", "action"), {"p_gen": 1.5})
    mine = f"heron/{mqtt_broker.topic_map.env_id}/"
    await until(lambda: len([g for g in foreign.got if g[0].startswith(mine)]) == 2)
    assert [g for g in foreign.got if g[0].startswith(mine)] == [
        (mine + "operators/op/price", b'{"type":"price","value":55.0}', False),
        (mine + "agents/MG%2F1/action", b'{"p_gen":1.5}', False),
    ]


async def test_an_empty_payload_is_an_empty_object(mqtt_broker: MqttBroker, foreign: Foreign) -> None:
    got: list[Received] = []
    await foreign.publish("c", b'{"i": 1}', retain=True)
    await mqtt_broker.subscribe("c", got.append)
    await until(lambda: got)
    await foreign.publish("c", b"", retain=True)
    await until(lambda: len(got) == 2)
    assert got == [{"i": 1}, {}]


async def test_environments_do_not_hear_each_other(mqtt_broker: MqttBroker, foreign: Foreign) -> None:
    got: list[Received] = []
    await mqtt_broker.subscribe("#", got.append)
    await foreign.publish("", b'{"i": 1}', topic="heron/another/agents/MG1/action")
    await foreign.publish("agents/MG1/action", b'{"i": 2}')
    await until(lambda: got)
    assert got == [{"i": 2}]


@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_each_quality_of_service_delivers(mqtt_broker: MqttBroker, qos: int) -> None:
    got: list[int] = []
    await mqtt_broker.subscribe("c", lambda m: got.append(m["i"]))
    for i in range(20):
        await mqtt_broker.publish("c", {"i": i}, qos=qos)
    await until(lambda: len(got) == 20)
    assert got == list(range(20))


async def test_a_quality_of_service_that_does_not_exist_is_refused(mqtt_broker: MqttBroker) -> None:
    with pytest.raises(ValueError, match="qos must be 0, 1 or 2, got 3"):
        mqtt_broker.publish("c", {}, qos=3)


async def test_a_channel_can_live_on_any_topic(mqtt_kind: Any, env_id: str) -> None:
    like = mqtt_kind.make()
    overrides = {"devices/MG1/ess/telemetry": f"vendor/{env_id}/battery"}
    by_name: list[Received] = []
    by_filter: list[str] = []
    async with MqttBroker(like.options.address, topics=topics.TopicMap(env_id, overrides)) as broker:
        client = Foreign(broker)
        await broker.subscribe("devices/MG1/ess/telemetry", by_name.append)
        await broker.subscribe("devices/+/+/telemetry", lambda m: by_filter.append(m.channel))
        await client.publish("", b'{"p_mw": 1}', topic=f"vendor/{env_id}/battery")
        await client.publish("devices/MG2/pv/telemetry", b'{"p_mw": 2}')
        await until(lambda: len(by_filter) == 2)
        client.close()
    assert by_name == [{"p_mw": 1}]
    assert by_filter == ["devices/MG1/ess/telemetry", "devices/MG2/pv/telemetry"]

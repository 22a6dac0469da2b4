"""A server of Kafka's protocol that dies, stands still or is none; and what other clients see."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from heron_mqtt.errors import (
    BrokerRefused,
    BrokerUnavailable,
    ConfigError,
    MessageExpired,
    UnsupportedFeature,
)
from heron_mqtt.messaging.base import Received
from heron_mqtt.messaging.kafka import KafkaBroker
from heron_mqtt.testing.loopback_server import free_port
from support.heron_command import run_heron
from support.kafka_server import KafkaServer
from support.refused_hardware import REFUSED, assert_bridge_refused, assert_refused
from support.waiting import until


@pytest.fixture
def own_kafka_server(tmp_path: Path) -> Iterator[KafkaServer]:
    server = KafkaServer(tmp_path).start()
    yield server
    server.stop()


async def test_what_was_published_while_the_server_was_dead_arrives_when_it_is_back(
    own_kafka_server: KafkaServer,
) -> None:
    server = own_kafka_server
    got: list[int] = []
    async with KafkaBroker(server.url, keepalive_s=2) as broker:
        await broker.subscribe("c", lambda m: got.append(m["i"]))
        await broker.publish("c", {"i": 0})
        await until(lambda: got)
        server.kill()
        await until(lambda: not broker.connected)
        late = [broker.publish("c", {"i": i}) for i in range(1, 4)]
        with pytest.raises(MessageExpired, match="there is no connection"):
            await broker.publish("c", {"i": 9}, not_after=asyncio.get_running_loop().time() + 60.0)
        server.start()
        for delivery in late:
            await delivery
        await until(lambda: 3 in got)
        assert got == sorted(got)  # the first of them may be gone: this server's log ends with its process
        assert broker.stats.reconnects == 1


async def test_nothing_late_is_sent_when_the_server_stood_still(own_kafka_server: KafkaServer) -> None:
    server = own_kafka_server
    assert server.process is not None
    got: list[int] = []
    loop = asyncio.get_running_loop()
    async with KafkaBroker(server.url, keepalive_s=2) as broker, KafkaBroker(server.url) as reader:
        await reader.subscribe("c", lambda m: got.append(m["i"]))
        await broker.publish("c", {"i": 0})
        server.process.send_signal(19)  # SIGSTOP
        await until(lambda: server.is_stopped)
        broker.publish("c", {"i": 1})
        await asyncio.sleep(0.05)
        with pytest.raises(MessageExpired):
            await broker.publish("c", {"i": 2}, not_after=loop.time() + 0.2)
        await until(lambda: not broker.connected)
        server.process.send_signal(18)  # SIGCONT
        await broker.publish("c", {"i": 3})
        await until(lambda: 3 in got)
        assert 2 not in got
        assert 1 in got


async def test_what_was_written_while_a_reader_was_away_is_read_afterwards(
    kafka_server: KafkaServer, env_id: str
) -> None:
    got: list[int] = []
    async with (
        KafkaBroker(kafka_server.url, env_id=env_id) as writer,
        KafkaBroker(kafka_server.url, env_id=env_id) as reader,
    ):
        await reader.subscribe("c", lambda m: got.append(m["i"]))
        await writer.publish("c", {"i": 0})
        await until(lambda: got)
        assert reader._session._connection is not None
        reader._session._connection.give_up("the test ends it")
        await writer.publish("c", {"i": 1})
        await writer.publish("new/channel", {"i": 2})
        await reader.subscribe("new/channel", lambda m: got.append(m["i"]))
        await until(lambda: 1 in got)
        assert reader.stats.reconnects == 1
    assert got[0] == 0
    assert got.count(1) == 1


async def test_a_channel_keeps_its_order_in_a_topic_of_several_partitions(
    kafka_server: KafkaServer, env_id: str
) -> None:
    got: dict[str, list[int]] = defaultdict(list)
    async with KafkaBroker(kafka_server.url, env_id=env_id, partitions=4) as broker:
        await broker.subscribe("agents/+/action", lambda m: got[m.channel].append(m["i"]))
        for i in range(200):
            broker.publish(f"agents/MG{i % 8}/action", {"i": i})
        await until(lambda: sum(map(len, got.values())) == 200)
    assert all(numbers == sorted(numbers) for numbers in got.values())
    assert len(got) == 8


async def test_other_clients_find_the_channel_as_key_in_the_topic_of_its_prefix(
    kafka_server: KafkaServer, env_id: str
) -> None:
    got: list[Received] = []
    async with KafkaBroker(kafka_server.url, env_id=env_id) as broker:
        await broker.subscribe("agents/#", got.append)
        await broker.publish("agents/MG1/action", {"p_gen": 1.5})
        topic = f"heron.{env_id}.agents"
        async with AIOKafkaConsumer(
            topic, bootstrap_servers=kafka_server.address, auto_offset_reset="earliest"
        ) as consumer:
            record = await asyncio.wait_for(consumer.getone(), 20)
        assert (record.key, record.value) == (b"agents/MG1/action", b'{"p_gen":1.5}')
        async with AIOKafkaProducer(bootstrap_servers=kafka_server.address) as producer:
            for payload in (b"\xff", b"[1]", b'{"i": 1}'):
                await producer.send_and_wait(topic, payload, b"agents/MG2/action")
        await until(lambda: len(got) == 2)
        assert (got[1], got[1].channel) == ({"i": 1}, "agents/MG2/action")
        assert broker.stats.rejected == 2


async def test_nobody_there_and_somebody_else_there_are_said(embedded_url: str) -> None:
    with pytest.raises(BrokerUnavailable, match=r"no answer as Kafka at kafka://127\.0\.0\.1:"):
        await KafkaBroker([f"127.0.0.1:{free_port()}"]).connect()
    with pytest.raises(BrokerUnavailable, match="Kafka"):
        await KafkaBroker(embedded_url.replace("mqtt", "kafka"), connect_timeout_s=1.0).connect()


async def test_a_name_that_kafka_does_not_take_is_refused(kafka_server: KafkaServer) -> None:
    async with KafkaBroker(kafka_server.url) as broker:
        with pytest.raises(BrokerRefused, match="longer than 249"):
            await broker.publish("x" * 300, {})
        with pytest.raises(UnsupportedFeature, match="end of the log"):
            broker.publish("c", {}, retain=True)


def test_a_run_over_it_earns_what_direct_calls_earn(kafka_server: KafkaServer) -> None:
    over_kafka = run_heron("run", "--steps", "4", "--broker", kafka_server.url, "--json")
    assert over_kafka.code == 0, over_kafka.err
    direct = run_heron("run", "--steps", "4", "--centralized", "--json").result
    assert over_kafka.result["rewards"] == pytest.approx(direct["rewards"], abs=1e-9)


@pytest.mark.slow_but("hardware", "an agent elsewhere")
@pytest.mark.parametrize("what", REFUSED)
def test_hardware_and_agents_elsewhere_are_refused_in_one_line(
    kafka_server: KafkaServer, what: str, tmp_path: Path
) -> None:
    """No program would learn later of a stop, nor that the other end was killed."""
    assert_refused(kafka_server.url, tmp_path, what, "Kafka keeps no message")


async def test_a_bridge_to_hardware_is_refused_before_it_has_written_anything(
    kafka_server: KafkaServer,
) -> None:
    said = "Kafka keeps no message for clients that connect later and no last will"
    await assert_bridge_refused(kafka_server.url, said)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"bootstrap_servers": "mqtt://h"}, "is no Kafka address"),
        ({"bootstrap_servers": []}, "is no Kafka address"),
        ({"partitions": 0}, "partitions 0: expected at least 1"),
        ({"sasl_mechanism": "x"}, "sasl_mechanism 'x': expected PLAIN"),
    ],
)
def test_a_wrong_argument_is_refused(arguments: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=f"KafkaBroker: .*{said}"):
        KafkaBroker(**arguments)  # type: ignore[arg-type]

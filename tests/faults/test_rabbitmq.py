"""A broker whose retained messages a device would not find (RabbitMQ 3.10) is refused, in the right words."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from heron_mqtt.errors import BrokerUnavailable
from heron_mqtt.messaging.mqtt import MqttBroker
from support.heron_command import run_heron
from support.mosquitto_server import Mosquitto
from support.rabbitmq_wire import rabbit_node

BY_WILDCARD = "a retained message is not found by a wildcard over another connection"
WHY = "an emergency stop would not reach a device that connects later"


async def test_a_run_refuses_it_before_anything_is_sent(own_mosquitto: Callable[..., Mosquitto]) -> None:
    server = own_mosquitto()
    async with rabbit_node(server.port) as url:
        ended = await asyncio.to_thread(run_heron, "run", "--steps", "2", "--broker", url)
        async with MqttBroker(server.url, env_id="three_microgrids") as left:
            found: list[str] = []
            await left.subscribe("#", lambda message: found.append(message.channel))
            await left.publish("run/probe", {})  # what is retained has come when this comes
            while "run/probe" not in found:
                await asyncio.sleep(0.01)
    assert ended.code == 1
    (said,) = ended.errors
    assert BY_WILDCARD in said
    assert WHY in said
    assert "--accept-broker-limits" in said
    assert found == ["run/probe"], "nothing was sent, nothing is left behind"


@pytest.mark.slow
async def test_who_accepts_its_limits_is_warned_and_may_run(own_mosquitto: Callable[..., Mosquitto]) -> None:
    arguments = ("run", "--steps", "2", "--devices", "simulated", "--accept-broker-limits")
    async with rabbit_node(own_mosquitto().port) as url:
        ended = await asyncio.to_thread(run_heron, *arguments, "--broker", url)
    assert ended.code == 0
    assert f"WARNING {url}: {BY_WILDCARD}: {WHY} (accepted)" in ended.out + ended.err


@pytest.mark.slow
async def test_the_doctor_names_what_each_node_lacks(
    own_mosquitto: Callable[..., Mosquitto], tmp_path: Path
) -> None:
    server = own_mosquitto()
    async with rabbit_node(server.port) as one, rabbit_node(server.port, keeps=False) as other:
        hosts = [url.removeprefix("mqtt://") for url in (one, other)]
        url = f"mqtt://{','.join(hosts)}"
        done = await asyncio.to_thread(run_heron, "doctor", "--broker", url, "--json", cwd=tmp_path)
    assert done.code == 1
    found = {finding["check"]: finding for finding in json.loads(done.out)["findings"]}
    assert found["retained by wildcard"]["verdict"] == "no-go"
    assert BY_WILDCARD in found["retained by wildcard"]["what"]
    assert found[f"host {hosts[0]}"]["verdict"] == "no-go"
    assert f"{hosts[1]} has no retained message of it by its name" in found[f"host {hosts[0]}"]["what"]
    assert f"{hosts[0]} has no retained message of it by a wildcard" in found[f"host {hosts[1]}"]["what"]
    assert found["left behind"]["verdict"] == "go"


@pytest.mark.slow
async def test_hosts_of_two_brokers_are_not_one(own_mosquitto: Callable[..., Mosquitto]) -> None:
    hosts = [own_mosquitto().url.removeprefix("mqtt://") for _ in range(2)]
    url = f"mqtt://{','.join([*hosts, '127.0.0.1:1'])}"
    done = await asyncio.to_thread(run_heron, "doctor", "--broker", url, "--json")
    found = {finding["check"]: finding for finding in json.loads(done.out)["findings"]}
    assert done.code == 1
    for here, there in (hosts, hosts[::-1]):
        assert found[f"host {here}"]["verdict"] == "no-go"
        assert f"{there} does not receive what is published here" in found[f"host {here}"]["what"]
    assert found["host 127.0.0.1:1"]["verdict"] == "note"
    assert found["no login at 127.0.0.1:1"]["verdict"] == "not tried", "nobody was refused there"


@pytest.mark.slow
async def test_one_broker_with_two_addresses_is_one(own_mosquitto: Callable[..., Mosquitto]) -> None:
    server = own_mosquitto()
    hosts = [f"127.0.0.1:{server.port}", f"localhost:{server.port}"]
    done = await asyncio.to_thread(run_heron, "doctor", "--broker", f"mqtt://{','.join(hosts)}", "--json")
    assert done.code == 0
    found = {finding["check"]: finding for finding in json.loads(done.out)["findings"]}
    assert [found[f"host {host}"]["verdict"] for host in hosts] == ["go", "go"]


async def test_mqtt_5_is_named_as_a_cause_where_it_is_sent_away(
    own_mosquitto: Callable[..., Mosquitto],
) -> None:
    async with rabbit_node(own_mosquitto().port) as url:
        with pytest.raises(BrokerUnavailable, match=r"it may know only MQTT 3\.1\.1"):
            await MqttBroker(url, protocol="5").connect()

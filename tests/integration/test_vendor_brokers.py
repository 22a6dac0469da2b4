"""A vendor's device on a broker of its own, with a login of its own."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest

from heron_mqtt.app.vendor_adapters import load_mappings, vendor_devices
from heron_mqtt.errors import BrokerRefused, BrokerUnavailable, ConfigError
from heron_mqtt.messaging import topics
from heron_mqtt.messaging.mqtt import MqttBroker
from powergrid.scenario import LoadedScenario, scenario_from_dict
from support import waiting
from support.mosquitto_server import Mosquitto
from support.small_grid import scenario

METER = {
    "name": "meter",
    "telemetry": [{"topic": "meter/p", "format": "text", "fields": {"p_mw": {"unit": "W", "sign": -1}}}],
}
pytestmark = pytest.mark.skipif(shutil.which("mosquitto_passwd") is None, reason="needs mosquitto_passwd")


@pytest.fixture
def own_broker(own_mosquitto: Callable[..., Mosquitto], tmp_path: Path) -> Mosquitto:
    """A broker that lets in the user gx with the password s3cret, and no one else."""
    file = tmp_path / "passwords"
    subprocess.run(["mosquitto_passwd", "-b", "-c", str(file), "gx", "s3cret"], check=True)
    file.chmod(0o644)
    return own_mosquitto("allow_anonymous false", f"password_file {file}")


def loaded(env_id: str, **device: Any) -> LoadedScenario:
    prefix = "microgrids.MG1.devices.ess"
    changes = {"env_id": env_id, **{f"{prefix}.{key}": value for key, value in device.items()}}
    return scenario_from_dict(
        scenario({f"{prefix}.authority": "shadow", f"{prefix}.mapping": METER, **changes})
    )


async def test_a_device_is_read_on_its_own_broker_and_told_of_on_the_broker_of_the_run(
    mosquitto: Mosquitto, own_broker: Mosquitto, env_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GX_PASSWORD", "s3cret")
    monkeypatch.setenv("HERON_MQTT_USERNAME", "somebody-else")  # of the broker of the run
    table = {"url": own_broker.url, "username": "gx", "password_env": "GX_PASSWORD"}
    telemetry: list[Any] = []
    meter = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
    meter.username_pw_set("gx", "s3cret")
    meter.connect("127.0.0.1", own_broker.port)
    meter.loop_start()
    try:
        async with MqttBroker(mosquitto.url, env_id=env_id) as broker:
            await broker.subscribe(topics.device("MG1", "ess", "telemetry"), telemetry.append)
            async with vendor_devices(broker, loaded(env_id, broker=table), ["MG1"]) as adapters:
                assert len(adapters) == 1
                while not telemetry:
                    meter.publish("meter/p", "1500")
                    await asyncio.sleep(0.05)
                await waiting.until(lambda: telemetry[-1]["p_mw"] == -0.0015, "what it measured")
    finally:
        meter.disconnect()
        meter.loop_stop()


async def test_a_wrong_login_of_a_device_is_told_with_the_device(
    mosquitto: Mosquitto, own_broker: Mosquitto, env_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GX_PASSWORD", "wrong-password")
    table = {"url": own_broker.url, "username": "gx", "password_env": "GX_PASSWORD"}
    async with MqttBroker(mosquitto.url, env_id=env_id) as broker:
        with pytest.raises((BrokerRefused, BrokerUnavailable), match="MG1/ess: its own broker") as caught:
            await vendor_devices(broker, loaded(env_id, broker=table), ["MG1"]).__aenter__()
    assert "wrong-password" not in str(caught.value)


async def test_a_password_that_is_not_in_the_environment_is_asked_for_by_name(
    mosquitto: Mosquitto, env_id: str
) -> None:
    table = {"url": "mqtt://127.0.0.1:1", "username": "gx", "password_env": "NOT_SET_HERE"}
    async with MqttBroker(mosquitto.url, env_id=env_id) as broker:
        with pytest.raises(ConfigError, match=r"MG1/ess: broker\.password_env: .*NOT_SET_HERE is not set"):
            await vendor_devices(broker, loaded(env_id, broker=table), ["MG1"]).__aenter__()


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ({"url": "mqtt://gx:s3cret@127.0.0.1"}, "no user or password in the URL"),
        ({"url": "http://127.0.0.1"}, "expected mqtt://"),
        ({"url": "mqtt://127.0.0.1", "password_env": "X"}, "username: missing"),
        ({"url": "mqtts://127.0.0.1", "ca": "nothing.pem"}, "no such file"),
        ({"url": "mqtt://127.0.0.1", "ca": "nothing.pem"}, "are for TLS"),
        ({"url": "mqtt://127.0.0.1", "password": "s3cret"}, "broker.password: unknown key"),
    ],
)
def test_a_mistake_in_the_table_of_a_broker_is_named(table: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_mappings(loaded("x", broker=table))
    text = str(caught.value)
    assert "microgrids.MG1.devices.ess.broker" in text
    assert problem in text
    assert "s3cret" not in text


def test_a_broker_without_a_mapping_is_refused() -> None:
    table = {"microgrids.MG1.devices.ess.broker": {"url": "mqtt://127.0.0.1"}}
    with pytest.raises(ConfigError, match="'broker' is for a device with a mapping"):
        scenario_from_dict(scenario(table))


def test_a_broker_inside_the_mapping_is_told_where_it_belongs() -> None:
    with pytest.raises(
        ConfigError, match=r"belongs beside the mapping: \[microgrids.MG1.devices.ess.broker\]"
    ):
        load_mappings(loaded("x", mapping={**METER, "broker": "mqtt://192.0.2.7:1883"}))


async def test_a_sparkplug_node_that_waits_for_its_host_is_told_that_it_is_there(
    mosquitto: Mosquitto, env_id: str
) -> None:
    topic = f"spBv1.0/STATE/{env_id}"
    heard: list[tuple[dict[str, Any], bool]] = []
    node = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
    node.on_message = lambda _c, _d, m: heard.append((json.loads(m.payload), bool(m.retain)))
    node.connect("127.0.0.1", mosquitto.port)
    node.loop_start()
    try:
        async with MqttBroker(mosquitto.url, env_id=env_id) as broker:
            mapping = {**METER, "sparkplug": {"host_id": env_id}}
            async with vendor_devices(broker, loaded(env_id, mapping=mapping), ["MG1"]):
                node.subscribe(topic, 1)
                await waiting.until(lambda: heard, "the state")
            await waiting.until(lambda: len(heard) == 2, "the end")
    finally:
        node.publish(topic, b"", retain=True)
        node.disconnect()
        node.loop_stop()
    (online, was_kept), (offline, _) = heard
    assert (online["online"], was_kept, offline["online"]) == (True, True, False)
    assert online["timestamp"] == offline["timestamp"]

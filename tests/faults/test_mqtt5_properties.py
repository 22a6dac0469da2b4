"""Metadata and expiry as an MQTT 5 broker and a plain client see them; the payload stays as it is."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest

from heron_mqtt.field.device import FieldDevice
from heron_mqtt.messages import Telemetry
from heron_mqtt.messaging.mqtt import MqttBroker
from support.mosquitto_server import Mosquitto
from support.waiting import until


class Seen:
    """Plain paho, MQTT 5: keeps payload and properties of everything below an environment."""

    def __init__(self, port: int, env_id: str) -> None:
        self.messages: list[paho.MQTTMessage] = []
        ready = threading.Event()
        self._client = paho.Client(paho.CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        self._client.on_message = lambda _c, _d, m: self.messages.append(m)
        self._client.on_subscribe = lambda *_: ready.set()
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        self._client.subscribe(f"heron/{env_id}/#", qos=1)
        assert ready.wait(30.0)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def on(self, end: str) -> list[tuple[bytes, dict[str, str], int | None]]:
        """Return payload, user properties and expiry of the messages on topics with this end."""
        return [
            (m.payload, dict(getattr(m.properties, "UserProperty", [])),
             getattr(m.properties, "MessageExpiryInterval", None))
            for m in self.messages
            if m.topic.endswith(end)
        ]  # fmt: skip


@pytest.fixture
def seen(mosquitto: Mosquitto, env_id: str) -> Iterator[Seen]:
    made = Seen(mosquitto.port, env_id)
    yield made
    made.close()


async def test_metadata_goes_beside_the_payload_which_stays(
    mosquitto: Mosquitto, env_id: str, seen: Seen
) -> None:
    message = {"type": "action", "p_ess": 0.001, "sender": "MG1", "boot": "b7", "seq": 3, "step": 4}
    for protocol in ("3.1.1", "5"):
        async with MqttBroker(mosquitto.url, env_id=env_id, protocol=protocol) as broker:
            await broker.publish("agents/MG1/action", message)
            await broker.publish("agents/MG1/plan", {"type": "plan", "seq": 1}, qos=2)
    await until(lambda: len(seen.messages) == 4)
    (old, _, _), (new, said, expiry) = seen.on("action")
    assert old == new
    assert said == {"type": "action", "sender": "MG1", "boot": "b7", "seq": "3", "step": "4"}
    assert expiry is None
    assert seen.on("plan")[1][1] == {"type": "plan", "seq": "1"}


@pytest.mark.parametrize("outbox", [False, True])
async def test_telemetry_expires_unless_it_may_come_late(
    mosquitto: Mosquitto, env_id: str, seen: Seen, tmp_path: Path, outbox: bool
) -> None:
    """The broker must not keep measurements of now for a client that is away; those of an outbox it may."""

    class Meter(FieldDevice):
        def measure(self) -> Telemetry:
            return Telemetry(p_mw=0.001)

        async def apply(self, setpoint: Any) -> None: ...

    options: dict[str, Any] = {"outbox": tmp_path / "outbox"} if outbox else {}
    async with MqttBroker(mosquitto.url, env_id=env_id, protocol="5", **options) as broker:
        device = Meter("MG1", "ess", broker, env_id=env_id, period_s=0.05)
        serving = asyncio.create_task(device.run())
        await until(lambda: len(seen.on("telemetry")) > 3)
        serving.cancel()
        await asyncio.wait([serving])
    expiries = {expiry for _, _, expiry in seen.on("telemetry")}
    assert expiries == ({None} if outbox else {2})

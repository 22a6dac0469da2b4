"""A presence that has passed to another program: nothing left of the first one speaks for the second."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import pytest

from heron_mqtt.errors import Displaced
from heron_mqtt.field.device import FieldDevice
from heron_mqtt.messages import Setpoint, Status, Telemetry
from heron_mqtt.messaging import topics
from heron_mqtt.messaging.base import MessageBroker, Received
from heron_mqtt.messaging.mqtt import MqttBroker
from heron_mqtt.messaging.stamping import MessageStamper
from support.waiting import until

STATUS = topics.device("MG1", "ess", "status")
ONLINE, OFFLINE = {"state": "online"}, {"state": "offline"}


class Idle(FieldDevice):
    """Does nothing."""

    def apply(self, setpoint: Setpoint) -> None:
        pass

    def measure(self) -> Telemetry:
        return Telemetry(p_mw=0.0)


class Heard:
    """What is said on the status channel, and what the broker keeps."""

    def __init__(self, broker: MessageBroker) -> None:
        self._broker = broker
        self.said: list[Received] = []

    async def __aenter__(self) -> Heard:
        await self._broker.connect()
        await self._broker.subscribe(STATUS, self.said.append)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._broker.close()

    def births(self, boot: str) -> int:
        return len([m for m in self.said if m.get("boot") == boot])

    def has_said_more(self, boot: str, than: int) -> bool:
        return self.births(boot) > than

    @property
    def last(self) -> dict[str, Any]:
        return self.said[-1] if self.said else {}


def device(broker: MessageBroker, env_id: str, boot: str) -> Idle:
    stamper = MessageStamper("MG1/ess", env_id, boot=boot)
    return Idle("MG1", "ess", broker, env_id=env_id, stamper=stamper, take_over=True)


async def test_a_presence_that_is_another_ones_says_nothing_any_more(broker: MessageBroker) -> None:
    got: list[str] = []
    end: list[Received] = []
    await broker.subscribe(STATUS, lambda m: got.append(m["state"]))
    announcement = await broker.announce(STATUS, ONLINE, OFFLINE)
    await until(lambda: got == ["online"])
    announcement.disown()
    announcement.disown()
    await announcement.update({"state": "fault"})
    announcement.repeat()
    await announcement.withdraw()
    await broker.subscribe("end", end.append)
    await broker.publish("end", {})
    await until(lambda: end)
    assert got == ["online"]


async def test_no_will_is_left_by_a_program_that_fails_after_another_one_took_its_presence(
    mqtt_kind: Any,
) -> None:
    async with Heard(mqtt_kind.make()) as heard:
        old: MqttBroker = mqtt_kind.make()
        await old.connect()
        announcement = await old.announce(STATUS, ONLINE, OFFLINE)
        await until(lambda: heard.last.get("state") == "online")
        announcement.disown()
        await old.__aexit__(ZeroDivisionError, ZeroDivisionError(), None)
        async with mqtt_kind.make() as later:
            await later.publish(STATUS, {"state": "fault"})
        await until(lambda: heard.last.get("state") == "fault")
        assert "offline" not in [m["state"] for m in heard.said]


async def test_a_displaced_device_whose_program_fails_while_it_cleans_up_leaves_no_will(
    mqtt_kind: Any, env_id: str
) -> None:
    """As a proxy does that was paused, and displaced meanwhile: it ends before its devices have."""
    async with Heard(mqtt_kind.make()) as heard, mqtt_kind.make() as second:
        first = mqtt_kind.make()
        await first.connect()
        old = device(first, env_id, "b1")
        old._leave = asyncio.Event().wait  # type: ignore[assignment]  # it does not come so far
        running = asyncio.create_task(old.run())
        await until(lambda: heard.last.get("boot") == "b1")
        successor = asyncio.create_task(device(second, env_id, "b2").run())
        await until(lambda: heard.last.get("boot") == "b2")
        running.cancel()
        await first.__aexit__(Displaced, Displaced("as the program of an agent ends"), None)
        await asyncio.sleep(0)
        successor.cancel()
        await asyncio.wait([running, successor])
        await until(lambda: heard.last.get("state") == "offline")
        assert [m.get("boot") for m in heard.said if m["state"] == "offline"] == ["b2"], "its own goodbye"


@pytest.mark.parametrize(
    "spoken",
    [
        {"state": "offline"},
        {"state": "offline", "boot": "b1"},
        {"state": "online", "boot": "b1"},
        {"state": "fault", "boot": "b1"},
    ],
)
async def test_a_device_that_another_one_speaks_for_says_again_that_it_is_there(
    mqtt_kind: Any, env_id: str, spoken: dict[str, Any]
) -> None:
    """The will of a program that stood still comes after its successor was born, and the broker keeps it."""
    async with Heard(mqtt_kind.make()) as heard, mqtt_kind.make() as broker, mqtt_kind.make() as other:
        running = asyncio.create_task(device(broker, env_id, "b2").run())
        await until(lambda: heard.last.get("boot") == "b2")
        for _ in range(2):  # the second time it is answered a second later
            births = heard.births("b2")
            await other.publish(STATUS, spoken, retain=True)
            await until(partial(heard.has_said_more, "b2", births))
            assert heard.last["state"] == "online"
        running.cancel()
        await asyncio.wait([running])
        await until(lambda: heard.last.get("state") == "offline")
        assert heard.last["boot"] == "b2", "its own is not answered"


async def test_a_will_names_whose_it_is(mqtt_kind: Any, env_id: str) -> None:
    """So that what comes late can be told from the will of the one that lives."""
    async with Heard(mqtt_kind.make()) as heard:
        broker: MqttBroker = mqtt_kind.make()
        await broker.connect()
        stamper = MessageStamper("MG1/ess", env_id, boot="b1")
        will = stamper.will(Status(state="offline"))
        await broker.announce(STATUS, stamper.presence(Status(state="online")), will)
        await until(lambda: heard.last.get("state") == "online")
        await broker.__aexit__(ZeroDivisionError, ZeroDivisionError(), None)
        await until(lambda: heard.last.get("state") == "offline")
        assert heard.last["boot"] == "b1"

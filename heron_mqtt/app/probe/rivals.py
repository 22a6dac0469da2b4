"""Other programs that may drive a device: stops and leases at its broker, and its command topics."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol

from heron_mqtt.app.operator_client.environments import EnvironmentSeen
from heron_mqtt.app.operator_client.observer import Heard, Observer
from heron_mqtt.app.operator_client.text import printable
from heron_mqtt.app.vendor_links import connection_to
from heron_mqtt.field.modbus.address_table import DeviceModbusTable
from heron_mqtt.field.modbus.registers import Registers
from heron_mqtt.field.vendor.device_mapping import DeviceMapping
from heron_mqtt.field.vendor.link import MqttLink, OnPoll, OnRawMessage, VendorLink
from heron_mqtt.field.vendor.modbus_link import ModbusLink
from heron_mqtt.field.vendor.outgoing import DeviceCommand
from heron_mqtt.messaging import topics
from heron_mqtt.messaging.mqtt.options import MqttOptions
from heron_mqtt.messaging.mqtt.raw import RawCallback, RawMqtt

MAX_ENVIRONMENTS = 1_000


class RivalWatch:
    """Finds other programs that drive a device.

    Args:
        options: Of the connection.
        label: AGENT/DEVICE.
        boot: Of the test's own setpoints, which are none of another one.
    """

    def __init__(self, options: MqttOptions, label: str, boot: str) -> None:
        self.on_command: str | None = None
        """What another program has written on a command topic of the device."""
        self._label = label
        self._boot = boot
        self._seen: dict[str, EnvironmentSeen] = {}
        self._setpoint: str | None = None
        agent, _, device = label.partition("/")
        self._setpoint_channel = topics.device(agent, device, "setpoint")
        self.observer = Observer(
            options,
            None,
            (topics.ESTOP, *(topics.device(agent, device, leaf) for leaf in ("setpoint", "status", "lease"))),
            self._take,
            needs_all=False,
        )

    def _take(self, heard: Heard) -> None:
        if heard.env_id not in self._seen and len(self._seen) >= MAX_ENVIRONMENTS:
            return
        if heard.channel != self._setpoint_channel:
            self._seen.setdefault(heard.env_id, EnvironmentSeen(heard.env_id)).take(heard)
        elif not heard.retained and heard.fields is not None and heard.fields.get("boot") != self._boot:
            who = printable(heard.fields.get("sender") or "an unnamed sender", 100)
            self._setpoint = f"{who} sends setpoints to {self._label} in environment {heard.env_id!r}"

    def refusal(self) -> str | None:
        """Return why nothing may be sent now; None = nothing is in the way."""
        for env_id, seen in self._seen.items():
            if seen.stop.stop is not None:
                who = printable(seen.stop.stop.who or "an unnamed operator", 100)
                return f"an emergency stop by {who} is in force in environment {env_id!r}"
            device = seen.devices.get(self._label)
            lease = None if device is None else device.lease
            if device is None or not device.is_present or lease is None or lease.state != "held":
                continue
            if lease.holder_boot != self._boot:
                who = printable(lease.holder or "an unnamed sender", 100)
                return f"{who} holds the lease on {self._label} in environment {env_id!r}"
        return self._setpoint or self.on_command


class BoxConnection(Protocol):
    """The connection to a device while a setpoint is tried."""

    commands_sent: int
    """Our messages to the device, without keepalives."""

    @property
    def link(self) -> VendorLink:
        """What the adapter sends by."""

    @property
    def connected(self) -> bool:
        """Whether there is a connection now."""

    def connection(self) -> AbstractAsyncContextManager[None]:
        """Be connected while inside."""

    def watch_commands(self) -> list[Callable[[], None]]:
        """Begin to look for messages of others to the device; returns a function that ends it."""


class OwnRegisters:
    """The registers of a device; writes of others cannot be seen.

    Args:
        table: Where the device is.
        mapping: Of its registers.

    Raises:
        ConfigError: pymodbus is not installed.
    """

    def __init__(self, table: DeviceModbusTable, mapping: DeviceMapping) -> None:
        self._connection = connection_to(table)
        self._link = ModbusLink(Registers(self._connection, table.unit), mapping)
        self.peer = self._link.peer
        self.commands_sent = 0

    @property
    def link(self) -> VendorLink:
        """This; it counts what is sent."""
        return self

    @property
    def connected(self) -> bool:
        """Whether the device answers."""
        return self._link.connected

    @property
    def connects_to_send(self) -> bool:
        """See ``VendorLink``."""
        return self._link.connects_to_send

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[None]:
        """Read the registers while inside."""
        try:
            async with self._link:
                yield
        finally:
            self._connection.close()

    def watch_commands(self) -> list[Callable[[], None]]:
        """Nothing can be seen."""
        return []

    def send(self, message: DeviceCommand, *, not_after: float) -> asyncio.Future[None]:
        """See ``VendorLink``."""
        self.commands_sent += bool(message.meaning)  # a keepalive has none
        return self._link.send(message, not_after=not_after)

    def look_now(self) -> None:
        """See ``VendorLink``."""
        self._link.look_now()

    def listen(
        self, topics: tuple[str, ...], heard: OnRawMessage, polled: OnPoll
    ) -> list[Callable[[], None]]:
        """See ``VendorLink``."""
        return self._link.listen(topics, heard, polled)

    def on_return(self, callback: Callable[[], None]) -> Callable[[], None]:
        """See ``VendorLink``."""
        return self._link.on_return(callback)


class OwnMessages:
    """A connection to a device that distinguishes our messages on its command topics from those of others.

    Args:
        raw: The connection.
        mapping: Names the command topics.
        watch: Called with messages of others.
    """

    def __init__(self, raw: RawMqtt, mapping: DeviceMapping, watch: RivalWatch) -> None:
        self._raw = raw
        self._watch = watch
        self._sent: set[tuple[str, bytes]] = set()
        self.commands_sent = 0
        """Messages of ours on command topics."""
        self._filters = mapping.command_filters()

    @property
    def link(self) -> VendorLink:
        """What the adapter sends by."""
        return MqttLink(self)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[None]:
        """Be connected while inside."""
        async with self._raw:
            yield

    def watch_commands(self) -> list[Callable[[], None]]:
        """Begin to listen on the command topics; returns what ends it."""
        return [self._raw.subscribe_raw(each, self._on_command) for each in self._filters]

    def _on_command(self, topic: str, payload: bytes, retained: bool) -> None:
        if not retained and (topic, payload) not in self._sent:
            shown = printable(payload[:60].decode(errors="replace"), 60)
            self._watch.on_command = (
                f"another client writes to the device: {shown!r} on {printable(topic, 100)}"
            )

    @property
    def connected(self) -> bool:
        """Whether there is a connection now."""
        return self._raw.connected

    def publish_raw(
        self, topic: str, payload: bytes, *, qos: int, retain: bool, not_after: float | None = None
    ) -> asyncio.Future[None]:
        """See ``RawMqtt``."""
        if any(topics.matches(each, topic) for each in self._filters):
            self._sent.add((topic, payload))
            self.commands_sent += 1
        return self._raw.publish_raw(topic, payload, qos=qos, retain=retain, not_after=not_after)

    def subscribe_raw(self, topic: str, callback: RawCallback) -> Callable[[], None]:
        """See ``RawMqtt``."""
        return self._raw.subscribe_raw(topic, callback)

    def on_reconnect(self, callback: Callable[[], None]) -> Callable[[], None]:
        """See ``RawMqtt``."""
        return self._raw.on_reconnect(callback)

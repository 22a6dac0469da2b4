"""Who else may drive a box: stops and leases of every environment at its broker, and its command topics."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from heron_mqtt.app.operator_client.environments import EnvironmentSeen
from heron_mqtt.app.operator_client.observer import Heard, Observer
from heron_mqtt.app.operator_client.text import printable
from heron_mqtt.field.vendor.mapping import DeviceMapping
from heron_mqtt.messaging import topics
from heron_mqtt.messaging.mqtt.options import MqttOptions
from heron_mqtt.messaging.mqtt.raw import RawCallback, RawMqtt

MAX_ENVIRONMENTS = 1_000


class RivalWatch:
    """Hears who else drives a box.

    Args:
        options: Of the connection.
        label: AGENT/DEVICE.
        boot: Of the test's own setpoints, which are none of another one.
    """

    def __init__(self, options: MqttOptions, label: str, boot: str) -> None:
        self.on_command: str | None = None
        """What another one wrote on a command topic of the box."""
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
            who = printable(heard.fields.get("sender") or "somebody by hand", 100)
            self._setpoint = f"{who} sends setpoints to {self._label} in environment {heard.env_id!r}"

    def refusal(self) -> str | None:
        """Return why nothing may be sent now; None = nothing is in the way."""
        for env_id, seen in self._seen.items():
            if seen.stop.stop is not None:
                who = printable(seen.stop.stop.who or "somebody", 100)
                return f"an emergency stop by {who} is in force in environment {env_id!r}"
            device = seen.devices.get(self._label)
            lease = None if device is None else device.lease
            if device is None or not device.is_present or lease is None or lease.state != "held":
                continue
            if lease.holder_boot != self._boot:
                who = printable(lease.holder or "somebody by hand", 100)
                return f"{who} holds the lease on {self._label} in environment {env_id!r}"
        return self._setpoint or self.on_command


class OwnMessages:
    """A connection to a box that tells messages of ours on its command topics from those of others.

    Args:
        raw: The connection.
        mapping: Names the command topics.
        watch: Is told of the others.
    """

    def __init__(self, raw: RawMqtt, mapping: DeviceMapping, watch: RivalWatch) -> None:
        self._raw = raw
        self._watch = watch
        self._sent: set[tuple[str, bytes]] = set()
        self.commands_sent = 0
        """Messages of ours on command topics."""
        self._filters = mapping.command_filters()

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
            self._watch.on_command = f"somebody else writes to the box: {shown!r} on {printable(topic, 100)}"

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

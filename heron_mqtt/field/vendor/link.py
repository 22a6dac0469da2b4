"""How a vendor's device is reached: over MQTT, or by its registers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from heron_mqtt.errors import HeronError
from heron_mqtt.field.vendor.cleaning_keys import Scalar
from heron_mqtt.field.vendor.outgoing import DeviceCommand, Outgoing


class NotTaken(HeronError):
    """The device, or its connection, did not accept a message; says why.

    Args:
        text: For people.
        was_heard: Whether the device may have heard and refused it; False = nothing was answered.
        in_part: Whether it has taken a part of it, or may have.
    """

    def __init__(self, text: str, *, was_heard: bool = True, in_part: bool = False) -> None:
        self.was_heard = was_heard
        self.in_part = in_part
        super().__init__(text)


@dataclass(frozen=True, slots=True)
class RegisterPoll:
    """What was read of some registers at one time.

    Attributes:
        source: Which: where a topic would stand.
        at_s: When the reading began, by the clock of leases (``steady_clock``): what is in it is at least so
            old.
        values: Register -> what it holds, not cleaned; None = "not available".
        shown: Register -> the words as they are, for people.
        unread: Why something could not be read -> the registers that it harms.
    """

    source: str
    at_s: float
    values: Mapping[str, Scalar | None]
    shown: Mapping[str, str] = field(default_factory=dict)
    unread: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


OnRawMessage = Callable[[str, bytes, bool], None]
"""Called with topic, payload and whether the broker had kept it."""
OnPoll = Callable[[RegisterPoll], None]


class VendorLink(Protocol):
    """What leads to a vendor's device."""

    @property
    def peer(self) -> str:
        """What it connects to, for messages."""

    @property
    def connected(self) -> bool:
        """Whether what is sent now would arrive."""

    @property
    def connects_to_send(self) -> bool:
        """Whether a message makes the connection that it needs: nothing would wait and arrive later."""

    def send(self, message: DeviceCommand, *, not_after: float) -> asyncio.Future[None]:
        """Send one message by ``not_after`` (the loop's clock, s) or never; they keep their order.

        What is returned is done when the broker has it, or the device has taken it. It raises
        ``BrokerError`` or ``NotTaken`` and may be ignored.
        """

    def look_now(self) -> None:
        """Have the device asked at once for what it is asked for now and then; nothing if it is not asked."""

    def listen(
        self, topics: tuple[str, ...], heard: OnRawMessage, polled: OnPoll
    ) -> list[Callable[[], None]]:
        """Call back for each message of the device; returns functions that end this."""

    def on_return(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call back after each reconnection; returns a function that ends this."""


class VendorMqtt(Protocol):
    """MQTT as it is, for topics that are not ours; ``heron_mqtt.messaging.mqtt.raw.RawMqtt`` is one."""

    @property
    def connected(self) -> bool:
        """Whether there is a connection now."""

    def publish_raw(
        self, topic: str, payload: bytes, *, qos: int, retain: bool, not_after: float | None = None
    ) -> asyncio.Future[None]:
        """Publish bytes to a topic, by ``not_after`` (the loop's clock, s) or never.

        What is returned is done when the broker has them, and may be ignored.
        """

    def subscribe_raw(self, topic: str, callback: OnRawMessage) -> Callable[[], None]:
        """Call back, in the broker's loop, for every message on a filter; returns the unsubscribe."""

    def on_reconnect(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call back after each reconnection; returns what ends that."""


class MqttLink:
    """A device by its own topics.

    Args:
        raw: Connected to its broker.
    """

    peer = "the device's broker"

    def __init__(self, raw: VendorMqtt) -> None:
        self._raw = raw

    @property
    def connected(self) -> bool:
        """Whether there is a connection now."""
        return self._raw.connected

    @property
    def connects_to_send(self) -> bool:
        """Whether a message connects: none does, it would wait for the connection."""
        return False

    def send(self, message: DeviceCommand, *, not_after: float) -> asyncio.Future[None]:
        """Publish it; see ``VendorLink``."""
        assert isinstance(message, Outgoing)
        return self._raw.publish_raw(
            message.topic, message.payload, qos=message.qos, retain=message.retain, not_after=not_after
        )

    def look_now(self) -> None:
        """Nothing: it publishes by itself."""

    def listen(
        self, topics: tuple[str, ...], heard: OnRawMessage, polled: OnPoll
    ) -> list[Callable[[], None]]:
        """Subscribe to topics."""
        return [self._raw.subscribe_raw(topic, heard) for topic in topics]

    def on_return(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call back after each reconnection; returns what ends that."""
        return self._raw.on_reconnect(callback)

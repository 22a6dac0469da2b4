"""What the broker stores of a client: waiting messages, unacknowledged messages, and rights."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from heron_mqtt.messaging.embedded.protocol import packets

if TYPE_CHECKING:
    from heron_mqtt.messaging.embedded.options import Limits
    from heron_mqtt.messaging.embedded.server.accounts import Account
    from heron_mqtt.messaging.embedded.stats import BrokerStats

# Python objects around one message, beside its payload and topic. Measured: 258 bytes while it waits, 385 in
# flight.
MESSAGE_OVERHEAD_BYTES = 400


PUBLISH_QOS1 = packets.PUBLISH << 4 | 1 << 1
_QOS1 = bytes((PUBLISH_QOS1,))

LONGEST_KEPT_HEAD = 256  # bytes: of any topic of a run
ALWAYS_FITS_BYTES = 16 << 10
"""What one session may hold also when all together hold what they may: others have used that up, and a stop
needs little."""


class BrokerMessage:
    """One published message, shared by everyone it goes to."""

    __slots__ = ("_head_qos1", "_packet_qos0", "payload", "qos", "raw_topic", "size", "topic")

    def __init__(self, topic: str, raw_topic: bytes, payload: bytes, qos: int) -> None:
        self.topic = topic
        self.raw_topic = raw_topic
        self.payload = payload
        self.qos = qos
        self.size = len(payload) + len(raw_topic) + MESSAGE_OVERHEAD_BYTES
        self._packet_qos0: bytes | None = None
        self._head_qos1: bytes | None = None

    @classmethod
    def of(cls, topic: str, payload: bytes, qos: int) -> BrokerMessage:
        """Make a message from a topic that is not yet encoded."""
        return cls(topic, topic.encode(), payload, qos)

    def came_as(self, head: bytes) -> None:
        """Take the head of the QoS 1 packet that brought it: it goes out with the same, but for the flags.

        Two heads are not kept: one whose length field has more bytes than it needs, and one with a long
        topic. ``size`` counts a topic once, and a waiting message would contain it once more.
        """
        if len(head) > LONGEST_KEPT_HEAD:
            return
        at = 1
        while head[at] & 0x80:
            at += 1
        if at == 1 or head[at]:
            self._head_qos1 = head if head[0] == PUBLISH_QOS1 else _QOS1 + head[1:]

    def packet_qos0(self, *, retain: bool) -> bytes:
        """Return the whole PUBLISH packet at QoS 0."""
        if retain:
            return (
                packets.publish_head(self.raw_topic, len(self.payload), 0, retain=True, dup=False)
                + self.payload
            )
        packet = self._packet_qos0
        if packet is None:
            head = packets.publish_head(self.raw_topic, len(self.payload), 0, retain=False, dup=False)
            packet = self._packet_qos0 = head + self.payload
        return packet

    def head(self, qos: int, *, retain: bool, dup: bool) -> bytes:
        """Return the PUBLISH packet at QoS 1 or 2 up to its packet identifier."""
        if qos == 1 and not retain and not dup:
            head = self._head_qos1
            if head is None:
                head = self._head_qos1 = packets.publish_head(
                    self.raw_topic, len(self.payload), 1, retain=False, dup=False
                )
            return head
        return packets.publish_head(self.raw_topic, len(self.payload), qos, retain=retain, dup=dup)


class InflightMessage:
    """A message at QoS 1 or 2 on its way to a client that has not acknowledged it."""

    __slots__ = ("message", "qos", "received", "retain")

    def __init__(self, message: BrokerMessage, qos: int, *, retain: bool) -> None:
        self.message = message
        self.qos = qos
        self.retain = retain
        self.received = False  # QoS 2: PUBREC came, PUBREL was sent, PUBCOMP is awaited


class SessionConnection(Protocol):
    """The part of its connection that a session uses."""

    writable: bool

    def send(self, *parts: bytes) -> None:
        """Send bytes before the event loop sleeps again."""

    def end_soon(self, detail: str) -> None:
        """End the connection of a client that does not read, not within this call."""


class Grant(Protocol):
    """What one client may do."""

    def may_publish(self, topic: str) -> bool:
        """Return whether messages to this topic are taken from the client."""

    def may_subscribe(self, topic_filter: str) -> bool:
        """Return whether the client may subscribe to this filter."""

    def may_receive(self, topic: str) -> bool:
        """Return whether messages on this topic are sent to the client."""

    def is_in_charge(self) -> bool:
        """Return whether the client may stop everything."""


class ClientSession:
    """An MQTT session: subscriptions, messages in flight, messages that wait.

    Order is kept: while anything waits, new messages wait behind it. The bounds are those of `Limits`.
    Messages beyond them are counted as dropped. A connected client whose queue fills up loses its connection,
    so that it notices.
    """

    def __init__(self, client_id: str, *, clean: bool, limits: Limits, stats: BrokerStats) -> None:
        self.client_id: str = client_id
        self.clean_session: bool = clean
        self.owner: str | None = None
        self.account: Account | None = None
        self.on_room: Callable[[ClientSession], None] | None = None
        """Called when the client takes messages again; set while retained messages wait for that."""
        self.replays: dict[str, int] = {}
        """Filters whose retained messages are still to be sent, and at which QoS."""
        self.grant: Grant | None = None
        self.will: packets.WillMessage | None = None
        self.connection: SessionConnection | None = None
        self.subscriptions: dict[str, int] = {}
        self.inflight: dict[int, InflightMessage] = {}
        self.incoming_qos2: set[int] = set()
        self.queue: deque[tuple[BrokerMessage, int, bool]] = deque()
        self.held_bytes = 0
        self._limits = limits
        self._stats = stats
        self._last_packet_id = 0

    def belong_to(self, account: Account) -> None:
        """Let what is held for this client count as one user's."""
        if self.account is not None:
            self.account.queued_bytes -= self.held_bytes
        self.account = account
        account.queued_bytes += self.held_bytes

    def deliver(self, message: BrokerMessage, qos: int, *, retain: bool = False) -> None:
        """Send a message to this client, or keep it for when the client can take it."""
        connection = self.connection
        if connection is None:
            if qos == 0 or self.clean_session:
                return
        elif connection.writable and not self.queue:
            if qos == 0:
                self._stats.delivered += 1
                connection.send(message.packet_qos0(retain=retain))
                return
            if len(self.inflight) < self._limits.max_inflight and self._fits(message.size):
                self._hold(message.size)
                self._launch(connection, message, qos, retain=retain)
                return
        if len(self.queue) >= self._limits.max_queued_messages or not self._fits(message.size):
            self._stats.dropped += 1
            if connection is not None and qos:
                connection.end_soon(f"{len(self.queue)} messages wait for it")
            return
        self._hold(message.size)
        self._stats.queued += 1
        self.queue.append((message, qos, retain))

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection that serves it."""
        return self.connection is not None

    def has_room(self) -> bool:
        """Whether a message for this client would be sent at once."""
        return (
            self.connection is not None
            and self.connection.writable
            and not self.queue
            and len(self.inflight) < self._limits.max_inflight
        )

    def go_on(self) -> None:
        """Send what waits, now that the client takes messages again."""
        if self.queue:
            self.pump()
        if self.on_room is not None and self.has_room():
            self.on_room(self)

    def pump(self) -> None:
        """Send what waits, as far as the connection and the in-flight window let it."""
        connection, queue = self.connection, self.queue
        while connection is not None and queue and connection.writable:
            message, qos, retain = queue[0]
            if qos and len(self.inflight) >= self._limits.max_inflight:
                return
            queue.popleft()
            self._stats.queued -= 1
            if qos:
                self._launch(connection, message, qos, retain=retain)
            else:
                self._release(message.size)
                self._stats.delivered += 1
                connection.send(message.packet_qos0(retain=retain))

    def resume(self, connection: SessionConnection) -> None:
        """Serve a new connection: repeat what was not acknowledged, in order, then what waits."""
        self.connection = connection
        for packet_id, flight in self.inflight.items():
            if flight.received:
                connection.send(packets.ack(packets.PUBREL, packet_id))
                continue
            message = flight.message
            head = message.head(flight.qos, retain=flight.retain, dup=True)
            self._stats.delivered += 1
            self._stats.redelivered += 1
            connection.send(head, packet_id.to_bytes(2, "big"), message.payload)
        self.go_on()

    def on_puback(self, packet_id: int) -> None:
        """End a QoS 1 delivery; an unknown identifier is a late repetition and means nothing."""
        flight = self.inflight.get(packet_id)
        if flight is not None and flight.qos == 1:
            del self.inflight[packet_id]
            self._release(flight.message.size)
            if self.queue or self.on_room is not None:
                self.go_on()

    def on_pubrec(self, packet_id: int) -> None:
        """Note that the client has a QoS 2 message, and release it (also one we no longer know)."""
        flight = self.inflight.get(packet_id)
        if flight is not None and flight.qos == 2:
            flight.received = True
        if self.connection is not None:
            self.connection.send(packets.ack(packets.PUBREL, packet_id))

    def on_pubcomp(self, packet_id: int) -> None:
        """End a QoS 2 delivery."""
        flight = self.inflight.get(packet_id)
        if flight is not None and flight.received:
            del self.inflight[packet_id]
            self._release(flight.message.size)
            self.go_on()

    def forget(self) -> None:
        """Drop everything that waits or is in flight."""
        self._stats.queued -= len(self.queue)
        self._release(self.held_bytes)
        self.queue.clear()
        self.inflight.clear()
        self.incoming_qos2.clear()
        self.replays.clear()

    def _launch(
        self, connection: SessionConnection, message: BrokerMessage, qos: int, *, retain: bool
    ) -> None:
        packet_id = self._last_packet_id
        while True:
            packet_id = packet_id % 65_535 + 1
            if packet_id not in self.inflight:
                break
        self._last_packet_id = packet_id
        self.inflight[packet_id] = InflightMessage(message, qos, retain=retain)
        self._stats.delivered += 1
        head = message.head(qos, retain=retain, dup=False)
        connection.send(head, packet_id.to_bytes(2, "big"), message.payload)

    def _fits(self, size: int) -> bool:
        limits, account, held_bytes = self._limits, self.account, self.held_bytes + size
        if held_bytes > limits.max_queued_bytes:
            return False
        if held_bytes <= ALWAYS_FITS_BYTES:
            return True
        if self._stats.queued_bytes + size > limits.max_total_queued_bytes:
            return False
        if account is None or not account.is_limited:
            return True
        return account.queued_bytes + size <= limits.max_user_queued_bytes

    def _hold(self, size: int) -> None:
        self.held_bytes += size
        self._stats.queued_bytes += size
        if self.account is not None:
            self.account.queued_bytes += size

    def _release(self, size: int) -> None:
        self.held_bytes -= size
        self._stats.queued_bytes -= size
        if self.account is not None:
            self.account.queued_bytes -= size

"""The connection of who only watches: it acknowledges nothing, and takes much at a time while much comes."""

from __future__ import annotations

from collections.abc import Callable

from heron_mqtt.messaging.mqtt.connection import Connection, Events
from heron_mqtt.messaging.mqtt.options import LastWill, MqttOptions
from heron_mqtt.messaging.mqtt.socket_stream import Oversized, RawMessage, Stream

MANY_READS, FEW_READS = 500, 30
"""In a second: after more than ``MANY_READS`` they are kept apart, until there are only ``FEW_READS``."""
READ_APART_S = 0.02
"""So long a message waits at most, then, until it is read."""


class WatchingConnection(Connection):
    """Subscribes at QoS 0, which is right for who looks on.

    A broker sends no more than a few messages that are not acknowledged (20, with mosquitto), and drops what
    waits beyond a limit: at QoS 1 a watcher that is slow for a moment loses what the devices themselves
    never lost, and each message costs both ends an acknowledgement. At QoS 0 TCP carries all of them in
    order; what a broker drops even so shows as a gap in the numbers.

    While thousands of messages come in a second, waking for each would cost more than the messages do.

    Args:
        options: As of ``Connection``, like the following two.
        events: Told of what does not come at QoS 0, or not by MQTT 3.1.1.
        will: None = there is none.
        on_messages: Called with what has come in one piece.
    """

    subscribe_qos = 0

    def __init__(
        self,
        options: MqttOptions,
        events: Events,
        will: LastWill | None,
        on_messages: Callable[[list[RawMessage]], None],
    ) -> None:
        super().__init__(options, events, will)
        self._on_messages = on_messages
        self._is_plain = options.protocol != "5"
        self._is_busy = False
        self._reads, self._second = 0, 0

    def _next_packet(self, stream: Stream) -> tuple[int, bytes] | Oversized | None:
        if self._is_plain and (messages := stream.next_publishes()):
            self._on_messages(messages)
        return stream.next_packet()

    def _on_readable(self) -> None:
        super()._on_readable()
        if self.lost.done() or self._stream is None:
            return
        second = int(self._loop.time())
        if second != self._second:
            self._is_busy = self._reads > (FEW_READS if self._is_busy else MANY_READS)
            self._second, self._reads = second, 0
        self._reads += 1
        if self._is_busy:
            self._loop.remove_reader(self._stream.fileno())
            self._loop.call_later(READ_APART_S, self._read_again)

    def _read_again(self) -> None:
        if not self.lost.done() and self._stream is not None:
            self._loop.add_reader(self._stream.fileno(), self._on_readable)

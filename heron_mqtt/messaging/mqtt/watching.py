"""The connection of who only watches: it acknowledges nothing, and takes much at a time while much comes."""

from __future__ import annotations

from collections.abc import Callable

from heron_mqtt.messaging.mqtt.connection import Connection, Events
from heron_mqtt.messaging.mqtt.options import LastWill, MqttOptions
from heron_mqtt.messaging.mqtt.read_pacing import ReadPacing
from heron_mqtt.messaging.mqtt.socket_stream import Oversized, RawMessage, Stream

MAX_PAUSE_S = 0.02
"""So long a message waits at most, while hundreds come in a second."""
TOGETHER = 100


class WatchingConnection(Connection):
    """Subscribes at QoS 0, which is right for who looks on.

    A broker sends only a few messages without acknowledgement (20, with mosquitto), and drops waiting
    messages beyond a limit. So at QoS 1 a watcher that is slow for a moment loses messages that the devices
    themselves never lose. Each message also costs both ends an acknowledgement. At QoS 0 TCP carries all of
    them in order; what a broker drops even so shows as a gap in the numbers.

    While many come in a second, more of them are read together than where a step may wait for one.

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
        self._before = options.topic_prefix.encode()
        self._pacing = ReadPacing(self._loop.time, MAX_PAUSE_S, TOGETHER)

    def _next_packets(self, stream: Stream) -> list[tuple[int, bytes] | Oversized]:
        if self._is_plain and (messages := stream.next_publishes()):
            self._packets += len(messages)
            if before := self._before:
                messages = [(topic.removeprefix(before), said, kept) for topic, said, kept in messages]
            self._on_messages(messages)
        packet = stream.next_packet()
        return [] if packet is None else [packet]

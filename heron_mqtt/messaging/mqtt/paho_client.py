"""paho-mqtt without its reading, writing and bookkeeping a message.

paho negotiates, subscribes, keeps the connection alive and does QoS 2. The two packets that every message
costs, PUBLISH and PUBACK, go past it: it spends 50 us on each message (events it logs to nobody, locks
that a single event loop does not need, a ReasonCode object an acknowledgement), ``packets`` spends 5.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import MQTTErrorCode
from paho.mqtt.exception import MalformedPacket
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.reasoncodes import ReasonCode

from heron_mqtt.messaging.mqtt.packets import (
    PUBACK,
    PUBLISH,
    Malformed,
    Publish,
    read_puback,
    read_publish,
    write_puback,
    write_publish,
)
from heron_mqtt.messaging.mqtt.socket_stream import Stream

FAILURE = 0x80  # MQTT 5, section 2.4: reason codes from here on are failures


class Client(paho.Client):
    """paho-mqtt with three of its private methods replaced; the contract suite notices if they change."""

    stream: Stream
    five: bool
    """Whether this is MQTT 5."""
    received: Callable[[Publish], None]
    acknowledged: Callable[[int, str | None], None]
    """Called with the packet id, and why it was refused."""
    want_flush: Callable[[], None]

    # -- messages ----------------------------------------------------------------------------------

    def send(self, topic: str, payload: bytes, qos: int, retain: bool) -> int:
        """Publish; return the id that ``acknowledged`` will name."""
        if qos == 2:
            return self.publish(topic, payload, qos, retain).mid
        packet_id = self._mid_generate()
        self.stream.send(write_publish(topic, payload, qos, retain, packet_id, five=self.five))
        self.want_flush()
        return packet_id

    def take(self, first: int, body: bytes) -> None:
        """Take a packet that has arrived.

        Args:
            first: Its first byte.
            body: What follows its length.

        Raises:
            Malformed: It breaks the protocol.
        """
        kind = first & 0xF0
        if kind == PUBLISH and first & 0x06 in {0, 2}:
            message = read_publish(first, body, five=self.five)
            self.received(message)
            if message.packet_id:
                self.stream.send(write_puback(message.packet_id))
                self.want_flush()
        elif kind == PUBACK:
            packet_id, reason = read_puback(body, five=self.five)
            refused = reason >= FAILURE
            self.acknowledged(
                packet_id, str(ReasonCode(PacketTypes.PUBACK, identifier=reason)) if refused else None
            )
        else:
            self._leave_to_paho(first, body)

    def heard(self) -> None:
        """Bytes have arrived: the broker is alive."""
        self._last_bytes_received = time.monotonic()

    def _leave_to_paho(self, first: int, body: bytes) -> None:
        self._in_packet = {
            "command": first,
            "have_remaining": 1,
            "remaining_count": [],
            "remaining_mult": 1,
            "remaining_length": len(body),
            "packet": bytearray(body),
            "to_process": 0,
            "pos": 0,
        }
        try:
            failed = self._packet_handle()
        except MalformedPacket as exc:
            raise Malformed(f"protocol error: {exc}") from exc
        if failed:
            self._loop_rc_handle(failed)

    # -- in place of paho's own --------------------------------------------------------------------

    def _create_socket(self) -> Any:
        """Take the stream that is connected already: paho's own connect blocks, up to seconds."""
        return self.stream

    def _packet_queue(
        self,
        command: int,
        packet: bytes | bytearray,
        mid: int,
        qos: int,
        info: paho.MQTTMessageInfo | None = None,
    ) -> MQTTErrorCode:
        """Send in one order with everything else."""
        self.stream.send(packet)
        self.want_flush()
        return MQTTErrorCode.MQTT_ERR_SUCCESS

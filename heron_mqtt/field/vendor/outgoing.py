"""What goes out to a device, ready to send: messages to publish, and registers to write."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from heron_mqtt.errors import MessageError
from heron_mqtt.field.vendor.register_map import RegisterWrite


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One message to a device, ready to publish.

    Attributes:
        topic: The whole topic, not one of our channels.
        payload: As it goes out.
        qos: 0, 1 or 2.
        retain: Whether the broker keeps it.
        pause_s: How long to wait before it, s.
        is_tried: The same is sent again later on: it may be refused.
        meaning: What it tells the device, without what differs in every message (its number, the time, the
            lease): two messages of one meaning set the same.
    """

    topic: str
    payload: bytes
    qos: int = 1
    retain: bool = False
    pause_s: float = 0.0
    meaning: tuple[Any, ...] = field(default=(), compare=False)
    is_tried: bool = False


@dataclass(frozen=True, slots=True)
class RegisterCommand:
    """Registers of a device to write, ready to be sent.

    Attributes:
        writes: The requests, in their order; one that is refused ends it, unless it goes on.
        read_back: Read the registers afterwards, and take other words for a refusal.
        releases: It hands the device back: what a setpoint has written must not stand there afterwards.
        goes_on: It is of a stop: what is refused does not keep back what follows.
        pause_s: As with ``Outgoing``.
        is_tried: As with ``Outgoing``.
        meaning: As with ``Outgoing``.
    """

    writes: tuple[RegisterWrite, ...]
    read_back: bool = False
    releases: bool = False
    goes_on: bool = False
    pause_s: float = 0.0
    meaning: tuple[Any, ...] = field(default=(), compare=False)
    is_tried: bool = False


DeviceCommand = Outgoing | RegisterCommand


class NotExpressible(MessageError):
    """A mapping has no message for what is to be sent, or one that means something else."""

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
        meaning: What it tells the device, without what differs in every message (its number, the time, the
            lease): two messages of one meaning set the same.
    """

    topic: str
    payload: bytes
    qos: int = 1
    retain: bool = False
    pause_s: float = 0.0
    meaning: tuple[Any, ...] = field(default=(), compare=False)


@dataclass(frozen=True, slots=True)
class RegisterCommand:
    """Registers of a device to write, ready to be sent.

    Attributes:
        writes: The requests, in their order; one that is refused ends it, unless it continues.
        read_back: Read the registers afterwards, and take other words for a refusal.
        releases: It hands the device back: what a setpoint has written must not stand there afterwards.
        undoes: What every setpoint writes, as area, address and word: it must not stand there either, also
            where an earlier program wrote it.
        goes_on: It is of a stop: what is refused does not keep back what follows.
        pause_s: As with ``Outgoing``.
        meaning: As with ``Outgoing``.
    """

    writes: tuple[RegisterWrite, ...]
    read_back: bool = False
    releases: bool = False
    undoes: frozenset[tuple[str, int, int]] = frozenset()
    goes_on: bool = False
    pause_s: float = 0.0
    meaning: tuple[Any, ...] = field(default=(), compare=False)


DeviceCommand = Outgoing | RegisterCommand


@dataclass(frozen=True, slots=True)
class ZeroMessages:
    """A setpoint of 0, in the order that brings 0 first.

    Attributes:
        at_once: What holds the power.
        then: The rest, sent only where the device has taken that: the mode may put an old power in force. It
            has the power again where the setpoint sends something before it, as a device may take a power in
            one mode alone.
    """

    at_once: tuple[DeviceCommand, ...]
    then: tuple[DeviceCommand, ...]

    @property
    def messages(self) -> list[DeviceCommand]:
        """All of it, in its order."""
        return [*self.at_once, *self.then]


class NotExpressible(MessageError):
    """A mapping has no message for what is to be sent, or one that means something else."""

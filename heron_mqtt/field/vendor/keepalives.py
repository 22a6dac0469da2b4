"""Messages that keep a device publishing, or show it that it is still controlled, each at its period."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from heron_mqtt.field.vendor.outgoing import DeviceCommand, Outgoing, RegisterCommand
from heron_mqtt.field.vendor.parameters import PLACEHOLDER
from heron_mqtt.field.vendor.payload_filling import (
    MessageContext,
    RenderedValue,
    filled_registers,
    filled_text,
    payload_bytes,
)
from heron_mqtt.field.vendor.register_map import RegisterMap
from heron_mqtt.field.vendor.tables import KeepaliveTable, Payload


@dataclass(frozen=True, slots=True)
class Keepalive:
    """A message that keeps a device publishing.

    Attributes:
        table: Topic and payloads, or registers, and the period.
        while_driven: It is sent only while a setpoint holds.
        registers: Of a device on Modbus.
    """

    table: KeepaliveTable
    while_driven: bool
    registers: RegisterMap | None = None

    def message(
        self, context: MessageContext, values: Mapping[str, RenderedValue], *, first: bool
    ) -> DeviceCommand | None:
        """Return the message to send now; None while something in its topic is not known yet.

        Raises:
            MessageError: A value does not fit its register.
        """
        table = self.table
        context.built_ins.begin_message()
        every = {**{n: RenderedValue(t, t) for n, t in context.learned.items()}, **values}
        if table.topic is None:
            assert self.registers is not None
            assert table.registers is not None
            filled = filled_registers(table.registers, every, context.built_ins)
            return RegisterCommand(self.registers.writes(filled, None))
        topic = filled_text(table.topic, every, context.built_ins)
        if PLACEHOLDER.search(topic) is not None:
            return None
        payload: Payload = table.payload if table.first_payload is None or not first else table.first_payload
        return Outgoing(topic, payload_bytes(payload, every, context.built_ins), table.qos)


class KeepaliveTimers:
    """Sends keepalives, a task each, from each connection on.

    Args:
        keepalives: Of one device.
        send: Sends one if it is wanted now; told whether it is the first of this connection. Returns whether
            it was sent: the next one is the first as long as none was.
        label: The device, for the names of the tasks.
    """

    def __init__(
        self, keepalives: Sequence[Keepalive], send: Callable[[Keepalive, bool], bool], label: str
    ) -> None:
        self._keepalives = keepalives
        self._send = send
        self._label = label
        self._tasks: list[asyncio.Task[None]] = []

    def begin(self) -> None:
        """Begin again with the first message of each, as after every connection."""
        self.end()
        self._tasks = [
            asyncio.create_task(self._repeat(k), name=f"keepalive {self._label}") for k in self._keepalives
        ]

    def end(self) -> None:
        """Send none any more. Idempotent."""
        for task in self._tasks:
            task.cancel()

    async def _repeat(self, keepalive: Keepalive) -> None:
        is_first = True
        while True:
            if self._send(keepalive, is_first):
                is_first = False
            await asyncio.sleep(keepalive.table.period_s)

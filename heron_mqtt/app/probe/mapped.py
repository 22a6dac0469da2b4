"""The values that a mapping makes of payloads: raw payloads beside values, and why one is missing."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from heron_mqtt.app.vendor_links import connection_to
from heron_mqtt.cancellation import end_tasks
from heron_mqtt.errors import ConfigError, MessageError
from heron_mqtt.field.modbus.address_table import DeviceModbusTable
from heron_mqtt.field.modbus.registers import Registers
from heron_mqtt.field.steady_clock import steady_s
from heron_mqtt.field.vendor.built_ins import BuiltIns
from heron_mqtt.field.vendor.device_mapping import DeviceMapping, Keepalive
from heron_mqtt.field.vendor.link import RegisterPoll
from heron_mqtt.field.vendor.mapping import load_named_mapping
from heron_mqtt.field.vendor.modbus_link import ModbusLink
from heron_mqtt.field.vendor.outgoing import Outgoing
from heron_mqtt.field.vendor.payload_filling import MessageContext
from heron_mqtt.field.vendor.vendor_state import ReportLine, VendorState
from heron_mqtt.messaging.core.stats import MessageStats
from heron_mqtt.messaging.mqtt import MqttBroker
from heron_mqtt.messaging.mqtt.raw import RawMqtt


def mapping_of(named: str | Path, label: str, parameters: Mapping[str, Any] | None = None) -> DeviceMapping:
    """Return the mapping that is to be tried.

    Args:
        named: A file, with a mapping or with ``profile`` and ``parameters``, or a shipped profile's name.
        label: AGENT/DEVICE, for placeholders in topics.
        parameters: Of the profile; None = none beside those in the file.

    Raises:
        ConfigError: One line for each mistake.
    """
    agent, slash, device = label.partition("/")
    if not slash or not agent or not device:
        raise ConfigError(f"--device {label}: expected AGENT/DEVICE, for example MG1/ess")
    return load_named_mapping(
        str(named), parameters or {}, agent=agent, device=device, source=f"--mapping {named}"
    )


async def watch_registers(
    table: DeviceModbusTable,
    mapping: DeviceMapping,
    show: Callable[[list[ReportLine]], None],
    *,
    every_s: float,
    until_s: float | None,
) -> list[ReportLine]:
    """Read all registers of a mapping again and again, and show what it makes of them.

    Args:
        table: Where the device is.
        mapping: Of the device.
        show: Called with every register and quantity now and then.
        every_s: How often, s.
        until_s: For how long, s; None = until cancelled.

    Returns:
        The last lines.

    Raises:
        ConfigError: pymodbus is not installed.
    """
    state = VendorState(mapping)

    def take(poll: RegisterPoll) -> None:
        state.take_document(poll.source, poll.values, poll.at_s, shown=poll.shown, unread=poll.unread)

    with contextlib.closing(connection_to(table)) as connection:
        async with ModbusLink(Registers(connection, table.unit), mapping, everything=True) as link:
            link.listen((), lambda *_: None, take)
            return await _shown(state, show, every_s=every_s, until_s=until_s)


async def watch_mapping(
    url: str,
    mapping: DeviceMapping,
    show: Callable[[list[ReportLine]], None],
    *,
    every_s: float,
    until_s: float | None,
    asks: bool = False,
) -> list[ReportLine]:
    """Listen with a mapping, and show what it makes of each payload.

    Args:
        url: Of the broker.
        mapping: Of the device.
        show: Called with every input and quantity now and then.
        every_s: How often, s.
        until_s: For how long, s; None = until cancelled.
        asks: Send the mapping's keepalives that are always sent; otherwise nothing is published.

    Returns:
        The last lines.
    """
    state = VendorState(mapping)
    options = MqttBroker(url).options  # the class: a device is heard on topics of its own, over MQTT
    client = RawMqtt(options, MessageStats(), patience_s=0.0)
    asking: list[asyncio.Task[None]] = []
    await client.connect()
    try:

        def take(topic: str, payload: bytes, retained: bool) -> None:
            state.take(topic, payload, steady_s(), retained=retained)

        for topic_filter in mapping.topic_filters():
            client.subscribe_raw(topic_filter, take)
        if asks:
            asking = [
                asyncio.create_task(_ask(client, each, state), name="probe asks")
                for each in questions(mapping)
            ]
        return await _shown(state, show, every_s=every_s, until_s=until_s)
    finally:
        await end_tasks(asking)
        await client.close()


def questions(mapping: DeviceMapping) -> list[Keepalive]:
    """Return the keepalives that are sent also when the device is not driven: they change nothing in it."""
    return [each for each in mapping.keepalives if not each.while_driven]


async def _ask(client: RawMqtt, keepalive: Keepalive, state: VendorState) -> None:
    """Send a keepalive again and again; one that cannot be said yet waits for what it needs."""
    built_ins, is_first = BuiltIns(), True
    while True:
        with contextlib.suppress(MessageError):
            context = MessageContext(built_ins, state.inputs, state.learned)
            message = keepalive.message(context, {}, first=is_first)
            if isinstance(message, Outgoing):
                client.publish_raw(message.topic, message.payload, qos=message.qos, retain=message.retain)
                is_first = False
        await asyncio.sleep(keepalive.table.period_s)


async def _shown(
    state: VendorState,
    show: Callable[[list[ReportLine]], None],
    *,
    every_s: float,
    until_s: float | None,
) -> list[ReportLine]:
    """Show what is known now and then; returns the last lines."""
    begun_s = steady_s()
    lines: list[ReportLine] = []
    while until_s is None or steady_s() - begun_s < until_s:
        await asyncio.sleep(every_s if until_s is None else min(every_s, until_s))
        state.settle(steady_s())
        lines = state.report(steady_s())
        show(lines)
    return lines

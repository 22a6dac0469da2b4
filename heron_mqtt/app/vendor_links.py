"""What leads to the vendors' devices of a scenario: connections to brokers and Modbus addresses, shared."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

from heron_mqtt.errors import BrokerError, ConfigError
from heron_mqtt.field.broker_table import DeviceBrokerTable
from heron_mqtt.field.modbus.address_table import DeviceModbusTable
from heron_mqtt.field.modbus.place import ModbusPlace
from heron_mqtt.field.modbus.registers import ModbusConnection, Registers, require
from heron_mqtt.field.place_claim import PlaceClaim, broker_place, place_name, unit_place
from heron_mqtt.field.vendor.device_mapping import DeviceMapping
from heron_mqtt.field.vendor.link import MqttLink, VendorLink
from heron_mqtt.field.vendor.modbus_link import ModbusLink
from heron_mqtt.field.vendor.sparkplug_node import state_topic
from heron_mqtt.messaging.mqtt import MqttBroker
from heron_mqtt.messaging.mqtt.options import LastWill, MqttOptions, read_options
from heron_mqtt.messaging.mqtt.raw import RawMqtt

if TYPE_CHECKING:
    from powergrid.scenario import DeviceTable, LoadedScenario


class VendorLinks:
    """Opens what leads to devices; those at one broker, or behind one Modbus address, share a connection.

    Args:
        mqtt: The broker of the run, for devices that name none.
        loaded: The scenario.
        stack: Closes the connections.
    """

    def __init__(self, mqtt: MqttBroker, loaded: LoadedScenario, stack: AsyncExitStack) -> None:
        self._mqtt = mqtt
        self._loaded = loaded
        self._stack = stack
        self._brokers: dict[tuple[DeviceBrokerTable | None, str | None], RawMqtt] = {}
        self._modbus: dict[ModbusPlace, ModbusConnection] = {}

    async def open(self, agent: str, device: str, mapping: DeviceMapping) -> VendorLink:
        """Return what leads to a device.

        Raises:
            ConfigError: A login is not complete, or pymodbus is not installed.
            BrokerError: A broker is not there, or refuses. A device on Modbus may come later.
        """
        table = self._loaded.scenario.microgrids[agent].devices[device]
        if table.modbus is not None:
            registers = Registers(self._address(table.modbus), table.modbus.unit)
            return await self._stack.enter_async_context(ModbusLink(registers, mapping))
        return MqttLink(await self._broker(table.broker, mapping.host_id, f"{agent}/{device}"))

    def claim(self, agent: str, device: str, mapping: DeviceMapping) -> PlaceClaim:
        """Return the claim of a device's place, closed with the links: see ``PlaceClaim``; not taken yet."""
        table = self._loaded.scenario.microgrids[agent].devices[device]
        options = self._mqtt.options
        if table.broker is not None:
            options = broker_options(table.broker, self._loaded, environ=None)
        claim = PlaceClaim(
            claimed_places(mapping, options, table.modbus),
            self._loaded.scenario.topic_env_id,
            broker_place(self._mqtt.options.hosts),
            own_places=power_places(mapping, options, table.modbus),
            own_device=f"{agent}/{device}",
        )
        self._stack.callback(claim.close)
        return claim

    async def retire(self, link: VendorLink) -> None:
        """End a link that is no longer used; connections that others may share stay."""
        if isinstance(link, ModbusLink):
            await link.__aexit__()

    def _address(self, table: DeviceModbusTable) -> ModbusConnection:
        place = table.place
        if place not in self._modbus:
            connection = connection_to(table)
            self._modbus[place] = connection
            self._stack.callback(connection.close)
        return self._modbus[place]

    async def _broker(self, table: DeviceBrokerTable | None, host_id: str | None, label: str) -> RawMqtt:
        key = (table, host_id)
        if key not in self._brokers:
            host = None if host_id is None else SparkplugHost(host_id)
            raw = _connection(self._mqtt, table, host, self._loaded, label)
            self._brokers[key] = await _connected(self._stack, raw, table, label)
            if host is not None:
                await self._stack.enter_async_context(host.present(raw))
        return self._brokers[key]


def claimed_places(
    mapping: DeviceMapping, options: MqttOptions, modbus: DeviceModbusTable | None
) -> list[str]:
    """Return what a program that drives a device claims: its unit, or its command topics at each host.

    Args:
        mapping: Of the device.
        options: Of its broker; without meaning for a device on Modbus.
        modbus: Where it is, if it is on Modbus.
    """
    if modbus is not None:
        return [unit_place(modbus.place, modbus.unit)]
    return [
        place_name(host, port, topic) for host, port in options.hosts for topic in mapping.command_places()
    ]


def power_places(
    mapping: DeviceMapping, options: MqttOptions | None, modbus: DeviceModbusTable | None
) -> list[str]:
    """Return what a device claims for itself alone: where its power is set.

    Args:
        mapping: Of the device.
        options: Of its broker; None = the run's own, which is not known yet.
        modbus: Where it is, if it is on Modbus.
    """
    if modbus is not None:
        return [f"{unit_place(modbus.place, modbus.unit)} {place}" for place in mapping.power_places()]
    hosts = [""] if options is None else [place_name(host, port) for host, port in options.hosts]
    return [f"{host} {place}".strip() for host in hosts for place in mapping.power_places()]


def shared_power_problems(
    loaded: LoadedScenario, mappings: Mapping[tuple[str, str], DeviceMapping]
) -> Iterator[str]:
    """Return each place where two devices of a scenario would set one power, one line for each."""
    first: dict[str, str] = {}
    for (agent, name), mapping in mappings.items():
        table = loaded.scenario.microgrids[agent].devices[name]
        where = f"microgrids.{agent}.devices.{name}"
        options = None if table.broker is None else broker_options(table.broker, loaded, environ=None)
        for place in power_places(mapping, options, table.modbus):
            other = first.setdefault(place, where)
            if other != where:
                yield (
                    f"{loaded.source}: {where}.mapping: {place}: {other} sets its power there already: two "
                    "devices of the scenario would drive one real device in turn; expected another place, "
                    "or a mapping without [setpoint] for one that is only read"
                )
                break


def place_problems(where: str, mapping: DeviceMapping, device: DeviceTable) -> Iterator[str]:
    """Return what is wrong with where a device is, line by line.

    Args:
        where: File and key of the device.
        mapping: Of the device.
        device: As the scenario has it.
    """
    table = device.modbus
    if mapping.registers is None:
        if table is not None:
            yield f"{where}.modbus: {mapping.name} is on MQTT, its mapping has [[telemetry]]; leave it out"
    elif table is None:
        beside = "; broker is for a device on MQTT" if device.broker is not None else ""
        yield (
            f"{where}.modbus: missing; {mapping.name} is on Modbus: say where, for example "
            f'modbus = {{ address = "192.168.1.50:502", unit = 1 }}{beside}'
        )
    else:
        try:
            require(table.place)
        except ConfigError as exc:
            yield f"{where}.modbus: {exc.problems[0]}"


def address_problems(loaded: LoadedScenario) -> Iterator[str]:
    """Return where devices with one Modbus address, which share a connection, disagree about it."""
    first: dict[str, tuple[str, DeviceModbusTable]] = {}
    for agent, name in loaded.scenario.mapped_devices:
        table = loaded.scenario.microgrids[agent].devices[name].modbus
        if table is None:
            continue
        where = f"microgrids.{agent}.devices.{name}.modbus"
        other, said = first.setdefault(str(table.place), (where, table))
        for key in ("framing", "baud", "parity", "stop_bits", "connect_delay_s", "timeout_s"):
            if getattr(said, key) != getattr(table, key):
                yield (
                    f"{loaded.source}: {where}.{key} = {getattr(table, key)!r}: {other} has "
                    f"{getattr(said, key)!r} for the same {table.shown_place}, and they share one "
                    "connection; expected the same"
                )


def connection_to(table: DeviceModbusTable) -> ModbusConnection:
    """Return the connection to an address.

    Raises:
        ConfigError: What it needs is not installed.
    """
    return ModbusConnection(
        table.place,
        timeout_s=table.timeout_s,
        framing=table.framing,
        connect_delay_s=table.connect_delay_s,
    )


def broker_options(
    table: DeviceBrokerTable, loaded: LoadedScenario, environ: Mapping[str, str] | None = os.environ
) -> MqttOptions:
    """Return what is needed to connect to a device's own broker.

    Args:
        table: As the scenario has it.
        loaded: Finds the files that it names.
        environ: Where the password is; None = it is not looked for, as when a scenario is checked only.

    Raises:
        ConfigError: Something is wrong; never shows a password.
    """
    if table.password_env is not None and table.username is None:
        raise ConfigError("username: missing; password_env needs one")
    password = None
    if table.password_env is not None and environ is not None:
        password = environ.get(table.password_env)
        if not password:
            raise ConfigError(f"password_env: the environment variable {table.password_env} is not set")
    return read_options(
        table.url,
        client_id=table.client_id or f"heron-{secrets.token_hex(4)}",
        username=table.username,
        password=password,
        ca=None if table.ca is None else loaded.path(table.ca),
        cert=None if table.cert is None else loaded.path(table.cert),
        key=None if table.key is None else loaded.path(table.key),
        protocol=table.protocol,
        keepalive_s=15,
        connect_timeout_s=5.0,
        use_environment=False,
    )


class SparkplugHost:
    """A Sparkplug host application, as which a connection presents itself to nodes that wait for one.

    Source: Eclipse Sparkplug 3.0, "Host Application STATE": retained, left as the will with the timestamp of
    the birth.

    Args:
        host_id: Its name.
        now_ms: The time of day, ms since 1970.
    """

    def __init__(self, host_id: str, now_ms: Callable[[], int] = lambda: int(time.time() * 1e3)) -> None:
        self.topic = state_topic(host_id)
        self._now_ms = now_ms()

    def payload(self, *, online: bool) -> bytes:
        """Return what is said of it."""
        return json.dumps({"online": online, "timestamp": self._now_ms}).encode()

    @property
    def will(self) -> LastWill:
        """What the broker says of it if we die."""
        return LastWill(self.topic, self.payload(online=False))

    @asynccontextmanager
    async def present(self, raw: RawMqtt) -> AsyncIterator[None]:
        """Be online while inside, also after reconnections."""
        forget = raw.on_reconnect(partial(self._again, raw))
        await self._say(raw, online=True)
        try:
            yield
        finally:
            forget()
            self._say(raw, online=False)  # closing the connection sends it

    def _again(self, raw: RawMqtt) -> None:
        self._say(raw, online=True)

    def _say(self, raw: RawMqtt, *, online: bool) -> asyncio.Future[None]:
        return raw.publish_raw(self.topic, self.payload(online=online), qos=1, retain=True)


def _connection(
    mqtt: MqttBroker,
    table: DeviceBrokerTable | None,
    host: SparkplugHost | None,
    loaded: LoadedScenario,
    label: str,
) -> RawMqtt:
    will = None if host is None else host.will
    if table is None:
        return RawMqtt(mqtt.options, mqtt.stats, will=will)
    try:
        options = broker_options(table, loaded)
    except ConfigError as exc:
        raise ConfigError(*(f"{label}: broker.{problem}" for problem in exc.problems)) from None
    return RawMqtt(options, mqtt.stats, will=will, keep_client_id=table.client_id is not None)


async def _connected(
    stack: AsyncExitStack, raw: RawMqtt, table: DeviceBrokerTable | None, label: str
) -> RawMqtt:
    try:
        return await stack.enter_async_context(raw)
    except BrokerError as exc:
        if table is None:
            raise
        raise type(exc)(f"{label}: its own broker: {exc}") from exc

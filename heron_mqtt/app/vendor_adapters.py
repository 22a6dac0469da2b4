"""The devices of a scenario that speak their vendor's MQTT: one ``VendorDevice`` each, beside the gateway."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from heron_mqtt.errors import BrokerError, ConfigError
from heron_mqtt.field.broker_table import DeviceBrokerTable
from heron_mqtt.field.vendor import VendorDevice
from heron_mqtt.field.vendor.commands import WriteBudget, state_directory
from heron_mqtt.field.vendor.mapping import DeviceMapping, load_mapping
from heron_mqtt.messaging.core.stats import MessageStats
from heron_mqtt.messaging.mqtt import MqttBroker
from heron_mqtt.messaging.mqtt.options import LastWill, MqttOptions, read_options
from heron_mqtt.messaging.mqtt.raw import RawMqtt
from heron_mqtt.messaging.topics import escape

if TYPE_CHECKING:
    from powergrid.scenario import LoadedScenario

ONLINE_S = 5.0  # how long an adapter with another mapping is waited for
UNSENT = {None, "simulated", "shadow"}  # left open, a real device is in shadow
"""Authorities with which no setpoint leaves the gateway."""


def load_mappings(loaded: LoadedScenario) -> dict[tuple[str, str], DeviceMapping]:
    """Return the mapping of each device that has one, by (agent, device).

    Raises:
        ConfigError: One line for each mistake: file, key and what was expected.
    """
    found: dict[tuple[str, str], DeviceMapping] = {}
    problems: list[str] = []
    for key in loaded.scenario.mapped_devices:
        try:
            found[key] = device_mapping(loaded, *key)
        except ConfigError as exc:
            problems += exc.problems
    if problems:
        raise ConfigError(*problems)
    return found


def mapping_file(loaded: LoadedScenario, agent: str, name: str) -> Path | None:
    """Return the file of the profile that a device's mapping names; None = it names none."""
    given = loaded.scenario.microgrids[agent].devices[name].mapping
    profile = given.get("profile") if isinstance(given, dict) else given
    return loaded.path(profile) if isinstance(profile, str) and profile else None


def device_mapping(loaded: LoadedScenario, agent: str, name: str) -> DeviceMapping:
    """Return the mapping of one device that has one.

    Raises:
        ConfigError: One line for each mistake: file, key and what was expected.
    """
    table = loaded.scenario.microgrids[agent].devices[name]
    assert table.mapping is not None
    where = f"{loaded.source}: microgrids.{agent}.devices.{name}"
    problems: list[str] = []
    if table.broker is not None:
        try:
            broker_options(table.broker, loaded, environ=None)
        except ConfigError as exc:
            problems += [f"{where}.broker: {problem}" for problem in exc.problems]
    try:
        mapping = load_mapping(
            table.mapping, agent=agent, device=name, source=f"{where}.mapping", find=loaded.path
        )
    except ConfigError as exc:
        raise ConfigError(*problems, *exc.problems) from None
    if mapping.sets and not mapping.has_release and table.authority not in {None, *UNSENT}:
        # left open: shadow
        problems.append(
            f"{where}.mapping.setpoint.release: missing; {mapping.name} is sent setpoints: say by "
            "[[setpoint.release]] what hands it back to its own control at the end, or "
            'release = "zero" if a setpoint of 0 does'
        )
    if mapping.sets and table.control_q and "q_mvar" not in mapping.sets:
        problems.append(
            f"{where}.control_q = true: {mapping.name} takes no reactive power, its mapping sets no "
            "q_mvar; expected false"
        )
    life = mapping.table.liveness
    if life is not None and life.by == "poll":
        every_s = min(keepalive.period_s for keepalive in mapping.table.keepalive)
        if every_s >= table.gateway.stale_after_s:
            problems.append(
                f"{where}.gateway.stale_after_s = {table.gateway.stale_after_s:g}: it is asked every "
                f"{every_s:g} s only; expected more than that"
            )
    if problems:
        raise ConfigError(*problems)
    return mapping


def mapping_notes(mapping: DeviceMapping) -> Iterator[str]:
    """Return what should be known of a device before it is run, line by line."""
    if mapping.learned:
        yield f"learns {', '.join(sorted(mapping.learned))} from the topics that are heard"
    if mapping.availability:
        where = ", ".join(a.topic for a in mapping.availability)
        yield (
            f"is offline until a first message (retained, or repeated) comes on {where}, or its power on "
            f"{', '.join(mapping.topics_of('p_mw'))}"
        )
    if (life := mapping.table.liveness) is not None:
        by = {
            "heartbeat": f"a heartbeat on {', '.join(life.topics)}",
            "poll": "its answers to what it is asked",
            "availability": "its availability, and our connection to its broker",
        }
        yield f"reports only what changes; that it is there is proven by {by[life.by]}"
    table = mapping.setpoint
    if table is None:
        yield "can only be read: under any authority what it measures counts, and nothing is sent"
        return
    match table.confirm or ("answer" if mapping.has_answers else "sent"):
        case "answer":
            yield f"a setpoint counts once the device answers, within {table.answer_within_s:g} s"
        case "power":
            yield f"any power measured {table.settle_s:g} s after a setpoint counts as its answer"
        case _:
            yield "nothing confirms that a setpoint has arrived: it counts as sent"
    if table.send != "always" or table.min_interval_s or table.max_writes_per_day:
        limit = f", at most {table.max_writes_per_day} in 24 hours" if table.max_writes_per_day else ""
        pause = f", every {table.min_interval_s:g} s at most" if table.min_interval_s else ""
        yield f"is sent to on {table.send}{pause}{limit}"
    match table.release:
        case None:
            yield "has no release: it cannot be given an authority that sends"
        case "zero":
            yield "is handed back by a setpoint of 0"
        case _:
            yield f"is handed back by {len(table.release)} message(s) on {table.release[0].topic}"


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


@asynccontextmanager
async def vendor_devices(
    mqtt: MqttBroker, loaded: LoadedScenario, agents: Sequence[str], *, take_over: bool = False
) -> AsyncIterator[VendorAdapters]:
    """Speak for the mapped devices of some agents while inside.

    Raises:
        ConfigError: The login of a device's own broker is not complete.
        BrokerError: A broker is not there, or refuses.
    """
    mappings = {key: mapping for key, mapping in load_mappings(loaded).items() if key[0] in agents}
    async with AsyncExitStack() as stack:
        adapters = VendorAdapters(mqtt, loaded, stack, take_over=take_over)
        try:
            for key, mapping in mappings.items():
                await adapters.prepare(key, mapping)
            adapters.begin()
            yield adapters
        finally:
            await adapters.end()


class VendorAdapters:
    """The adapters of the mapped devices, each a task of its own; a mapping may be replaced.

    Args:
        mqtt: Our side of them.
        loaded: The scenario.
        stack: Closes their connections.
        take_over: Displace other devices of these names.
    """

    def __init__(
        self, mqtt: MqttBroker, loaded: LoadedScenario, stack: AsyncExitStack, *, take_over: bool = False
    ) -> None:
        self._mqtt, self._loaded, self._stack, self._take_over = mqtt, loaded, stack, take_over
        self._connections: dict[tuple[DeviceBrokerTable | None, str | None], RawMqtt] = {}
        self._devices: dict[tuple[str, str], VendorDevice] = {}
        self._tasks: dict[tuple[str, str], asyncio.Task[None]] = {}
        self.mappings: dict[tuple[str, str], DeviceMapping] = {}
        """Those that are in force, by (agent, device)."""

    def __len__(self) -> int:
        return len(self.mappings)

    async def prepare(self, key: tuple[str, str], mapping: DeviceMapping) -> None:
        """Connect to what a device needs, and make its adapter; it does not run yet.

        Raises:
            ConfigError: The login of its own broker is not complete.
            BrokerError: Its broker is not there, or refuses.
        """
        agent, name = key
        table = self._loaded.scenario.microgrids[agent].devices[name]
        raw = await self._connection_for(mapping, table.broker, f"{agent}/{name}")
        env_id = self._loaded.scenario.topic_env_id
        self._devices[key] = VendorDevice(
            mapping,
            raw,
            agent,
            name,
            self._mqtt,
            env_id=env_id,
            kind=table.spec.kind,
            power_range_mw=table.spec.power_range_mw,
            stale_after_s=table.gateway.stale_after_s,
            take_over=self._take_over,
            budget=write_budget(mapping, env_id, agent, name),
        )
        self.mappings[key] = mapping

    async def _connection_for(
        self, mapping: DeviceMapping, table: DeviceBrokerTable | None, label: str
    ) -> RawMqtt:
        key = (table, mapping.host_id)
        if key not in self._connections:
            host = None if mapping.host_id is None else SparkplugHost(mapping.host_id)
            raw = _connection(self._mqtt, table, host, self._loaded, label)
            self._connections[key] = await _connected(self._stack, raw, table, label)
            if host is not None:
                await self._stack.enter_async_context(host.present(raw))
        return self._connections[key]

    def begin(self) -> None:
        """Let every adapter run."""
        for key in self._devices:
            self._run(key)

    def _run(self, key: tuple[str, str], on_online: Callable[[], None] | None = None) -> asyncio.Task[None]:
        device = self._devices[key]
        task = asyncio.create_task(device.run(on_online=on_online), name=f"vendor {device.label}")
        task.add_done_callback(partial(_ended, self._mqtt.stats, device.label))
        self._tasks[key] = task
        return task

    def is_stopped(self, key: tuple[str, str]) -> bool:
        """Whether an emergency stop is in force for a device."""
        return self._devices[key].stopped

    async def replace(self, key: tuple[str, str], mapping: DeviceMapping) -> None:
        """Put another mapping in force.

        The adapter with the old one ends, as at the end of a run: it hands the device back. Another one
        begins, with a boot of its own: to the gateway the device is born again.

        Raises:
            ConfigError, BrokerError: As of ``prepare``; the old mapping stays in force.
        """
        old, device = self._tasks[key], self._devices[key]
        await self.prepare(key, mapping)
        with suppress(TimeoutError):
            async with asyncio.timeout(ONLINE_S):
                await device.idle()
        old.cancel()
        await asyncio.gather(old, return_exceptions=True)
        online = asyncio.Event()
        task = self._run(key, online.set)
        waiting = asyncio.create_task(online.wait(), name="vendor replaced")
        try:
            await asyncio.wait({task, waiting}, timeout=ONLINE_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()

    async def end(self) -> None:
        """End every adapter."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)


class SparkplugHost:
    """A Sparkplug host application, as which a connection presents itself to nodes that wait for one.

    Source: Eclipse Sparkplug 3.0, "Host Application STATE": retained, left as the will with the timestamp of
    the birth.

    Args:
        host_id: Its name.
        now_ms: The time of day, ms since 1970.
    """

    def __init__(self, host_id: str, now_ms: Callable[[], int] = lambda: int(time.time() * 1e3)) -> None:
        self.topic = f"spBv1.0/STATE/{host_id}"
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


def write_budget(mapping: DeviceMapping, env_id: str, agent: str, name: str) -> WriteBudget | None:
    """Return what counts the writes to a device over restarts; None = its mapping has no limit."""
    table = mapping.setpoint
    if table is None or table.max_writes_per_day is None:
        return None
    file = f"{escape(env_id)}-{escape(agent)}-{escape(name)}.json"
    return WriteBudget(table.max_writes_per_day, state_directory() / "writes" / file)


def _ended(stats: MessageStats, label: str, task: asyncio.Task[None]) -> None:
    """Tell if the adapter of a device ended by a fault; it said offline."""
    if not task.cancelled() and (exc := task.exception()) is not None:
        stats.report("device", label, f"its adapter has ended: {exc}", exc=exc)

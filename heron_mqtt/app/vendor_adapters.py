"""The vendors' devices of a scenario: a ``VendorDevice`` each, beside the gateway."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from heron_mqtt.app.vendor_links import (
    VendorLinks,
    address_problems,
    broker_options,
    place_problems,
    shared_power_problems,
)
from heron_mqtt.cancellation import end_tasks
from heron_mqtt.errors import ConfigError, HeronError
from heron_mqtt.field.gateway.hand_back import Unreturned
from heron_mqtt.field.place_claim import PlaceClaim
from heron_mqtt.field.vendor import VendorDevice
from heron_mqtt.field.vendor.commands import budget_of
from heron_mqtt.field.vendor.device_mapping import DeviceMapping
from heron_mqtt.field.vendor.link import VendorLink
from heron_mqtt.field.vendor.mapping import load_mapping
from heron_mqtt.messaging.core.stats import MessageStats
from heron_mqtt.messaging.mqtt import MqttBroker

if TYPE_CHECKING:
    from powergrid.scenario import LoadedScenario

ONLINE_S = 5.0  # how long an adapter with another mapping is waited for
UNSENT = {None, "simulated", "shadow"}  # left open, a real device is in shadow
"""Authorities with which no setpoint leaves the gateway."""


class StillDriven(HeronError):
    """A device has not taken its release, so its adapter stays; says why."""


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
    problems += address_problems(loaded)
    if not problems:
        problems += shared_power_problems(loaded, found)
    if problems:
        raise ConfigError(*problems)
    return found


def mappings_at_broker(loaded: LoadedScenario) -> dict[tuple[str, str], DeviceMapping]:
    """Return the mappings of those devices that are at the run's own broker, by (agent, device).

    Raises:
        ConfigError: As ``load_mappings``.
    """
    grids = loaded.scenario.microgrids
    return {
        (agent, name): mapping
        for (agent, name), mapping in load_mappings(loaded).items()
        if (table := grids[agent].devices[name]).broker is None and table.modbus is None
    }


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
            table.mapping,
            agent=agent,
            device=name,
            source=f"{where}.mapping",
            find=loaded.path,
            power_range_mw=table.spec.power_range_mw,
        )
    except ConfigError as exc:
        raise ConfigError(*problems, *exc.problems) from None
    problems += place_problems(where, mapping, table)
    if mapping.sets and not mapping.has_release and table.authority not in {None, *UNSENT}:
        # left open: shadow
        problems.append(
            f"{where}.mapping.setpoint.release: missing; {mapping.name} gets setpoints: define by "
            "[[setpoint.release]] how it is handed back to its own control at the end, or give "
            'release = "zero" if a setpoint of 0 does this'
        )
    if mapping.sets and table.control_q and "q_mvar" not in mapping.sets:
        problems.append(
            f"{where}.control_q = true: {mapping.name} does not accept reactive power, because its "
            "mapping sets no q_mvar; expected false"
        )
    life = mapping.table.liveness
    if life is not None and life.by == "poll":
        every_s = min(keepalive.period_s for keepalive in mapping.table.keepalive)
        if every_s >= table.gateway.stale_after_s:
            problems.append(
                f"{where}.gateway.stale_after_s = {table.gateway.stale_after_s:g}: it is polled only "
                f"every {every_s:g} s; expected more than that"
            )
    if problems:
        raise ConfigError(*problems)
    return mapping


def mapping_notes(mapping: DeviceMapping) -> Iterator[str]:
    """Return what should be known of a device before it is run, line by line."""
    if mapping.registers is not None:
        groups = mapping.registers.groups(mapping.polled)
        turns = [f"{len(mapping.registers.blocks(g.names))} every {g.period_s:g} s" for g in groups]
        yield f"reads {len(mapping.polled)} values from registers; requests: {', '.join(turns)}"
    if mapping.learned:
        yield f"learns {', '.join(sorted(mapping.learned))} from the topics that are received"
    if mapping.availability:
        where = ", ".join(a.topic for a in mapping.availability)
        first = (
            "a first message (retained, or repeated) comes on" if mapping.registers is None else "it reads"
        )
        yield f"is offline until {first} {where}, or its power on {', '.join(mapping.topics_of('p_mw'))}"
    if (life := mapping.table.liveness) is not None:
        by = {
            "heartbeat": f"a heartbeat on {', '.join(life.topics)}",
            "poll": "its answers to polls",
            "availability": "its availability, and our connection to its broker",
        }
        yield f"reports only changes; it counts as present because of {by[life.by]}"
    table = mapping.setpoint
    if table is None:
        yield "can only be read: at every level of authority its measurements are used, and nothing is sent"
        return
    match mapping.confirmed_by:
        case "answer":
            yield f"a setpoint counts once the device answers, within {table.answer_within_s:g} s"
        case "power":
            yield f"any power measured {table.settle_s:g} s after a setpoint counts as its answer"
        case _:
            yield (
                "nothing confirms that a setpoint has arrived: it counts as sent"
                if mapping.registers is None
                else "a setpoint counts once the device has accepted each write"
            )
    if not mapping.bounds_power:
        yield (
            "its mapping does not limit its power setpoint: give the value min and max, in the device's "
            "units, so that a wrong unit or scale cannot reach the device"
        )
    for name, inputs in mapping.stop_needs.items():
        instead = "its release" if mapping.releases_by_messages else "the 0 that was computed last"
        yield (
            f"0 needs {', '.join(inputs)} of the device (setpoint.values.{name}): while that is not known, "
            f"or is 0 in a division, a stop sends {instead}; use another value without it for the 0"
        )
    if table.send != "always" or table.min_interval_s or table.max_writes_per_day:
        limit = f", at most {table.max_writes_per_day} in 24 hours" if table.max_writes_per_day else ""
        pause = f", every {table.min_interval_s:g} s at most" if table.min_interval_s else ""
        yield f"messages are sent on {table.send}{pause}{limit}"
    match table.release:
        case None:
            yield "has no release: it cannot be given an authority that sends"
        case "zero":
            yield "is handed back by a setpoint of 0"
        case _:
            message = table.release[0]
            on = message.topic or f"registers {', '.join(message.registers or ())}"
            yield f"is handed back by {len(table.release)} message(s) on {on}"


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
        self._mqtt, self._loaded, self._take_over = mqtt, loaded, take_over
        self._links = VendorLinks(mqtt, loaded, stack)
        self._link_of: dict[tuple[str, str], VendorLink] = {}
        self._claim_of: dict[tuple[str, str], PlaceClaim] = {}
        self._devices: dict[tuple[str, str], VendorDevice] = {}
        self._tasks: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._left: dict[str, str] = {}  # what adapters that were replaced have left undone, by device
        self.mappings: dict[tuple[str, str], DeviceMapping] = {}
        """Those that are in force, by (agent, device)."""

    def __len__(self) -> int:
        return len(self.mappings)

    async def prepare(self, key: tuple[str, str], mapping: DeviceMapping) -> None:
        """Connect to what a device needs, and make its adapter; it does not run yet.

        Raises:
            ConfigError: The login of its own broker is not complete, or pymodbus is not installed.
            BrokerError: Its broker is not there, or refuses.
            PlaceTaken: Another environment drives the device, by a program on this machine.
        """
        agent, name = key
        table = self._loaded.scenario.microgrids[agent].devices[name]
        claim = self._links.claim(agent, name, mapping)
        try:
            if mapping.sets and table.authority not in UNSENT:
                claim.take()  # else, and what is learned, before the first setpoint: it may only be watched
            link = await self._links.open(agent, name, mapping)
        except BaseException:
            claim.close()
            raise
        env_id = self._loaded.scenario.topic_env_id
        self._devices[key] = VendorDevice(
            mapping,
            link,
            agent,
            name,
            self._mqtt,
            env_id=env_id,
            kind=table.spec.kind,
            power_range_mw=table.spec.power_range_mw,
            stale_after_s=table.gateway.stale_after_s,
            take_over=self._take_over,
            budget=budget_of(mapping, env_id, agent, name),
            claim=claim,
        )
        self.mappings[key] = mapping
        self._link_of[key] = link
        self._claim_of[key] = claim

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
        """Put another mapping in force, once the device has taken the release of the old one.

        The adapter with the old one ends. Another one begins, with a boot of its own: to the gateway the
        device is born again.

        Raises:
            StillDriven: The device has not taken its release. The old mapping stays in force: only its
                adapter knows how the device is told.
            ConfigError, BrokerError, PlaceTaken: As of ``prepare``; the old mapping stays in force.
        """
        old, device, former = self._tasks[key], self._devices[key], self._link_of[key]
        claim = self._claim_of[key]
        if not old.done():
            await self._hand_back(device)
        await self.prepare(key, mapping)
        await end_tasks([old])
        if device.is_driven and (left := device.left_undone) is not None:  # it was driven again in between
            self._left[device.label] = left
        await self._links.retire(former)
        claim.close()
        online = asyncio.Event()
        task = self._run(key, online.set)
        waiting = asyncio.create_task(online.wait(), name="vendor replaced")
        try:
            await asyncio.wait({task, waiting}, timeout=ONLINE_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()

    async def _hand_back(self, device: VendorDevice) -> None:
        why: str | None = f"a setpoint has been in progress for more than {ONLINE_S:g} s"
        with suppress(TimeoutError):
            async with asyncio.timeout(ONLINE_S):
                await device.idle()
                why = await device.give_up()
        if why is not None:
            raise StillDriven(why)

    async def end(self) -> None:
        """End every adapter."""
        await end_tasks(self._tasks.values())

    def unreturned(self) -> dict[str, Unreturned]:
        """Return, after ``end``, what is wrong with devices that were not handed back, by AGENT/DEVICE.

        One whose adapter ended before was displaced, or failed, which was reported.
        """
        ended = [self._devices[key] for key, task in self._tasks.items() if task.cancelled()]
        left = {device.label: why for device in ended if (why := device.left_undone) is not None}
        return {name: Unreturned(why, is_fault=True) for name, why in (self._left | left).items()}


def _ended(stats: MessageStats, label: str, task: asyncio.Task[None]) -> None:
    """Tell if the adapter of a device ended by a fault; it said offline."""
    if not task.cancelled() and (exc := task.exception()) is not None:
        bug = None if isinstance(exc, HeronError) else exc
        stats.report("device", label, f"its adapter has ended: {exc}", exc=bug)

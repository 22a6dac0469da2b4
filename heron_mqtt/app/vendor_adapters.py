"""The boxes of a scenario that speak their vendor's MQTT: one ``VendorDevice`` each, beside the gateway."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

from heron_mqtt.errors import ConfigError
from heron_mqtt.field.vendor import VendorDevice
from heron_mqtt.field.vendor.mapping import DeviceMapping, load_mapping
from heron_mqtt.messaging.core.stats import MessageStats
from heron_mqtt.messaging.mqtt import MqttBroker
from heron_mqtt.messaging.mqtt.raw import RawMqtt

if TYPE_CHECKING:
    from powergrid.scenario import LoadedScenario

UNSENT = {"simulated", "shadow"}
"""Authorities with which no setpoint leaves the gateway."""


def load_mappings(loaded: LoadedScenario) -> dict[tuple[str, str], DeviceMapping]:
    """Return the mapping of each device that has one, by (agent, device).

    Raises:
        ConfigError: One line for each mistake: file, key and what was expected.
    """
    found: dict[tuple[str, str], DeviceMapping] = {}
    problems: list[str] = []
    for agent, microgrid in loaded.scenario.microgrids.items():
        for name, table in microgrid.devices.items():
            if table.mapping is None:
                continue
            where = f"{loaded.source}: microgrids.{agent}.devices.{name}"
            try:
                mapping = found[agent, name] = load_mapping(
                    table.mapping, agent=agent, device=name, source=f"{where}.mapping", find=loaded.path
                )
            except ConfigError as exc:
                problems += exc.problems
                continue
            if "p_mw" not in mapping.sets and table.authority not in UNSENT:
                problems.append(
                    f"{where}.authority = {_toml(table.authority)}: {mapping.name} can only be read, its "
                    'mapping has no setpoint; expected "shadow" or "simulated"'
                )
            if table.control_q and "q_mvar" not in mapping.sets:
                problems.append(
                    f"{where}.control_q = true: {mapping.name} takes no reactive power, its mapping sets no "
                    "q_mvar; expected false"
                )
    if problems:
        raise ConfigError(*problems)
    return found


def _toml(authority: str | None) -> str:
    return "(not given)" if authority is None else f'"{authority}"'


@asynccontextmanager
async def vendor_devices(
    mqtt: MqttBroker, loaded: LoadedScenario, agents: Sequence[str]
) -> AsyncIterator[int]:
    """Speak for the mapped boxes of some agents while inside; gives their number."""
    mappings = {key: mapping for key, mapping in load_mappings(loaded).items() if key[0] in agents}
    if not mappings:
        yield 0
        return
    async with RawMqtt(mqtt.options, mqtt.stats) as raw:
        tasks = []
        for (agent, name), mapping in mappings.items():
            table = loaded.scenario.microgrids[agent].devices[name]
            device = VendorDevice(
                mapping,
                raw,
                agent,
                name,
                mqtt,
                env_id=loaded.scenario.topic_env_id,
                kind=table.spec.kind,
                power_range_mw=table.spec.power_range_mw,
                stale_after_s=table.gateway.stale_after_s,
            )
            task = asyncio.create_task(device.run(), name=f"vendor {agent}/{name}")
            task.add_done_callback(partial(_ended, mqtt.stats, device.label))
            tasks.append(task)
        try:
            yield len(mappings)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def _ended(stats: MessageStats, label: str, task: asyncio.Task[None]) -> None:
    """Tell if whoever speaks for a box ended by a fault; it said offline."""
    if not task.cancelled() and (exc := task.exception()) is not None:
        stats.report("device", label, f"nobody speaks for the box any more: {exc}", exc=exc)

"""The boxes of a scenario that speak their vendor's MQTT: one ``VendorDevice`` each, beside the gateway."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from heron_mqtt.errors import ConfigError
from heron_mqtt.field.mapping import DeviceMapping, load_mapping
from heron_mqtt.field.vendor import VendorDevice
from heron_mqtt.messaging.mqtt import MqttBroker
from heron_mqtt.messaging.raw import RawMqtt

if TYPE_CHECKING:
    from powergrid.scenario import LoadedScenario


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
            where = f"{loaded.source}: microgrids.{agent}.devices.{name}.mapping"
            try:
                found[agent, name] = load_mapping(
                    table.mapping, agent=agent, device=name, source=where, find=loaded.path
                )
            except ConfigError as exc:
                problems += exc.problems
    if problems:
        raise ConfigError(*problems)
    return found


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
            spec = loaded.scenario.microgrids[agent].devices[name].spec
            device = VendorDevice(
                mapping,
                raw,
                agent,
                name,
                mqtt,
                env_id=loaded.scenario.topic_env_id,
                kind=spec.kind,
                power_range_mw=spec.power_range_mw,
            )
            tasks.append(asyncio.create_task(device.run(), name=f"vendor {agent}/{name}"))
        try:
            yield len(mappings)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

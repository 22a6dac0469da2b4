"""Puts the discovery messages on a broker, and takes them away."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

from heron_mqtt.app.home_assistant.discovery import discovery, discovery_filter
from heron_mqtt.errors import ConfigError, NotReady
from heron_mqtt.messaging.core.stats import MessageStats
from heron_mqtt.messaging.mqtt import MqttBroker
from heron_mqtt.messaging.mqtt.raw import RawMqtt
from heron_mqtt.messaging.schemes import open_broker
from powergrid.scenario import HomeAssistantTable, LoadedScenario, Scenario

QUIET_S = 0.4  # what the broker has kept is here when nothing of it has come for so long
READ_BACK_S = 3.0


async def announce(loaded: LoadedScenario, url: str, table: HomeAssistantTable | None = None) -> int:
    """Announce a scenario's devices and microgrids; what was announced before and is no more is retracted.

    Args:
        loaded: The scenario.
        url: Of the broker.
        table: How; None = as the scenario says.

    Returns:
        How many entities the broker keeps; it was read back.

    Raises:
        ConfigError: The scenario has no table for it.
        NotReady: The broker does not keep what was published.
        BrokerError: The broker is not there or refuses.
    """
    table = table or _table(loaded)
    broker = _broker(loaded, url)
    before = broker.options.topic_prefix
    wanted = {
        topic: json.dumps(config, ensure_ascii=False).encode()
        for topic, config in discovery(loaded.scenario, table, before=before).items()
    }
    return await _replace(loaded.scenario, broker, table.prefix, wanted)


async def retract(loaded: LoadedScenario, url: str, prefix: str | None = None) -> int:
    """Take away everything that was announced of a scenario's environment; return how many there were.

    Raises:
        NotReady: The broker still keeps some of it.
        BrokerError: The broker is not there or refuses.
    """
    if prefix is None:
        said = loaded.scenario.integrations.home_assistant
        prefix = (said or HomeAssistantTable()).prefix
    return await _replace(loaded.scenario, _broker(loaded, url), prefix, {})


def _table(loaded: LoadedScenario) -> HomeAssistantTable:
    table = loaded.scenario.integrations.home_assistant
    if table is None:
        raise ConfigError(f"{loaded.source}: has no table [integrations.home_assistant]; add it")
    return table


def _broker(loaded: LoadedScenario, url: str) -> MqttBroker:
    broker = open_broker(
        url, env_id=loaded.scenario.topic_env_id, at_address=True, defaults=loaded.broker_settings()
    )
    if not isinstance(broker, MqttBroker):
        raise ConfigError("Home Assistant: expected an MQTT broker, mqtt://host:port")
    return broker


async def _replace(scenario: Scenario, broker: MqttBroker, prefix: str, wanted: Mapping[str, bytes]) -> int:
    below = discovery_filter(scenario, prefix)
    async with RawMqtt(broker.options, MessageStats(), patience_s=0.0) as link:
        before = await _kept(link, below)
        changed = {topic: b"" for topic in before if topic not in wanted}
        changed |= {topic: payload for topic, payload in wanted.items() if before.get(topic) != payload}
        await asyncio.gather(
            *(link.publish_raw(topic, payload, qos=1, retain=True) for topic, payload in changed.items())
        )
        kept = await _kept(link, below)
        if kept != dict(wanted):
            why = "keep the discovery messages" if wanted else "forget them"
            raise NotReady(
                f"the broker at {broker.options.address} acknowledged and does not {why} on {below}: may "
                "this user publish and read there?"
            )
    return len(wanted) if wanted else len(before)


async def _kept(link: RawMqtt, topic_filter: str) -> dict[str, Any]:
    """Return what the broker keeps below a filter."""
    found: dict[str, Any] = {}
    news = asyncio.Event()

    def on_message(topic: str, payload: bytes, retained: bool) -> None:
        if retained:
            found[topic] = payload
            news.set()

    forget = link.subscribe_raw(topic_filter, on_message)
    try:
        async with asyncio.timeout(READ_BACK_S):
            while True:
                news.clear()
                async with asyncio.timeout(QUIET_S):
                    await news.wait()
    except TimeoutError:
        pass
    finally:
        forget()
    return found

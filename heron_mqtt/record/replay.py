"""The messages of a record, published again at the same distances.

A receiver sees what was seen then: the same payloads, senders and numbers. What commands devices
or people's decisions (setpoints of real devices, emergency stops, authority, leases) is held back unless it
is asked for explicitly.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from heron_mqtt.errors import ConfigError, MessageError
from heron_mqtt.messages import RunState, Status
from heron_mqtt.messaging import topics
from heron_mqtt.messaging.base import MessageBroker, Received
from heron_mqtt.messaging.subscription_group import SubscriptionGroup
from heron_mqtt.record.reader import RecordFile

COMMANDS = frozenset({"authority", "take", "owner", "lease", "fault"})
"""Last levels of channels that command or claim; ``estop`` and ``run/owner`` likewise."""
REAL_LEVELS = frozenset({"shadow", "limited", "full"})
LOOK_S = 0.5  # how long to look who is there


@dataclass(slots=True)
class Replayed:
    """What a replay did.

    Attributes:
        published: Messages.
        held_back: Messages by channel that were not published.
        took_s: From the first to the last, s.
        late_s: Longest delay behind the time at which a message was due, s.
    """

    published: int = 0
    held_back: dict[str, int] = field(default_factory=dict)
    took_s: float = 0.0
    late_s: float = 0.0


async def replay(
    record: RecordFile,
    broker: MessageBroker,
    *,
    speed: float = 1.0,
    commands_real_devices: bool = False,
    env_id: str | None = None,
    sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep,
    look_s: float = LOOK_S,
) -> Replayed:
    """Publish a record's messages.

    Args:
        record: With messages.
        broker: Of the environment in which they are published; connected.
        speed: How many times faster than they passed.
        commands_real_devices: Publish setpoints of real devices, stops, authority and leases as well.
        env_id: Put in the place of the recorded one in every message; None = as recorded.
        sleep: Waits; handed in by tests.
        look_s: How long to look which devices and runs are at the broker, s.

    Raises:
        ConfigError: The record has no messages, or another run is under way in this environment.
    """
    if record.meta.get("keeps_messages") != "1":
        raise ConfigError(f"{record.path}: its messages were not recorded; there is nothing to replay")
    boots = {row["boot"] for row in record.query("SELECT DISTINCT boot FROM message_row")}
    present = await _who_is_there(broker, boots, look_s)
    real = _real_devices(record) | present
    done, loop = Replayed(), asyncio.get_running_loop()
    begun_s, last_s, played_s = loop.time(), None, 0.0
    breaks_s = [part.at_s for part in record.parts()[1:]]  # the time until a run is resumed is skipped
    for row in record.each(
        "SELECT at_s, channel, payload FROM message_row WHERE payload IS NOT NULL AND "
        "(direction = 'out' OR arrival <> 'repeated') ORDER BY at_s, id"
    ):
        channel = row["channel"]
        if not commands_real_devices and _is_command(channel, real):
            done.held_back[channel] = done.held_back.get(channel, 0) + 1
            continue
        at_s = row["at_s"]
        if last_s is not None and not any(last_s < break_s <= at_s for break_s in breaks_s):
            played_s += at_s - last_s
        last_s = at_s
        due_s = begun_s + played_s / speed
        if (wait_s := due_s - loop.time()) > 0.0:
            await sleep(wait_s)
        done.late_s = max(done.late_s, loop.time() - due_s)
        message = json.loads(row["payload"])
        if env_id is not None and "env_id" in message:
            message["env_id"] = env_id
        await broker.publish(channel, message)
        done.published += 1
    done.took_s = loop.time() - begun_s
    return done


def _is_command(channel: str, real: set[tuple[str, str]]) -> bool:
    levels = topics.levels(channel)
    if levels[0] == "estop" or levels[-1] in COMMANDS:
        return True
    if levels[0] == "devices" and levels[-1] == "setpoint" and len(levels) == 4:
        return (levels[1], levels[2]) in real
    return False


def _real_devices(record: RecordFile) -> set[tuple[str, str]]:
    """Return the devices that were, or may have been, real: by the scenario and by their authority."""
    found = set()
    for agent, microgrid in record.scenario.get("microgrids", {}).items():
        for name, table in microgrid.get("devices", {}).items():
            if table.get("external") or table.get("mapping") or table.get("authority") in REAL_LEVELS:
                found.add((agent, name))
    for row in record.query("SELECT DISTINCT agent, device, authority FROM device_row"):
        if row["authority"] in REAL_LEVELS:
            found.add((row["agent"], row["device"]))
    return found


async def _who_is_there(broker: MessageBroker, boots: set[str], look_s: float) -> set[tuple[str, str]]:
    """Return the devices that are online at the broker, of any kind.

    Raises:
        ConfigError: A run is under way.
    """
    devices: set[tuple[str, str]] = set()
    runs: list[RunState] = []

    def on_status(message: Received) -> None:
        levels = topics.levels(message.channel)
        try:
            is_online = message.parse(Status).state != "offline"
        except MessageError:
            is_online = True  # another client is there
        if is_online:
            devices.add((levels[1], levels[2]))

    def on_run(message: Received) -> None:
        try:
            state = message.parse(RunState)
        except MessageError:
            return
        if state.state in {"reset", "running"} and state.boot not in boots:
            runs.append(state)

    wanted = [(topics.any_device("status"), on_status), (topics.RUN_STATE, on_run)]
    with await SubscriptionGroup(broker).open(wanted):
        await asyncio.sleep(look_s)
    if runs:
        raise ConfigError(
            f"a run of {runs[0].scenario or 'another scenario'} is under way in this environment: replay "
            "into another one with --env-id NAME"
        )
    return devices

"""LiveView: a connection to a broker, and what it has seen. It reads and never publishes.

Everything that is kept is bounded, because it comes from the network.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Set
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

from heron_mqtt.app.live_view.counts import ChannelTraffic, KnownChannel
from heron_mqtt.app.live_view.delays import MinimumDelays
from heron_mqtt.app.live_view.events import LiveEvents, facts
from heron_mqtt.app.live_view.grid import GridLive
from heron_mqtt.app.live_view.microgrids import SILENT_S, DeviceLive, MicrogridsLive
from heron_mqtt.app.live_view.tail import MessageTail
from heron_mqtt.app.live_view.telemetry import LiveTelemetry
from heron_mqtt.app.operator_client.environments import (
    MAX_NAMES,
    Environments,
    EnvironmentSeen,
)
from heron_mqtt.app.operator_client.observer import Heard, Observer
from heron_mqtt.app.operator_client.status import environment
from heron_mqtt.json_object import Json
from heron_mqtt.messaging import topics
from heron_mqtt.messaging.core.sequence import SequenceTracker
from heron_mqtt.messaging.mqtt.socket_stream import RawMessage

ENVIRONMENTS = 100
"""More of them at one broker are not followed: ``unseen`` counts their messages; --env-id names one."""

PARTS = frozenset({"microgrids", "grid", "devices", "channels", "events", "outboxes"})
"""What of an environment is large."""

_NEVER_TOLD = DeviceLive()


class EnvironmentLive:
    """One environment, beside what ``operator_client`` knows of it.

    Args:
        tracker: See ``ChannelTraffic``.
        quickest: The same.
        seen: What ``operator_client`` knows of it.
    """

    def __init__(self, tracker: SequenceTracker, quickest: MinimumDelays, seen: EnvironmentSeen) -> None:
        self._seen = seen
        self._readers: dict[str, LiveTelemetry] = {}
        self.channels = ChannelTraffic(tracker, quickest, seen.env_id)
        self.events = LiveEvents()
        self.microgrids = MicrogridsLive()
        self.grid = GridLive()
        self.rejected_in_stop = 0
        """Setpoints that devices rejected in the stop that is in force."""

    def take(self, heard: Heard) -> LiveTelemetry | None:
        """Take a message; return what takes the next one of its channel, where that is telemetry."""
        reader = self._readers.get(heard.channel)
        if reader is not None:
            if (why := reader.take(heard)) is not None:
                self._note_refusal(heard, reader.label, why)
            return reader
        channel = self.channels.known(heard.channel)
        match channel.levels:
            case ["devices", agent, name, "telemetry"] if self._may_read(heard.channel, agent, name):
                return self.take(heard)
            case _:
                self._take_other(channel, heard)
                return None

    def _note_refusal(self, heard: Heard, label: str, why: str) -> None:
        """Note that a device rejects a setpoint; one that is stopped does so in each step, as it should."""
        telemetry = self._seen.devices[label].telemetry or {}
        if self._seen.stop.is_active and telemetry.get("stopped") is True:
            self.rejected_in_stop += 1
        else:
            self.events.note(heard, ("refusal", label, f"rejects its setpoint: {why}"))

    def _may_read(self, channel: str, agent: str, name: str) -> bool:
        """Make what reads the telemetry of a device; return False where there are too many."""
        seen, live = self._seen.device(agent, name), self.microgrids.device(agent, name)
        if seen is None or live is None:
            return False
        label = f"{agent}/{name}"
        if len(self._readers) >= MAX_NAMES:  # one name can be spelled in many ways; nothing is lost with them
            self._readers.clear()
        self._readers[channel] = LiveTelemetry(channel, label, self.channels, self._seen, seen, live)
        return True

    def _take_other(self, channel: KnownChannel, heard: Heard) -> None:
        levels, is_event = channel.levels, channel.may_be_event
        is_repeated = self.channels.note_heard(channel, heard)
        before = facts(self._seen, levels) if is_event else None
        self._seen.take(heard, levels)
        if heard.fields is not None:
            self.microgrids.note(levels, heard.fields, heard, is_repeated=is_repeated)
            if levels[0] == "run":
                self.grid.note(levels, heard.fields)
        if is_event:
            after = facts(self._seen, levels)
            if not self._seen.stop.is_active:
                self.rejected_in_stop = 0
            if after is not None and after != before:
                self.events.note(heard, after)


class LiveView:
    """A connection to a broker and what it has seen; used as a context.

    Args:
        url: Of the broker.
        env_id: The environment to watch; None = all.

    Raises:
        ConfigError: The URL or the environment is wrong.
        BrokerError: When entered: the broker is not there or refuses.
    """

    def __init__(self, url: str, env_id: str | None = None) -> None:
        self.environments = Environments()
        self.messages = MessageTail()
        self.unseen = 0
        """Messages of environments beyond ``ENVIRONMENTS``."""
        self._live: dict[str, EnvironmentLive] = {}
        self._tracker, self._quickest = SequenceTracker(), MinimumDelays()
        self._observer = Observer(
            url,
            topics.checked_env_id(env_id),
            ("#",),
            self._hear,
            only_watches=True,
            on_messages=self._take_all,
        )
        self._readers: dict[bytes, LiveTelemetry] = {}

    async def __aenter__(self) -> Self:
        """Connect."""
        await self._observer.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Disconnect."""
        await self._observer.__aexit__(kind, exc, trace)

    @property
    def is_connected(self) -> bool:
        """Whether the broker is there now."""
        return self._observer.is_connected

    @property
    def address(self) -> str:
        """Of the broker, without a login."""
        return self._observer.options.address

    async def settle(self) -> None:
        """Return when what the broker has kept is here."""
        await self._observer.settle()

    def _take(self, heard: Heard) -> LiveTelemetry | None:
        live = self._live.get(heard.env_id) or self._follow(heard.env_id)
        if live is None:
            self.unseen += 1
            return None
        self.messages.note(heard)
        return live.take(heard)

    def _hear(self, heard: Heard) -> None:
        self._take(heard)

    def _take_all(self, messages: list[RawMessage]) -> None:
        """Take what has come in one piece: nearly all of it is telemetry that holds no surprise."""
        at_s, unix_s = asyncio.get_running_loop().time(), time.time()
        readers, note_payload = self._readers, self.messages.note_payload
        for message in messages:
            topic, payload, retained = message
            reader = readers.get(topic)
            if reader is not None and not retained and reader.take_plain(payload, at_s):
                note_payload(reader.heard, payload, at_s, unix_s)
            elif (heard := self._observer.heard(message, at_s)) is not None:
                reader = self._take(heard)
                if reader is not None:
                    if len(readers) >= MAX_NAMES:
                        readers.clear()
                    readers[topic] = reader

    def _follow(self, env_id: str) -> EnvironmentLive | None:
        if len(self._live) >= ENVIRONMENTS:
            return None
        seen = self.environments[env_id] = EnvironmentSeen(env_id)
        return self._live.setdefault(env_id, EnvironmentLive(self._tracker, self._quickest, seen))

    # -- what is known -----------------------------------------------------------------------------

    def snapshot(self, parts: Set[str] = PARTS) -> Json:
        """Return what is known as plain JSON; of each environment with those of ``PARTS`` that are asked for.

        Without ``devices`` it has of each device its health and power.
        """
        now_s = asyncio.get_running_loop().time()
        return {
            "broker": self.address,
            "connected": self.is_connected,
            "unseen": self.unseen,
            "environments": [
                self._environment(self.environments[name], now_s, parts) for name in self.environments.alive
            ],
        }

    def level(self, env_id: str, device: str) -> str | None:
        """Return the authority over AGENT/DEVICE; None where none is known."""
        view = self.environments.get(env_id)
        seen = None if view is None else view.devices.get(device)
        return None if seen is None or seen.authority is None else seen.authority.level

    def acknowledge(self, env_id: str, event: int, who: str) -> bool:
        """Note that a person has seen an event, for all who look; return whether it is still there."""
        live = self._live.get(env_id)
        return live is not None and live.events.acknowledge(event, who)

    def network(self, env_id: str) -> Json | None:
        """Return the network of an environment, as in ``NetworkModel``; None where none is known."""
        live = self._live.get(env_id)
        return None if live is None else live.grid.network

    def series(self, env_id: str, label: str) -> Json | None:
        """Return the newest points of AGENT/DEVICE: ``t``, UNIX time, s, ``told`` and ``done``, MW.

        None where it is not known.
        """
        live = self._live.get(env_id)
        device = None if live is None else live.microgrids.devices.get(label)
        if device is None:
            return None
        return device.trace.as_json(time.time() - asyncio.get_running_loop().time())

    def _environment(self, view: EnvironmentSeen, now_s: float, parts: Set[str]) -> Json:
        live = self._live[view.env_id]
        microgrids = live.microgrids
        found = environment(view, now_s, SILENT_S, with_outboxes="outboxes" in parts)
        found["rejected_in_stop"] = live.rejected_in_stop
        has_all = "devices" in parts
        for label, device in found["devices"].items():
            told = microgrids.devices.get(label, _NEVER_TOLD)
            # how long it may be silent is looked up only where it might be
            if (device["age_s"] or 0.0) > SILENT_S and device["health"] == "online":
                device["health"] = "silent" if device["age_s"] > told.silent_after_s else "online"
            if has_all:
                device.update(told.as_json(now_s))
        for text, age_s in _silent(found["devices"]):
            since = datetime.fromtimestamp(time.time() - age_s, UTC)
            found["problems"].append(text)
            found["problems_since"].append(since.isoformat(timespec="seconds"))
        found["price"] = microgrids.price
        found["step_age_s"] = round(now_s - microgrids.step_at_s, 2) if microgrids.step_at_s else None
        periods_s = microgrids.periods_s
        found["step_period_s"] = round(sum(periods_s) / len(periods_s), 3) if periods_s else None
        if not has_all:
            found["devices"] = {
                label: {"health": device["health"], "p_mw": device["p_mw"]}
                for label, device in found["devices"].items()
            }
        if "microgrids" in parts:
            found["microgrids"] = {
                name: seen.as_json(now_s) for name, seen in sorted(microgrids.microgrids.items())
            }
        found["network"] = live.grid.number
        if "grid" in parts:
            found["grid"] = live.grid.results
        if "channels" in parts:
            found["channels"] = live.channels.as_json(now_s)
        if "events" in parts:
            found["events"] = live.events.as_json(now_s)
        return found


def _silent(devices: Mapping[str, Json]) -> list[tuple[str, float]]:
    return [
        (
            f"device {label} has the status online, but has published nothing for {device['age_s']:.0f} s",
            device["age_s"],
        )
        for label, device in devices.items()
        if device["health"] == "silent" and device["age_s"] is not None
    ]

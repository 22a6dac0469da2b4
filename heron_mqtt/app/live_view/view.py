"""LiveView: a connection to a broker, and what it has seen. It reads and never publishes.

Everything that is kept is bounded, because it comes from the network.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

from heron_mqtt.app.live_view.counts import ChannelTraffic
from heron_mqtt.app.live_view.delays import QuickestOfSenders
from heron_mqtt.app.live_view.events import LiveEvents, facts
from heron_mqtt.app.live_view.grid import GridLive
from heron_mqtt.app.live_view.microgrids import SILENT_S, DeviceLive, MicrogridsLive
from heron_mqtt.app.live_view.tail import MessageTail
from heron_mqtt.app.operator_client.environments import Environments, EnvironmentSeen, checked_env_id
from heron_mqtt.app.operator_client.observer import Heard, Observer
from heron_mqtt.app.operator_client.status import environment
from heron_mqtt.messaging.core.sequence import SequenceTracker

Json = dict[str, Any]

ENVIRONMENTS = 100
"""More of them at one broker are not followed: ``unseen`` counts their messages; --env-id names one."""

_NEVER_TOLD = DeviceLive()


class EnvironmentLive:
    """One environment, beside what ``operator_client`` knows of it."""

    def __init__(self, tracker: SequenceTracker, quickest: QuickestOfSenders, env_id: str) -> None:
        self.channels = ChannelTraffic(tracker, quickest, env_id)
        self.events = LiveEvents()
        self.microgrids = MicrogridsLive()
        self.grid = GridLive()


class LiveView:
    """A connection to a broker and what it has seen; used as a context.

    Args:
        url: Of the broker.
        env_id: The environment to watch; None = all.
        on_message: Called with each message; for a tail.

    Raises:
        ConfigError: The URL or the environment is wrong.
        BrokerError: When entered: the broker is not there or refuses.
    """

    def __init__(
        self, url: str, env_id: str | None = None, on_message: Callable[[Heard], None] | None = None
    ) -> None:
        self.environments = Environments()
        self.messages = MessageTail()
        self.unseen = 0
        """Messages of environments beyond ``ENVIRONMENTS``."""
        self._live: dict[str, EnvironmentLive] = {}
        self._tracker, self._quickest = SequenceTracker(), QuickestOfSenders()
        self._on_message = on_message
        self._observer = Observer(url, checked_env_id(env_id), ("#",), self._take)

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

    def _take(self, heard: Heard) -> None:
        live = self._live.get(heard.env_id)
        if live is None:
            if len(self._live) >= ENVIRONMENTS:
                self.unseen += 1
                return
            live = EnvironmentLive(self._tracker, self._quickest, heard.env_id)
            self._live[heard.env_id] = live
        channel = live.channels.known(heard.channel)
        levels, is_event = channel.levels, channel.may_be_event
        before = self._facts(heard.env_id, levels) if is_event else None
        self.environments.take(heard, levels)
        fields = heard.fields
        counted = {} if heard.retained or not fields else fields
        is_repeated = live.channels.note(channel, counted, heard.at_s)
        self.messages.note(heard)
        if fields is not None:
            rejection = live.microgrids.note(levels, fields, heard, is_repeated=is_repeated)
            if rejection is not None:
                live.events.note(heard, ("refusal", rejection[0], f"rejects its setpoint: {rejection[1]}"))
            if levels[0] == "run":
                live.grid.note(levels, fields)
        if is_event:
            after = self._facts(heard.env_id, levels)
            if after is not None and after != before:
                live.events.note(heard, after)
        if self._on_message is not None:
            self._on_message(heard)

    def _facts(self, env_id: str, levels: list[str]) -> tuple[str, str, str] | None:
        view = self.environments.get(env_id)
        return None if view is None else facts(view, levels)

    # -- what is known -----------------------------------------------------------------------------

    def snapshot(self) -> Json:
        """Return everything as plain JSON: environments, microgrids, devices, channels, events."""
        now_s = asyncio.get_running_loop().time()
        return {
            "broker": self.address,
            "connected": self.is_connected,
            "unseen": self.unseen,
            "environments": [
                self._environment(self.environments[name], now_s) for name in self.environments.alive
            ],
        }

    def level(self, env_id: str, device: str) -> str | None:
        """Return the authority over AGENT/DEVICE; None where none is known."""
        view = self.environments.get(env_id)
        seen = None if view is None else view.devices.get(device)
        return None if seen is None or seen.authority is None else seen.authority.level

    def acknowledge(self, env_id: str, event: int, who: str) -> bool:
        """Note that a person has seen an event, for everybody who looks; return whether it is still there."""
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

    def _environment(self, view: EnvironmentSeen, now_s: float) -> Json:
        live = self._live[view.env_id]
        microgrids = live.microgrids
        found = environment(view, now_s, SILENT_S)
        for label, device in found["devices"].items():
            told = microgrids.devices.get(label, _NEVER_TOLD)
            if device["health"] == "online" and (device["age_s"] or 0.0) > told.silent_after_s:
                device["health"] = "silent"
            device.update(told.as_json(now_s))
        for text, age_s in _silent(found["devices"]):
            since = datetime.fromtimestamp(time.time() - age_s, UTC)
            found["problems"].append(text)
            found["problems_since"].append(since.isoformat(timespec="seconds"))
        found["price"] = microgrids.price
        found["step_age_s"] = round(now_s - microgrids.step_at_s, 2) if microgrids.step_at_s else None
        periods_s = microgrids.periods_s
        found["step_period_s"] = round(sum(periods_s) / len(periods_s), 3) if periods_s else None
        found["microgrids"] = {
            name: seen.as_json(now_s) for name, seen in sorted(microgrids.microgrids.items())
        }
        found["network"], found["grid"] = live.grid.number, live.grid.results
        found["channels"] = live.channels.as_json(now_s)
        found["events"] = live.events.as_json(now_s)
        return found


def _silent(devices: Mapping[str, Json]) -> list[tuple[str, float]]:
    return [
        (
            f"device {label} says that it is online, and has said nothing for {device['age_s']:.0f} s",
            device["age_s"],
        )
        for label, device in devices.items()
        if device["health"] == "silent" and device["age_s"] is not None
    ]

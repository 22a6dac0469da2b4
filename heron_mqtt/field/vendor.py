"""A vendor's box as a field device: its own topics and payloads on one side, ours on the other.

It runs beside the gateway and speaks for the box, so that the box needs no code and the gateway no
special case: it takes leased setpoints and translates them, merges what the box says into telemetry,
and when the lease runs out it tells the box to go to zero.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from heron_mqtt.errors import MessageError
from heron_mqtt.field.box import BoxState
from heron_mqtt.field.device import FieldDevice
from heron_mqtt.field.mapping import DeviceMapping, Keepalive, Outgoing
from heron_mqtt.messages import Setpoint, Status, Telemetry

log = logging.getLogger("heron_mqtt.vendor")

RawCallback = Callable[[str, bytes, bool], None]
"""Called with topic, payload and whether the broker had kept it."""


class RawMqtt(Protocol):
    """MQTT as it is, for topics that are not ours; ``MqttBroker`` is one."""

    def publish_raw(self, topic: str, payload: bytes, *, qos: int, retain: bool) -> Awaitable[None]:
        """Publish bytes to a topic; the result may be ignored."""

    def subscribe_raw(self, topic: str, callback: RawCallback) -> Callable[[], None]:
        """Call back, in the broker's loop, for every message on a topic; returns the unsubscribe."""


class VendorDevice(FieldDevice):
    """Speaks for one box.

    Args:
        mapping: How the box speaks.
        raw: Its side of the wire.
        kind: What it is: battery, generator, pv, load.
        power_range_mw: Nameplate, MW, positive = injected.
        answer_within_s: How long to wait for the box's first word after a setpoint before telling what
            was known until then, s.
    """

    def __init__(
        self,
        mapping: DeviceMapping,
        raw: RawMqtt,
        *args: Any,
        kind: str,
        power_range_mw: tuple[float, float],
        answer_within_s: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._mapping = mapping
        self._raw = raw
        self._kind = kind
        self._range = power_range_mw
        self._answer_within_s = answer_within_s
        self._box = BoxState(mapping)
        self._news = asyncio.Event()
        self._seen: Status | None = None

    # -- the device --------------------------------------------------------------------------------

    async def apply(self, setpoint: Setpoint) -> None:
        """Tell the box, and wait a moment for what it does about it."""
        self._news.clear()
        for message in self._mapping.encode(setpoint):
            await self._send(message)
        try:
            async with asyncio.timeout(self._answer_within_s):
                await self._news.wait()
        except TimeoutError:
            log.debug("%s: no word within %g s of a setpoint", self.label, self._answer_within_s)

    def measure(self) -> Telemetry | None:
        """Return what the box said last; None until it has said its power."""
        return self._box.telemetry()

    def nameplate(self) -> dict[str, Any]:
        """Return the scenario's nameplate: a box seldom tells its own."""
        return {"p_min_mw": self._range[0], "p_max_mw": self._range[1], "kind": self._kind}

    async def run(self, *, duration_s: float | None = None, once: bool = False) -> None:
        """Listen to the box and keep it talking, and serve; see ``FieldDevice.run``."""
        filters = self._mapping.topic_filters()
        endings = [self._raw.subscribe_raw(topic, self._on_raw) for topic in filters]
        keeping = [
            asyncio.create_task(self._keep_alive(k), name=f"keepalive {self.label}")
            for k in self._mapping.keepalives()
        ]
        try:
            await super().run(duration_s=duration_s, once=once)
        finally:
            for task in keeping:
                task.cancel()
            for unsubscribe in endings:
                unsubscribe()

    # -- the box -----------------------------------------------------------------------------------

    def _on_raw(self, topic: str, payload: bytes, retained: bool) -> None:
        try:
            decoded = self._box.take(topic, payload, time.monotonic(), retained=retained)
        except MessageError as exc:
            self._broker.stats.reject(topic, f"{self.label}: {exc}")
            return
        if decoded is None:
            return
        if decoded.fields:
            self._news.set()
        status = self._box.status()
        if status is not None and status != self._seen:
            self._seen = status
            self._spawn(self._say(self._birth() if status.state == "online" else self._stamped(status)))

    async def _send(self, message: Outgoing) -> None:
        await self._raw.publish_raw(message.topic, message.payload, qos=message.qos, retain=message.retain)

    async def _keep_alive(self, keepalive: Keepalive) -> None:
        message = keepalive.first
        while True:
            await self._send(message)
            message = keepalive.again
            await asyncio.sleep(keepalive.period_s)

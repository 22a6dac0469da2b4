"""A vendor's box as a field device: its own topics and payloads on one side, ours on the other.

It runs beside the gateway and speaks for the box, so that the box needs no code and the gateway no
special case: it takes leased setpoints and translates them, merges what the box says into telemetry,
and when the lease runs out it tells the box to go to zero.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any, Protocol

from heron_mqtt.errors import BrokerError, MessageError
from heron_mqtt.field.device import FieldDevice, SetpointRejected
from heron_mqtt.field.gateway.authority import SENDS
from heron_mqtt.field.vendor.mapping import DeviceMapping, Keepalive, Outgoing
from heron_mqtt.field.vendor.vendor_state import VendorState
from heron_mqtt.messages import AuthorityState, Level, Setpoint, Status, Telemetry
from heron_mqtt.messaging import topics
from heron_mqtt.messaging.base import Callback, Received

log = logging.getLogger("heron_mqtt.vendor")

ZERO_SETPOINT = Setpoint(p_mw=0.0, q_mvar=0.0, lease_s=1.0)
GOODBYE_S = 0.5  # how long telling the box to rest may take at the end; a run ends within 2 s

RawCallback = Callable[[str, bytes, bool], None]
"""Called with topic, payload and whether the broker had kept it."""


class VendorMqtt(Protocol):
    """MQTT as it is, for topics that are not ours; ``heron_mqtt.messaging.mqtt.raw.RawMqtt`` is one."""

    @property
    def connected(self) -> bool:
        """Whether there is a connection now."""

    def publish_raw(self, topic: str, payload: bytes, *, qos: int, retain: bool) -> asyncio.Future[None]:
        """Publish bytes to a topic; what is returned is done when the broker has them, and may be ignored."""

    def subscribe_raw(self, topic: str, callback: RawCallback) -> Callable[[], None]:
        """Call back, in the broker's loop, for every message on a topic; returns the unsubscribe."""

    def on_reconnect(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call back after each reconnection; returns what ends that."""


class VendorDevice(FieldDevice):
    """Speaks for one box.

    - The box is told something only while it is driven: by a setpoint and its renewals, by the safe state
      that ends them (when the lease runs out, and when this ends), and by an emergency stop if the
      gateway's authority over it is one that sends. Authority ``shadow`` sends nothing but keepalives.
    - Its last words count for ``stale_after_s``. A box that says nothing for longer is told as a fault,
      and the gateway's model stands in. One that has said nothing yet is reported only: it may be one that
      speaks when something changes, and wait for its first setpoint.
    - Where the box repeats the number of a setpoint (``ack_seq`` in the mapping) only that is an
      acknowledgement; without one the setpoint counts as rejected.

    Args:
        mapping: How the box speaks.
        raw: Its side of the wire.
        kind: What it is: battery, generator, pv, load.
        power_range_mw: Nameplate, MW, positive = injected.
        stale_after_s: How long the box's last power counts, s.
        answer_within_s: How long to wait for the box's first power, or its acknowledgement, after a
            setpoint, s.
    """

    def __init__(
        self,
        mapping: DeviceMapping,
        raw: VendorMqtt,
        *args: Any,
        kind: str,
        power_range_mw: tuple[float, float],
        stale_after_s: float = 5.0,
        answer_within_s: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._mapping = mapping
        self._raw = raw
        self._kind = kind
        self._range = power_range_mw
        self._stale_after_s = stale_after_s
        self._answer_within_s = answer_within_s
        self._acknowledges = "ack_seq" in mapping.reads
        self._awaited: int | None = None  # number that the box shall repeat
        self._vendor = VendorState(mapping)
        self._news = asyncio.Event()
        self._heard = asyncio.Event()
        self._has_spoken = False
        self._silence: Status | None = None
        self._trouble: Status | None = None
        self._is_driven = False
        self._level: Level | None = None
        self._keeping: list[asyncio.Task[None]] = []

    # -- the device --------------------------------------------------------------------------------

    async def apply(self, setpoint: Setpoint) -> None:
        """Tell the box, and wait a moment for what it does about it."""
        if not self._mapping.sets:
            raise SetpointRejected("the box can only be read: its mapping has no setpoint")
        if not self._raw.connected:  # it would wait, and reach the box when its lease is over
            raise SetpointRejected("there is no connection to the box's broker")
        self._news.clear()
        self._awaited = setpoint.seq if self._acknowledges else None
        await self._tell(setpoint)
        try:
            async with asyncio.timeout(self._answer_within_s):
                await self._news.wait()
        except TimeoutError:
            what = f"no word from the box within {self._answer_within_s:g} s"
            if self._awaited is not None:
                raise SetpointRejected(f"not acknowledged: {what}") from None
            log.debug("%s: %s of a setpoint", self.label, what)
        finally:
            self._awaited = None

    async def renew(self, setpoint: Setpoint) -> None:
        """Tell the box again, so that a timer of its own begins anew."""
        if self._raw.connected:
            await self._tell(setpoint)

    async def go_safe(self, reason: str) -> None:
        """Tell the box to rest, if it does what it was told, or if it is ours to stop."""
        if self._mapping.sets and (self._is_driven or (self.stopped and self._level in SENDS)):
            await self._tell(ZERO_SETPOINT)
            self._is_driven = False

    def measure(self) -> Telemetry | None:
        """Return what the box said last; None until it has said its power, and once that is too old."""
        return self._vendor.telemetry(time.monotonic(), self._stale_after_s)

    def nameplate(self) -> dict[str, Any]:
        """Return the scenario's nameplate: a box seldom tells its own."""
        return {"p_min_mw": self._range[0], "p_max_mw": self._range[1], "kind": self._kind}

    async def run(
        self,
        *,
        duration_s: float | None = None,
        once: bool = False,
        on_online: Callable[[], None] | None = None,
    ) -> None:
        """Listen to the box and keep it talking, and serve; see ``FieldDevice.run``."""
        endings = [self._raw.subscribe_raw(topic, self._on_raw) for topic in self._mapping.topic_filters()]
        endings += [self._raw.on_reconnect(self._keep_talking), self._stop_keepalives]
        self._keep_talking()
        watching = asyncio.create_task(self._watch_silence(), name=f"silence {self.label}")
        try:
            await super().run(duration_s=duration_s, once=once, on_online=on_online)
        finally:
            watching.cancel()
            for end in endings:
                end()
            if self._is_driven and self._raw.connected:
                await self._say_goodbye()

    # -- the box -----------------------------------------------------------------------------------

    def _on_raw(self, topic: str, payload: bytes, retained: bool) -> None:
        try:
            decoded = self._vendor.take(topic, payload, time.monotonic(), retained=retained)
        except MessageError as exc:
            self._broker.stats.reject(topic, f"{self.label}: {exc}")
            return
        if decoded is None:
            return
        said = {} if retained else decoded.fields  # since when a retained value holds nobody knows
        if said.get("p_mw") is not None:
            self._heard.set()
            self._has_spoken = True
            self._silence = None
        self._tell_trouble()  # before the answer, so that it counts
        if self._awaited is None:
            answers = said.get("p_mw") is not None
        else:
            answers = said.get("ack_seq") == self._awaited
        if answers:
            self._news.set()

    async def _watch_silence(self) -> None:
        """Tell when the box has not said its power for too long."""
        where = ", ".join(self._mapping.topics_of("p_mw"))
        what = f"no power from the box for {self._stale_after_s:g} s on {where}"
        is_reported = False
        while True:
            self._heard.clear()
            try:
                async with asyncio.timeout(self._stale_after_s):
                    await self._heard.wait()
                is_reported = False
            except TimeoutError:
                if not is_reported:
                    is_reported = True
                    ask = "is it on, does its mapping fit?"
                    self._broker.stats.report("device", self.label, f"{what}: {ask}")
                if self._has_spoken:
                    self._silence = Status(state="fault", reason=what[:500], kind=self._kind)
                    self._tell_trouble()

    def _tell_trouble(self) -> None:
        """Tell what the box's availability and its silence come to, if that has changed."""
        status = self._vendor.status()
        trouble = self._silence if status is None or status.state == "online" else status
        if trouble != self._trouble:
            self._trouble = trouble
            self._spawn(self._say(self._birth()))

    def _birth(self) -> dict[str, Any]:
        return super()._birth() if self._trouble is None else self._stamped(self._trouble)

    async def _tell(self, setpoint: Setpoint) -> None:
        """Send a setpoint; returns when the broker has it all, or late is too late.

        Raises:
            BrokerError: It was refused.
        """
        self._is_driven = True  # also where sending fails half way
        sending = [self._send(message) for message in self._mapping.encode(setpoint)]
        if sending:
            done, _ = await asyncio.wait(sending, timeout=self._answer_within_s)
            for each in done:
                each.result()

    async def _say_goodbye(self) -> None:
        """Tell the box to rest: nobody renews what it holds any more."""
        try:
            async with asyncio.timeout(GOODBYE_S):
                await self._tell(ZERO_SETPOINT)
        except (BrokerError, TimeoutError) as exc:
            log.warning("%s: the box was not told that this is the end: %s", self.label, exc or "no answer")

    def _send(self, message: Outgoing) -> asyncio.Future[None]:
        return self._raw.publish_raw(message.topic, message.payload, qos=message.qos, retain=message.retain)

    # -- keepalives --------------------------------------------------------------------------------

    def _keep_talking(self) -> None:
        """Begin anew with the first message of each keepalive, as after every connection."""
        self._stop_keepalives()
        self._keeping = [
            asyncio.create_task(self._keep_alive(k), name=f"keepalive {self.label}")
            for k in self._mapping.keepalives()
        ]

    def _stop_keepalives(self) -> None:
        for task in self._keeping:
            task.cancel()

    async def _keep_alive(self, keepalive: Keepalive) -> None:
        message = keepalive.first
        while True:
            if self._raw.connected:  # else it would only wait in the queue
                self._send(message)
                message = keepalive.again
            await asyncio.sleep(keepalive.period_s)

    # -- authority ---------------------------------------------------------------------------------

    def _wanted(self) -> list[tuple[str, Callback]]:
        authority = topics.device(self.agent_id, self.name, "authority_state")
        return [(authority, self._on_authority), *super()._wanted()]

    async def _on_authority(self, message: Received) -> None:
        if message.retained:
            return  # of an earlier run; the gateway of this one tells when it begins
        state = self._broker.parsed(message, AuthorityState)
        if state is None:
            return
        before, self._level = self._level, state.level
        if self.stopped and before not in SENDS and state.level in SENDS:
            await self._make_safe("it came under control during an emergency stop")

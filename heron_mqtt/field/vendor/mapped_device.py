"""What a vendor's device says, and what is known and said of it: its state, its presence, its silence."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from heron_mqtt.field.device import FieldDevice
from heron_mqtt.field.gateway.pause_detector import PauseDetector
from heron_mqtt.field.vendor.built_ins import BuiltIns
from heron_mqtt.field.vendor.condition import DeviceCondition
from heron_mqtt.field.vendor.device_mapping import DeviceMapping
from heron_mqtt.field.vendor.link import RegisterPoll, VendorLink
from heron_mqtt.field.vendor.outgoing import DeviceCommand, Outgoing
from heron_mqtt.field.vendor.payload_filling import MessageContext
from heron_mqtt.field.vendor.silence_watch import SilenceWatch
from heron_mqtt.field.vendor.sparkplug_payload import encode
from heron_mqtt.field.vendor.vendor_state import StateUpdate, VendorState
from heron_mqtt.messages import Status

log = logging.getLogger("heron_mqtt.vendor")

SEND_WITHIN_S = 2.0
SAME_PROBLEM_S = 60.0  # a problem that comes with every payload is reported so often, and counted always


class MappedDevice(FieldDevice):
    """A device that is read by a mapping; ``VendorDevice`` drives it, and has the arguments."""

    def __init__(
        self,
        mapping: DeviceMapping,
        link: VendorLink,
        *args: Any,
        kind: str,
        power_range_mw: tuple[float, float],
        stale_after_s: float = 5.0,
        answer_within_s: float | None = None,
        utc_s: Callable[[], float] = time.time,
        new_id: Callable[[], str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._mapping = mapping
        self._link = link
        self._kind = kind
        self._range = power_range_mw
        self._stale_after_s = stale_after_s
        given_s = 1.0 if mapping.setpoint is None else mapping.setpoint.answer_within_s
        self._within_s = given_s if answer_within_s is None else answer_within_s
        self._state = VendorState(mapping, utc_s, keeps_instance=self._has_to_tell_instance)
        self._built_ins = BuiltIns(utc_s) if new_id is None else BuiltIns(utc_s, new_id)
        self._silence_watch = SilenceWatch(
            mapping,
            self._state,
            stale_after_s,
            monotonic=self._monotonic,
            report=self._report,
            is_known=self._is_power_known,
            on_silence=self._on_silence,
        )
        self._pause: PauseDetector  # of the loop that it runs in
        self._condition = DeviceCondition(mapping, self._state, kind)
        self._settling: asyncio.TimerHandle | None = None
        self._trouble: Status | None = None
        self._is_born = False
        self._reported: dict[str, float] = {}

    @property
    def state(self) -> VendorState:
        """What is known of the device."""
        return self._state

    def nameplate(self) -> dict[str, Any]:
        """Return the scenario's nameplate: a device seldom tells its own."""
        return {"p_min_mw": self._range[0], "p_max_mw": self._range[1], "kind": self._kind}

    @property
    def never_reached(self) -> str | None:
        """Why the device has never said its power, for people; None = it has."""
        if self._condition.has_spoken:
            return None
        return self._state.why("p_mw", self._monotonic()) or "its power has never come"

    def _has_to_tell_instance(self) -> bool:
        """Whether the instance that was learned has still to be told something at its own topics."""
        return False

    def _prove_life(self) -> None:
        """Take in what proves that the device is there while it has nothing new to say."""
        now_s = self._monotonic()
        if self._link.connected:
            self._state.connected(now_s)
        if self._state.age_s("p_mw", now_s) <= self._stale_after_s:
            self._condition.speaks()

    # -- what it says --------------------------------------------------------------------------------

    async def run(
        self,
        *,
        duration_s: float | None = None,
        once: bool = False,
        on_online: Callable[[], None] | None = None,
    ) -> None:
        """Listen to the device, and serve; see ``FieldDevice.run``."""
        endings = self._listen()
        self._pause = PauseDetector.of_running_loop()
        self._pause.start()
        watching = asyncio.create_task(self._silence_watch.run(self._pause), name=f"silence {self.label}")
        try:
            await super().run(duration_s=duration_s, once=once, on_online=on_online)
        finally:
            watching.cancel()
            self._pause.stop()
            if self._settling is not None:
                self._settling.cancel()
            for end in endings:
                end()

    def _listen(self) -> list[Callable[[], None]]:
        """Begin to listen; returns what ends it."""
        endings = self._link.listen(self._mapping.topic_filters(), self._on_raw, self._on_poll)
        return [*endings, self._link.on_return(self._returned)]

    def _returned(self) -> None:
        """Take note that the connection was away."""
        self._state.reconnected(self._monotonic())
        self._ask_for_births()

    def _on_raw(self, topic: str, payload: bytes, retained: bool) -> None:
        was, now_s = self._state.status(), self._monotonic()
        taken = self._state.take(topic, payload, now_s, retained=retained)
        if taken is not None:
            self._take_in(topic, taken, retained, now_s)
            if not retained:
                self._prove_life()
                self._tell_trouble()
        if not retained:
            self._take_answer(topic, payload, now_s)
        self._after_news(was)

    def _on_poll(self, poll: RegisterPoll) -> None:
        was = self._state.status()
        taken = self._state.take_document(
            poll.source, poll.values, poll.at_s, shown=poll.shown, unread=poll.unread
        )
        if taken is not None:
            self._take_in(poll.source, taken, False, poll.at_s)
        self._after_news(was)

    def _after_news(self, was: Status | None) -> None:
        """Do what follows from what the device said, given its status before."""
        now = self._state.status()
        if was is not None and was.state == "offline" and now is not None and now.state != "offline":
            self._came_back()
        self._ask_for_births()
        if (due_s := self._state.due_s) is not None and self._settling is None:
            wait_s = max(0.0, due_s - self._monotonic())
            self._settling = asyncio.get_running_loop().call_later(wait_s, self._settle)

    def _settle(self) -> None:
        self._settling = None
        now_s = self._monotonic()
        self._take_in("", self._state.settle(now_s), False, now_s)

    def _take_in(self, topic: str, taken: StateUpdate, retained: bool, came_at: float) -> None:
        for problem in taken.problems:
            self._count_problem(topic, problem)
        for note in taken.notes:
            log.log(logging.WARNING if note.is_change else logging.INFO, "%s: %s", self.label, note.text)
            if note.is_change:
                self._report(note.text)
        is_measured = not retained and "p_mw" in taken.fields
        if is_measured:
            self._take_power(float(taken.fields["p_mw"]), came_at)
        self._take_fields(taken.fields, came_at, is_measured=is_measured)

    def _take_power(self, p_mw: float, came_at: float) -> None:
        """Take in a power that it has measured, MW, positive = injected."""
        self._silence_watch.heard()
        self._condition.speaks()

    def _take_fields(self, fields: Mapping[str, Any], came_at: float, *, is_measured: bool) -> None:
        """Take in what it reports, by field of ``Telemetry``."""
        self._tell_trouble()

    def _take_answer(self, topic: str, payload: bytes, at_s: float) -> None:
        """Take in a message that may be an answer to what it was told."""

    def _came_back(self) -> None:
        """Take note that it was offline, and is not any more."""

    # -- how it is spoken to -------------------------------------------------------------------------

    def _count_problem(self, topic: str, problem: str) -> None:
        """Count it; report it, unless the same was reported a moment ago."""
        kind, now = problem.split(" gave ", maxsplit=1)[0], self._monotonic()
        if now - self._reported.get(kind, float("-inf")) < SAME_PROBLEM_S:
            self._broker.stats.rejected += 1
            return
        self._reported[kind] = now
        self._broker.stats.reject(topic, f"{self.label}: {problem}")

    def _context(self) -> MessageContext:
        return MessageContext(self._built_ins, self._state.inputs, self._state.learned)

    def _send(self, message: DeviceCommand) -> asyncio.Future[None]:
        """Send one message now or not at all: what waits for a connection is of another moment."""
        not_after = asyncio.get_running_loop().time() + max(self._within_s, SEND_WITHIN_S)
        return self._link.send(message, not_after=not_after)

    def _ask_for_births(self) -> None:
        while self._state.births_wanted:
            self._ask_for_birth(self._state.births_wanted.pop())

    def _ask_for_birth(self, topic: str) -> None:
        """Ask a Sparkplug node for its birth; like a keepalive this changes nothing in the device."""
        if self._link.connected:
            now_ms = int(self._built_ins.value("now", "unix_ms"))
            payload = encode({"Node Control/Rebirth": True}, {"Node Control/Rebirth": "Boolean"}, now_ms)
            self._send(Outgoing(topic, payload, qos=0))

    # -- presence ----------------------------------------------------------------------------------

    async def _appear(self) -> None:
        """Publish the birth as the device describes itself; its messages from meanwhile follow at once."""
        self._trouble = self._condition.trouble(self._monotonic())
        await super()._appear()
        self._is_born = True
        self._tell_trouble()

    async def _leave(self) -> None:
        """Leave; what waited while this program stood still is read first: it may have been displaced."""
        await self._pause.caught_up()
        await super()._leave()

    def _offline(self) -> bool:
        """Whether the device is offline, and the mapping says what its power is then."""
        return self._condition.is_known_offline(self._monotonic())

    def _tell_trouble(self) -> None:
        """Tell what availability and silence come to, if that has changed."""
        if not self._is_born:
            return
        trouble = self._condition.trouble(self._monotonic())
        if trouble != self._trouble:
            self._trouble = trouble
            self._say(self._birth())

    def _birth(self) -> dict[str, Any]:
        if self._trouble is None:
            return super()._birth()
        if self._trouble.state == "online":
            return {**super()._birth(), "reason": self._trouble.reason}
        return self._stamped(self._trouble.model_copy(update={"kind": self._kind}))

    def _is_power_known(self) -> bool:
        """Whether the power is known although the device has not said it for a while."""
        self._prove_life()
        return self._offline() or self._state.age_s("p_mw", self._monotonic()) <= self._stale_after_s

    def _on_silence(self, why: str) -> None:
        if self._condition.is_silent(why):
            self._tell_trouble()

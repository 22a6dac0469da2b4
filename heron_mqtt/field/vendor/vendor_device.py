"""A vendor's device as a field device: its own topics and payloads on one side, ours on the other.

It runs beside the gateway and translates, so that the device needs no code and the gateway no special case.
It receives leased setpoints and sends them in the vendor's format, and makes telemetry of the device's
messages. It hands the device back to its own control when the lease expires, on a demotion, and at the end.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from heron_mqtt.errors import HeronError, MessageError, PlaceTaken
from heron_mqtt.field.device import SetpointDeferred, SetpointRejected
from heron_mqtt.field.device.hardware_rest import GrowingPause
from heron_mqtt.field.gateway.authority import SENDS
from heron_mqtt.field.place_claim import PlaceClaim
from heron_mqtt.field.vendor.commands import NotSent, PartlyTaken, SentLater, WriteBudget
from heron_mqtt.field.vendor.confirmation import Confirmation
from heron_mqtt.field.vendor.device_mapping import DeviceMapping
from heron_mqtt.field.vendor.keepalives import Keepalive, KeepaliveTimers
from heron_mqtt.field.vendor.link import NotTaken, VendorLink
from heron_mqtt.field.vendor.releasable_device import ReleasableDevice
from heron_mqtt.messages import AuthorityState, Level, Setpoint
from heron_mqtt.messaging import topics
from heron_mqtt.messaging.base import Callback, Received

log = logging.getLogger("heron_mqtt.vendor")

SETTLE_SHARE = 1 / 3  # of a lease: so long an accepted setpoint may wait for a power that has settled
POWER_AFTER_ANSWER_S = (
    1.0  # so long after its answer, once it has settled, a device may take to report a power
)


class VendorDevice(ReleasableDevice):
    """Translates for one device.

    - Messages are sent to the device only while it is driven: setpoints, renewals, and the messages that end
      them. An emergency stop is sent if the gateway's level of authority allows setpoints. At ``shadow`` only
      keepalives are sent.
    - A setpoint beyond the nameplate is clipped to it, whichever program sends it.
    - The release of the mapping is sent when the lease runs out, at a demotion to a level without setpoints,
      and at the end. An emergency stop sets 0, and a release does not end it: the device is handed back when
      the stop is released. The device is safe only while its power is known and close to 0. This also holds
      for a device to which nothing is sent, because it can only be read or is in ``shadow``. While its power
      is not at 0, the stop is sent again.
    - ``lease`` is ``held`` until the device has accepted its release, also while a stop keeps it at 0. An
      earlier program of its name may have been killed, ended in a stop or failed to hand the device back.
      Then this program hands the device back when its messages are received.
    - Its last power counts for ``stale_after_s``. A device that sends nothing for longer is a fault, and the
      gateway's model replaces it. A device that has never sent anything is only reported.
    - The mapping defines what confirms a setpoint; without the confirmation it counts as rejected.
    - A device with availability topics is offline until one of them reports it online, or its power arrives.

    Args:
        mapping: Its messages or registers. Different powers of the nameplate must give different messages.
        link: The connection to it.
        kind: Its kind: battery, generator, pv, load.
        power_range_mw: Nameplate, MW, positive = injected.
        stale_after_s: How long the device's last power counts, s.
        stands_alone: It is a separate program: no gateway gives it the authority when it begins. A stop is
            sent to its device unless it is known to be in ``shadow`` or ``simulated``.
        answer_within_s: How long to wait for what confirms a setpoint, s; None = as the mapping says.
        budget: Counts writes; None = no limit.
        claim: Claimed before anything except a stop is sent to the device. Given up once it is in ``shadow``,
            does not rise by itself and was handed back. While another environment drives the device on this
            machine, setpoints are rejected, and a setpoint that an earlier program left is not handed back.
            None = the device is known to belong to this program.
        utc_s: The time of day, s since 1970, for ``{now}`` and timestamps.
        new_id: Makes the identifiers of messages.
    """

    def __init__(
        self,
        mapping: DeviceMapping,
        link: VendorLink,
        *args: Any,
        kind: str,
        power_range_mw: tuple[float, float],
        stale_after_s: float = 5.0,
        stands_alone: bool = False,
        answer_within_s: float | None = None,
        budget: WriteBudget | None = None,
        claim: PlaceClaim | None = None,
        utc_s: Callable[[], float] = time.time,
        new_id: Callable[[], str] | None = None,
        **kwargs: Any,
    ) -> None:
        mapping.check_range(power_range_mw)
        super().__init__(
            mapping,
            link,
            *args,
            kind=kind,
            power_range_mw=power_range_mw,
            stale_after_s=stale_after_s,
            answer_within_s=answer_within_s,
            budget=budget,
            claim=claim,
            utc_s=utc_s,
            new_id=new_id,
            **kwargs,
        )
        self._stands_alone = stands_alone
        self._confirmation = Confirmation(mapping, self._count_problem)
        self._hold_off, self._held_off_until, self._held_off_because = GrowingPause(), -math.inf, ""
        self._level: Level | None = None
        self._rises = False  # to a level that sends, once its gates pass
        self._keepalives = KeepaliveTimers(mapping.keepalives, self._send_keepalive, self.label)
        self._waiting: Setpoint | None = None  # until the device takes the next write; a renewal, too
        self._waits_until: asyncio.TimerHandle | None = None

    # -- the device --------------------------------------------------------------------------------

    async def apply(self, setpoint: Setpoint) -> None:
        """Send the setpoint to the device, and wait for its confirmation."""
        self._drop_waiting()
        if not self._mapping.sets:
            return  # it can only be read: what it measures is the answer
        self._check_reachable()
        # What is read while registers are being written is of before.
        is_polled = self._mapping.registers is not None
        self._confirmation.begin(setpoint.seq, math.inf if is_polled else self._monotonic() + self._settle_s)
        try:
            if not await self._tell(setpoint):
                return  # the device holds it already
            self._confirmation.count_from(self._monotonic() + self._settle_s)
            await self._wait_for_confirmation(setpoint.lease_s)
        finally:
            self._confirmation.end()

    def _check_reachable(self) -> None:
        if not self._link.connected:  # it would wait, and reach the device when its lease is over
            raise SetpointRejected(f"there is no connection to {self._link.peer}")
        why = self._condition.why_unreachable(self._monotonic())
        if why is not None:
            raise SetpointRejected(why)

    async def _tell(self, setpoint: Setpoint, *, renewal: bool = False) -> bool:
        """Send a setpoint; returns whether anything was to be sent.

        Raises:
            SetpointDeferred: It is done later.
            SetpointRejected: It is not sent.
            BrokerError: The broker refused it.
        """
        if not renewal and self._monotonic() < self._held_off_until:
            raise SetpointRejected(self._held_off_because)
        try:
            self._release.take_place()
            self._stop_proof.expect_no_answer()
            clipped = self._clipped(setpoint)
            self._release.note_setpoint(clipped.p_mw)
            told = await self._commander.tell(clipped, self._context(), renewal=renewal)
            self._release.note_setpoint_sent()
            return told
        except SentLater as exc:
            self._do_later(setpoint, exc.within_s)
            raise SetpointDeferred(str(exc), exc.within_s) from None
        except PartlyTaken as exc:
            # A renewal without an answer says the same as before: the device holds the one or the other.
            if renewal and not exc.was_heard:
                raise SetpointRejected(str(exc)) from None
            raise SetpointRejected(await self._take_back(str(exc))) from None
        except (PlaceTaken, NotSent, NotTaken, MessageError) as exc:
            raise SetpointRejected(str(exc)) from None

    async def _take_back(self, why: str) -> str:
        """End a setpoint that the device may hold in part only; returns for people what was done.

        What it holds is a mixture: the mode of this setpoint with the power of another one, for example.
        Called with the device's lock held.
        """
        self._lease.end()
        self._held_off_until = self._monotonic() + self._hold_off.s
        self._held_off_because = (
            "the device accepted only a part of a setpoint, less than "
            f"{self._hold_off.s:g} s ago: none is sent: {why}"
        )
        self._hold_off.grow()
        await self._make_safe(f"only a part of a setpoint was accepted: {why}")
        how = "its release" if self._mapping.releases_by_messages else "a setpoint of 0"
        done = f"{how} could not be sent and is sent again" if self._release.is_owed else f"it was sent {how}"
        return f"{why}; it may have taken a part of the setpoint: {done}"

    def _do_later(self, setpoint: Setpoint, wait_s: float) -> None:
        """Do a setpoint, or a renewal, when the device takes it, unless something else comes first."""
        self._waiting = setpoint
        if not setpoint.renewal:
            self._lease.defer()
        loop = asyncio.get_running_loop()
        self._waits_until = loop.call_later(wait_s, lambda: self._spawn(self._do_waiting(setpoint)))

    def _drop_waiting(self) -> None:
        self._waiting = None
        if self._waits_until is not None:
            self._waits_until.cancel()
            self._waits_until = None

    async def _do_waiting(self, setpoint: Setpoint) -> None:
        """Do what has waited as if it came now; something newer, or an end, may have come first."""
        async with self._busy:
            if self._waiting is not setpoint or self._lease.holder is None:
                return
            self._drop_waiting()
            try:
                await (self._renew_late if setpoint.renewal else self._follow_late)(setpoint)
            except Exception as exc:
                if not setpoint.renewal:
                    self._undo()
                self._failed("renew" if setpoint.renewal else "apply", exc)

    async def _renew_late(self, renewal: Setpoint) -> None:
        if self._lease.is_running:
            await self.renew(renewal)

    async def _follow_late(self, setpoint: Setpoint) -> None:
        """Do a setpoint that has waited; if it is not done the device has the one before, or none."""
        try:
            if not self._lease.is_running:  # it went on while the machine slept, and the timer did not
                raise SetpointRejected("its lease is over")
            await self._apply(setpoint)
        except SetpointDeferred:
            return  # the timer was early: it waits on
        except (SetpointRejected, HeronError) as exc:
            self._count_problem("setpoint", f"a waiting setpoint was not carried out: {exc}")
            self._undo()
        else:
            self._held = setpoint
            self._lease.note_done()
        await self._publish_telemetry()
        if self._release.is_owed and not self.is_safe:  # its lease would put off what is still owed
            self._lease.end()
            await self._make_safe("a setpoint that waited was rejected, and an end is still owed")

    def _clipped(self, setpoint: Setpoint) -> Setpoint:
        """Return a setpoint within the nameplate; the device itself may know no bounds."""
        low, high = self._range
        p_mw = min(max(setpoint.p_mw, low), high)
        if p_mw == setpoint.p_mw:
            return setpoint
        log.warning("%s: %g MW is beyond its nameplate: %g MW is sent", self.label, setpoint.p_mw, p_mw)
        return setpoint.model_copy(update={"p_mw": p_mw})

    async def _wait_for_confirmation(self, lease_s: float) -> None:
        within_s = self._within_s + self._settle_s
        until = self._monotonic() + within_s
        try:
            await self._confirmation.wait(within_s)
        except TimeoutError:
            what = f"nothing on {', '.join(self._confirmation.topics)} within {within_s:g} s"
            if self.confirm != "sent":
                raise SetpointRejected(await self._after_refusal(f"not acknowledged: {what}")) from None
            log.debug("%s: %s of a setpoint", self.label, what)
        answer = self._confirmation.answer
        if answer is not None and not answer.accepted:
            raise SetpointRejected(await self._after_refusal(f"rejected by the device: {answer.reason}"))
        self._hold_off.reset()
        # What was measured before the answer is not of this setpoint. Renewals wait behind it: it must not
        # take a good part of the lease.
        if self.confirm == "answer" and within_s <= SETTLE_SHARE * lease_s:
            with suppress(TimeoutError):  # it is acknowledged, with what was measured before
                left_s = until - self._monotonic()
                await self._confirmation.wait_for_power(min(left_s, self._settle_s + POWER_AFTER_ANSWER_S))

    async def _after_refusal(self, why: str) -> str:
        """Return why a setpoint is rejected, once nothing of it is left in the device.

        Of several messages the answer may be to one, and another taken.
        """
        self._commander.note_refusal()
        is_of_several = self.confirm == "answer" and self._commander.parts > 1
        return await self._take_back(why) if is_of_several else why

    async def renew(self, setpoint: Setpoint) -> None:
        """Send it again, so that a timer in the device begins again."""
        self._drop_waiting()
        if self._mapping.sets and self._link.connected and not self._offline():
            try:
                await self._tell(setpoint, renewal=True)
            except SetpointRejected as exc:
                log.warning("%s: a renewal was not sent: %s", self.label, exc)

    def _take_answer(self, topic: str, payload: bytes, at_s: float) -> None:
        self._confirmation.take_answer(topic, payload, self._commander.values, at_s)
        super()._take_answer(topic, payload, at_s)

    def _take_fields(self, fields: Mapping[str, Any], came_at: float, *, is_measured: bool) -> None:
        super()._take_fields(fields, came_at, is_measured=is_measured)  # before the answer, so that it counts
        self._confirmation.take_fields(fields, came_at, is_measured=is_measured)

    @property
    def confirm(self) -> str:
        """What confirms a setpoint: answer, power or sent."""
        return self._mapping.confirmed_by

    @property
    def _settle_s(self) -> float:
        assert self._mapping.setpoint is not None  # asked for only where something was told
        return self._mapping.setpoint.settle_s

    # -- keepalives --------------------------------------------------------------------------------

    def _listen(self) -> list[Callable[[], None]]:
        endings = super()._listen()
        self._keepalives.begin()
        return [*endings, self._keepalives.end, self._drop_waiting]

    def _returned(self) -> None:
        super()._returned()
        self._keepalives.begin()

    def _send_keepalive(self, keepalive: Keepalive, is_first: bool) -> bool:
        """Send a keepalive if it is wanted now; returns whether it was sent."""
        # The timer stands still while the machine sleeps, the lease does not.
        is_held = self._release.holds_setpoint and bool(self._commander.values) and self._lease.is_running
        if (keepalive.while_driven and not is_held) or not self._link.connected:
            return False  # without a connection it would only wait in the queue
        try:
            message = keepalive.message(self._context(), self._commander.values, first=is_first)
        except MessageError as exc:
            self._count_problem("keepalive", f"a keepalive was not sent: {exc}")
            return False
        if message is None:
            return False
        self._send(message)
        return True

    # -- authority ---------------------------------------------------------------------------------

    @property
    def _obeys_stops(self) -> bool:
        """Whether a stop is sent to the device although no setpoint was."""
        return self._level in SENDS or (self._stands_alone and self._level is None)

    @property
    def is_settable(self) -> bool:
        """Whether anything is sent to the device; not to one that is only read, nor to one in ``shadow``."""
        is_watched = self._level is not None and self._level not in SENDS and not self.is_driven
        return bool(self._mapping.sets) and not is_watched

    @property
    def _is_ours(self) -> bool:
        """Whether anything is sent to it, or will be without a request: no other program may drive it."""
        return self.is_settable or self._rises

    def _own_channels(self) -> list[tuple[str, Callback]]:
        """Put what tells whether a stop is sent before the stop: the broker may have kept both."""
        authority = topics.device(self.agent_id, self.name, "authority_state")
        return [(authority, self._on_authority), *super()._own_channels()]

    async def _on_authority(self, message: Received) -> None:
        if message.retained and not (self._stands_alone and self._level is None):
            return  # of an earlier run; the gateway of this one tells when it begins
        state = self._broker.parsed(message, AuthorityState)
        if state is None:
            return
        before, self._level = self._level, state.level
        self._rises = state.ceiling in SENDS
        if self.stopped and before not in SENDS and state.level in SENDS:
            async with self._busy:
                await self._make_safe("it came under control during an emergency stop")
        elif state.level not in SENDS and self._release.holds_setpoint and not self.stopped:
            await self._end_lease(f"its authority is {state.level} now")

"""How a device goes to its safe state and stays there: in a stop, and after a lease."""

from __future__ import annotations

import abc
import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, ClassVar

from heron_mqtt.cancellation import end_tasks
from heron_mqtt.end_times import TELL_END_S
from heron_mqtt.errors import NotReady
from heron_mqtt.field.device.device_lock import DeviceLock
from heron_mqtt.field.device.device_thread import DeviceThread
from heron_mqtt.field.device.hardware_rest import HardwareRest, PowerSeen
from heron_mqtt.field.device.kept_lease import KeptLease
from heron_mqtt.field.device.lease import DeviceLease, Holder
from heron_mqtt.field.device.lease_notice import LeaseNotice
from heron_mqtt.field.device.presence import PresentDevice
from heron_mqtt.field.emergency_stop import ALWAYS, StopRegister, told_by
from heron_mqtt.messages import Setpoint, StopConfirm, Telemetry
from heron_mqtt.messaging import topics
from heron_mqtt.messaging.base import MessageBroker, Received
from heron_mqtt.messaging.stamping import MessageStamper

log = logging.getLogger("heron_mqtt.device")

GO_SAFE_S = 5.0  # for hardware to be put into its safe state; longer counts as failed
GO_SAFE_AGAIN_S = 1.0  # the shortest time between two tries, where that failed


class SafeStateDevice(PresentDevice, abc.ABC):
    """A device with a safe state, which it goes to in a stop and after a lease.

    What it does with what an earlier program left is up to ``SuccessorDevice``, when its program ends to
    ``EndingDevice``, and between to ``FieldDevice``: they are derived from it. Arguments as there.
    """

    watches_its_rest: ClassVar[bool] = False
    """See ``FieldDevice``."""
    _tells_again: ClassVar[bool] = False
    """An adapter: it repeats by itself a safe state that its hardware was not told of."""
    _keeps_lease: ClassVar[bool] = True
    """Its next program brings to rest what a killed one left driven, which it knows by the lease alone."""
    is_model: ClassVar[bool] = False
    """Whether there is no hardware, which would keep what it was told over the end of its program."""

    def __init__(
        self,
        agent_id: str,
        name: str,
        broker: MessageBroker,
        *,
        env_id: str,
        require_proof: bool,
        take_over: bool,
        monotonic: Callable[[], float],
        stamper: MessageStamper | None,
    ) -> None:
        super().__init__(agent_id, name, broker, env_id=env_id, stamper=stamper, take_over=take_over)
        self.is_safe = True
        """Whether it is in its safe state: before the first setpoint, after a lease ran out, when stopped."""
        self._held: Setpoint | None = None  # what a renewal extends
        self._rest = HardwareRest((None, None), self._report, monotonic)
        self._told_safe: bool | None = None  # of the stop in force
        self._own_thread = DeviceThread(f"device {self.label}")
        self._lease = DeviceLease(monotonic, require_proof=require_proof)
        self._is_hardware = broker.features.external and not self.is_model
        keeps = self._is_hardware and self._keeps_lease
        self._lease_channel = topics.device(agent_id, name, "lease")
        self._kept = KeptLease(broker.topic_of(self._lease_channel), broker.site) if keeps else None
        self._notice = LeaseNotice(
            agent_id,
            name,
            broker,
            self._stamper,
            self._kept,
            is_name_doubted=lambda: self._ownership.is_doubted,
        )
        self._monotonic = monotonic
        self._stop = StopRegister(env_id)
        self._seq_before_stop: int | None = None  # of the last telemetry that is of before the newest stop
        self._safe_after_s: float | None = None
        self._busy = DeviceLock()
        self._resting: asyncio.Future[None] | None = None  # go_safe, while it is under way or was at the end
        self._tasks: set[asyncio.Task[None]] = set()

    # -- what it is made for -------------------------------------------------------------------------

    @abc.abstractmethod
    def go_safe(self, reason: str) -> Awaitable[None] | None:
        """Go to the safe state; raise if the hardware could not be told."""

    @abc.abstractmethod
    def measure(self) -> Awaitable[Telemetry | None] | Telemetry | None:
        """Return what the device measures now; None = nothing is known yet."""

    @property
    @abc.abstractmethod
    def owes_safe_state(self) -> bool:
        """Whether the hardware has still to be brought into the safe state; telemetry and stops say so."""

    @property
    @abc.abstractmethod
    def is_settable(self) -> bool:
        """Whether anything here can set the hardware."""

    @abc.abstractmethod
    async def _publish_telemetry(self) -> None:
        """Measure and publish."""

    @abc.abstractmethod
    async def _speak_again(self) -> None:
        """Publish telemetry once nothing else is being done."""

    @property
    def stopped(self) -> bool:
        """Whether an emergency stop is in force."""
        return self._stop.is_active

    @property
    def _is_watched(self) -> bool:
        """Whether its power has to show that it is in the safe state, which it was told of."""
        return not self.watches_its_rest and self.is_settable and self._rest.is_told

    def _report(self, what: str) -> None:
        self._broker.stats.report("device", self.label, what)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something from a plain callback; it ends with the device."""
        task = asyncio.get_running_loop().create_task(work, name=f"device {self.label}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- stop, end of a lease ------------------------------------------------------------------------

    async def _on_estop(self, message: Received) -> None:
        heard = self._stop.take(message)
        if heard in {"stopped", "repeated"}:  # who presses it again sees that the hardware does not rest
            await self._on_stopped()
        elif heard == "released":
            by = told_by(self._stop.release)
            log.warning("%s: emergency stop released %s", self.label, by, extra=ALWAYS)
            await self._speak_again()
        self._confirm_stop()

    async def _on_stopped(self) -> None:
        self._lease.end()
        self._told_safe = None
        self._rest.is_taken = (
            False  # until it was told of this one: a repeated stop must not be confirmed earlier
        )
        async with self._busy.coming_first("emergency stop"):
            self._seq_before_stop = self._lease.newest_seq
            await self._make_safe(f"emergency stop {told_by(self._stop.stop)}")

    def _confirm_stop(self) -> None:
        """Say what is known of the stop."""
        channel = topics.stop_confirm(self.agent_id, self.name)
        boot, seq = self._stop.identity
        is_safe = self._is_at_rest
        told = StopConfirm(
            active=self.stopped,
            safe=is_safe,
            stop_boot=boot,
            stop_seq=seq,
            telemetry_seq=self._seq_before_stop if self.stopped else None,
            settable=None if self.is_settable else False,
        )
        self._told_safe = is_safe
        self._broker.publish(channel, self._stamper.stamp(channel, told))

    @property
    def _is_at_rest(self) -> bool:
        """Whether the hardware is in its safe state, for all that is known."""
        return self.is_safe and self._rest.is_taken and not self.owes_safe_state

    async def _lease_over(self) -> None:
        async with self._busy.coming_first("its lease is over"):
            if self._lease.holder is None or self._lease.is_running:
                return  # a setpoint came first
            after_s = self._lease.held_for_s
            self._safe_after_s = after_s
            self._lease.end()
            await self._make_safe(f"no setpoint for {after_s:.3g} s")

    async def _make_safe(self, reason: str, level: int = logging.WARNING) -> None:
        """Go to the safe state and say so; called with the device's lock held."""
        log.log(level, "%s: %s, going to the safe state", self.label, reason)
        self._held = None
        self._rest.forget()
        await self._tell_to_rest(reason)

    async def _tell_to_rest(self, reason: str) -> None:
        """Tell the hardware to go to the safe state, and say so; called with the device's lock held."""
        self.is_safe = True
        self._rest.is_taken = False
        self._rest.note_told()
        try:
            done = self.go_safe(reason)
            if inspect.isawaitable(done):
                await (done if self._tells_again else self._until_it_rests(done))
            self._note_taken()
        except Exception as exc:
            self._failed("go_safe", exc)
        await self._publish_telemetry()
        self._tell_holder()  # only now: hardware that was not told of the end may still have its setpoint

    def _note_taken(self) -> None:
        self._rest.is_taken = True
        self._rest.is_taken = not self.owes_safe_state

    async def _until_it_rests(self, going: Awaitable[None]) -> None:
        """Wait for ``go_safe``; one that is under way when the program ends has a moment to end by itself.

        It is not broken off in the middle and told again: what it does may not be begun twice.

        Raises:
            NotReady: It takes too long.
        """
        resting = self._resting = asyncio.ensure_future(going)
        try:
            await asyncio.wait({resting}, timeout=GO_SAFE_S)
        except asyncio.CancelledError:
            await asyncio.wait({resting}, timeout=TELL_END_S)
            if resting.done() and not resting.cancelled() and resting.exception() is None:
                self._note_taken()
            raise
        finally:
            is_late = not resting.done()
            if is_late:
                await end_tasks([resting])
        self._resting = None
        if is_late:
            raise NotReady(f"it took longer than {GO_SAFE_S:g} s")
        resting.result()

    # -- whether it rests ----------------------------------------------------------------------------

    def _note_measured(self, telemetry: Telemetry | None, *, has_failed: bool = False) -> None:
        """Take note of what was measured: it shows whether hardware rests."""
        if not (self.is_safe and self._is_watched):
            return
        self._see(telemetry, has_failed=has_failed)
        if self.stopped and self._told_safe not in {None, self._is_at_rest}:
            self._confirm_stop()
        if self._notice.is_told:
            self._tell_holder()

    def _see(self, telemetry: Telemetry | None, *, has_failed: bool) -> None:
        """Have what was measured looked at, as far as it is of after the hardware was told to rest."""
        if telemetry is None and not has_failed:
            self._rest.see_nothing()
        elif telemetry is None or self._monotonic() - (telemetry.age_s or 0.0) < self._rest.told_at:
            self._rest.see_failure()  # what was measured before it was told shows nothing
        else:
            self._rest.see(telemetry.p_mw, telemetry.q_mvar)

    async def _insist_on_rest(self) -> None:
        """Tell hardware again that was not told of its safe state, or does not stay in it."""
        if not self.is_safe:
            return
        if not (self._rest.is_taken or self._tells_again):
            if self._monotonic() >= self._rest.told_at + GO_SAFE_AGAIN_S:
                await self._tell_to_rest("it was not told")
        elif self._own_thread.has_gone_on():
            await self._tell_to_rest("the cancelled call has ended, and may have reached the device")
        elif self._is_watched and self._rest.seen is not PowerSeen.NOTHING:
            why_unknown = "see its fault, if it has one; it measures none"
            if self._rest.must_be_told_again(in_stop=self.stopped, why_unknown=why_unknown):
                await self._tell_to_rest("it does not stay in its safe state")

    # -- whose power it has ---------------------------------------------------------------------------

    def _holder_to_tell(self) -> Holder | None:
        """Return whose setpoints are followed, or still in the hardware; None = no setpoint."""
        if self._lease.is_running:
            return self._lease.holder
        return self._notice.holder_of_power if self._may_have_power else None

    @property
    def _may_have_power(self) -> bool:
        """Whether the hardware may still have the power of a setpoint that is over."""
        if not self.is_safe:  # its lease is over, and it was not told of that yet
            return True
        is_owed = not self._rest.is_taken or self.owes_safe_state
        return is_owed and not self._rest.is_set_elsewhere

    def _on_confirmed(self) -> None:
        self._tell_holder()

    def _tell_holder(self) -> None:
        """Publish whose setpoints are followed, if that has changed; not in the name of another device."""
        if self._taken_by is None:
            self._notice.tell(self._holder_to_tell(), self._lease.lease_s)

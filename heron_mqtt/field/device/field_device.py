"""FieldDevice: the device's end of the wire. Derive from it to put hardware, or a model of it, on MQTT.

    class Inverter(FieldDevice):
        kind = "battery"

        async def apply(self, setpoint):            # tell the hardware
            await self.modbus.write(P_SETPOINT, setpoint.p_mw)

        async def measure(self):                    # ask the hardware
            return Telemetry(p_mw=await self.modbus.read(P), soc=await self.modbus.read(SOC))

    asyncio.run(Inverter("MG1", "ess", broker).run())

``apply``, ``renew``, ``measure`` and ``go_safe`` may be plain methods or coroutines. Only one of them runs at
a time. Calls that block for longer than a few milliseconds go through ``in_thread``.
"""

from __future__ import annotations

import abc
import asyncio
import functools
import inspect
import logging
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar, ParamSpec, TypeVar

from heron_mqtt.cancellation import end_tasks, to_its_end
from heron_mqtt.errors import MessageError
from heron_mqtt.field.device.device_lock import BrokenOff
from heron_mqtt.field.device.private_names import refuse_taken_names
from heron_mqtt.field.device.program_end import EndingDevice
from heron_mqtt.field.moving_deadline import MovingDeadline
from heron_mqtt.field.steady_clock import steady_s
from heron_mqtt.json_object import Json
from heron_mqtt.messages import RunState, Setpoint, Telemetry
from heron_mqtt.messaging import topics
from heron_mqtt.messaging.base import Callback, MessageBroker, Received
from heron_mqtt.messaging.core.background_loop import running_loop
from heron_mqtt.messaging.stamping import MessageStamper
from heron_mqtt.messaging.subscription_group import SubscriptionGroup

log = logging.getLogger("heron_mqtt.device")

P = ParamSpec("P")
T = TypeVar("T")

TELEMETRY_LIFE_S = 2.0
MEASURE_TO_END_S = 0.2  # at the end of the program, for a measurement or renewal under way to end by itself


class SetpointRejected(Exception):
    """Raised by ``apply``: the device refuses the setpoint; its telemetry reports it with the reason."""


class SetpointDeferred(SetpointRejected):
    """Raised by ``apply``: the device will do it later, within its lease; its telemetry reports it.

    Args:
        why: The reason, for people.
        within_s: Longest time until then, s. The setpoint before holds until then, if its lease lasts so
            long. If that lease ends first, the device must not apply this setpoint.
    """

    def __init__(self, why: str, within_s: float = 0.0) -> None:
        self.within_s = within_s
        super().__init__(why)


class FieldDevice(EndingDevice, abc.ABC):
    """One device: follows leased setpoints, publishes telemetry, its birth and its end.

    - A setpoint is applied once. A setpoint that is not newer (same sender and boot, ``seq`` not higher) is
      ignored, and so is a retained one.
    - A setpoint holds for its ``lease_s``, counted from the telemetry that it echoes: see
      ``heron_mqtt.field.device.lease``. Without a newer one or a renewal, the device goes to its safe state,
      and its telemetry reports after what time.
    - While a lease holds, setpoints of another sender are rejected. The owner may release it.
    - Telemetry acknowledges the newest setpoint that was applied or rejected, but never one that failed.
    - A rejected setpoint does not extend the lease: the setpoint before holds until its own lease ends.
    - An emergency stop is a safe state that only its release ends, not a setpoint. Stops and releases
      are confirmed on ``estop/confirm/<agent>/<device>``.
    - Telemetry is published after each birth, after every setpoint (as acknowledgement), every
      ``period_s``, and four times a lease while a lease holds.
    - The birth (retained, with the nameplate) is published after every start and at every new episode.
      ``offline`` is the will. ``fault`` is published while ``apply`` or ``measure`` raises.
    - The name is exclusive: a second device of the same name does not start.

    Args:
        agent_id: The agent that owns it.
        name: Its name.
        broker: Carries the messages; not closed here. Callbacks run in the loop of ``run``.
        env_id: The environment.
        period_s: Time between telemetry without a setpoint, s; 0 = only answers, and during a lease.
        require_proof: Refuse setpoints that do not echo this device's telemetry.
        take_over: Displace another device of this name.
        monotonic: The device's clock, s.
        stamper: Stamps what is published; handed in by tests.

    Raises:
        ConfigError: A class of another package defines, or sets, a name with an underscore in front that the
            classes here use themselves.
    """

    watches_its_rest: ClassVar[bool] = False
    """True if its power does not show whether it is in its safe state. Either it draws power there, as
    consumers do, or it checks this by itself, as bridges do. If false, its measured power must show it: above
    5 % of its nameplate ``safe`` is false, and ``go_safe`` is called again. If ``go_safe`` raises, it is
    called again in any case."""
    breaks_off_measuring: ClassVar[bool] = False
    """Whether ``measure`` and ``renew`` are cancelled at a stop and at the end of a lease, as ``apply`` is.
    For methods that wait for hardware and can be cancelled. If false, they run to their end; at the end of
    the program for at most 0.2 s."""

    def __init__(
        self,
        agent_id: str,
        name: str,
        broker: MessageBroker,
        *,
        env_id: str = "default",
        period_s: float = 1.0,
        require_proof: bool = False,
        take_over: bool = False,
        monotonic: Callable[[], float] = steady_s,
        stamper: MessageStamper | None = None,
    ) -> None:
        refuse_taken_names(type(self))
        super().__init__(
            agent_id,
            name,
            broker,
            env_id=env_id,
            require_proof=require_proof,
            take_over=take_over,
            monotonic=monotonic,
            stamper=stamper,
        )
        self.ignored = 0
        """Setpoints ignored: repeated, retained, or of another environment."""
        self.refused = 0
        """Setpoints and renewals refused: stale, without proof, or of another than the lease's owner."""
        self._period_s = period_s
        self._channel = topics.device(agent_id, name, "telemetry")
        self._answered: tuple[str | None, int] | None = None  # boot and seq of the newest done or rejected
        self._is_undone = False  # the newest setpoint was rejected: what was done before it is not extended
        self._untold: tuple[tuple[str | None, int] | None, str] | None = None  # a rejection, and of what
        self._has_measured = False  # it shows its power, so that not showing it means something
        self._at: tuple[int | None, int | None] = (None, None)
        self._next_telemetry_at = 0.0
        self._telemetry_due = MovingDeadline(lambda: self._next_telemetry_at, monotonic)
        self._lease_end = MovingDeadline(lambda: self._lease.ends_at, monotonic)
        self._first = asyncio.Event()

    async def idle(self) -> None:
        """Return once no setpoint is in progress."""
        async with self._busy:
            pass

    # -- what a device implements ------------------------------------------------------------------

    @abc.abstractmethod
    def apply(self, setpoint: Setpoint) -> Awaitable[None] | None:
        """Follow the setpoint, as far as the device can.

        Raises:
            SetpointRejected: The device refuses it.
        """

    def renew(self, setpoint: Setpoint) -> Awaitable[None] | None:
        """Extend the present setpoint, for hardware with its own timer. Does nothing by default.

        Args:
            setpoint: The setpoint applied last, with ``lease_s`` and ``seq`` of its renewal.
        """

    @abc.abstractmethod
    def measure(self) -> Awaitable[Telemetry | None] | Telemetry | None:
        """Return the present measurement; None = nothing is known yet."""

    def go_safe(self, reason: str) -> Awaitable[None] | None:
        """Go to the safe state; by default a setpoint of zero.

        Raise an exception if the hardware could not be set: this is called again, and the device is faulty
        until a call succeeds. At the end of the program it is called once more; if that call raises, too,
        ``run`` raises ``NotHandedBack``. A call that is in progress then has 1 s to end by itself.
        """
        return self.apply(Setpoint(p_mw=0.0, q_mvar=0.0, lease_s=1.0))

    @property
    def owes_safe_state(self) -> bool:
        """Whether the hardware is not yet in the safe state; telemetry and stop confirmations report it.

        A device that ``watches_its_rest`` calls ``rest_reached`` when it is.
        """
        if not self._rest.is_taken or self._own_thread.goes_on:
            return True
        return self._is_watched and self._rest.is_doubtful

    async def in_thread(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do work that blocks, in this device's own thread, and return its result.

        Work that is cancelled, for a stop or at the end of a lease, cannot be ended in the middle and
        continues in its thread. The next call through here, such as the safe state, runs after it. With
        ``asyncio.to_thread`` both would run at the same time, and an old setpoint could reach the hardware
        last.
        """
        return await self._own_thread.do(functools.partial(work, *args, **kwargs))

    @property
    def is_settable(self) -> bool:
        """Whether this program can set the hardware; it cannot stop hardware that can only be read."""
        return True

    def begin_episode(self, run_state: RunState) -> None:
        """Begin a new episode, if it ``follows_episodes``."""

    # -- what a device may look at besides -----------------------------------------------------------

    def channels(self) -> list[tuple[str, Callback]]:
        """Return further channels to listen on, each with its callback."""
        return []

    def heeds(self, setpoint: Setpoint) -> Awaitable[bool] | bool:
        """Whether a setpoint is handled at all; otherwise it counts as never received."""
        return True

    def shown(self, telemetry: Telemetry) -> Telemetry | Json | None:
        """Return what is published as ``telemetry``: itself, another payload, or None for nothing."""
        return telemetry

    def on_run_state(self, run_state: RunState) -> Awaitable[None] | None:
        """Handle the state of the run, after ``begin_episode`` for a new one."""

    # -- life --------------------------------------------------------------------------------------

    async def run(
        self,
        *,
        duration_s: float | None = None,
        once: bool = False,
        on_online: Callable[[], None] | None = None,
    ) -> None:
        """Serve until cancelled, or until another device takes the name over.

        Args:
            duration_s: End after this time.
            once: End after the first setpoint was answered.
            on_online: Called after the birth is published: from then on setpoints are received.

        Raises:
            NameTaken: Another device holds the name.
            Displaced: Another device has taken the name over.
            NotHandedBack: At the end the hardware could not be brought into the safe state.
        """
        bound: asyncio.Timeout | None = None
        subscriptions = SubscriptionGroup(self._broker)
        forget_reconnect = self._broker.on_reconnect(self._on_reconnect)
        try:
            await self._take_name()
            await subscriptions.open([*self._own_channels(), *self.channels()])
            await asyncio.sleep(0)  # what the broker has kept is heard first
            self._look_at_kept_lease()
            await self._appear()
            self._tell_holder()
            async with self._busy:
                await self._publish_telemetry()  # so that a setpoint can echo something
            if on_online is not None:
                on_online()
            async with asyncio.timeout(duration_s) as bound:
                await self._serve(once)
        except TimeoutError:  # the duration is over; one of anything else is an error
            if bound is None or not bound.expired():
                raise
        finally:
            forget_reconnect()
            subscriptions.close()
            await self._end_program()

    async def _serve(self, once: bool) -> None:
        """Keep the time until the first answer (``once``), or until the name is taken over."""
        keeping = asyncio.create_task(self._keep_time(), name=f"time of {self.label}")
        watching = asyncio.create_task(self._watch_lease(), name=f"lease of {self.label}")
        ends = [asyncio.create_task(self._displaced(), name=f"name of {self.label}")]
        if once:
            ends.append(asyncio.create_task(self._wait_for_first(), name=f"first answer of {self.label}"))
        tasks = [keeping, watching, *ends]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            await end_tasks(tasks)

    async def _wait_for_first(self) -> None:
        await self._first.wait()

    def _own_channels(self) -> list[tuple[str, Callback]]:
        keeps = self._keeps_lease and not self.is_model
        return [
            *([(self._lease_channel, self._on_lease_left)] if keeps else []),
            (topics.ESTOP, self._on_estop),
            (topics.RUN_STATE, self._on_run_state),
            (topics.device(self.agent_id, self.name, "setpoint"), self._on_setpoint),
        ]

    async def _keep_time(self) -> None:
        """Publish telemetry when it is due."""
        while True:
            await self._telemetry_due.reached()
            if self._lease.ends_at <= self._monotonic():
                await self._lease_over()  # this process stood still: it does not tell of power that is over
                continue
            async with self._busy:
                await self._publish_telemetry()
                await self._insist_on_rest()

    async def _watch_lease(self) -> None:
        """Go to the safe state when the lease is over; telemetry that takes long does not hold that up."""
        while True:
            await self._lease_end.reached()
            await self._lease_over()

    def _schedule_telemetry(self) -> None:
        """Say when the next telemetry is due, counted from now."""
        longest_s = self._lease.telemetry_every_s
        every_s = min(self._period_s, longest_s) if self._period_s > 0.0 else longest_s
        self._next_telemetry_at = self._monotonic() + every_s
        self._telemetry_due.moved()

    async def _publish_telemetry(
        self,
        *,
        answered: tuple[str | None, int] | None = None,
        answers: bool = False,
        rejected: str | None = None,
    ) -> None:
        """Measure and publish.

        Args:
            answered: boot and seq of the setpoint that this answers, where it is not the newest one done.
            answers: Whether it is an answer.
            rejected: Why that setpoint was not done.
        """
        self._schedule_telemetry()
        answered = answered or self._answered
        try:
            if self._busy.is_wanted_first and self.breaks_off_measuring:
                raise BrokenOff("something comes first")
            measured = self.measure()
            if measured is None or isinstance(measured, Telemetry):  # seen at once, most are
                telemetry: Telemetry | None = measured
            else:
                telemetry = await self._awaited(measured)
        except BrokenOff:
            if rejected is not None:
                self._untold = (answered, rejected)
            return
        except Exception as exc:
            self._note_measured(None, has_failed=True)
            self._failed("measure", exc)
            return
        if telemetry is None:  # of one that has shown its power before, that is not known to be at 0
            self._note_measured(None, has_failed=self._has_measured)
            self._untold = None if rejected is None else (answered, rejected)
            return
        self._has_measured = True
        self._note_measured(telemetry)
        if rejected is None and self._untold is not None and self._untold[0] == answered:
            rejected = self._untold[1]  # nothing could be measured when it was rejected
        self._untold = None
        is_safe = self.is_safe and not self.owes_safe_state
        news: dict[str, Any] = {
            "safe": None if is_safe and self._may_be_left(telemetry) else is_safe,
            "safe_after_s": self._safe_after_s,
            "rejected": rejected,
            "stopped": True if self.stopped else None,
        }
        if self._stop.stop is not None and not self.is_settable:
            news["settable"] = False
        if answered is not None:
            news["ack_boot"], news["ack_seq"] = answered
        shown = self.shown(telemetry.model_copy(update=news))
        if shown is None:
            return
        if isinstance(shown, Telemetry):
            episode, step = self._at
            shown = self._stamper.stamp(self._channel, shown, episode=episode, step=step)
            self._lease.published(self._stamper.boot, shown["seq"])
        if self._broker.keeps(self._channel):
            self._broker.publish(self._channel, shown)  # it is late, and is marked as such
        else:  # what is measured now says nothing of later: it waits for no connection
            not_after = (running_loop() or asyncio.get_running_loop()).time() + TELEMETRY_LIFE_S
            self._broker.publish(self._channel, shown, not_after=not_after)
        if answers:
            self._safe_after_s = None  # told to one that listens
        if self._rest.is_taken or self._tells_again:
            self._recovered()  # else it cannot be brought to rest

    def _birth(self) -> dict[str, Any]:
        birth = super()._birth()
        self._rest.power_range_mw = (birth.get("p_min_mw"), birth.get("p_max_mw"))
        return birth

    # -- setpoints ---------------------------------------------------------------------------------

    async def _on_setpoint(self, message: Received) -> None:
        setpoint = self._broker.parsed(message, Setpoint)
        if setpoint is None:
            return
        if message.retained:
            self.ignored += 1
            self._broker.reject(
                message, MessageError("a setpoint must not be retained: it is valid only now")
            )
            return
        if setpoint.env_id not in {None, self._env_id} or self._lease.is_repeated(setpoint):
            self.ignored += 1
            return
        async with self._busy:
            await self._take(setpoint)

    async def _take(self, setpoint: Setpoint) -> None:
        heeds = self.heeds(setpoint)
        if not isinstance(heeds, bool) and inspect.isawaitable(heeds):
            heeds = await heeds
        if not heeds:
            return
        if setpoint.renewal:
            await self._extend(setpoint)
        elif setpoint.release:
            await self._give_back(setpoint)
        else:
            await self._follow(setpoint)
            self._first.set()

    async def _follow(self, setpoint: Setpoint) -> None:
        """Do what a setpoint says, unless it is refused, and answer."""
        answered = None if setpoint.seq is None else (setpoint.boot, setpoint.seq)
        refused = self._lease.refusal(setpoint)
        if refused is not None:
            self.refused += 1
            log.warning("%s: setpoint refused: %s", self.label, refused)
            await self._publish_telemetry(answered=answered, answers=True, rejected=refused[:500])
            return
        self._at = (setpoint.episode, setpoint.step)
        rejected: str | None = "emergency stop" if self.stopped else None
        owes = self.is_safe and not self._rest.is_taken
        if rejected is None:
            self._lease.hold(setpoint)
            self._lease_end.moved()
            self._tell_holder()  # before the hardware is told: then the next program knows that it was
            self.is_safe = self._is_undone = False
            self._rest.see_nothing()
            self._held = setpoint
            try:
                await self._apply(setpoint)
                self._rest.is_taken = self._rest.is_taken or not self._tells_again
            except SetpointRejected as exc:
                rejected = str(exc)[:500]
                self._held = None
                if not isinstance(exc, SetpointDeferred) or not self._lease.lasts_before(exc.within_s):
                    self._undo()
            except Exception as exc:
                self._held = None
                self._undo()
                self._failed("apply", exc)
                return
        if answered is not None:
            self._answered = answered
        await self._publish_telemetry(answers=True, rejected=rejected)
        if owes and self._is_undone and not self.is_safe:  # its lease would put off what is still owed
            self._lease.end()
            await self._make_safe(
                "the setpoint was rejected, and an earlier request for the safe state is not carried out yet"
            )

    def _undo(self) -> None:
        """Let the newest setpoint, which was not done, give what was done before it no more time."""
        self._is_undone = True
        if self._lease.give_back_to_before():
            self._lease_end.moved()
            if self._lease.is_running:  # else its end is told once the hardware was told of it
                self._tell_holder()

    async def _apply(self, setpoint: Setpoint) -> None:
        """Let the hardware do it; a stop, or the end of the lease, does not wait until it has.

        Raises:
            SetpointRejected: By the device, or because it was broken off.
        """
        done = self.apply(setpoint)
        if done is None or not inspect.isawaitable(done):
            return
        try:
            await self._busy.breakable(done)
        except BrokenOff as exc:
            raise SetpointRejected(str(exc)) from None

    async def _awaited(self, asked: Awaitable[T]) -> T:
        """Return the result of ``measure`` or ``renew``; with ``breaks_off_measuring`` it can be cancelled.

        Raises:
            BrokenOff: It was.
        """
        if self.breaks_off_measuring:
            return await self._busy.breakable(asked)
        return await to_its_end(asked, MEASURE_TO_END_S)

    async def _extend(self, renewal: Setpoint) -> None:
        """Extend the lease of its owner, unless it has run out already: a renewal brings nothing back."""
        if self._is_undone or not self._lease.is_of(renewal) or self._lease.refusal(renewal) is not None:
            self.refused += 1
            return
        self._lease.hold(renewal)
        self._lease_end.moved()
        if self._held is None:
            return
        again = {"lease_s": renewal.lease_s, "seq": renewal.seq, "boot": renewal.boot, "renewal": True}
        try:
            done = self.renew(self._held.model_copy(update=again))
            if inspect.isawaitable(done):
                await self._awaited(done)
        except BrokenOff:
            pass  # what comes first says what holds now
        except Exception as exc:
            self._failed("renew", exc)

    async def _give_back(self, release: Setpoint) -> None:
        """End the lease for its owner and go to the safe state; of another sender it changes nothing."""
        answered = None if release.seq is None else (release.boot, release.seq)
        if self._lease.is_running and not self._lease.is_of(release):
            self.refused += 1
            await self._publish_telemetry(answered=answered, answers=True, rejected="not the lease's owner")
            return
        if answered is not None:
            self._answered = answered
        self._lease.end()
        if self.is_safe:
            await self._publish_telemetry(answers=True)
            self._tell_holder()
        else:
            await self._make_safe(f"released by {release.sender or 'its owner'}", logging.INFO)

    def _forget_setpoints(self) -> None:
        """Know of no setpoint, as after a start; the lease is left as it is."""
        self._lease.forget()
        self._answered = self._held = None

    def rest_reached(self) -> None:
        """Take note that the hardware is in its safe state, which it could not be told of before."""
        was, self._rest.is_taken = self._rest.is_taken, True
        if self.stopped and not was:
            self._confirm_stop()

    def rest_lost(self) -> None:
        """Take note that the hardware is not in its safe state any more: it restarted, or was changed."""
        was, self._rest.is_taken = self._rest.is_taken, False
        if self.stopped and was:
            self._confirm_stop()

    def _on_reconnect(self) -> None:
        """Say again what a broker that was restarted may have lost."""
        self._stop.on_reconnect()
        self._notice.doubt()
        if not self._ownership.is_held:  # else once it is heard that it still is: see _on_confirmed
            self._tell_holder()
        self._spawn(self._speak_again())

    async def _speak_again(self) -> None:
        """Publish telemetry after a connection was away: what a setpoint echoes may be older than a lease."""
        async with self._busy:
            await self._publish_telemetry()

    def _on_run_state(self, message: Received) -> Awaitable[None] | None:
        """Hear where the run stands; returns what is left to be done, if anything is."""
        state = self._broker.parsed(message, RunState)
        if state is None or state.env_id not in {None, self._env_id}:
            return None
        is_new = state.state in {"reset", "running"} and (state.boot, state.episode) != self._run
        if self.follows_episodes and is_new:
            return self._begin_new_episode(state)
        return self.on_run_state(state)

    async def _begin_new_episode(self, state: RunState) -> None:
        async with self._busy:
            self._run = (state.boot, state.episode)
            self._forget_setpoints()
            self._at = (state.episode, None)
            self.begin_episode(state)
        self._say(self._birth())
        # who waits for this episode may have come after the last telemetry, and wants it before it begins
        await self._speak_again()
        heard = self.on_run_state(state)
        if inspect.isawaitable(heard):
            await heard

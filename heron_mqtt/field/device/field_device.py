"""FieldDevice: the device's end of the wire. Derive from it to put hardware, or a model of it, on MQTT.

    class Inverter(FieldDevice):
        kind = "battery"

        async def apply(self, setpoint):            # tell the hardware
            await self.modbus.write(P_SETPOINT, setpoint.p_mw)

        async def measure(self):                    # ask the hardware
            return Telemetry(p_mw=await self.modbus.read(P), soc=await self.modbus.read(SOC))

    asyncio.run(Inverter("MG1", "ess", broker).run())

``apply``, ``renew``, ``measure`` and ``go_safe`` may be plain methods or coroutines; they are never called
two at a time.
"""

from __future__ import annotations

import abc
import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from heron_mqtt.field.device.lease import Lease
from heron_mqtt.field.device.presence import PresentDevice
from heron_mqtt.messages import EmergencyStop, RunState, Setpoint, Telemetry
from heron_mqtt.messaging import topics
from heron_mqtt.messaging.base import Callback, MessageBroker, Received, Subscription
from heron_mqtt.messaging.stamping import MessageStamper

log = logging.getLogger("heron_mqtt.device")


class SetpointRejected(Exception):
    """Raised by ``apply``: the device will not do that; its telemetry says so and why."""


class FieldDevice(PresentDevice, abc.ABC):
    """One device: takes leased setpoints, publishes telemetry, says who it is and when it is gone.

    - A setpoint is applied once; one that is not newer (same boot, ``seq`` not higher) is ignored.
    - A setpoint holds for its ``lease_s``. Without a newer one, or a renewal, the device goes to its
      safe state, and its telemetry says after how long.
    - Telemetry acknowledges the newest setpoint that was applied or rejected; never one that failed.
    - An emergency stop is a safe state that setpoints do not end; only its release does.
    - Telemetry goes out after every setpoint, acknowledging it, and every ``period_s``.
    - The birth (retained, with the nameplate) follows every start and every new episode; ``offline`` is
      left as the will; ``fault`` is said while ``apply`` or ``measure`` raises.

    Args:
        agent_id: The agent that owns it.
        name: Its name.
        broker: Carries the messages; not closed here. Callbacks run in the loop of ``run``.
        env_id: The environment.
        period_s: Time between telemetry without a setpoint, s; 0 = only answers.
        stamper: Stamps what is published; handed in by tests.
    """

    def __init__(
        self,
        agent_id: str,
        name: str,
        broker: MessageBroker,
        *,
        env_id: str = "default",
        period_s: float = 1.0,
        stamper: MessageStamper | None = None,
    ) -> None:
        super().__init__(agent_id, name, broker, env_id=env_id, stamper=stamper)
        self.is_safe = True
        """Whether it is in its safe state: before the first setpoint, after a lease ran out, when stopped."""
        self.stopped = False
        """Whether an emergency stop is in force."""
        self.ignored = 0
        """Setpoints ignored because a newer one had been applied, or of another environment."""
        self._period_s = period_s
        self._channel = topics.device(agent_id, name, "telemetry")
        self._newest: tuple[str | None, int] | None = None  # boot and seq of the newest setpoint heard
        self._answered: tuple[str | None, int] | None = None  # of the newest one done or rejected
        self._held: Setpoint | None = None  # what a renewal extends
        self._at: tuple[int | None, int | None] = (None, None)
        self._lease = Lease(self._lease_over)
        self._safe_after_s: float | None = None
        self._first = asyncio.Event()
        self._busy = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    # -- what a device implements ------------------------------------------------------------------

    @abc.abstractmethod
    def apply(self, setpoint: Setpoint) -> Awaitable[None] | None:
        """Do what the setpoint says, as far as the device can.

        Raises:
            SetpointRejected: The device will not.
        """

    def renew(self, setpoint: Setpoint) -> Awaitable[None] | None:
        """Extend what the device holds; for hardware with a timer of its own. By default nothing.

        Args:
            setpoint: The one applied last, with ``lease_s`` and ``seq`` of its renewal.
        """

    @abc.abstractmethod
    def measure(self) -> Awaitable[Telemetry | None] | Telemetry | None:
        """Return what the device measures now; None = nothing is known yet."""

    def go_safe(self, reason: str) -> Awaitable[None] | None:
        """Go to the safe state; by default a setpoint of zero."""
        return self.apply(Setpoint(p_mw=0.0, q_mvar=0.0, lease_s=1.0))

    def begin_episode(self, run_state: RunState) -> None:
        """Start afresh with a new episode, if it ``follows_episodes``."""

    # -- life --------------------------------------------------------------------------------------

    async def run(
        self,
        *,
        duration_s: float | None = None,
        once: bool = False,
        on_online: Callable[[], None] | None = None,
    ) -> None:
        """Serve until cancelled.

        Args:
            duration_s: End after this time.
            once: End after the first setpoint was answered.
            on_online: Called once the birth is published: setpoints are heard from here on.
        """
        subscriptions: list[Subscription] = []
        try:
            for channel, callback in self._wanted():
                subscriptions.append(self._broker.subscribe(channel, callback))
            for subscription in subscriptions:
                await subscription
            await self._appear()
            if on_online is not None:
                on_online()
            async with asyncio.timeout(duration_s):
                await (self._first.wait() if once else self._publish_periodically())
        except TimeoutError:
            pass  # the duration is over
        finally:
            for unsubscribe in subscriptions:
                unsubscribe()
            self._lease.cancel()
            for task in self._tasks:
                task.cancel()
            await self._leave()

    def _wanted(self) -> list[tuple[str, Callback]]:
        return [
            (topics.ESTOP, self._on_estop),
            (topics.RUN_STATE, self._on_run_state),
            (topics.device(self.agent_id, self.name, "setpoint"), self._on_setpoint),
        ]

    async def _publish_periodically(self) -> None:
        while self._period_s > 0.0:
            await asyncio.sleep(self._period_s)
            async with self._busy:
                await self._publish_telemetry()
        await asyncio.Event().wait()

    async def _publish_telemetry(self, *, answers: bool = False, rejected: str | None = None) -> None:
        """Measure and publish, acknowledging the newest setpoint."""
        try:
            measured = self.measure()
            telemetry = await measured if inspect.isawaitable(measured) else measured
        except Exception as exc:
            await self._failed("measure", exc)
            return
        if telemetry is None:
            return
        news: dict[str, Any] = {
            "safe": self.is_safe,
            "safe_after_s": self._safe_after_s,
            "rejected": rejected,
        }
        if self._answered is not None:
            news["ack_boot"], news["ack_seq"] = self._answered
        episode, step = self._at
        stamped = self._stamper.stamp(
            self._channel, telemetry.model_copy(update=news), episode=episode, step=step
        )
        self._broker.publish(self._channel, stamped)
        if answers:
            self._safe_after_s = None  # told to somebody who is listening
        await self._recovered()

    # -- messages in -------------------------------------------------------------------------------

    async def _on_setpoint(self, message: Received) -> None:
        setpoint = self._broker.parsed(message, Setpoint)
        if setpoint is None:
            return
        if setpoint.env_id not in {None, self._env_id} or self._is_old(setpoint):
            self.ignored += 1
            return
        async with self._busy:
            await self._take(setpoint)

    async def _take(self, setpoint: Setpoint) -> None:
        if setpoint.seq is not None:
            self._newest = (setpoint.boot, setpoint.seq)
        if setpoint.renewal:
            await self._extend(setpoint)
            return
        self._at = (setpoint.episode, setpoint.step)
        rejected: str | None = "emergency stop" if self.stopped else None
        if rejected is None:
            self._lease.renew(setpoint.lease_s)
            self.is_safe = False
            self._held = setpoint
            try:
                done = self.apply(setpoint)
                if inspect.isawaitable(done):
                    await done
            except SetpointRejected as exc:
                rejected = str(exc)[:500]
                self._held = None
            except Exception as exc:
                await self._failed("apply", exc)
                return
        if setpoint.seq is not None:
            self._answered = (setpoint.boot, setpoint.seq)
        await self._publish_telemetry(answers=True, rejected=rejected)
        self._first.set()

    async def _extend(self, renewal: Setpoint) -> None:
        """Extend the lease, unless it has run out already: a renewal brings nothing back."""
        if not self._lease.is_running:
            return
        self._lease.renew(renewal.lease_s)
        if self._held is None:
            return
        again = {"lease_s": renewal.lease_s, "seq": renewal.seq, "boot": renewal.boot, "renewal": True}
        try:
            done = self.renew(self._held.model_copy(update=again))
            if inspect.isawaitable(done):
                await done
        except Exception as exc:
            await self._failed("renew", exc)

    def _is_old(self, setpoint: Setpoint) -> bool:
        if setpoint.seq is None or self._newest is None:
            return False
        boot, seq = self._newest
        return setpoint.boot == boot and setpoint.seq <= seq

    def _forget_setpoints(self) -> None:
        """Know of no setpoint, as after a start; the lease is left as it is."""
        self._newest = self._answered = self._held = None

    async def _on_estop(self, message: Received) -> None:
        stop = self._broker.parsed(message, EmergencyStop)
        if stop is None:
            return
        if stop.active and not self.stopped:
            self.stopped = True
            self._lease.cancel()
            await self._make_safe(f"emergency stop by {stop.who or 'unknown'}")
        elif not stop.active and self.stopped:
            self.stopped = False
            log.warning("%s: emergency stop released by %s", self.label, stop.who or "unknown")

    def _lease_over(self, after_s: float) -> None:
        self._safe_after_s = after_s
        self._spawn(self._make_safe(f"no setpoint for {after_s:.3g} s"))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something from a plain callback; it ends with the device."""
        task = asyncio.get_running_loop().create_task(work, name=f"device {self.label}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _make_safe(self, reason: str) -> None:
        log.warning("%s: %s, going to the safe state", self.label, reason)
        async with self._busy:
            if self._lease.is_running:
                return  # a setpoint came first
            self.is_safe = True
            self._held = None
            try:
                done = self.go_safe(reason)
                if inspect.isawaitable(done):
                    await done
            except Exception as exc:
                await self._failed("go_safe", exc)
            await self._publish_telemetry()

    async def _on_run_state(self, message: Received) -> None:
        state = self._broker.parsed(message, RunState)
        if state is None:
            return
        is_ours = state.env_id in {None, self._env_id} and state.state in {"reset", "running"}
        if not self.follows_episodes or not is_ours or (state.boot, state.episode) == self._run:
            return
        async with self._busy:
            self._run = (state.boot, state.episode)
            self._forget_setpoints()
            self._at = (state.episode, None)
            self.begin_episode(state)
        await self._say(self._birth())

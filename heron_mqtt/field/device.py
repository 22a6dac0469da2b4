"""FieldDevice: the device's end of the wire. Derive from it to put hardware, or a model of it, on MQTT.

class Inverter(FieldDevice):
    kind = "battery"

    def apply(self, setpoint):            # tell the hardware
        self.modbus.write(P_SETPOINT, setpoint.p_mw)

    def measure(self):                    # ask the hardware
        return Telemetry(p_mw=self.modbus.read(P), soc=self.modbus.read(SOC))

    def go_safe(self, reason):
        self.modbus.write(P_SETPOINT, 0.0)

asyncio.run(Inverter("MG1", "ess", broker).run())
"""

from __future__ import annotations

import abc
import asyncio
import logging
from typing import Any, ClassVar

from heron_mqtt.errors import MessageError
from heron_mqtt.messages import NO_RUN, RunState, Setpoint, Status, Telemetry, parse
from heron_mqtt.messaging import topics
from heron_mqtt.messaging.base import Announcement, Callback, MessageBroker, Received, Subscription
from heron_mqtt.messaging.outbox import Outbox

log = logging.getLogger("heron_mqtt.device")


class FieldDevice(abc.ABC):
    """One device: takes leased setpoints, publishes telemetry, says who it is and when it is gone.

    - A setpoint is applied once; one that is not newer (same boot, ``seq`` not higher) is ignored.
    - A setpoint holds for its ``lease_s``. Without a newer one the device goes to its safe state.
    - Telemetry goes out after every setpoint, acknowledging it, and every ``period_s``.
    - The birth (retained, with the nameplate) follows every start and every new episode; ``offline`` is
      left as the will.

    Args:
        agent_id: The agent that owns it.
        name: Its name.
        broker: Carries the messages; not closed here. Callbacks run in the loop of ``run``.
        env_id: The environment.
        period_s: Time between telemetry without a setpoint, s; 0 = only answers.
        outbox: Stamps what is published; handed in by tests.
    """

    kind: ClassVar[str] = "device"
    follows_episodes: ClassVar[bool] = False
    """Whether it starts afresh with every episode, as emulators do; the gateway then waits for it."""

    def __init__(
        self,
        agent_id: str,
        name: str,
        broker: MessageBroker,
        *,
        env_id: str = "default",
        period_s: float = 1.0,
        outbox: Outbox | None = None,
    ) -> None:
        self.agent_id = agent_id
        self.name = name
        self._broker = broker
        self._env_id = env_id
        self._period_s = period_s
        self._outbox = outbox or Outbox(f"{agent_id}/{name}", env_id)
        self._channel = topics.device(agent_id, name, "telemetry")
        self._answered: tuple[str | None, int] | None = None  # boot and seq of the newest setpoint
        self._run: tuple[str | None, int | None] | None = None
        self._at: tuple[int | None, int | None] = (None, None)
        self._lease: asyncio.TimerHandle | None = None
        self._presence: Announcement | None = None
        self._first = asyncio.Event()
        self.is_safe = True
        """Whether it is in its safe state: before the first setpoint, and after a lease ran out."""
        self.ignored = 0
        """Setpoints ignored because a newer one had been applied, or of another environment."""

    # -- what a device implements ------------------------------------------------------------------

    @abc.abstractmethod
    def apply(self, setpoint: Setpoint) -> None:
        """Do what the setpoint says, as far as the device can."""

    @abc.abstractmethod
    def measure(self) -> Telemetry:
        """Return what the device measures now."""

    def go_safe(self, reason: str) -> None:
        """Go to the safe state; by default a setpoint of zero."""
        self.apply(Setpoint(p_mw=0.0, q_mvar=0.0, lease_s=1.0))

    def begin_episode(self, run_state: RunState) -> None:  # noqa: B027 - hardware has nothing to do
        """Start afresh with a new episode, if it ``follows_episodes``."""

    def nameplate(self) -> dict[str, Any]:
        """Return the fields of ``Status`` that describe the device: p_min_mw, p_max_mw, max_e_mwh, soc."""
        return {}

    # -- life --------------------------------------------------------------------------------------

    async def run(self, *, duration_s: float | None = None, once: bool = False) -> None:
        """Serve until cancelled.

        Args:
            duration_s: End after this time.
            once: End after the first setpoint was answered.
        """
        mine: tuple[tuple[str, Callback], ...] = (
            (topics.device(self.agent_id, self.name, "setpoint"), self._on_setpoint),
            (topics.RUN_STATE, self._on_run_state),
        )
        subscriptions: list[Subscription] = []
        try:
            subscriptions += [self._broker.subscribe(channel, callback) for channel, callback in mine]
            for subscription in subscriptions:
                await subscription
            self._presence = await self._broker.announce(
                self._status_channel(), self._birth(), self._outbox.will(Status(state="offline"))
            )
            async with asyncio.timeout(duration_s):
                await (self._first.wait() if once else self._publish_periodically())
        except TimeoutError:
            pass  # the duration is over
        finally:
            for unsubscribe in subscriptions:
                unsubscribe()
            if self._lease is not None:
                self._lease.cancel()
            if self._presence is not None:
                await self._presence.withdraw()

    async def _publish_periodically(self) -> None:
        while True:
            if self._period_s > 0.0:
                await asyncio.sleep(self._period_s)
                self.publish_telemetry()
            else:
                await asyncio.sleep(3600.0)

    def publish_telemetry(self) -> None:
        """Measure and publish, acknowledging the newest setpoint."""
        telemetry = self.measure()
        if self._answered is not None:
            boot, seq = self._answered
            telemetry = telemetry.model_copy(update={"ack_boot": boot, "ack_seq": seq})
        episode, step = self._at
        stamped = self._outbox.stamp(self._channel, telemetry, episode=episode, step=step)
        self._broker.publish(self._channel, stamped)

    # -- messages in -------------------------------------------------------------------------------

    def _on_setpoint(self, message: Received) -> None:
        try:
            setpoint = parse(Setpoint, message)
        except MessageError as exc:
            self._broker.reject(message, exc)
            return
        if setpoint.env_id not in {None, self._env_id} or self._is_old(setpoint):
            self.ignored += 1
            return
        if setpoint.seq is not None:
            self._answered = (setpoint.boot, setpoint.seq)
        self._at = (setpoint.episode, setpoint.step)
        self._renew_lease(setpoint.lease_s)
        self.is_safe = False
        self.apply(setpoint)
        self.publish_telemetry()
        self._first.set()

    def _is_old(self, setpoint: Setpoint) -> bool:
        if setpoint.seq is None or self._answered is None:
            return False
        boot, seq = self._answered
        return setpoint.boot == boot and setpoint.seq <= seq

    def _renew_lease(self, lease_s: float) -> None:
        if self._lease is not None:
            self._lease.cancel()
        self._lease = asyncio.get_running_loop().call_later(lease_s, self._lease_over, lease_s)

    def _lease_over(self, lease_s: float) -> None:
        self.is_safe = True
        log.warning("%s/%s: no setpoint for %g s, going to the safe state", self.agent_id, self.name, lease_s)
        self.go_safe(f"no setpoint for {lease_s:g} s")
        self.publish_telemetry()

    async def _on_run_state(self, message: Received) -> None:
        try:
            state = parse(RunState, message)
        except MessageError as exc:
            self._broker.reject(message, exc)
            return
        if state.env_id not in {None, self._env_id} or state.state not in {"reset", "running"}:
            return
        if (state.boot, state.episode) == self._run:
            return
        if not self.follows_episodes:
            return
        self._run = (state.boot, state.episode)
        self._answered = None
        self._at = (state.episode, None)
        self.begin_episode(state)
        if self._presence is not None:
            await self._presence.update(self._birth())

    # -- helpers -----------------------------------------------------------------------------------

    def _status_channel(self) -> str:
        return topics.device(self.agent_id, self.name, "status")

    def _birth(self) -> dict[str, Any]:
        run, episode = self._run or (NO_RUN if self.follows_episodes else None, None)
        status = Status(state="online", kind=self.kind, run=run, **self.nameplate())
        return self._outbox.stamp(self._status_channel(), status, episode=episode)

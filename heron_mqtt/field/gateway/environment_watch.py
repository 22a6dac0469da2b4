"""Which environment a gateway serves, and whether it is alive: a dead man's rule.

Nothing is sent to a device, and no lease renewed, without a sign of life from the environment that is
served. What a setpoint may still last is what is left of the lease since that sign, by our own clock.

An environment is known by its boot. Another one is followed only when it holds ``run/owner``, or, where
no owner is known, when the one that was served is gone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from heron_mqtt.field.gateway.pause_detector import PauseDetector
from heron_mqtt.field.steady_clock import steady_s
from heron_mqtt.messages import Owner, RunState
from heron_mqtt.messaging import topics
from heron_mqtt.messaging.base import MessageBroker, Received
from heron_mqtt.messaging.subscription_group import SubscriptionGroup

log = logging.getLogger("heron_mqtt.gateway")


class EnvironmentWatch:
    """Listens to ``run/state`` and ``run/owner``.

    Args:
        agent_id: Who watches, for the log.
        broker: Carries the messages; callbacks run in the loop that called ``open``.
        env_id: Messages that name another environment are ignored.
        lease_s: How long a sign of life lasts, s.
        on_end: Called when the environment that was served is lost, finished or replaced.
        monotonic: Our clock, s.
    """

    def __init__(
        self,
        agent_id: str,
        broker: MessageBroker,
        env_id: str,
        *,
        lease_s: float,
        on_end: Callable[[str], None],
        monotonic: Callable[[], float] = steady_s,
    ) -> None:
        self.served: str | None = None
        """Boot of the environment that is served; None before the first episode of one."""
        self.foreign = 0
        """Messages ignored: of an environment that is not served."""
        self.on_state: Callable[[RunState, bool], object] = lambda state, retained: None
        """Called with every ``run/state`` that is one, after it has counted here, and whether it was kept."""
        self._agent_id = agent_id
        self._broker = broker
        self._env_id = env_id
        self._lease_s = lease_s
        self._on_end = on_end
        self._monotonic = monotonic
        self._owner: str | None = None  # boot that holds run/owner
        self._heard_at: float | None = None
        self._newest: dict[str, int] = {}  # seq of the newest message of the environment, by channel
        self._pause: PauseDetector | None = None  # None while it is not listened to
        self._shares_clock = False  # whether that tells the time by the same clock
        self._end: str | None = None  # why it is not alive, where that was said
        self._subscriptions = SubscriptionGroup(broker)

    async def open(self) -> None:
        """Listen."""
        if self._pause is None:
            self._pause = PauseDetector.of_running_loop()
            self._pause.start()
            self._shares_clock = self._pause.reads(self._monotonic)
        await self._subscriptions.open(
            [(topics.RUN_OWNER, self._on_owner), (topics.RUN_STATE, self._on_run_state)]
        )

    def close(self) -> None:
        """Stop listening. Idempotent."""
        if self._pause is not None:
            self._pause.stop()
            self._pause = None
        self._subscriptions.close()

    # -- what is known -------------------------------------------------------------------------------

    @property
    def left_s(self) -> float:
        """How long a setpoint may last that is sent now, s; 0 = nothing may be sent."""
        if self._end is not None or self._heard_at is None:
            return 0.0
        return max(0.0, self._lease_s - (self._monotonic() - self._heard_at))

    @property
    def has_just_paused(self) -> bool:
        """Whether this process was just paused: messages that it reads may be as old as the pause."""
        return self._pause is not None and self._pause.is_recent()

    async def caught_up(self) -> None:
        """Let the loop read what came while this process stood still; at once where it did not."""
        if self._pause is not None:
            await self._pause.caught_up()

    @property
    def why_silent(self) -> str:
        """Why nothing may be sent."""
        return self._end or f"the environment has been silent for longer than {self._lease_s:g} s"

    def may_begin(self, boot: str | None) -> bool:
        """Whether an episode of this environment is to be followed."""
        if boot == self.served or self.served is None:
            return self._owner is None or boot is None or boot == self._owner
        if self._owner is not None:
            return boot == self._owner
        return self.left_s <= 0.0

    def is_served(self, boot: str | None) -> bool:
        """Whether a message with this boot may count: of the environment that is served, or by hand."""
        return boot is None or self.served is None or boot == self.served

    # -- signs of life -------------------------------------------------------------------------------

    def serve(self, boot: str | None) -> None:
        """Follow an environment from now on: an episode of it begins."""
        if boot != self.served:
            self._newest.clear()
        self.served = boot
        self._end = None
        self._heard_at = self._monotonic()

    def heard(self, boot: str | None, number: tuple[str, int | None] | None = None) -> bool:
        """Take note of a message of the step loop; return whether it is a sign of life.

        Three kinds of messages are no sign of life. (1) A message of another environment. (2) A message whose
        number does not follow the last one: a replay, or presence, which has no number. (3) A message that is
        read just after this process was paused, because it may have waited for as long as the pause.

        Args:
            boot: Of the environment.
            number: Channel and ``seq`` of the message; None = it is known to be new.
        """
        if boot != self.served and self.served is not None:
            return False
        if number is not None and self.served is not None:
            channel, seq = number
            newest = self._newest.get(channel)
            if seq is None or (newest is not None and seq <= newest):
                return False
            self._newest[channel] = seq
        pause = self._pause
        if pause is None:
            self._heard_at = self._monotonic()
            return True
        now_s = pause.trusted_s()
        if now_s is None:
            return False
        # the clock that continues while the machine sleeps is slow to read: not twice for one message
        self._heard_at = now_s if self._shares_clock else self._monotonic()
        return True

    # -- messages in -----------------------------------------------------------------------------------

    def _on_owner(self, message: Received) -> None:
        owner = self._broker.parsed(message, Owner)
        if owner is None or owner.state == "asks":
            return
        if owner.state == "free":
            if owner.boot == self._owner:
                self._owner = None
            return
        self._owner = owner.boot
        if self.served is not None and owner.boot != self.served:
            self._ends(f"the environment was replaced by {owner.who or owner.sender or 'another one'}")

    def _on_run_state(self, message: Received) -> None:
        state = self._broker.parsed(message, RunState)
        if state is not None:
            self._take_state(state, message.retained)
            self.on_state(state, message.retained)

    def _take_state(self, state: RunState, retained: bool) -> None:
        said = state.__dict__  # it takes as long to read as one field of the model
        if said["env_id"] not in {None, self._env_id}:
            self.foreign += 1
            return
        boot, what = said["boot"], said["state"]
        is_ours = self.served is not None and boot in {None, self.served}
        if what in {"lost", "finished"}:
            if is_ours:
                level = logging.WARNING if what == "lost" else logging.INFO
                self._ends(f"the environment is {what}", level)
            return
        if not is_ours:
            return
        if retained or not self.heard(boot, (topics.RUN_STATE, said["seq"])):
            return
        if self._end is not None and self._owner in {None, self.served}:
            self._end = None  # its will was sent although it lives: it publishes its own status

    def _ends(self, why: str, level: int = logging.WARNING) -> None:
        if self._end is None:
            log.log(level, "%s: %s: nothing is sent or renewed", self._agent_id, why)
        self._end = why
        self._on_end(why)

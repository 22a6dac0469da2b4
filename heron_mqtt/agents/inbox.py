"""What arrives for one agent: validated, sorted by episode and step, and never more than it may hold."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from heron_mqtt.agents.wakeup import Wakeup
from heron_mqtt.errors import MessageError
from heron_mqtt.field.gateway.environment_watch import EnvironmentWatch
from heron_mqtt.messages import (
    Clearance,
    Command,
    Message,
    Observation,
    PriceSignal,
    RunState,
)
from heron_mqtt.messaging import topics
from heron_mqtt.messaging.base import MessageBroker, Received
from heron_mqtt.messaging.subscription_group import SubscriptionGroup
from heron_mqtt.protocols.base import HorizontalSession
from heron_mqtt.protocols.price import PriceFollower
from heron_mqtt.protocols.setpoint import CommandFollower

M = TypeVar("M", bound=Message)
REMEMBERED_REFUSALS = 10
UNNAMED = (-1, -1)  # of a message that does not say to which episode and step it belongs
MAX_EARLY = 256  # messages of one peer for a step that has not begun here; a round is one message


class Inbox:
    """One agent's incoming messages.

    Args:
        agent_id: Whose.
        upstream_id: The operator whose price counts.
        peers: Agents it may hear from.
        env_id: Messages of another environment are dropped.
        environment: Which environment is served; every message of its step loop is a sign of life. It hands
            on ``run/state``, so it must be listening, too.
        broker: Where they come from; callbacks run in the loop that called ``open``.
        wakeup: Notified after every message.
    """

    def __init__(
        self,
        agent_id: str,
        upstream_id: str,
        peers: Sequence[str],
        env_id: str,
        broker: MessageBroker,
        wakeup: Wakeup,
        environment: EnvironmentWatch,
    ) -> None:
        self.price = PriceFollower()
        self.commands: CommandFollower[Command] = CommandFollower()
        self.observation: Observation | None = None
        """The newest one, until a step begins with it."""
        self.new_episode: RunState | None = None
        """An episode that has begun upstream and not been prepared for here."""
        self.dropped = 0
        self._now = (0, -1)
        self._clearance: Clearance | None = None
        self._run: tuple[str | None, int] | None = None
        # boots of environments that are not followed, the newest last; each of these was named
        self._refused: deque[str] = deque(maxlen=REMEMBERED_REFUSALS)
        self._agent_id = agent_id
        self._upstream_id = upstream_id
        self._peers = frozenset(peers)
        self._env_id = env_id
        self._broker = broker
        self._wakeup = wakeup
        self._environment = environment
        self._session: HorizontalSession | None = None
        self._early: dict[str, list[Message]] = {peer: [] for peer in peers}
        self._subscriptions = SubscriptionGroup(broker)
        environment.on_state = self._on_run_state  # every step: one reader an agent

    async def open(self) -> None:
        """Subscribe; returns when every subscription is in force."""
        mine = self._agent_id
        if self._peers:
            # A peer's first message needs it: imported within a step, 2 to 6 ms, it makes the next one late.
            import heron_mqtt.messages.wire_types  # noqa: F401
        await self._subscriptions.open(
            [
                (topics.operator_price(self._upstream_id), self._on_price),
                (topics.agent(mine, "command"), self._on_command),
                (topics.agent(mine, "observation"), self._on_observation),
                *((channel, self._on_peer) for channel in self._peer_channels()),
                (topics.agent(mine, "clearance"), self._on_clearance),
            ]
        )

    def close(self) -> None:
        """Unsubscribe. Idempotent."""
        self._subscriptions.close()

    def begin_episode(self, episode: int, run: str | None = None) -> None:
        """Forget what belongs to other episodes; ``run`` is the boot of the operator that begins this one."""
        self._now = (episode, -1)
        self.new_episode = None
        self.observation = None
        self._early = {peer: [] for peer in self._peers}
        self.price.restart(episode, run)
        self.commands.restart(episode, run)

    def begin_step(self) -> tuple[Observation | None, int, int]:
        """Take the observation that waits, if one does; return it with the episode and step that begin."""
        observation, self.observation = self.observation, None
        named = None if observation is None else _when(observation.__dict__)
        episode, step = self._now
        self._now = (episode, step + 1) if named is None or named == UNNAMED else named
        return observation, *self._now

    def is_told(self, episode: int, step: int, commanded: bool) -> bool:
        """Whether the price of a step is there, and the command if there is to be one."""
        return self.price.is_for(episode, step) and (not commanded or self.commands.has(episode, step))

    def clearance_for(self, episode: int, step: int) -> Clearance | None:
        """Return the clearance of a step, once it has arrived."""
        newest = self._clearance
        return newest if newest is not None and (newest.episode, newest.step) == (episode, step) else None

    def open_session(self, session: HorizontalSession) -> None:
        """Feed peers' messages of this step to a session, those that came early included."""
        self._session = session
        for peer, messages in self._early.items():
            later = []
            for message in messages:
                when = _when(message.__dict__)
                if when > self._now:  # the peer gave this step up and is already in the next
                    later.append(message)
                elif when < self._now or not session.receive(peer, message):
                    self.dropped += 1
            self._early[peer] = later

    def close_session(self) -> None:
        """Feed it no more; what still comes for this step is late."""
        self._session = None

    def _peer_channels(self) -> list[str]:
        if self._peers and self._broker.features.wildcards:
            return [topics.p2p_to(self._agent_id)]
        return [topics.p2p(peer, self._agent_id) for peer in sorted(self._peers)]

    # -- callbacks ---------------------------------------------------------------------------------

    def _take_served(self, model: type[M], message: Received) -> M | None:
        """Validate a message of the environment that is served; others, and kept ones, are counted.

        Only a price is for late subscribers: the rest is for now. A wrong message is reported.
        """
        try:
            parsed = message.parse(model)
        except MessageError as exc:
            self._broker.reject(message, exc)
            return None
        said = parsed.__dict__  # it takes as long to read as one field of the model
        is_here = said["env_id"] in {None, self._env_id}
        is_for_now = not message.retained or isinstance(parsed, PriceSignal)
        if is_here and is_for_now and self._environment.is_served(said["boot"]):
            return parsed
        self.dropped += 1
        return None

    def _on_run_state(self, state: RunState, retained: bool) -> None:
        said = state.__dict__
        if said["env_id"] not in {None, self._env_id}:
            self.dropped += 1
            return
        if said["state"] not in {"reset", "running"}:
            return
        boot, episode = said["boot"], said["episode"]
        if boot is None or episode is None:  # no run that could be followed
            self.dropped += 1
            return
        if (boot, episode) == self._run:
            return
        if not self._environment.may_begin(boot):
            self.dropped += 1
            if boot not in self._refused and not retained:
                self._refused.append(boot)
                self._broker.stats.report(
                    "environment",
                    self._agent_id,
                    f"a second environment (boot {boot}) publishes in addition to the one that is served "
                    f"(boot {self._environment.served}): it is ignored",
                )
            return
        self._environment.serve(boot)
        self._run = (boot, episode)
        self.new_episode = state
        self._wakeup.notify()

    def _on_price(self, message: Received) -> None:
        signal = self._take_served(PriceSignal, message)
        if signal is not None:
            self.dropped += not self.price.receive(signal)
            self._wakeup.notify()

    def _on_command(self, message: Received) -> None:
        command = self._take_served(Command, message)
        if command is not None:
            self.dropped += not self.commands.receive(command)
            self._wakeup.notify()

    def _on_clearance(self, message: Received) -> None:
        clearance = self._take_served(Clearance, message)
        if clearance is not None:
            self._clearance = clearance
            self._wakeup.notify()

    def _on_observation(self, message: Received) -> None:
        observation = self._take_served(Observation, message)
        if observation is None:
            return
        said = observation.__dict__
        self._environment.heard(said["boot"], (message.channel, said["seq"]))
        when = _when(said)
        if when != UNNAMED and when <= self._now:
            self.dropped += 1
            return
        self.observation = observation
        self._wakeup.notify()

    def _on_peer(self, message: Received) -> None:
        try:
            parsed = message.parse_any()
        except MessageError as exc:
            self._broker.reject(message, exc)
            return
        said = parsed.__dict__
        peer, when = topics.owner_of(message.channel), _when(said)
        if said["env_id"] != self._env_id or peer not in self._peers or when < self._now:
            self.dropped += 1
        elif when == self._now and self._session is not None:
            self.dropped += not self._session.receive(peer, parsed)
            self._wakeup.notify()
        elif len(self._early[peer]) < MAX_EARLY:
            self._early[peer].append(parsed)
        else:
            self.dropped += 1


def _when(said: Mapping[str, Any]) -> tuple[int, int]:
    """Return the episode and step that the fields of a message name; before all others if they do not."""
    episode, step = said["episode"], said["step"]
    return UNNAMED if episode is None or step is None else (episode, step)

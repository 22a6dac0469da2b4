"""What the horizontal protocols have in common: rounds with at most one message from each agent to each peer.

A protocol begins a session for each agent and step. A session is that agent's part, a state machine without
I/O. A driver (the proxy over a broker, or ``run_sessions`` if all agents are in one process) publishes
``outgoing()`` and feeds ``receive()``. It calls ``advance()`` when ``waiting_for()`` is empty or the round's
deadline has passed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, Protocol, Self

from heron_mqtt.config import Table
from heron_mqtt.messages import Message

__all__ = [
    "LEAST_TRADE_MWH",
    "HorizontalProtocol",
    "HorizontalSession",
    "ProtocolSettings",
    "StepPosition",
    "Trade",
    "neighbours",
    "run_conversation",
    "run_lossy_sessions",
    "run_sessions",
]

LEAST_TRADE_MWH = 1e-9  # below a milliwatt-hour is rounding, not energy for sale


class Trade(NamedTuple):  # a dataclass that is frozen takes three times as long to make
    """One side's view of a trade: ``mwh`` positive = sold to the peer, at ``price`` $/MWh."""

    mwh: float
    price: float


class ProtocolSettings(Protocol):
    """The settings of the shipped protocols; a scenario's table ``[protocol]`` is one."""

    @property
    def consensus_rounds(self) -> int:
        """Rounds of consensus in a step."""

    @property
    def neighbours(self) -> str:
        """Who talks to whom in consensus, and trades with whom in ``p2p``: ``all`` or ``ring``."""

    @property
    def options(self) -> Mapping[str, Any]:
        """Settings of a protocol that is not shipped."""


@dataclass(frozen=True, slots=True)
class DefaultSettings:
    """Settings where there is no scenario; see ``ProtocolSettings``."""

    consensus_rounds: int = 4
    neighbours: str = "all"
    options: Mapping[str, Any] = field(default_factory=dict)


class StepPosition(NamedTuple):
    """What an agent brings into the negotiation of a step.

    Attributes:
        agent_id: The agent.
        peers: Those it may talk to, sorted.
        surplus_mwh: Net energy of its plan, MWh, positive = surplus, negative = deficit.
        price: The operator's, $/MWh.
        import_adder: What energy drawn from the grid costs on top of the price, $/MWh.
        ask_share, bid_share: Where it asks and bids: price + share * adder.
        settings: Of the protocol.
    """

    agent_id: str
    peers: tuple[str, ...]
    surplus_mwh: float
    price: float
    import_adder: float = 0.0
    ask_share: float = 0.25
    bid_share: float = 0.75
    settings: ProtocolSettings = DefaultSettings()


class HorizontalSession(Protocol):
    """One agent's part in one step of a horizontal protocol."""

    @classmethod
    def run_all(cls, sessions: Mapping[str, Self]) -> None:
        """Carry the sessions of all agents of a step to their end, when every message arrives.

        A protocol may write out what the conversation comes to, where making the messages takes longest.
        """
        run_conversation(sessions)

    def outgoing(self) -> Mapping[str, Message]:
        """Return this round's messages, at most one a peer; the same ones at every call in a round."""

    def receive(self, peer: str, message: Message) -> bool:
        """Take a peer's message, of this round or a later one.

        Returns:
            False if it was ignored: a stranger's, a repetition, of a round that is over.
        """

    def waiting_for(self) -> set[str]:
        """Return the peers whose message in this round is expected and has not come."""

    def advance(self) -> bool:
        """End the round, without those who have not sent; False if there is no further round."""

    @property
    def trades(self) -> Mapping[str, Trade]:
        """What was traded, one entry a peer; complete once ``advance`` has returned False."""
        return {}

    @property
    def dispatch_value(self) -> float | None:
        """What a MWh is worth by agreement, $/MWh, to dispatch by; None = the price continues to say that."""
        return None


class HorizontalProtocol(ABC):
    """How agents talk to each other in a step: one class and one registration in ``PROTOCOLS``.

    Attributes:
        name: In scenarios: ``[protocol] horizontal = "auction"``.
        messages: Message types of its own; peers may send them on ``p2p/<from>/<to>``.
        options: Model of ``[protocol.options]``; None = it has none.
        has_neighbours: Whether agents can talk to some others only (``[protocol] neighbours = "ring"``).
    """

    name: ClassVar[str]
    messages: ClassVar[tuple[type[Message], ...]] = ()
    options: ClassVar[type[Table] | None] = None
    has_neighbours: ClassVar[bool] = True

    @abstractmethod
    def begin(self, position: StepPosition) -> HorizontalSession | None:
        """Return an agent's part in a step; None = it takes no part, and so does no other agent."""


def neighbours(agent_id: str, peers: Sequence[str], settings: ProtocolSettings) -> dict[str, int]:
    """Return the peers that an agent talks to, each with the number of its neighbours.

    Args:
        agent_id: The agent.
        peers: All others.
        settings: ``neighbours`` is ``all``, or ``ring``: the ones before and after it in the order of names,
            of which the last is followed by the first.
    """
    if settings.neighbours == "all" or len(peers) < 3:
        return dict.fromkeys(peers, len(peers))
    ring = sorted((*peers, agent_id))
    at = ring.index(agent_id)
    return {ring[at - 1]: 2, ring[(at + 1) % len(ring)]: 2}


def run_sessions(sessions: Mapping[str, HorizontalSession]) -> None:
    """Carry the sessions of all agents of a step to their end, when every message arrives.

    Args:
        sessions: By agent.
    """
    kinds = {type(session) for session in sessions.values()}
    # its own: what it inherits would not know what it has changed of the conversation
    if len(kinds) == 1 and "run_all" in vars(kind := kinds.pop()):
        kind.run_all(sessions)
    else:
        run_conversation(sessions)


def run_conversation(sessions: Mapping[str, HorizontalSession]) -> None:
    """Carry sessions through every round of their conversation, when every message arrives."""
    going = dict(sessions)
    while going:
        for name, session in going.items():
            for peer, message in session.outgoing().items():
                sessions[peer].receive(name, message)
        going = {name: session for name, session in going.items() if session.advance()}


def run_lossy_sessions(
    sessions: Mapping[str, HorizontalSession],
    carry: Callable[[str, str], bool],
    begin_s: Mapping[str, float],
    round_s: float,
) -> dict[str, tuple[int, float]]:
    """Carry the sessions of a step through every round, when messages may be lost.

    As over a broker: an agent that waits for no message continues at once, the others at their deadlines,
    counted from when each began. Messages that arrive take no time.

    Args:
        sessions: By agent; one without a session sends nothing, although others send to it.
        carry: Whether a message from one agent to another arrives; asked once a message.
        begin_s: When each begins, s.
        round_s: How long a round may take, s.

    Returns:
        By agent, the rounds that ended without an expected message, and when its session ended, s.
    """
    missed, ends_s = dict.fromkeys(sessions, 0), dict(begin_s)
    over_s = dict(begin_s)
    begun: set[str] = set()
    now_s = 0.0

    def speak(name: str) -> None:
        ends_s[name] += round_s
        for peer, message in sessions[name].outgoing().items():
            if carry(name, peer) and peer in sessions:
                sessions[peer].receive(name, message)

    while ends_s:
        going = [name for name in ends_s if name in begun and not sessions[name].waiting_for()]
        if not going:
            now_s = min(ends_s.values())
            due = [name for name, end_s in ends_s.items() if end_s == now_s]
            going = [name for name in due if name in begun]
            for name in going:
                missed[name] += 1
        else:
            due = going
        speaking = [name for name in due if name not in begun]
        begun.update(speaking)
        for name in going:
            if sessions[name].advance():
                speaking.append(name)
            else:
                over_s[name] = now_s
                del ends_s[name]
        for name in speaking:
            speak(name)
    return {name: (missed[name], over_s[name]) for name in sessions}

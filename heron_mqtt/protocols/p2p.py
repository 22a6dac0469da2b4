"""Peer-to-peer energy trading within one step: offer -> accept -> confirm.

Every agent offers to its neighbours (all others, or two in a ring), with quantity 0 where there is nothing to
sell. After that an agent sends only messages that can change a trade. An agent that sells nothing answers
each offer, and a seller confirms each accept; if there is nothing to trade, with quantity 0. A round ends as
soon as all expected messages have come, and an agent that sent none is answered like one that waits. A trade
is a seller's confirm of a buyer's accept of the seller's offer, at the seller's ask. The buyer accepts only
asks up to its bid, so the price lies between the two. Both sides report it; ``settle`` keeps what both report
alike and voids the rest, which is then priced at the grid. Whatever is lost, repeated or late, energy sold
equals energy bought and no agent sells more than it offered.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, Literal, NamedTuple, Self

from heron_mqtt.messages import Accept, Confirm, Message, Offer
from heron_mqtt.named_tuples import make_tuple
from heron_mqtt.protocols.base import (
    LEAST_TRADE_MWH,
    HorizontalProtocol,
    HorizontalSession,
    StepPosition,
    Trade,
    neighbours,
)

__all__ = [
    "Bid",
    "P2PSession",
    "PeerToPeerProtocol",
    "SettledTrade",
    "Settlement",
    "Trade",
    "VoidTrade",
    "bid_of",
    "settle",
]

ROUNDS: tuple[type[Message], ...] = (Offer, Accept, Confirm)
_ROUND_OF = {kind: number for number, kind in enumerate(ROUNDS)}
NOT_WANTED = Accept(quantity=0.0)
NOTHING_OFFERED = Offer(quantity=0.0, price=0.0)


class Bid(NamedTuple):
    """What an agent wants to trade in one step.

    Attributes:
        quantity_mwh: Positive = for sale, negative = wanted.
        price: $/MWh; the least it asks for when selling, the most it pays when buying.
    """

    quantity_mwh: float
    price: float


class P2PSession(HorizontalSession):
    """One agent's part in one step's trading; see ``protocols.base.HorizontalSession``.

    Args:
        agent_id: This agent.
        peers: Those it trades with; the order decides nothing.
        bid: What it wants.

    Attributes:
        round: The round under way: 0 offer, 1 accept, 2 confirm, 3 = over.
    """

    def __init__(self, agent_id: str, peers: tuple[str, ...], bid: Bid) -> None:
        self.agent_id = agent_id
        self.bid = bid
        self._peers = peers
        self.round = 0
        self._offers: dict[str, Offer] = {}  # as heard
        self._accepts: dict[str, Accept] = {}
        self._confirms: dict[str, Confirm] = {}
        self._heard: tuple[dict[str, Any], ...] = (self._offers, self._accepts, self._confirms)
        mwh = bid.quantity_mwh
        self._offered, self._wanted = (mwh, 0.0) if mwh > 0.0 else (0.0, 0.0 - mwh)
        self._bought: dict[str, float] = {}  # MWh accepted by this agent, by seller
        self._sold: dict[str, float] = {}  # MWh confirmed by it, by buyer
        self._outgoing: Mapping[str, Message] | None = None  # not asked for yet
        self._owed: set[str] | None = None  # whose message in this round is awaited; None = all peers'
        self._trades: dict[str, Trade] | None = None  # without a conversation

    @classmethod
    def run_all(cls, sessions: Mapping[str, Self]) -> None:
        """Trade as the sessions would in their conversation; see ``protocols.base.HorizontalSession``."""
        offers = [(one.bid.price, name, one._offered) for name, one in sessions.items() if one._offered]
        accepts: dict[str, dict[str, float]] = {seller: {} for _, seller, _ in offers}
        for buyer, session in sessions.items():
            session.round, session._outgoing, session._owed = len(ROUNDS), {}, set()
            if session._wanted and offers:
                heard = [
                    offer
                    for offer in offers
                    if offer[1] in session._peers and buyer in sessions[offer[1]]._peers
                ]
                for seller, mwh in session._choose(heard).items():
                    accepts[seller][buyer] = mwh
        trades: dict[str, dict[str, Trade]] = {name: {} for name in sessions}
        for seller, accepted in accepts.items():
            price = sessions[seller].bid.price
            for buyer, mwh in sessions[seller]._allot(accepted).items():
                if mwh > 0.0:
                    trades[seller][buyer] = make_tuple(Trade, (mwh, price))
                    trades[buyer][seller] = make_tuple(Trade, (-mwh, price))
        for name, session in sessions.items():
            session._trades = trades[name]

    @property
    def trades(self) -> dict[str, Trade]:
        """What was traded, one entry a peer; complete once ``advance`` has returned False."""
        if self._trades is not None:
            return dict(self._trades)
        trades = {p: Trade(mwh, self.bid.price) for p, mwh in self._sold.items() if mwh > 0.0}
        for peer, confirm in self._confirms.items():
            if self._is_what_was_agreed(peer, confirm):
                trades[peer] = Trade(-confirm.quantity, confirm.price)
        return trades

    def outgoing(self) -> Mapping[str, Message]:
        """Return this round's messages, at most one a peer."""
        if self._outgoing is None:
            # a buyer's price is its limit: it is not shown before it has accepted an ask
            offered = self._offered
            offer = Offer(quantity=offered, price=self.bid.price) if offered else NOTHING_OFFERED
            self._outgoing = dict.fromkeys(self._peers, offer)
        return self._outgoing

    def receive(self, peer: str, message: Message) -> bool:
        """Take a peer's message; the first of a round counts."""
        number = _ROUND_OF.get(type(message), -1)
        if number < self.round or peer not in self._peers or peer in self._heard[number]:
            return False
        self._heard[number][peer] = message
        if number == self.round and self._owed is not None:
            self._owed.discard(peer)
        return True

    def waiting_for(self) -> set[str]:
        """Return the peers whose message in this round is expected and has not come."""
        if self._owed is None:
            self._owed = set(self._peers).difference(self._offers)
        return self._owed

    def advance(self) -> bool:
        """End the round and begin the next in which this agent sends or waits; False if there is none."""
        while True:
            self.round += 1
            if self.round == 1:
                self._outgoing, owed = self._answers()
            elif self.round == 2:
                self._outgoing, owed = self._confirmations()
            else:
                self._end()
                return False
            self._owed = set(owed).difference(self._heard[self.round]) if owed else set()
            if self._outgoing or self._owed:
                return True

    def _end(self) -> None:
        self.round, self._outgoing, self._owed = len(ROUNDS), {}, set()

    def _answers(self) -> tuple[Mapping[str, Message], Collection[str]]:
        """Return the accepts to send, and who owes one."""
        offered = {peer: offer.quantity for peer, offer in self._offers.items()}
        if self._offered:
            return {}, [peer for peer, quantity in offered.items() if not quantity]
        self._bought = self._choose(
            (self._offers[peer].price, peer, quantity) for peer, quantity in offered.items() if quantity > 0.0
        )
        answers = {
            peer: Accept(quantity=self._bought[peer]) if peer in self._bought else NOT_WANTED
            for peer in self._peers
            if peer not in offered or offered[peer]
        }
        return answers, ()

    def _confirmations(self) -> tuple[Mapping[str, Message], Collection[str]]:
        """Return the confirms to send, and who owes one."""
        if not self._offered:
            return {}, tuple(self._bought)
        self._sold = self._allot(
            {peer: accept.quantity for peer, accept in self._accepts.items() if accept.quantity > 0.0}
        )
        confirms = {
            peer: Confirm(quantity=self._sold.get(peer, 0.0), price=self.bid.price)
            for peer in self._peers
            if self._waits_for_a_confirm(peer)
        }
        return confirms, ()

    def _waits_for_a_confirm(self, peer: str) -> bool:
        """Whether a peer has accepted something, or may have without having been heard."""
        accept, offer = self._accepts.get(peer), self._offers.get(peer)
        if accept is not None:
            return accept.quantity > 0.0
        return offer is None or offer.quantity == 0.0

    def _choose(self, offers: Iterable[tuple[float, str, float]]) -> dict[str, float]:
        """Buyer: take the cheapest offers within the bid until the need is met; ties by peer name.

        Args:
            offers: Price, peer and quantity of each.
        """
        need, chosen = self._wanted, {}
        for price, peer, quantity in sorted(offers):
            if need <= 0.0 or price > self.bid.price:
                break
            chosen[peer] = min(quantity, need)
            need -= chosen[peer]
        return chosen

    def _allot(self, accepted: Mapping[str, float]) -> dict[str, float]:
        """Seller: give each buyer what it accepted, or its share where that is more than was offered."""
        left = self._offered
        asked = {peer: min(accepted[peer], left) for peer in sorted(accepted)}
        total = sum(asked.values())
        share = 1.0 if total <= left else left / total
        allotted = {}
        for peer, quantity in asked.items():
            allotted[peer] = min(quantity * share, left)  # rounding must not sell more than there is
            left -= allotted[peer]
        return allotted

    def _is_what_was_agreed(self, peer: str, confirm: Confirm) -> bool:
        if confirm.quantity <= 0.0:
            return False
        offer, accepted = self._offers.get(peer), self._bought.get(peer, 0.0)
        return offer is not None and confirm.price == offer.price and confirm.quantity <= accepted


class PeerToPeerProtocol(HorizontalProtocol):
    """Offer, accept, confirm between neighbours."""

    name = "p2p"

    def begin(self, position: StepPosition) -> P2PSession:
        """Offer the surplus or look for the deficit of the plan."""
        peers = tuple(neighbours(position.agent_id, position.peers, position.settings))
        return P2PSession(position.agent_id, peers, bid_of(position))


def bid_of(position: StepPosition) -> Bid:
    """Return what an agent wants to trade by its plan: its surplus at its ask, or its deficit at its bid."""
    surplus_mwh = position.surplus_mwh
    if abs(surplus_mwh) < LEAST_TRADE_MWH:
        surplus_mwh = 0.0
    share = position.ask_share if surplus_mwh > 0.0 else position.bid_share
    return make_tuple(Bid, (surplus_mwh, position.price + share * position.import_adder))


class SettledTrade(NamedTuple):
    """A trade that both sides reported alike: ``mwh`` > 0 from ``seller`` to ``buyer`` at ``price`` $/MWh."""

    seller: str
    buyer: str
    mwh: float
    price: float


class VoidTrade(NamedTuple):
    """A trade that one side reported and the other did not, or differently; priced at the grid."""

    reporter: str
    peer: str
    mwh: float
    reason: Literal["not reported by the peer", "reported differently by the peer"]


class Settlement(NamedTuple):
    """What all reports of one step amount to; every settled trade stands on both sides."""

    trades: tuple[SettledTrade, ...] = ()
    void: tuple[VoidTrade, ...] = ()


def settle(reported: Mapping[str, Mapping[str, Trade]]) -> Settlement:
    """Keep the trades that both sides reported alike and void the others.

    Args:
        reported: For each agent its trades by peer; an agent that did not report is missing.
    """
    trades: list[SettledTrade] = []
    void: list[VoidTrade] = []
    for agent in sorted(name for name, theirs in reported.items() if theirs):
        for peer, mine in sorted(reported[agent].items()):
            theirs = reported.get(peer, {}).get(agent)
            if theirs is None:
                void.append(VoidTrade(agent, peer, mine.mwh, "not reported by the peer"))
            elif theirs.mwh != -mine.mwh or theirs.price != mine.price:
                void.append(VoidTrade(agent, peer, mine.mwh, "reported differently by the peer"))
            elif mine.mwh > 0.0:
                trades.append(make_tuple(SettledTrade, (agent, peer, mine.mwh, mine.price)))
    return make_tuple(Settlement, (tuple(trades), tuple(void)))

"""Peer-to-peer energy trading within one step over an order book: order -> fill.

The first agent by name keeps the book of the step. Every other agent sends it one order with quantity and
limit price, also if the quantity is 0. The keeper matches these orders and its own, and sends each agent its
trades: 2 (N - 1) messages among N agents. Asks are taken from the cheapest, bids from the highest, ties by
name, as long as the ask is not above the bid. All trades of the step have one price, midway between the last
ask and the last bid that trade. Both sides report a trade; ``p2p.settle`` keeps what both report alike. An
order that is lost or late is not in the book. An agent trades nothing if its fill is lost or late, or is not
within its own order. What is not traded is priced at the grid.

Source of the price rule: docs/models.md, order book.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Self

from heron_mqtt.messages import Fill, Message, Order
from heron_mqtt.protocols.base import (
    LEAST_TRADE_MWH,
    HorizontalProtocol,
    HorizontalSession,
    StepPosition,
    Trade,
)
from heron_mqtt.protocols.p2p import Bid, bid_of

__all__ = ["Match", "OrderBookProtocol", "OrderBookSession", "keeper_of", "match_orders", "middle_price"]

ORDERING, FILLING, OVER = range(3)
NO_ORDER = Order(quantity=0.0, price=0.0)
NO_FILL = Fill(price=0.0)


class Match(NamedTuple):
    """What a book comes to: MWh > 0 by (seller, buyer), in the order of matching, at one price, $/MWh."""

    mwh: Mapping[tuple[str, str], float]
    price: float

    def trades_of(self, agent: str) -> dict[str, Trade]:
        """Return an agent's trades, by peer."""
        trades = {}
        for (seller, buyer), mwh in self.mwh.items():
            if seller == agent:
                trades[buyer] = Trade(mwh, self.price)
            elif buyer == agent:
                trades[seller] = Trade(-mwh, self.price)
        return trades


def match_orders(orders: Mapping[str, Bid]) -> Match:
    """Match the cheapest asks with the highest bids; what is less than ``LEAST_TRADE_MWH`` is not matched.

    Args:
        orders: By agent.
    """
    asks = sorted((o.price, name) for name, o in orders.items() if o.quantity_mwh >= LEAST_TRADE_MWH)
    bids = sorted((-o.price, name) for name, o in orders.items() if o.quantity_mwh <= -LEAST_TRADE_MWH)
    left = {name: abs(order.quantity_mwh) for name, order in orders.items()}
    mwh: dict[tuple[str, str], float] = {}
    price, i, j = 0.0, 0, 0
    while i < len(asks) and j < len(bids):
        (ask, seller), (negative_bid, buyer) = asks[i], bids[j]
        if ask > -negative_bid:
            break
        traded_mwh = mwh[seller, buyer] = min(left[seller], left[buyer])
        price = middle_price(ask, -negative_bid)
        left[seller] -= traded_mwh
        left[buyer] -= traded_mwh
        i += left[seller] < LEAST_TRADE_MWH
        j += left[buyer] < LEAST_TRADE_MWH
    return Match(mwh, price)


def middle_price(ask: float, bid: float) -> float:
    """Return the price midway between an ask and a bid that is not below it, $/MWh; never outside."""
    return min(max(0.5 * ask + 0.5 * bid, ask), bid)


def keeper_of(agents: tuple[str, ...]) -> str:
    """Return which of all agents keeps the book: the first by name."""
    return min(agents)


class OrderBookSession(HorizontalSession):
    """One agent's part in one step's order book; see ``protocols.base.HorizontalSession``.

    Args:
        agent_id: This agent.
        peers: All others; the order decides nothing.
        bid: What it wants.
    """

    def __init__(self, agent_id: str, peers: tuple[str, ...], bid: Bid) -> None:
        self.agent_id = agent_id
        self.bid = bid
        self.keeper = keeper_of((agent_id, *peers))
        self._peers = peers
        self._round = ORDERING
        self._orders: dict[str, Bid] = {}  # as heard, by the keeper
        self._fill: Fill | None = None  # as heard, by the others
        self._match: Match | None = None  # the keeper's
        self._trades: dict[str, Trade] = {}

    @classmethod
    def run_all(cls, sessions: Mapping[str, Self]) -> None:
        """Trade as the sessions would in their conversation; see ``protocols.base.HorizontalSession``."""
        match = match_orders({name: session.bid for name, session in sessions.items()})
        for name, session in sessions.items():
            session._round = OVER
            session._trades = match.trades_of(name)

    @property
    def trades(self) -> dict[str, Trade]:
        """What was traded, one entry a peer; complete once ``advance`` has returned False."""
        return dict(self._trades)

    @property
    def _keeps_the_book(self) -> bool:
        return self.agent_id == self.keeper

    def outgoing(self) -> Mapping[str, Message]:
        """Return the order, or, of the keeper in the second round, everyone's fill."""
        if self._round == ORDERING and not self._keeps_the_book:
            quantity, price = self.bid
            is_order = abs(quantity) >= LEAST_TRADE_MWH
            return {self.keeper: Order(quantity=quantity, price=price) if is_order else NO_ORDER}
        if self._round == FILLING and self._match is not None:
            return {peer: _fill(self._match.trades_of(peer)) for peer in self._peers}
        return {}

    def receive(self, peer: str, message: Message) -> bool:
        """Take a peer's order, or the keeper's fill; the first one counts."""
        if self._keeps_the_book:
            if not isinstance(message, Order) or self._round != ORDERING:
                return False
            if peer not in self._peers or peer in self._orders:
                return False
            self._orders[peer] = Bid(message.quantity, message.price)
            return True
        if not isinstance(message, Fill) or peer != self.keeper:
            return False
        if self._round == OVER or self._fill is not None:
            return False
        self._fill = message
        return True

    def waiting_for(self) -> set[str]:
        """Return the peers whose message in this round is expected and has not come."""
        if self._keeps_the_book:
            return set(self._peers).difference(self._orders) if self._round == ORDERING else set()
        return {self.keeper} if self._round == FILLING and self._fill is None else set()

    def advance(self) -> bool:
        """End the round; False if there is no further one in which this agent sends or waits."""
        if self._round == ORDERING:
            self._round = FILLING
            if self._keeps_the_book:
                self._match = match_orders({**self._orders, self.agent_id: self.bid})
                self._trades = self._match.trades_of(self.agent_id)
                if self._peers:
                    return True
            elif self._fill is None:
                return True
        if self._fill is not None:
            self._trades = self._agreed(self._fill)
        self._round = OVER
        return False

    def _agreed(self, fill: Fill) -> dict[str, Trade]:
        """Return the trades of a fill; none at all if it is not within this agent's order."""
        quantity, limit = self.bid
        sign = 1.0 if quantity > 0.0 else -1.0
        trades = {peer: Trade(mwh, fill.price) for peer, mwh in fill.values("trade_").items()}
        left = abs(quantity)
        for peer, trade in trades.items():
            left -= sign * trade.mwh
            if peer not in self._peers or sign * trade.mwh <= 0.0:
                return {}
        # A keeper may sum in another order than this.
        if left < -LEAST_TRADE_MWH or (trades and sign * (fill.price - limit) < 0.0):
            return {}
        return trades


def _fill(trades: Mapping[str, Trade]) -> Fill:
    if not trades:
        return NO_FILL
    price = next(iter(trades.values())).price
    return Fill.model_validate({"price": price, **{f"trade_{peer}": t.mwh for peer, t in trades.items()}})


class OrderBookProtocol(HorizontalProtocol):
    """One order to the keeper of the book, one fill from it."""

    name = "order_book"
    has_neighbours = False

    def begin(self, position: StepPosition) -> OrderBookSession:
        """Order what the plan has too much or too little."""
        return OrderBookSession(position.agent_id, position.peers, bid_of(position))

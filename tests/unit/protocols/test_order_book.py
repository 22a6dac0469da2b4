"""Trading over an order book: whatever the network does to the messages, the energy books balance."""

from __future__ import annotations

import copy
import pickle
import random
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heron_mqtt.messages import Consensus, Fill, Message, Offer, Order
from heron_mqtt.protocols.base import (
    LEAST_TRADE_MWH,
    StepPosition,
    run_conversation,
    run_lossy_sessions,
    run_sessions,
)
from heron_mqtt.protocols.order_book import OrderBookProtocol, OrderBookSession, match_orders, middle_price
from heron_mqtt.protocols.p2p import Bid, Trade, settle

few = st.sampled_from([-2.0, -1.0, -0.3, 0.0, 0.3, 1.0])
quantities = few | st.floats(-10.0, 10.0, allow_subnormal=False)
prices = st.sampled_from([40.0, 50.0]) | st.floats(-100.0, 300.0)
bids = st.lists(st.builds(Bid, quantities, prices), min_size=2, max_size=7)
seeds = st.integers(0, 2**32 - 1)
shares = st.sampled_from([0.0, 0.05, 0.3, 0.7])

REL = 1e-12  # rounding of a sum of a few floats


def make(all_bids: list[Bid]) -> dict[str, OrderBookSession]:
    names = [f"MG{i}" for i in range(len(all_bids))]
    return {
        name: OrderBookSession(name, tuple(n for n in names if n != name), bid)
        for name, bid in zip(names, all_bids, strict=True)
    }


class Network:
    """Carries the messages of some sessions and may lose, repeat, reorder and delay each of them.

    Every session goes on when everyone who owes it a word has spoken, or at its own deadline, which may
    strike at any moment.
    """

    def __init__(
        self,
        sessions: dict[str, OrderBookSession],
        seed: int,
        *,
        lost: float = 0.0,
        repeated: float = 0.0,
        late: float = 0.0,
    ) -> None:
        self.sessions = sessions
        self._rng = random.Random(seed)
        self._lost, self._repeated, self._late = lost, repeated, late
        self.said: list[tuple[str, str, type[Message]]] = []
        self._flying: list[tuple[str, str, Message]] = []
        self._going = set(sessions)

    def run(self) -> None:
        for name in self.sessions:
            self._speak(name)
        while self._going:
            ready = sorted(name for name in self._going if not self.sessions[name].waiting_for())
            if ready:
                self._advance(self._rng.choice(ready))
            elif self._flying and self._rng.random() >= self._late:
                self._deliver(self._flying.pop(self._rng.randrange(len(self._flying))))
            else:
                self._advance(self._rng.choice(sorted(self._going)))
        for flight in self._flying:  # what comes after the end changes nothing
            before = self.sessions[flight[0]].trades
            assert not self._deliver(flight)
            assert self.sessions[flight[0]].trades == before

    def _speak(self, name: str) -> None:
        for peer, message in self.sessions[name].outgoing().items():
            self.said.append((name, peer, type(message)))
            if self._rng.random() < self._lost:
                continue
            self._flying.append((peer, name, message))
            while self._rng.random() < self._repeated:
                self._flying.append((peer, name, message))

    def _deliver(self, flight: tuple[str, str, Message]) -> bool:
        receiver, sender, message = flight
        return self.sessions[receiver].receive(sender, message)

    def _advance(self, name: str) -> None:
        if self.sessions[name].advance():
            assert self.sessions[name].outgoing() or self.sessions[name].waiting_for()
            self._speak(name)
        else:
            self._going.discard(name)


def reports(sessions: Mapping[str, OrderBookSession]) -> dict[str, Mapping[str, Trade]]:
    return {name: session.trades for name, session in sessions.items()}


def assert_books_balance(
    sessions: Mapping[str, OrderBookSession], reported: Mapping[str, Mapping[str, Trade]]
) -> None:
    settlement = settle(reported)
    for name, session in sessions.items():
        sold = sum(t.mwh for t in settlement.trades if t.seller == name)
        bought = sum(t.mwh for t in settlement.trades if t.buyer == name)
        assert sold <= max(session.bid.quantity_mwh, 0.0) * (1.0 + REL), f"{name} sold more than it offered"
        assert bought <= max(-session.bid.quantity_mwh, 0.0) * (1.0 + REL), f"{name} bought too much"
    for trade in settlement.trades:
        ask, bid = sessions[trade.seller].bid.price, sessions[trade.buyer].bid.price
        assert trade.mwh > 0.0
        assert ask <= trade.price <= bid
    assert len({trade.price for trade in settlement.trades}) <= 1, "one price in a step"


@settings(deadline=None)
@given(bids, seeds, shares, shares, st.sampled_from([0.0, 0.05, 0.5]))
def test_energy_sold_equals_energy_bought_on_any_network(
    all_bids: list[Bid], seed: int, lost: float, repeated: float, late: float
) -> None:
    sessions = make(all_bids)
    Network(sessions, seed, lost=lost, repeated=repeated, late=late).run()
    assert_books_balance(sessions, reports(sessions))


@settings(deadline=None)
@given(bids, seeds)
def test_order_and_repetition_change_nothing_while_nothing_is_lost(all_bids: list[Bid], seed: int) -> None:
    spoken, repeated, short, long = (make(all_bids) for _ in range(4))
    network = Network(spoken, seed)
    network.run()
    Network(repeated, seed, repeated=0.5).run()
    run_sessions(short)
    run_conversation(long)
    assert reports(spoken) == reports(repeated) == reports(short) == reports(long)
    assert settle(reports(spoken)).void == ()
    assert_books_balance(spoken, reports(spoken))
    others = [name for name in spoken if name != "MG0"]
    assert sorted(network.said, key=str) == sorted(
        [*((o, "MG0", Order) for o in others), *(("MG0", o, Fill) for o in others)], key=str
    ), "2 (N - 1) messages"
    for session in short.values():
        assert (session.outgoing(), session.waiting_for(), session.advance()) == ({}, set(), False)


@settings(deadline=None)
@given(bids)
def test_nobody_is_left_who_would_trade_with_somebody_else(all_bids: list[Bid]) -> None:
    orders = {f"MG{i}": bid for i, bid in enumerate(all_bids)}
    match = match_orders(orders)
    left = {name: abs(bid.quantity_mwh) for name, bid in orders.items()}
    for pair, mwh in match.mwh.items():
        for name in pair:
            left[name] -= mwh
    asks = [b.price for n, b in orders.items() if b.quantity_mwh > 0.0 and left[n] > 2.0 * LEAST_TRADE_MWH]
    wants = [b.price for n, b in orders.items() if b.quantity_mwh < 0.0 and left[n] > 2.0 * LEAST_TRADE_MWH]
    assert not asks or not wants or min(asks) > max(wants)


@settings(deadline=None)
@given(bids, seeds)
def test_the_order_of_names_in_the_book_decides_nothing(all_bids: list[Bid], seed: int) -> None:
    orders = {f"MG{i}": bid for i, bid in enumerate(all_bids)}
    shuffled = list(orders.items())
    random.Random(seed).shuffle(shuffled)
    assert match_orders(dict(shuffled)) == match_orders(orders)


any_message = st.one_of(
    st.builds(Order, quantity=st.floats(-1e308, 1e308), price=st.floats(-1e308, 1e308)),
    st.builds(
        lambda price, trades: Fill.model_validate({"price": price, **trades}),
        prices,
        st.dictionaries(
            st.sampled_from(["trade_P0", "trade_P1", "trade_P2", "trade_me", "trade_x"]),
            st.floats(-1e3, 1e3),
            max_size=3,
        ),
    ),
)


@settings(deadline=None)
@given(
    st.sampled_from(["me", "A"]),  # who keeps the book: P0, or this agent
    st.builds(Bid, quantities, prices),
    st.lists(
        st.tuples(st.sampled_from(["P0", "P1", "P2", "stranger"]), any_message) | st.none(), max_size=12
    ),
)
def test_lying_peers_cannot_make_an_agent_trade_beyond_its_order(
    name: str, bid: Bid, script: list[tuple[str, Message] | None]
) -> None:
    session = OrderBookSession(name, ("P0", "P1", "P2"), bid)
    for entry in [*script, None, None]:  # None: a round ends
        if entry is None:
            session.outgoing()
            session.advance()
        else:
            session.receive(*entry)
    sold = sum(t.mwh for t in session.trades.values() if t.mwh > 0.0)
    bought = -sum(t.mwh for t in session.trades.values() if t.mwh < 0.0)
    assert sold <= max(bid.quantity_mwh, 0.0) + 2.0 * LEAST_TRADE_MWH
    assert bought <= max(-bid.quantity_mwh, 0.0) + 2.0 * LEAST_TRADE_MWH
    for peer, trade in session.trades.items():
        assert peer in {"P0", "P1", "P2"}
        assert trade.price >= bid.price if trade.mwh > 0.0 else trade.price <= bid.price


# -- what exactly is traded --------------------------------------------------------------------------


def test_the_cheapest_ask_meets_the_highest_bid_at_the_price_between_the_last_pair() -> None:
    orders = {
        "A": Bid(1.0, 40.0),
        "B": Bid(2.0, 50.0),
        "C": Bid(-1.5, 70.0),
        "D": Bid(-1.0, 60.0),
        "E": Bid(-1.0, 45.0),
    }
    match = match_orders(orders)
    assert match.mwh == {("A", "C"): 1.0, ("B", "C"): 0.5, ("B", "D"): 1.0}
    assert match.price == 55.0
    assert match.trades_of("B") == {"C": Trade(0.5, 55.0), "D": Trade(1.0, 55.0)}
    assert match.trades_of("C") == {"A": Trade(-1.0, 55.0), "B": Trade(-0.5, 55.0)}
    assert match.trades_of("E") == {}


def test_ties_go_by_name() -> None:
    match = match_orders(
        {"B": Bid(1.0, 50.0), "A": Bid(1.0, 50.0), "D": Bid(-0.5, 60.0), "C": Bid(-1.0, 60.0)}
    )
    assert match.mwh == {("A", "C"): 1.0, ("B", "D"): 0.5}


@pytest.mark.parametrize(("bid", "mwh"), [(50.0, {("A", "B"): 1.0}), (49.99, {})])
def test_an_ask_up_to_the_bid_trades(bid: float, mwh: dict[tuple[str, str], float]) -> None:
    assert match_orders({"A": Bid(1.0, 50.0), "B": Bid(-1.0, bid)}).mwh == mwh


def test_what_is_less_than_rounding_is_not_matched() -> None:
    least = LEAST_TRADE_MWH
    assert match_orders({"A": Bid(0.9 * least, 50.0), "B": Bid(-1.0, 60.0)}).mwh == {}
    assert match_orders({"A": Bid(1.0, 50.0), "B": Bid(-0.9 * least, 60.0)}).mwh == {}
    assert match_orders({"A": Bid(least, 50.0), "B": Bid(-least, 60.0)}).mwh == {("A", "B"): least}
    rest = match_orders({"A": Bid(1.0 + 0.5 * least, 50.0), "B": Bid(-1.0, 60.0), "C": Bid(-1.0, 60.0)})
    assert rest.mwh == {("A", "B"): 1.0}
    rest = match_orders({"A": Bid(1.0, 50.0), "B": Bid(-1.0 - 0.5 * least, 60.0), "C": Bid(1.0, 50.0)})
    assert rest.mwh == {("A", "B"): 1.0}


@given(st.floats(allow_nan=False, allow_infinity=False), st.floats(allow_nan=False, allow_infinity=False))
def test_the_middle_lies_between_whatever_the_numbers(one: float, other: float) -> None:
    ask, bid = sorted((one, other))
    assert ask <= middle_price(ask, bid) <= bid


# -- rounds --------------------------------------------------------------------------------------------


def test_an_agent_that_neither_sells_nor_wants_says_so_and_does_not_tell_a_price() -> None:
    session = OrderBookSession("B", ("A", "C"), Bid(0.0, 50.0))
    assert session.outgoing() == {"A": Order(quantity=0.0, price=0.0)}


def test_the_keeper_waits_for_all_orders_and_the_others_for_their_fill() -> None:
    keeper = OrderBookSession("A", ("B", "C"), Bid(1.0, 40.0))
    other = OrderBookSession("B", ("C", "A"), Bid(-1.0, 60.0))
    assert (keeper.outgoing(), keeper.waiting_for()) == ({}, {"B", "C"})
    assert (other.outgoing(), other.waiting_for()) == ({"A": Order(quantity=-1.0, price=60.0)}, set())
    assert keeper.receive("B", Order(quantity=-1.0, price=60.0))
    assert keeper.waiting_for() == {"C"}
    assert keeper.advance(), "C's order has had its time"
    assert not keeper.receive("C", Order(quantity=-1.0, price=90.0)), "too late"
    fill = Fill.model_validate({"price": 50.0, "trade_A": -1.0})
    assert keeper.outgoing() == {"B": fill, "C": Fill(price=0.0)}
    assert not keeper.advance()
    assert keeper.trades == {"B": Trade(1.0, 50.0)}
    assert other.advance()
    assert (other.outgoing(), other.waiting_for()) == ({}, {"A"})
    assert other.receive("A", fill)
    assert other.waiting_for() == set()
    assert not other.receive("A", Fill(price=0.0)), "the first one counts"
    assert not other.advance()
    assert other.trades == {"A": Trade(-1.0, 50.0)}


def test_a_fill_that_came_early_ends_the_session_at_once() -> None:
    session = OrderBookSession("B", ("A", "C"), Bid(1.0, 40.0))
    assert session.receive("A", Fill.model_validate({"price": 50.0, "trade_C": 0.5}))
    assert not session.advance()
    assert session.trades == {"C": Trade(0.5, 50.0)}


@pytest.mark.parametrize("lost", [("B", "A"), ("A", "B"), ("C", "A"), ("A", "C")])
def test_one_lost_message_costs_one_deadline_and_trades_never_the_balance(lost: tuple[str, str]) -> None:
    sessions = {
        name: OrderBookSession(name, tuple(p for p in "ABC" if p != name), bid)
        for name, bid in {"A": Bid(1.0, 40.0), "B": Bid(1.0, 45.0), "C": Bid(-2.0, 60.0)}.items()
    }
    ends = run_lossy_sessions(sessions, lambda *way: way != lost, dict.fromkeys("ABC", 0.0), 2.0)
    assert sum(missed for missed, _ in ends.values()) == 1
    settlement = settle(reports(sessions))
    found = {(t.seller, t.buyer) for t in settlement.trades}
    assert (
        found
        == {
            ("B", "A"): {("A", "C")},
            ("A", "B"): {("A", "C")},
            ("C", "A"): set(),
            ("A", "C"): set(),
        }[lost]
    )
    assert bool(settlement.void) == (lost[0] == "A"), "a fill that is lost leaves the peers' reports alone"


def test_without_the_keeper_nothing_is_traded() -> None:
    sessions = make([Bid(1.0, 40.0), Bid(1.0, 40.0), Bid(-1.0, 60.0)])
    del sessions["MG0"]
    ends = run_lossy_sessions(sessions, lambda *_: True, dict.fromkeys(sessions, 0.0), 2.0)
    assert ends == {"MG1": (1, 4.0), "MG2": (1, 4.0)}
    assert not any(reports(sessions).values())


@pytest.mark.parametrize(
    "fill",
    [
        {"price": 50.0, "trade_A": 0.6, "trade_C": 0.6},  # more than is for sale
        {"price": 50.0, "trade_A": 0.6, "trade_C": -0.1},  # the other way round
        {"price": 50.0, "trade_A": 0.0},
        {"price": 39.9, "trade_A": 0.5},  # below the ask
        {"price": 50.0, "trade_X": 0.5},  # a stranger
        {"price": 50.0, "trade_B": 0.5},  # itself
    ],
)
def test_a_fill_that_is_not_within_the_order_is_no_trade(fill: dict[str, float]) -> None:
    session = OrderBookSession("B", ("A", "C"), Bid(1.0, 40.0))
    session.receive("A", Fill.model_validate(fill))
    session.advance()
    assert session.trades == {}


def test_strangers_and_messages_of_other_protocols_are_ignored() -> None:
    keeper, other = (
        OrderBookSession("A", ("B",), Bid(1.0, 40.0)),
        OrderBookSession("B", ("A",), Bid(-1.0, 60.0)),
    )
    order, fill = Order(quantity=-1.0, price=60.0), Fill(price=0.0)
    assert not keeper.receive("X", order)
    assert not keeper.receive("A", order)
    assert not keeper.receive("B", fill)
    assert not keeper.receive("B", Offer(quantity=1.0, price=1.0))
    assert keeper.receive("B", order)
    assert not keeper.receive("B", order)
    assert not other.receive("X", fill)
    assert not other.receive("A", order)
    assert not other.receive("A", Consensus(round=0, value=1.0))


def test_an_agent_without_peers_waits_for_nobody() -> None:
    session = OrderBookSession("A", (), Bid(1.0, 50.0))
    assert (session.outgoing(), session.waiting_for(), session.advance()) == ({}, set(), False)
    assert session.trades == {}


@pytest.mark.parametrize(
    ("surplus_mwh", "bid"),
    [(2.0, Bid(2.0, 52.0)), (0.9e-9, Bid(0.0, 56.0)), (-2.0, Bid(-2.0, 56.0))],
)
def test_the_surplus_of_the_plan_is_ordered_at_the_ask_and_its_deficit_at_the_bid(
    surplus_mwh: float, bid: Bid
) -> None:
    session = OrderBookProtocol().begin(StepPosition("B", ("A", "C"), surplus_mwh, 50.0, 8.0, 0.25, 0.75))
    assert (session.agent_id, session.keeper, session.bid) == ("B", "A", bid)


@pytest.mark.parametrize("name", ["A", "B"])
def test_a_session_can_be_copied_in_every_round(name: str) -> None:
    session = OrderBookSession(name, ("C", "A" if name == "B" else "B"), Bid(1.0, 50.0))
    goes_on = True
    while goes_on:
        for copied in (pickle.loads(pickle.dumps(session)), copy.deepcopy(session)):
            assert copied.waiting_for() == session.waiting_for()
            assert copied.outgoing() == session.outgoing()
        goes_on = session.advance()

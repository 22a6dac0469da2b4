"""Peer-to-peer trading: whatever the network does to the messages, the energy books balance."""

from __future__ import annotations

import copy
import itertools
import pickle
import random
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heron_mqtt.messages import Accept, Confirm, Consensus, Message, Offer
from heron_mqtt.protocols.base import DefaultSettings, StepPosition, run_conversation, run_sessions
from heron_mqtt.protocols.p2p import ROUNDS, Bid, P2PSession, PeerToPeerProtocol, Trade, settle

quantities = st.floats(-10.0, 10.0, allow_subnormal=False) | st.just(0.0)
prices = st.floats(-100.0, 300.0)
bids = st.lists(st.builds(Bid, quantities, prices), min_size=2, max_size=6)
seeds = st.integers(0, 2**32 - 1)
shares = st.sampled_from([0.0, 0.05, 0.3, 0.7])

REL = 1e-12  # rounding of a sum of a few floats


def make(all_bids: list[Bid]) -> dict[str, P2PSession]:
    names = [f"MG{i}" for i in range(len(all_bids))]
    return {
        name: P2PSession(name, tuple(n for n in names if n != name), bid)
        for name, bid in zip(names, all_bids, strict=True)
    }


class Network:
    """Carries the messages of some sessions and may lose, repeat, reorder and delay each of them.

    Every session goes on when everyone who owes it a word has spoken, or at its own deadline, which may
    strike at any moment.
    """

    def __init__(
        self, sessions: dict[str, P2PSession], seed: int, *, lost: float, repeated: float, late: float
    ) -> None:
        self.sessions = sessions
        self._rng = random.Random(seed)
        self._lost, self._repeated, self._late = lost, repeated, late
        self.said: list[tuple[str, str, type[Message]]] = []
        self._flying: list[tuple[str, str, Message]] = []
        self._heard: dict[str, set[tuple[str, int]]] = {name: set() for name in sessions}

    def run(self) -> None:
        for name in self.sessions:
            self._speak(name)
        while going := [name for name, session in self.sessions.items() if session.round < len(ROUNDS)]:
            if self._flying and self._rng.random() >= self._late:
                self._deliver(self._flying.pop(self._rng.randrange(len(self._flying))))
            elif self._late > 0.0 or not self._flying:
                self._advance(self._rng.choice(going))
        for flight in self._flying:  # what comes after the end changes nothing
            before = dict(self.sessions[flight[0]].trades)
            self._deliver(flight)
            assert self.sessions[flight[0]].trades == before

    def _speak(self, name: str) -> None:
        for peer, message in self.sessions[name].outgoing().items():
            self.said.append((name, peer, type(message)))
            if self._rng.random() < self._lost:
                continue
            self._flying.append((peer, name, message))
            while self._rng.random() < self._repeated:
                self._flying.append((peer, name, message))

    def _deliver(self, flight: tuple[str, str, Message]) -> None:
        receiver, sender, message = flight
        session = self.sessions[receiver]
        now = session.round
        number = ROUNDS.index(type(message))
        is_new = number >= now and (sender, number) not in self._heard[receiver] and now < len(ROUNDS)
        assert session.receive(sender, message) == is_new
        self._heard[receiver].add((sender, number))
        spoken = {peer for peer, n in self._heard[receiver] if n == now}
        assert not spoken & session.waiting_for(), "waits for someone who has spoken"
        if now < len(ROUNDS) and not session.waiting_for():
            self._advance(receiver)

    def _advance(self, name: str) -> None:
        session = self.sessions[name]
        while session.advance():
            assert session.outgoing() or session.waiting_for(), "a round in which there is nothing to do"
            self._speak(name)
            if session.waiting_for():
                return
        assert session.round == len(ROUNDS)


def reports(sessions: Mapping[str, P2PSession]) -> dict[str, Mapping[str, Trade]]:
    return {name: session.trades for name, session in sessions.items()}


def assert_books_balance(
    sessions: Mapping[str, P2PSession], reported: Mapping[str, Mapping[str, Trade]]
) -> None:
    settlement = settle(reported)
    for name, session in sessions.items():
        sold = sum(t.mwh for t in settlement.trades if t.seller == name)
        bought = sum(t.mwh for t in settlement.trades if t.buyer == name)
        assert sold <= max(session.bid.quantity_mwh, 0.0) * (1.0 + REL), f"{name} sold more than it offered"
        assert bought <= max(-session.bid.quantity_mwh, 0.0) * (1.0 + REL), (
            f"{name} bought more than it wanted"
        )
    for trade in settlement.trades:
        ask, bid = sessions[trade.seller].bid.price, sessions[trade.buyer].bid.price
        assert trade.mwh > 0.0
        assert ask <= trade.price <= bid
        assert reported[trade.seller][trade.buyer] == Trade(trade.mwh, trade.price)
        assert reported[trade.buyer][trade.seller] == Trade(-trade.mwh, trade.price)
    pairs = [(t.seller, t.buyer) for t in settlement.trades]
    assert len(pairs) == len(set(pairs)), "a trade counts once"
    voided = {(v.reporter, v.peer) for v in settlement.void}
    settled = {*pairs, *((buyer, seller) for seller, buyer in pairs)}
    all_reported = {(name, peer) for name, trades in reported.items() for peer in trades}
    assert voided | settled == all_reported, "every reported trade is either settled or void"
    assert not voided & settled


@settings(deadline=None)
@given(bids, seeds, shares, shares, st.sampled_from([0.0, 0.05, 0.5]))
def test_energy_sold_equals_energy_bought_on_any_network(
    all_bids: list[Bid], seed: int, lost: float, repeated: float, late: float
) -> None:
    sessions = make(all_bids)
    Network(sessions, seed, lost=lost, repeated=repeated, late=late).run()
    assert_books_balance(sessions, reports(sessions))


@settings(deadline=None)
@given(bids, seeds, shares, st.data())
def test_trades_that_one_side_did_not_report_are_void(
    all_bids: list[Bid], seed: int, lost: float, data: st.DataObject
) -> None:
    sessions = make(all_bids)
    Network(sessions, seed, lost=lost, repeated=0.0, late=0.1 if lost else 0.0).run()
    reported = reports(sessions)
    silent = data.draw(st.sets(st.sampled_from(sorted(sessions))))
    for name in silent:
        del reported[name]
    assert_books_balance(sessions, reported)
    settlement = settle(reported)
    assert not {t.seller for t in settlement.trades} & silent
    assert not {t.buyer for t in settlement.trades} & silent
    reasons = {v.reason for v in settlement.void if v.peer in silent}
    assert reasons <= {"not reported by the peer"}


@settings(deadline=None)
@given(bids, seeds, seeds)
def test_order_and_repetition_change_nothing_while_nothing_is_lost(
    all_bids: list[Bid], one: int, other: int
) -> None:
    first, second = make(all_bids), make(all_bids)
    Network(first, one, lost=0.0, repeated=0.0, late=0.0).run()
    Network(second, other, lost=0.0, repeated=0.5, late=0.0).run()
    assert reports(first) == reports(second)
    assert settle(reports(first)).void == ()


any_message = st.one_of(
    st.builds(Offer, quantity=st.floats(0.0, 1e6), price=prices),
    st.builds(Accept, quantity=st.floats(0.0, 1e6)),
    st.builds(Confirm, quantity=st.floats(0.0, 1e6), price=prices),
)


@settings(deadline=None)
@given(
    st.builds(Bid, quantities, prices),
    st.lists(
        st.tuples(st.sampled_from(["P0", "P1", "P2", "stranger"]), any_message) | st.none(), max_size=20
    ),
)
def test_lying_peers_cannot_make_an_agent_trade_beyond_its_bid(
    bid: Bid, script: list[tuple[str, Message] | None]
) -> None:
    session = P2PSession("me", ("P0", "P1", "P2"), bid)
    for entry in [*script, None, None, None]:  # None: a round ends
        if entry is None:
            session.advance()
        else:
            session.receive(*entry)
    sold = sum(t.mwh for t in session.trades.values() if t.mwh > 0.0)
    bought = -sum(t.mwh for t in session.trades.values() if t.mwh < 0.0)
    assert sold <= max(bid.quantity_mwh, 0.0) * (1.0 + REL)
    assert bought <= max(-bid.quantity_mwh, 0.0) * (1.0 + REL)
    for peer, trade in session.trades.items():
        assert peer != "stranger"
        assert trade.price == bid.price if trade.mwh > 0.0 else trade.price <= bid.price


trades_reported = st.dictionaries(
    st.sampled_from("ABC"),
    st.dictionaries(
        st.sampled_from("ABCD"),
        st.builds(Trade, st.sampled_from([-2.0, -1.0, 0.0, 1.0, 2.0]), st.sampled_from([50.0, 60.0])),
    ),
)


@settings(deadline=None)
@given(trades_reported)
def test_settlement_of_arbitrary_reports_balances(reported: dict[str, dict[str, Trade]]) -> None:
    settlement = settle(reported)
    for trade in settlement.trades:
        assert trade.seller != trade.buyer
        assert reported[trade.seller][trade.buyer].mwh == trade.mwh > 0.0
        assert reported[trade.buyer][trade.seller] == Trade(-trade.mwh, trade.price)
    assert len({(t.seller, t.buyer) for t in settlement.trades}) == len(settlement.trades)
    shuffled = {name: dict(reversed(trades.items())) for name, trades in reversed(reported.items())}
    assert settle(shuffled) == settlement, "the order of the reports does not matter"


# -- what exactly is traded --------------------------------------------------------------------------


def talk(sessions: dict[str, P2PSession]) -> None:
    Network(sessions, 0, lost=0.0, repeated=0.0, late=0.0).run()


def test_seller_and_buyer_that_agree_trade_all_they_both_want_at_the_ask() -> None:
    sessions = make([Bid(0.5, 52.0), Bid(-0.3, 60.0)])
    talk(sessions)
    assert sessions["MG0"].trades == {"MG1": Trade(0.3, 52.0)}
    assert sessions["MG1"].trades == {"MG0": Trade(-0.3, 52.0)}


@pytest.mark.parametrize("bid", [51.99, -10.0])
def test_an_ask_above_the_bid_is_not_accepted(bid: float) -> None:
    sessions = make([Bid(0.5, 52.0), Bid(-0.3, bid)])
    talk(sessions)
    assert reports(sessions) == {"MG0": {}, "MG1": {}}


def test_an_ask_equal_to_the_bid_is_accepted() -> None:
    sessions = make([Bid(0.5, 52.0), Bid(-0.5, 52.0)])
    talk(sessions)
    assert sessions["MG1"].trades == {"MG0": Trade(-0.5, 52.0)}


def test_a_buyer_takes_the_cheapest_offers_first() -> None:
    sessions = make([Bid(0.5, 55.0), Bid(0.5, 50.0), Bid(-0.7, 60.0)])
    talk(sessions)
    bought = sessions["MG2"].trades
    assert bought["MG1"] == Trade(-0.5, 50.0)
    assert bought["MG0"].mwh == pytest.approx(-0.2)


def test_buyers_share_an_offer_in_proportion_when_they_want_more_than_there_is() -> None:
    sessions = make([Bid(0.3, 50.0), Bid(-0.2, 60.0), Bid(-0.1, 60.0), Bid(-0.3, 60.0)])
    talk(sessions)
    sold = {peer: trade.mwh for peer, trade in sessions["MG0"].trades.items()}
    assert sold == pytest.approx({"MG1": 0.1, "MG2": 0.05, "MG3": 0.15})


def test_an_agent_that_sells_nothing_does_not_tell_its_bid() -> None:
    buyer = P2PSession("me", ("A", "B"), Bid(-0.3, 50.0))
    assert buyer.outgoing() == dict.fromkeys("AB", Offer(quantity=0.0, price=0.0))


def test_accepting_more_than_was_offered_does_not_enlarge_a_buyers_share() -> None:
    seller = P2PSession("me", ("A", "B"), Bid(0.3, 50.0))
    for peer in ("A", "B"):
        seller.receive(peer, Offer(quantity=0.0, price=50.0))
    seller.advance()
    seller.receive("A", Accept(quantity=100.0))
    seller.receive("B", Accept(quantity=0.3))
    seller.advance()
    assert {p: m.quantity for p, m in seller.outgoing().items() if isinstance(m, Confirm)} == pytest.approx(
        {"A": 0.15, "B": 0.15}
    )


def test_sellers_and_the_idle_do_not_trade_with_each_other() -> None:
    sessions = make([Bid(0.5, 50.0), Bid(0.4, 40.0), Bid(0.0, 90.0), Bid(-0.0, 90.0)])
    talk(sessions)
    assert not any(reports(sessions).values())


# -- rounds --------------------------------------------------------------------------------------------


def spoken(*all_bids: Bid) -> set[tuple[str, str, type[Message]]]:
    """Return the messages between agents, and assert that none was sent twice."""
    network = Network(make(list(all_bids)), 0, lost=0.0, repeated=0.0, late=0.0)
    network.run()
    assert len(network.said) == len(set(network.said))
    return set(network.said)


OFFERS = {(a, b, Offer) for a, b in itertools.permutations(["MG0", "MG1", "MG2"], 2)}


def test_where_nobody_sells_the_offers_are_all() -> None:
    assert spoken(Bid(0.0, 50.0), Bid(-1.0, 60.0), Bid(-0.5, 60.0)) == OFFERS


def test_where_everybody_sells_the_offers_are_all() -> None:
    assert spoken(Bid(0.1, 50.0), Bid(1.0, 60.0), Bid(0.5, 60.0)) == OFFERS


def test_every_offer_is_answered_by_who_does_not_sell_and_every_accept_is_confirmed() -> None:
    assert spoken(Bid(0.5, 50.0), Bid(0.5, 55.0), Bid(-0.7, 60.0)) == OFFERS | {
        *(("MG2", "MG0", Accept), ("MG2", "MG1", Accept)),
        *(("MG0", "MG2", Confirm), ("MG1", "MG2", Confirm)),
    }


def test_an_answer_that_nothing_is_wanted_is_not_confirmed() -> None:
    assert spoken(Bid(0.5, 50.0), Bid(0.0, 55.0), Bid(-0.7, 40.0)) == OFFERS | {
        *(("MG1", "MG0", Accept), ("MG2", "MG0", Accept)),
    }


def test_who_was_not_heard_is_answered_like_somebody_who_waits() -> None:
    buyer = P2PSession("me", ("A", "B"), Bid(-1.0, 50.0))
    buyer.receive("A", Offer(quantity=0.0, price=10.0))
    assert buyer.waiting_for() == {"B"}
    buyer.advance()
    assert buyer.outgoing() == {"B": Accept(quantity=0.0)}
    assert buyer.waiting_for() == set()

    seller = P2PSession("me", ("A", "B", "C"), Bid(1.0, 50.0))
    seller.receive("A", Offer(quantity=0.0, price=10.0))
    seller.receive("C", Offer(quantity=2.0, price=10.0))
    seller.advance()
    assert seller.waiting_for() == {"A"}, "B's answer has had its time, C sells"
    seller.advance()
    assert seller.outgoing() == dict.fromkeys("AB", Confirm(quantity=0.0, price=50.0))


def test_a_round_says_the_same_at_every_call_and_nothing_after_the_last() -> None:
    session = P2PSession("me", ("A", "B"), Bid(1.0, 50.0))
    for _ in ROUNDS:
        assert session.outgoing() == session.outgoing()
        session.advance()
    assert session.outgoing() == {}
    assert session.waiting_for() == set()


def test_the_first_message_of_a_round_counts() -> None:
    session = P2PSession("me", ("A",), Bid(-1.0, 100.0))
    assert session.receive("A", Offer(quantity=0.2, price=10.0))
    assert not session.receive("A", Offer(quantity=0.9, price=1.0))
    session.advance()
    assert session.outgoing() == {"A": Accept(quantity=0.2)}


def test_messages_of_a_later_round_are_kept_until_it_comes() -> None:
    session = P2PSession("me", ("A",), Bid(-1.0, 100.0))
    assert session.receive("A", Confirm(quantity=0.2, price=10.0))
    assert session.receive("A", Accept(quantity=0.0))
    assert session.waiting_for() == {"A"}, "an offer is still to come"
    assert session.receive("A", Offer(quantity=0.2, price=10.0))
    for _ in range(3):
        assert session.waiting_for() == set()
        session.advance()
    assert session.trades == {"A": Trade(-0.2, 10.0)}


def test_strangers_and_messages_of_other_protocols_are_ignored() -> None:
    session = P2PSession("me", ("A",), Bid(-1.0, 100.0))
    assert not session.receive("B", Offer(quantity=0.2, price=10.0))
    assert not session.receive("me", Offer(quantity=0.2, price=10.0))
    assert not session.receive("A", Consensus(round=0, value=1.0))
    assert session.waiting_for() == {"A"}


def test_an_agent_without_peers_waits_for_nobody() -> None:
    session = P2PSession("me", (), Bid(1.0, 50.0))
    assert session.waiting_for() == set()
    assert not session.advance()
    assert session.trades == {}


def test_a_confirm_that_is_not_what_was_agreed_is_no_trade() -> None:
    wrong = [
        Confirm(quantity=0.21, price=10.0),  # more than was accepted
        Confirm(quantity=0.2, price=10.5),  # not at the ask
        Confirm(quantity=0.0, price=10.0),
    ]
    for confirm in wrong:
        session = P2PSession("me", ("A",), Bid(-0.2, 100.0))
        session.receive("A", Offer(quantity=1.0, price=10.0))
        session.advance()
        session.receive("A", Accept(quantity=0.0))
        session.advance()
        session.receive("A", confirm)
        session.advance()
        assert session.trades == {}, confirm


def test_a_lost_confirm_leaves_a_void_trade_and_no_energy() -> None:
    sessions = make([Bid(0.5, 52.0), Bid(-0.3, 60.0)])
    seller, buyer = sessions["MG0"], sessions["MG1"]
    for kind in ROUNDS:
        for speaker, hearer in ((seller, buyer), (buyer, seller)):
            said = speaker.outgoing().get(hearer.agent_id)
            if said is not None and kind is not Confirm:
                hearer.receive(speaker.agent_id, said)
        seller.advance()
        buyer.advance()
    settlement = settle(reports(sessions))
    assert settlement.trades == ()
    (void,) = settlement.void
    assert (void.reporter, void.peer, void.mwh) == ("MG0", "MG1", 0.3)
    assert void.reason == "not reported by the peer"


def test_reports_that_differ_void_both_sides() -> None:
    for theirs in (Trade(-0.3, 53.0), Trade(-0.2, 52.0), Trade(0.3, 52.0)):
        settlement = settle({"A": {"B": Trade(0.3, 52.0)}, "B": {"A": theirs}})
        assert settlement.trades == ()
        assert [(v.reporter, v.peer) for v in settlement.void] == [("A", "B"), ("B", "A")]
        assert {v.reason for v in settlement.void} == {"reported differently by the peer"}


def test_nothing_depends_on_the_order_in_which_peers_are_named() -> None:
    all_bids = [Bid(0.3, 50.0), Bid(0.3, 50.0), Bid(-0.4, 60.0)]
    names = ["MG0", "MG1", "MG2"]
    seen = []
    for order in itertools.permutations(names):
        sessions = {
            n: P2PSession(n, tuple(p for p in order if p != n), bid)
            for n, bid in zip(names, all_bids, strict=True)
        }
        talk(sessions)
        seen.append(reports(sessions))
    assert all(s == seen[0] for s in seen)


def test_sessions_that_hear_everything_trade_what_they_can() -> None:
    sessions = make([Bid(2.0, 40.0), Bid(-2.0, 60.0)])
    run_sessions(sessions)
    sold, bought = (sum(trade.mwh for trade in session.trades.values()) for session in sessions.values())
    assert sold == pytest.approx(2.0)
    assert bought == pytest.approx(-2.0)


few = st.sampled_from([-2.0, -1.0, -0.3, 0.0, 0.3, 1.0])


@given(bids | st.lists(st.builds(Bid, few, st.sampled_from([40.0, 50.0])), min_size=2, max_size=6), seeds)
def test_without_messages_sessions_trade_what_their_conversation_comes_to(
    all_bids: list[Bid], seed: int
) -> None:
    rng, names = random.Random(seed), [f"MG{i}" for i in range(len(all_bids))]
    peers = {name: tuple(n for n in names if n != name and rng.random() < 0.8) for name in names}
    short, long = (
        {name: P2PSession(name, peers[name], bid) for name, bid in zip(names, all_bids, strict=True)}
        for _ in range(2)
    )
    run_sessions(short)
    run_conversation(long)
    assert reports(short) == reports(long)
    for session in short.values():
        assert (session.round, session.outgoing(), session.waiting_for()) == (len(ROUNDS), {}, set())


def test_a_buyer_whose_need_is_met_waits_for_nobody_else() -> None:
    buyer = P2PSession("MG1", ("MG2", "MG3"), Bid(-1.0, 100.0))
    assert buyer.receive("MG2", Offer(quantity=1.0, price=40.0))
    assert buyer.receive("MG3", Offer(quantity=1.0, price=50.0))
    assert buyer.advance()
    accepted = {peer: message.quantity for peer, message in buyer.outgoing().items()}  # type: ignore[attr-defined]
    assert accepted == {"MG2": 1.0, "MG3": 0.0}
    assert buyer.receive("MG2", Accept(quantity=0.0))
    assert buyer.receive("MG3", Accept(quantity=0.0))
    buyer.advance()
    assert buyer.waiting_for() == {"MG2"}


class Unforthcoming(P2PSession):
    """Hears nothing of MG0."""

    def receive(self, peer: str, message: Message) -> bool:
        return False if peer == "MG0" else super().receive(peer, message)


def test_a_kind_of_session_of_ones_own_trades_alike_with_and_without_messages() -> None:
    """The short form of what it inherits knows nothing of what it has changed."""

    def sessions() -> dict[str, P2PSession]:
        bids = {"MG0": Bid(1.0, 40.0), "MG1": Bid(-1.0, 50.0), "MG2": Bid(-1.0, 45.0)}
        return {n: Unforthcoming(n, tuple(p for p in bids if p != n), bid) for n, bid in bids.items()}

    short, spoken, plain = sessions(), sessions(), make([Bid(1.0, 40.0), Bid(-1.0, 50.0), Bid(-1.0, 45.0)])
    run_sessions(short)
    run_conversation(spoken)
    run_sessions(plain)
    assert {n: s.trades for n, s in short.items()} == {n: s.trades for n, s in spoken.items()}
    assert any(s.trades for s in plain.values()), "they would have traded"
    assert not any(s.trades for s in short.values())


@pytest.mark.parametrize(
    ("surplus_mwh", "bid"),
    [
        (2.0, Bid(2.0, 52.0)),
        (1e-9, Bid(1e-9, 52.0)),
        (0.9e-9, Bid(0.0, 56.0)),  # rounding, not energy for sale
        (0.0, Bid(0.0, 56.0)),
        (-0.9e-9, Bid(0.0, 56.0)),
        (-1e-9, Bid(-1e-9, 56.0)),
        (-2.0, Bid(-2.0, 56.0)),
    ],
)
def test_the_surplus_of_the_plan_is_offered_at_the_ask_and_its_deficit_looked_for_at_the_bid(
    surplus_mwh: float, bid: Bid
) -> None:
    session = PeerToPeerProtocol().begin(StepPosition("A", ("B", "C"), surplus_mwh, 50.0, 8.0, 0.25, 0.75))
    assert (session.agent_id, session.bid, session.waiting_for()) == ("A", bid, {"B", "C"})


RING = DefaultSettings(neighbours="ring")


@settings(deadline=None)
@given(st.lists(st.floats(-10.0, 10.0), min_size=4, max_size=8), seeds, shares)
def test_in_a_ring_each_agent_speaks_and_trades_only_with_the_two_next_to_it(
    surplus_mwh: list[float], seed: int, lost: float
) -> None:
    names = [f"MG{i}" for i in range(len(surplus_mwh))]

    def begun() -> dict[str, P2PSession]:
        sessions = {}
        for name, mwh in zip(names, surplus_mwh, strict=True):
            peers = tuple(other for other in names if other != name)
            sessions[name] = PeerToPeerProtocol().begin(
                StepPosition(name, peers, mwh, 50.0, 8.0, settings=RING)
            )
        return sessions

    network = Network(begun(), seed, lost=lost, repeated=0.0, late=0.0)
    network.run()
    pairs = {(a, names[(i + step) % len(names)]) for i, a in enumerate(names) for step in (-1, 1)}
    assert {(sender, receiver) for sender, receiver, kind in network.said if kind is Offer} == pairs
    assert {(sender, receiver) for sender, receiver, _ in network.said} == pairs
    assert_books_balance(network.sessions, reports(network.sessions))
    assert {(a, b) for a, trades in reports(network.sessions).items() for b in trades} <= pairs
    if not lost:
        short = begun()
        run_sessions(short)
        assert reports(short) == reports(network.sessions)


def test_a_confirm_of_what_was_not_accepted_is_no_trade() -> None:
    session = P2PSession("me", ("A", "B"), Bid(-0.5, 20.0))
    session.receive("A", Offer(quantity=1.0, price=30.0))  # above the bid
    session.receive("B", Offer(quantity=1.0, price=10.0))
    session.advance()
    assert session.outgoing() == {"A": Accept(quantity=0.0), "B": Accept(quantity=0.5)}
    session.advance()
    session.receive("A", Confirm(quantity=0.25, price=30.0))
    session.receive("B", Confirm(quantity=0.5, price=10.0))
    session.advance()
    assert session.trades == {"B": Trade(-0.5, 10.0)}


def test_a_trade_of_nothing_is_neither_settled_nor_void() -> None:
    settlement = settle({"A": {"B": Trade(0.0, 50.0)}, "B": {"A": Trade(-0.0, 50.0)}, "C": {}})
    assert (settlement.trades, settlement.void) == ((), ())


@pytest.mark.parametrize("quantity", [-1.0, 1.0])
def test_a_session_can_be_copied_in_every_round(quantity: float) -> None:
    session = P2PSession("a", ("b", "c"), Bid(quantity, 50.0))
    session.outgoing()
    for peer in "bc":
        session.receive(peer, Offer(quantity=0.6, price=40.0))
    goes_on = True
    while goes_on:
        copied = pickle.loads(pickle.dumps(session))
        assert (copied.round, copied.waiting_for()) == (session.round, session.waiting_for())
        assert copy.deepcopy(session).waiting_for() == session.waiting_for()
        goes_on = session.advance()

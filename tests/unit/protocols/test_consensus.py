"""Average consensus: the mean is kept, everyone gets there, and silence never tears the estimates apart."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heron_mqtt.messages import Consensus, Offer
from heron_mqtt.protocols.base import DefaultSettings, StepPosition, neighbours
from heron_mqtt.protocols.consensus import ConsensusProtocol, ConsensusSession, metropolis_weights

values = st.lists(st.floats(-500.0, 500.0), min_size=2, max_size=8)


def complete(n: int) -> list[set[int]]:
    return [set(range(n)) - {i} for i in range(n)]


def ring(n: int) -> list[set[int]]:
    return [{(i - 1) % n, (i + 1) % n} - {i} for i in range(n)]


def star(n: int) -> list[set[int]]:
    return [set(range(1, n)) if i == 0 else {0} for i in range(n)]


graphs = st.sampled_from([complete, ring, star])


def make(graph: list[set[int]], initial: list[float], rounds: int) -> list[ConsensusSession]:
    return [
        ConsensusSession(str(i), {str(j): len(graph[j]) for j in near}, initial[i], rounds)
        for i, near in enumerate(graph)
    ]


def talk(sessions: list[ConsensusSession], seed: int = 0, lost: float = 0.0) -> list[list[float]]:
    """Run all rounds in step; return the estimates after each."""
    rng = random.Random(seed)
    history, going = [[s.value for s in sessions]], True
    while going:
        flying = [(int(to), s.agent_id, m) for s in sessions for to, m in s.outgoing().items()]
        rng.shuffle(flying)
        for to, sender, message in flying:
            if rng.random() >= lost:
                assert sessions[to].receive(sender, message)
        still = [s.advance() for s in sessions]
        assert len(set(still)) == 1
        going = still[0]
        history.append([s.value for s in sessions])
    return history


def mean(numbers: list[float]) -> float:
    return sum(numbers) / len(numbers)


@settings(deadline=None)
@given(values, graphs, st.integers(1, 10))
def test_the_mean_never_changes(initial: list[float], graph: object, rounds: int) -> None:
    history = talk(make(graph(len(initial)), initial, rounds))  # type: ignore[operator]
    assert len(history) == rounds + 1
    for estimates in history:
        assert mean(estimates) == pytest.approx(mean(initial), abs=1e-9)


@settings(deadline=None)
@given(values, graphs)
def test_everyone_converges_to_the_mean(initial: list[float], graph: object) -> None:
    final = talk(make(graph(len(initial)), initial, 100), seed=1)[-1]  # type: ignore[operator]
    assert final == pytest.approx([mean(initial)] * len(initial), abs=1.0)


def test_a_ring_of_six_agrees_to_a_millionth_in_a_hundred_rounds() -> None:
    initial = [10.0, 90.0, 40.0, 35.0, 60.0, 65.0]
    assert talk(make(ring(6), initial, 100))[-1] == pytest.approx([50.0] * 6, abs=1e-6)


@pytest.mark.parametrize("n", [2, 3, 5])
def test_on_a_complete_graph_one_round_is_enough(n: int) -> None:
    initial = [float(i * i) for i in range(n)]
    assert talk(make(complete(n), initial, 1))[-1] == pytest.approx([mean(initial)] * n)


@settings(deadline=None)
@given(values, graphs, st.integers(0, 2**32 - 1), st.floats(0.0, 1.0))
def test_with_messages_lost_no_estimate_leaves_the_range_of_the_first_ones(
    initial: list[float], graph: object, seed: int, lost: float
) -> None:
    low, high = min(initial), max(initial)
    for estimates in talk(make(graph(len(initial)), initial, 8), seed, lost):  # type: ignore[operator]
        assert all(low - 1e-9 <= x <= high + 1e-9 for x in estimates)


def test_a_silent_neighbour_is_left_out_of_the_round_and_heard_again_in_the_next() -> None:
    session = ConsensusSession("0", {"1": 2, "2": 2}, 0.0, 2)
    session.receive("1", Consensus(round=0, value=3.0))
    assert session.waiting_for() == {"2"}
    assert session.advance()
    assert session.value == pytest.approx(1.0)  # 0 + 1/3 (3 - 0), nothing of neighbour 2
    session.receive("1", Consensus(round=1, value=1.0))
    session.receive("2", Consensus(round=1, value=4.0))
    assert session.waiting_for() == set()
    assert not session.advance()
    assert session.value == pytest.approx(2.0)


def test_repeated_late_and_foreign_messages_are_ignored() -> None:
    session = ConsensusSession("0", {"1": 1}, 0.0, 2)
    assert session.receive("1", Consensus(round=0, value=2.0))
    assert not session.receive("1", Consensus(round=0, value=9.0)), "the first of a round counts"
    assert not session.receive("2", Consensus(round=0, value=9.0)), "not a neighbour"
    assert not session.receive("1", Consensus(round=2, value=9.0)), "there is no such round"
    assert not session.receive("1", Offer(quantity=1.0, price=9.0))
    session.advance()
    assert session.value == pytest.approx(1.0)
    assert not session.receive("1", Consensus(round=0, value=9.0)), "that round is over"


def test_an_early_message_waits_for_its_round() -> None:
    session = ConsensusSession("0", {"1": 1}, 0.0, 2)
    assert session.receive("1", Consensus(round=1, value=4.0))
    assert session.waiting_for() == {"1"}
    session.advance()
    assert session.value == 0.0
    assert session.waiting_for() == set()
    session.advance()
    assert session.value == pytest.approx(2.0)


def test_after_the_last_round_there_is_nothing_to_say_or_wait_for() -> None:
    session = ConsensusSession("0", {"1": 1}, 5.0, 1)
    assert set(session.outgoing()) == {"1"}
    assert not session.advance()
    assert session.outgoing() == {}
    assert session.waiting_for() == set()
    assert session.value == 5.0


def test_the_order_in_which_neighbours_are_named_does_not_change_a_bit_of_the_result() -> None:
    results = set()
    for order in (["1", "2", "3"], ["3", "1", "2"], ["2", "3", "1"]):
        session = ConsensusSession("0", dict.fromkeys(order, 3), 0.1, 1)
        for peer, value in zip(("3", "2", "1"), (0.3, 1e17, -1e17), strict=True):
            session.receive(peer, Consensus(round=0, value=value))
        session.advance()
        results.add(session.value)
    assert len(results) == 1


def test_no_round_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one round, got 0"):
        ConsensusSession("0", {"1": 1}, 0.0, 0)


def test_the_weight_of_a_neighbour_goes_by_the_larger_number_of_neighbours_of_the_two() -> None:
    assert list(metropolis_weights({"c": 1, "a": 4, "b": 3}).items()) == [
        ("a", 0.2),
        ("b", 0.25),
        ("c", 0.25),
    ]


@pytest.mark.parametrize(
    ("surplus_mwh", "value"),
    [(1.0, 50.0), (0.0, 50.0), (-0.9e-9, 50.0), (-1e-9, 60.0), (-1.0, 60.0)],
)
def test_an_agent_begins_with_what_a_mwh_is_worth_to_it(surplus_mwh: float, value: float) -> None:
    position = StepPosition("A", ("B", "C"), surplus_mwh, 50.0, 10.0, settings=DefaultSettings(3))
    session = ConsensusProtocol().begin(position)
    assert (session.agent_id, session.value, session.dispatch_value) == ("A", value, value)
    assert session.outgoing() == dict.fromkeys("BC", Consensus(round=0, value=value))
    assert [session.advance() for _ in range(3)] == [True, True, False]


@pytest.mark.parametrize(
    ("kind", "agent", "peers", "expected"),
    [
        ("all", "A", "BCDE", {"B": 4, "C": 4, "D": 4, "E": 4}),
        ("ring", "A", "", {}),
        ("ring", "A", "BC", {"B": 2, "C": 2}),  # a ring of three is everybody
        ("ring", "A", "BCD", {"D": 2, "B": 2}),
        ("ring", "B", "ACD", {"A": 2, "C": 2}),
        ("ring", "D", "CBA", {"C": 2, "A": 2}),
    ],
)
def test_on_a_ring_one_talks_to_who_is_next_by_name(
    kind: str, agent: str, peers: str, expected: dict[str, int]
) -> None:
    assert neighbours(agent, tuple(peers), DefaultSettings(neighbours=kind)) == expected

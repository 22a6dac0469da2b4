"""What the horizontal protocols have in common: defaults, and conversations in which messages are lost."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from heron_mqtt.protocols.base import (
    DefaultSettings,
    HorizontalSession,
    StepPosition,
    run_lossy_sessions,
    run_sessions,
)
from heron_mqtt.protocols.consensus import ConsensusSession
from heron_mqtt.protocols.p2p import Bid, P2PSession

ROUND_S = 2.0


def pair(rounds: int = 2) -> dict[str, ConsensusSession]:
    """Return two that agree on a number; they begin with 0 and 8."""
    values = {"A": 0.0, "B": 8.0}
    return {
        name: ConsensusSession(name, {other: 1 for other in values if other != name}, value, rounds)
        for name, value in values.items()
    }


@pytest.mark.parametrize(
    ("begin_s", "arrives", "ends", "values"),
    [
        # all arrives: nobody waits, and one round is enough
        ((0.0, 0.0), lambda a, b: True, {"A": (0, 0.0), "B": (0, 0.0)}, (4.0, 4.0)),
        ((5.0, 5.0), lambda a, b: True, {"A": (0, 5.0), "B": (0, 5.0)}, (4.0, 4.0)),
        # who begins later is waited for, as long as a round may take
        ((0.0, 1.0), lambda a, b: True, {"A": (0, 1.0), "B": (0, 1.0)}, (4.0, 4.0)),
        ((0.0, 3.0), lambda a, b: True, {"A": (1, 3.0), "B": (0, 3.0)}, (2.0, 2.0)),
        # what one says is lost: the other waits for each round's deadline
        ((0.0, 0.0), lambda a, b: a != "A", {"A": (0, 2.0), "B": (2, 4.0)}, (6.0, 8.0)),
        ((1.0, 1.0), lambda a, b: b != "B", {"A": (0, 3.0), "B": (2, 5.0)}, (6.0, 8.0)),
        # nothing arrives
        ((0.0, 0.0), lambda a, b: False, {"A": (2, 4.0), "B": (2, 4.0)}, (0.0, 8.0)),
    ],
)
def test_who_is_not_heard_is_waited_for_until_the_rounds_deadline(
    begin_s: tuple[float, float],
    arrives: Callable[[str, str], bool],
    ends: dict[str, tuple[int, float]],
    values: tuple[float, float],
) -> None:
    sessions = pair()
    begins = dict(zip("AB", begin_s, strict=True))
    assert run_lossy_sessions(sessions, arrives, begins, ROUND_S) == ends
    assert tuple(session.value for session in sessions.values()) == values
    assert begins == dict(zip("AB", begin_s, strict=True)), "what was handed in is left alone"


def test_each_message_is_carried_once_and_none_to_who_has_no_session() -> None:
    asked: list[tuple[str, str]] = []

    def carry(name: str, peer: str) -> bool:
        asked.append((name, peer))
        return True

    run_lossy_sessions(pair(), carry, dict.fromkeys("AB", 0.0), ROUND_S)
    assert sorted(asked) == [("A", "B"), ("A", "B"), ("B", "A"), ("B", "A")], "two rounds"
    alone = {"A": pair()["A"]}
    assert run_lossy_sessions(alone, carry, {"A": 0.0}, ROUND_S) == {"A": (2, 4.0)}
    assert alone["A"].value == 0.0
    assert run_lossy_sessions({}, carry, {}, ROUND_S) == {}


def test_where_all_arrives_the_trades_are_those_of_a_conversation_without_losses() -> None:
    def traders() -> dict[str, P2PSession]:
        bids = {"A": Bid(2.0, 40.0), "B": Bid(-1.0, 60.0), "C": Bid(-3.0, 50.0)}
        return {n: P2PSession(n, tuple(p for p in bids if p != n), bid) for n, bid in bids.items()}

    lossless, lossy = traders(), traders()
    run_sessions(lossless)
    ended = run_lossy_sessions(lossy, lambda name, peer: True, dict.fromkeys("ABC", 0.0), ROUND_S)
    assert ended == dict.fromkeys("ABC", (0, 0.0))
    assert {n: s.trades for n, s in lossy.items()} == {n: s.trades for n, s in lossless.items()}
    assert lossy["A"].trades


def test_a_session_of_ones_own_has_traded_nothing_and_leaves_the_price_alone() -> None:
    class Silent(HorizontalSession):
        """Says nothing."""

    silent = Silent()
    assert (silent.trades, silent.dispatch_value) == ({}, None)


def test_sessions_of_two_kinds_are_led_through_their_conversation() -> None:
    class Shorter(ConsensusSession):
        @classmethod
        def run_all(cls, sessions: object) -> None:
            raise AssertionError("not all are of this kind")

    sessions = pair()
    mixed = {"A": Shorter("A", {"B": 1}, 0.0, 2), "B": sessions["B"]}
    run_sessions(mixed)
    assert [session.value for session in mixed.values()] == [4.0, 4.0]


def test_the_settings_where_there_is_no_scenario() -> None:
    position = StepPosition("A", (), 0.0, 50.0)
    assert (position.import_adder, position.ask_share, position.bid_share) == (0.0, 0.25, 0.75)
    assert position.settings == DefaultSettings(consensus_rounds=4, neighbours="all", options={})

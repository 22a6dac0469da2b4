"""The network: delay, order, copies, loss, partitions; with a clock that the test moves."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heron_mqtt.errors import BrokerError
from support.impaired_wire import Wire, rules

JITTERY = {"delay_s": 0.01, "jitter": "lognormal", "jitter_s": 0.05, "jitter_shape": 2.0}


# -- passing, delay, order ---------------------------------------------------------------------------


def test_through_a_perfect_network_messages_pass_at_once_and_nothing_is_left_behind() -> None:
    wire = Wire()
    for i in range(10):
        wire.send(i)
    assert wire.numbers() == list(range(10))
    assert wire.timers.pending == 0
    assert list(wire.record.events) == []
    assert wire.record.of("out", "c").passed == 10


def test_a_message_takes_its_delay_to_the_nanosecond() -> None:
    wire = Wire(**rules(delay_s=0.25))
    wire.send(0)
    wire.timers.advance(0.249999)
    assert wire.out == []
    wire.timers.advance(0.000002)
    assert wire.times == [0.25]


def test_only_one_timer_waits_however_many_messages_are_on_their_way() -> None:
    wire = Wire(**rules(delay_s=0.25, jitter="uniform", jitter_s=1.0))
    for i in range(100):
        wire.send(i, f"c{i}")
    assert wire.timers.pending == 1
    wire.timers.advance(2.0)
    assert len(wire.out) == 100
    assert wire.timers.pending == 0


def test_the_first_rule_that_matches_counts() -> None:
    wire = Wire(
        rules=[
            {"pattern": "estop", "exempt": True},
            {"pattern": "devices/#", "direction": "in", "delay_s": 1.0},
            {"pattern": "devices/#", "delay_s": 2.0},
        ]
    )
    wire.send(0, "estop")
    wire.send(1, "devices/MG1/ess/telemetry", stream="in")
    wire.send(2, "devices/MG1/ess/telemetry", stream="out")
    wire.send(3, "other")
    wire.timers.advance(5.0)
    assert dict(zip([i for _, i in wire.out], wire.times, strict=True)) == {0: 0.0, 3: 0.0, 1: 1.0, 2: 2.0}


@given(gaps=st.lists(st.floats(0.0, 0.1), min_size=2, max_size=60), seed=st.integers(0, 50))
def test_jitter_alone_never_reorders_a_channel(gaps: list[float], seed: int) -> None:
    wire = Wire(run_seed=seed, **rules(**JITTERY, loss=0.1, duplicate=0.2))
    for i, gap_s in enumerate(gaps):
        wire.send(i)
        wire.send(i, "d", stream="in")
        wire.timers.advance(gap_s)
    wire.timers.advance(1000.0)
    for channel in ("c", "d"):
        assert wire.numbers(channel) == sorted(wire.numbers(channel))
    assert wire.record.totals().overtaken == 0
    assert wire.network.in_flight == {}


def test_a_message_does_not_overtake_one_whose_timer_is_late() -> None:
    wire = Wire(partitions=[{"begin_s": 0.0, "end_s": 1.0, "hold": True}])
    wire.send(0)
    wire.timers.now_s += 5.0  # the event loop was busy: no timer has fired
    wire.send(1)
    assert wire.out == []
    wire.timers.advance(0.0)
    assert wire.numbers() == [0, 1]


def test_channels_do_not_wait_for_each_other() -> None:
    wire = Wire(rules=[{"pattern": "slow", "delay_s": 1.0}])
    wire.send(0, "slow")
    wire.send(1, "fast")
    assert wire.out == [("fast", 1)]


def test_a_message_sent_while_another_is_handed_over_keeps_its_place() -> None:
    wire = Wire(rules=[{"delay_s": 0.1}])
    sent: list[int] = []

    class ConstantAgent:
        def arrive(self) -> None:
            sent.append(0)
            wire.send(1)

        def vanish(self, error: BrokerError | None) -> None:
            raise AssertionError

    wire.network.send("out", "c", {}, ConstantAgent())
    wire.timers.advance(0.1)
    assert sent == [0]
    wire.timers.advance(0.1)
    assert wire.times == [0.2]


def test_what_one_parcel_raises_does_not_stop_the_others() -> None:
    wire = Wire(rules=[{"delay_s": 0.1}])

    class Failing:
        def arrive(self) -> None:
            raise RuntimeError("on arrival")

        def vanish(self, error: BrokerError | None) -> None:
            raise AssertionError

    wire.network.send("out", "c", {}, Failing())
    wire.send(1)
    with pytest.raises(RuntimeError, match="on arrival"):
        wire.timers.advance(1.0)
    wire.timers.advance(1.0)
    assert wire.numbers() == [1]


# -- copies, reordering ------------------------------------------------------------------------------


def test_a_copy_follows_its_original_directly() -> None:
    wire = Wire(**rules(delay_s=0.1, duplicate=1.0))
    for i in range(3):
        wire.send(i)
    wire.timers.advance(1.0)
    assert wire.numbers() == [0, 0, 1, 1, 2, 2]
    counts = wire.record.of("out", "c")
    assert (counts.passed, counts.duplicated) == (3, 3)


def test_only_a_message_that_is_held_back_is_overtaken() -> None:
    wire = Wire(run_seed=1, **rules(delay_s=0.01, reorder=0.1, reorder_s=0.055))
    for i in range(200):
        wire.send(i)
        wire.timers.advance(0.02)
    wire.timers.advance(1.0)
    held_back = [e.n for e in wire.record.events if e.what == "reordered"]
    order = wire.numbers()
    late = [i for place, i in enumerate(order) if i < max(order[: place + 1])]
    assert sorted(order) == list(range(200))
    assert late == held_back
    counts = wire.record.of("out", "c")
    assert (counts.reordered, counts.overtaken) == (len(held_back), len(late)) == (13, 13)


def test_a_message_held_back_with_nobody_behind_is_not_overtaken() -> None:
    wire = Wire(**rules(reorder=1.0, reorder_s=0.1))
    for i in range(5):
        wire.send(i)
        wire.timers.advance(1.0)
    counts = wire.record.of("out", "c")
    assert (counts.reordered, counts.overtaken) == (5, 0)


# -- loss, partitions --------------------------------------------------------------------------------


def _fates_seen(wire: Wire, order: Iterable[str]) -> dict[str, list[Any]]:
    numbers = dict.fromkeys("abc", 0)
    for channel in order:
        wire.send(numbers[channel], channel)
        numbers[channel] += 1
        wire.timers.advance(0.001)
    wire.timers.advance(1000.0)
    seen: dict[str, list[Any]] = {channel: [] for channel in "abc"}
    for event in wire.record.events:
        if event.what in {"lost", "duplicated", "reordered"}:
            seen[event.channel].append((event.n, event.what))
    return {channel: sorted(events) for channel, events in seen.items()}


def test_what_happens_to_a_channel_does_not_depend_on_the_others() -> None:
    rule = {"loss": 0.2, "duplicate": 0.2, "reorder": 0.2, "reorder_s": 0.1, **JITTERY}
    together = _fates_seen(Wire(**rules(**rule)), "abc" * 100)
    shuffled = _fates_seen(Wire(**rules(**rule)), "a" * 50 + "cb" * 100 + "a" * 50)
    alone = _fates_seen(Wire(**rules(**rule)), "a" * 100)
    assert together == shuffled
    assert together["a"] == alone["a"]
    assert all(len(events) > 20 for events in together.values())


def test_the_tables_own_seed_wins_over_the_runs() -> None:
    def seen(**table: Any) -> list[Any]:
        return [_fates_seen(Wire(run_seed=s, **rules(loss=0.5), **table), "a" * 50) for s in (1, 2)]

    assert seen()[0] != seen()[1]
    assert seen(seed=5)[0] == seen(seed=5)[1]


def test_a_lost_message_vanishes_without_an_error() -> None:
    wire = Wire(**rules(loss=1.0))
    wire.send(0)
    assert wire.out == []
    assert wire.gone == [(0, None)]
    assert wire.record.of("out", "c").lost == 1


def test_a_partition_in_seconds_counts_from_the_start_and_takes_no_message_that_is_on_its_way() -> None:
    wire = Wire(rules=[{"delay_s": 0.5}], partitions=[{"begin_s": 1.0, "end_s": 2.0}])
    for i in range(5):  # at 0.0, 0.5, ... 2.0 s
        wire.send(i)
        wire.timers.advance(0.5)
    wire.timers.advance(5.0)
    assert wire.numbers() == [0, 1, 4]
    assert wire.times[1] == 1.0
    assert wire.record.of("out", "c").partitioned == 2


def test_a_partition_that_holds_lets_everything_through_at_its_end_in_order() -> None:
    wire = Wire(partitions=[{"begin_s": 1.0, "end_s": 2.0, "hold": True}])
    for i in range(5):
        wire.send(i)
        wire.timers.advance(0.5)
    assert wire.numbers() == [0, 1, 2, 3, 4]
    assert wire.times == [0.0, 0.5, 2.0, 2.0, 2.0]
    assert [e.what for e in wire.record.events] == ["held", "held"]
    assert wire.record.of("out", "c").held == 2


def test_a_partition_in_steps_goes_by_the_messages_own_step() -> None:
    wire = Wire(partitions=[{"pattern": "agents/MG1/#", "begin_step": 2, "end_step": 4}])
    for step in (0, 1, 2, 3, 4):
        wire.send(step, "agents/MG1/action", step=step)
        wire.send(step, "agents/MG2/action", step=step)
    wire.send(9, "agents/MG1/action", step=3)  # late, but of that step
    assert wire.numbers("agents/MG1/action") == [0, 1, 4]
    assert wire.numbers("agents/MG2/action") == [0, 1, 2, 3, 4]


def test_a_message_without_a_step_goes_by_the_run_state_or_by_what_was_told() -> None:
    wire = Wire(partitions=[{"pattern": "vendor/#", "begin_step": 2, "end_step": 4}])
    wire.send(0, "vendor/a")  # no step known: in no window
    for step in (1, 2, 4):
        wire.send(step, "run/state", step=step)
        wire.send(step, "vendor/a")
    wire.network.step = 3
    wire.send(30, "vendor/a")
    wire.send(0, "run/state")  # a new episode: no step
    wire.send(40, "vendor/a")
    assert wire.numbers("vendor/a") == [0, 1, 4, 40]


@pytest.mark.parametrize("step", [True, "2", 2.0, None])
def test_a_step_that_is_no_integer_is_no_step(step: object) -> None:
    wire = Wire(partitions=[{"begin_step": 0, "end_step": 100}])
    wire.send(0, step=step)
    assert wire.numbers() == [0]


def test_an_exempt_channel_passes_through_a_partition() -> None:
    wire = Wire(rules=[{"pattern": "estop", "exempt": True}], partitions=[{"begin_step": 0, "end_step": 9}])
    wire.send(0, "estop", step=1)
    wire.send(1, "other", step=1)
    assert wire.out == [("estop", 0)]


def test_a_sure_message_is_only_delayed() -> None:
    wire = Wire(
        rules=[{"delay_s": 0.5, "loss": 1.0, "duplicate": 1.0}], partitions=[{"begin_step": 0, "end_step": 9}]
    )
    wire.send(0, step=1, sure=True)
    wire.timers.advance(1.0)
    assert (wire.numbers(), wire.times) == ([0], [0.5])

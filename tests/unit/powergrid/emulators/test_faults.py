"""Faults on demand: when they begin and end, and how they are written on a command line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heron_mqtt.errors import ConfigError
from heron_mqtt.messages import Fault
from powergrid.emulators.faults import FaultState, parse_fault
from support.rows import each_row


def steps_with_fault(state: FaultState, n: int) -> list[int]:
    """Return the steps of an episode in which a fault is in force."""
    found = []
    for step in range(n):
        state.on_step(step)
        if state.kind is not None:
            found.append(step)
    return found


@pytest.mark.parametrize(
    ("text", "step", "fault"),
    [
        ("silence@20:8", 20, Fault(kind="silence", steps=8)),
        ("stuck@0", 0, Fault(kind="stuck", steps=1)),
        ("offset@3:2:-0.01", 3, Fault(kind="offset", steps=2, value=-0.01)),
    ],
)
def test_a_fault_is_written_kind_at_step(text: str, step: int, fault: Fault) -> None:
    assert parse_fault(text) == (step, fault)


@each_row(
    "text",
    ["", "silence", "silence@", "silence@x", "silence@1:0", "silence@1:2:3:4", "slience@1", "offset@1:1:nan"],
)
def test_what_is_no_fault_is_refused_with_what_was_expected(text: str) -> None:
    with pytest.raises(ConfigError, match="expected KIND@STEP"):
        parse_fault(text)


@given(st.integers(0, 30), st.integers(1, 30))
def test_a_planned_fault_holds_for_its_steps_and_no_others(at: int, steps: int) -> None:
    state = FaultState({at: Fault(kind="silence", steps=steps)})
    assert steps_with_fault(state, 70) == list(range(at, at + steps))


def test_a_fault_comes_back_in_every_episode() -> None:
    state = FaultState({2: Fault(kind="stuck", steps=2)})
    assert steps_with_fault(state, 6) == [2, 3]
    state.restart()
    assert steps_with_fault(state, 6) == [2, 3]


def test_a_new_episode_ends_a_fault() -> None:
    state = FaultState()
    state.begin(Fault(kind="garbage", steps=50))
    assert state.kind == "garbage"
    state.restart()
    assert state.kind is None


def test_a_fault_on_demand_begins_with_the_next_step_and_replaces_another() -> None:
    state = FaultState()
    state.on_step(4)
    state.begin(Fault(kind="silence", steps=9))
    state.begin(Fault(kind="frozen", steps=2))
    assert steps_with_fault_from(state, 5, 9) == [5, 6]


def steps_with_fault_from(state: FaultState, first: int, last: int) -> list[int]:
    found = []
    for step in range(first, last):
        state.on_step(step)
        found += [step] if state.kind is not None else []
    return found


def test_a_step_that_is_told_twice_counts_once_and_an_older_one_not_at_all() -> None:
    state = FaultState({3: Fault(kind="silence", steps=2)})
    ends = [state.on_step(step) for step in (3, 3, 2, 4, 4, 5, 5)]
    assert ends == [False, False, False, False, False, True, False]


def test_without_a_run_every_setpoint_counts_as_a_step() -> None:
    state = FaultState({1: Fault(kind="silence", steps=2)})
    kinds = []
    for _ in range(5):
        state.on_step(None)
        kinds.append(state.kind)
    assert kinds == [None, "silence", "silence", None, None]


@pytest.mark.parametrize("heard_first", [True, False])
def test_a_fault_that_names_its_step_lasts_from_that_on_whatever_was_heard_first(heard_first: bool) -> None:
    faults = FaultState()
    faults.on_step(5)
    told = Fault(kind="frozen", steps=3, step=6)
    if heard_first:
        faults.on_step(6)
        faults.begin(told)
    else:
        faults.begin(told)
        faults.on_step(6)
    assert [faults.on_step(step) for step in (7, 8, 9)] == [False, False, True]

"""Actions: from [-1, 1] to physical setpoints and no further."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from powergrid.envs.spaces import ActionMap
from powergrid.scenario import scenario_from_dict
from support.rows import each_row
from support.small_grid import scenario as small

MG1 = scenario_from_dict(small()).scenario.microgrids["MG1"]
ACTIONS = ActionMap("MG1", MG1)  # p_gen, p_ess, p_pv, q_pv


def powers(action: list[float]) -> dict[str, float]:
    command = ACTIONS.command(action)
    values = {f"p_{k}": v for k, v in command.values("p_").items()}
    return values | {f"q_{k}": v for k, v in command.values("q_").items()}


def test_there_is_one_entry_a_controllable_quantity_in_the_scenarios_order() -> None:
    assert ACTIONS.names == ("p_gen", "p_ess", "p_pv", "q_pv")
    assert ACTIONS.space.shape == (4,)
    assert ACTIONS.space.dtype == np.float32
    assert (ACTIONS.space.low == -1.0).all()
    assert (ACTIONS.space.high == 1.0).all()


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        ([-1, -1, -1, -1], {"p_gen": 0.0, "p_ess": -0.008, "p_pv": 0.0, "q_pv": -0.022}),
        ([1, 1, 1, 1], {"p_gen": 0.02, "p_ess": 0.01, "p_pv": 0.02, "q_pv": 0.022}),
        ([0, 0, 0, 0], {"p_gen": 0.01, "p_ess": 0.0, "p_pv": 0.01, "q_pv": 0.0}),
        ([0.5, 0.5, -0.5, 0.5], {"p_gen": 0.015, "p_ess": 0.005, "p_pv": 0.005, "q_pv": 0.011}),
        ([-0.5, -0.5, 0.5, -0.5], {"p_gen": 0.005, "p_ess": -0.004, "p_pv": 0.015, "q_pv": -0.011}),
    ],
)
def test_actions_mean_what_is_documented(action: list[float], expected: dict[str, float]) -> None:
    assert powers(action) == pytest.approx(expected)


@settings(deadline=None)
@given(st.lists(st.floats(-1e9, 1e9), min_size=4, max_size=4))
def test_no_action_leads_outside_the_nameplate(action: list[float]) -> None:
    found = powers(action)
    assert found == powers([min(max(a, -1.0), 1.0) for a in action]), "beyond the bounds = at the bounds"
    assert 0.0 <= found["p_gen"] <= 0.02
    assert -0.008 <= found["p_ess"] <= 0.01
    assert 0.0 <= found["p_pv"] <= 0.02
    assert -0.022 <= found["q_pv"] <= 0.022


@given(st.lists(st.floats(-2.0, 2.0), min_size=4, max_size=4))
def test_a_copy_of_many_is_told_the_same_to_the_last_bit(action: list[float]) -> None:
    many = ACTIONS.setpoints(np.array([[0.0] * 4, action]), 2)
    assert powers(action) == {name: float(values[1]) for name, values in many.items()}


@settings(deadline=None)
@given(st.floats(-1.0, 1.0), st.floats(-1.0, 1.0))
def test_more_is_never_less(one: float, other: float) -> None:
    low, high = sorted((one, other))
    below, above = powers([low] * 4), powers([high] * 4)
    assert all(below[name] <= above[name] for name in ACTIONS.names)


@pytest.mark.parametrize(
    "action",
    [
        np.zeros(4, dtype=np.float32),
        np.zeros(4),
        [0, 0, 0, 0],
        (0.0, 0.0, 0.0, 0.0),
        np.zeros((4,), dtype=np.int8),
    ],
)
def test_anything_with_four_numbers_is_an_action(action: object) -> None:
    ACTIONS.command(action)  # type: ignore[arg-type]


@pytest.mark.parametrize("action", [[0.0] * 3, [0.0] * 5, [], 0.0, [[0.0] * 4], np.zeros((4, 1))])
def test_a_wrong_shape_names_the_agent_and_what_was_expected(action: object) -> None:
    with pytest.raises(
        ValueError, match=r"action of MG1: shape .*, expected \(4,\): p_gen, p_ess, p_pv, q_pv"
    ):
        ACTIONS.command(action)  # type: ignore[arg-type]


@each_row(
    "action",
    [
        "text",
        ["a", "b", "c", "d"],
        ["0.5", "0.5", "0.5", "0.5"],
        None,
        {"p_gen": 1.0},
        [0.0, [1.0], 0.0, 0.0],
        [1j, 0.0, 0.0, 0.0],
        np.ma.masked_array([0.1] * 4, mask=[True, False, False, False]),
        [10**400, 0.0, 0.0, 0.0],
    ],
)
def test_what_is_no_number_is_refused_with_the_agents_name(action: object) -> None:
    with pytest.raises(ValueError, match=r"action of MG1: "):
        ACTIONS.command(action)  # type: ignore[arg-type]


@each_row("wrong", [float("nan"), float("inf"), float("-inf")])
@each_row("index", range(4))
def test_a_number_that_is_none_names_agent_and_index(wrong: float, index: int) -> None:
    action = np.zeros(4, dtype=np.float32)
    action[index] = wrong
    expected = rf"action of MG1: index {index} \({ACTIONS.names[index]}\) is -?(nan|inf), expected a number"
    with pytest.raises(ValueError, match=expected):
        ACTIONS.command(action)

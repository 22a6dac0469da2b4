"""The reward, term by term, against numbers worked out by hand."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heron_mqtt.protocols.p2p import SettledTrade, Trade, settle
from powergrid.rewards import REWARD_TERMS, TERMS, Rewards, RewardTerm, StepAccount, grid_bill, total, traded
from powergrid.rewards.group_reduce import GroupedReducer
from powergrid.rewards.terms import Grid
from powergrid.rewards.violations import LimitViolations
from powergrid.scenario import MarketTable, RewardTable, load_scenario

LIMITS = RewardTable(vm_min_pu=0.95, vm_max_pu=1.05, loading_max_percent=100.0, soc_min=0.2, soc_max=0.8)
AGENTS = ("MG1", "MG2", "MG3", "MG4")
NONE: list[float] = []


def check(
    buses: list[list[int]],
    branches: list[list[int]],
    batteries: list[list[int]],
    live: list[bool],
    limits: RewardTable = LIMITS,
) -> LimitViolations:
    """Return the check of microgrids that have these elements."""
    of_each = [[np.array(group, dtype=np.intp) for group in part] for part in (buses, branches, batteries)]
    return LimitViolations(
        limits,
        buses=of_each[0],
        branches=of_each[1],
        batteries=of_each[2],
        live=np.array(live, dtype=bool),
        n_bus=sum(map(len, buses)),
    )


def violations(
    vm_pu: list[float], loading: list[float], soc: list[float], limits: RewardTable = LIMITS
) -> list[float]:
    """Return voltage, loading and state of charge violation of one microgrid."""
    buses, branches, batteries = ([list(range(len(part)))] for part in (vm_pu, loading, soc))
    live = [not math.isnan(value) for value in (*vm_pu, *loading)]
    quantities = np.array([*vm_pu, *loading, *soc], dtype=float)
    found = check(buses, branches, batteries, live, limits).read(quantities).outside
    return [float(size) for size in found]


# -- energy bought and sold --------------------------------------------------------------------------


def test_what_is_sold_to_the_grid_earns_the_price() -> None:
    assert grid_bill(0.4, 0.0, 50.0, 20.0) == pytest.approx(20.0)


def test_what_is_bought_from_the_grid_costs_the_price_and_the_adder() -> None:
    assert grid_bill(-0.4, 0.0, 50.0, 20.0) == pytest.approx(-28.0)


@pytest.mark.parametrize(
    ("net_mwh", "traded_mwh", "bill"),
    [
        (0.4, 0.3, 5.0),  # 0.1 left to sell
        (0.4, 0.4, 0.0),
        (0.4, 0.5, -7.0),  # sold more to peers than it had: 0.1 are bought
        (-0.4, -0.3, -7.0),  # 0.1 left to buy
        (-0.4, -0.5, 5.0),  # bought more from peers than it needed: 0.1 are sold on
    ],
)
def test_only_what_was_not_traded_is_settled_with_the_grid(
    net_mwh: float, traded_mwh: float, bill: float
) -> None:
    assert grid_bill(net_mwh, traded_mwh, 50.0, 20.0) == pytest.approx(bill)


def test_at_a_negative_price_feeding_in_costs_money() -> None:
    assert grid_bill(0.1, 0.0, -30.0, 20.0) == pytest.approx(-3.0)
    assert grid_bill(-0.1, 0.0, -30.0, 20.0) == pytest.approx(1.0)


@settings(deadline=None)
@given(st.floats(-10, 10), st.floats(-10, 10), st.floats(-100, 300), st.floats(0, 100))
def test_two_agents_that_trade_are_together_never_worse_off_than_with_the_grid_alone(
    one: float, other: float, price: float, adder: float
) -> None:
    alone = grid_bill(one, 0.0, price, adder) + grid_bill(other, 0.0, price, adder)
    sold = min(max(one, 0.0), max(-other, 0.0))
    together = grid_bill(one, sold, price, adder) + grid_bill(other, -sold, price, adder)
    assert together >= alone - 1e-9


# -- trades ------------------------------------------------------------------------------------------


def test_trades_are_summed_with_their_own_prices_and_signs() -> None:
    trades = (
        SettledTrade("MG1", "MG2", 0.5, 52.0),
        SettledTrade("MG3", "MG1", 0.2, 48.0),
        SettledTrade("MG3", "MG2", 0.1, 48.0),
    )
    mwh, usd = traded(AGENTS, trades)
    assert mwh.sum(axis=1) == pytest.approx([0.3, -0.6, 0.3, 0.0])
    assert usd == pytest.approx([16.4, -30.8, 14.4, 0.0])
    assert mwh[0].tolist() == [0.0, 0.5, -0.2, 0.0]


@settings(deadline=None)
@given(
    st.dictionaries(
        st.sampled_from("ABCD"),
        st.dictionaries(
            st.sampled_from("ABCD"),
            st.builds(Trade, st.sampled_from([-1.0, -0.5, 0.5, 1.0]), st.sampled_from([40.0, 55.5])),
        ),
    )
)
def test_trading_makes_neither_energy_nor_money(reported: dict[str, dict[str, Trade]]) -> None:
    mwh, usd = traded("ABCD", settle(reported).trades)
    assert mwh.sum() == pytest.approx(0.0, abs=1e-9)
    assert usd.sum() == pytest.approx(0.0, abs=1e-9)


# -- violations --------------------------------------------------------------------------------------


def test_voltage_violation_is_the_sum_over_buses_of_what_lies_outside_the_band() -> None:
    voltage, loading, soc = violations([0.93, 0.95, 1.0, 1.05, 1.08], NONE, NONE)
    assert voltage == pytest.approx(0.02 + 0.03)
    assert (loading, soc) == (0.0, 0.0)


def test_overload_is_counted_in_units_of_a_hundred_percent() -> None:
    _, loading, _ = violations(NONE, [50.0, 100.0, 130.0, 250.0], NONE)
    assert loading == pytest.approx(0.3 + 1.5)


def test_the_limit_of_loading_is_the_scenarios() -> None:
    limits = RewardTable(loading_max_percent=80.0)
    assert violations(NONE, [100.0], NONE, limits)[1] == pytest.approx(0.2)


def test_state_of_charge_is_counted_outside_its_preferred_band() -> None:
    assert violations(NONE, NONE, [0.15, 0.2, 0.5, 0.95])[2] == pytest.approx(0.05 + 0.15)


def test_what_is_out_of_service_violates_nothing() -> None:
    nan = float("nan")
    assert violations([nan, 0.94, nan], [nan, 110.0], NONE)[:2] == pytest.approx([0.01, 0.1])


def test_each_microgrid_answers_for_its_own_part_only() -> None:
    live = [True, True, True, False, True, True]
    limits = check([[0, 2], [], [1, 3]], [[1], [0], []], [[], [0], []], live)
    nan = np.nan
    vm_pu = np.array([[0.94, 1.07, 0.92, nan], [1.0, 0.9, 1.0, nan]])  # two copies of four buses
    loading, soc = np.array([[150.0, 20.0], [10.0, 120.0]]), np.array([[0.1], [0.5]])
    read = limits.read(np.concatenate((vm_pu, loading, soc), axis=1))
    lowest, highest, outside = (of_groups.reshape(2, 3, 3) for of_groups in read)
    assert outside == pytest.approx(
        np.array(
            [
                [[0.04, 0.0, 0.02], [0.0, 0.5, 0.0], [0.0, 0.1, 0.0]],
                [[0.0, 0.0, 0.05], [0.2, 0.0, 0.0], [0.0, 0.0, 0.0]],
            ]
        )
    )
    assert lowest[:, 0] == pytest.approx(np.array([[0.92, nan, 1.07], [1.0, nan, 0.9]]), nan_ok=True)
    assert highest[:, 0] == pytest.approx(np.array([[0.94, nan, 1.07], [1.0, nan, 0.9]]), nan_ok=True)
    assert highest[:, 1] == pytest.approx(np.array([[20.0, 150.0, 0.0], [120.0, 10.0, 0.0]]))


def test_limits_are_read_where_the_quantities_stand_in_a_longer_vector() -> None:
    quantities = np.array([7.0, 0.93, 3.0, 130.0, 0.1, 9.0])  # a voltage, a loading and a charge among others
    limits = LimitViolations(
        LIMITS,
        buses=[np.array([1])],  # of two, of which the first has no supply
        branches=[np.array([0])],
        batteries=[np.array([0])],
        live=np.array([False, True, True]),
        n_bus=2,
        places=np.array([-1, 1, 3, 4]),
    )
    lowest, highest, outside = limits.read(quantities)
    assert lowest.tolist() == highest.tolist() == [0.93, 130.0, 0.1]
    assert outside == pytest.approx(np.array([0.02, 0.3, 0.1]))


@given(
    st.lists(st.floats(0.0, 2.0), max_size=5),
    st.lists(st.floats(0.0, 500.0), max_size=5),
    st.lists(st.floats(0.0, 1.0), max_size=3),
)
def test_a_violation_is_never_negative_and_zero_inside_the_limits(
    vm_pu: list[float], loading: list[float], soc: list[float]
) -> None:
    found = violations(vm_pu, loading, soc)
    assert all(v >= 0.0 for v in found)
    assert (found[0] == 0.0) == all(0.95 <= v <= 1.05 for v in vm_pu)
    assert (found[1] == 0.0) == all(v <= 100.0 for v in loading)
    assert (found[2] == 0.0) == all(0.2 <= v <= 0.8 for v in soc)


# -- the sum -----------------------------------------------------------------------------------------


def test_the_terms_are_weighted_and_signed_and_their_sum_is_the_reward() -> None:
    scenario = load_scenario().scenario.model_copy(
        update={
            "market": MarketTable(import_adder_per_mwh=20.0),
            "reward": RewardTable(voltage_weight=100.0, loading_weight=2.0, soc_weight=3.0),
        }
    )
    step = StepAccount(
        cost=np.array([1.5, 0.0]),
        net_mwh=np.array([0.4, -0.4]),
        traded_mwh=np.array([0.3, -0.3]),
        traded_usd=np.array([16.0, -16.0]),
        price=np.array([50.0]),
        outside=np.array([[0.01, 0.0], [0.5, 0.0], [0.0, 0.1]]),
    )
    terms = Rewards(scenario).terms(step)
    assert TERMS == ("generation", "grid", "trades", "voltage", "loading", "soc")
    expected = [[-1.5, 0.0], [5.0, -7.0], [16.0, -16.0], [-1.0, 0.0], [-1.0, 0.0], [0.0, -0.3]]
    assert terms == pytest.approx(np.array(expected))
    assert terms.sum(axis=0) == pytest.approx([17.5, -23.3])


# -- all terms at once ---------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(), (3,)])
def test_terms_worked_out_together_are_those_of_each_term_alone(shape: tuple[int, ...]) -> None:
    scenario = load_scenario("three_microgrids").scenario
    rng, n = np.random.default_rng(0), len(scenario.microgrids)
    cost, net_mwh, traded_mwh, traded_usd = rng.normal(size=(4, *shape, n))
    price, outside = rng.uniform(10.0, 90.0, (*shape, 1)), rng.uniform(size=(*shape, 3, n))
    step = StepAccount(cost, net_mwh, traded_mwh, traded_usd, price, outside)
    together = Rewards(scenario).terms(step)
    for at, name in enumerate(TERMS):
        alone = REWARD_TERMS[name](scenario).earned(step)
        np.testing.assert_array_equal(together[..., at, :], alone, err_msg=name)


# -- the same in plain numbers -------------------------------------------------------------------------


amounts = st.floats(-1e3, 1e3)


@settings(max_examples=50)
@given(
    numbers=st.lists(st.tuples(*[amounts] * 7), min_size=1, max_size=4),
    price=amounts,
)
def test_plain_numbers_come_to_the_same_as_arrays_to_the_last_bit(
    numbers: list[tuple[float, ...]], price: float
) -> None:
    rewards = Rewards(load_scenario("three_microgrids").scenario)
    cost, net, sold, usd, *outside = np.array(numbers).T.copy()
    whole = StepAccount(cost, net, sold, usd, np.array([price]), np.array(outside))
    expected = rewards.terms(whole)
    accounts = [StepAccount(*of_one[:4], price, whole.outside) for of_one in numbers]
    found = rewards.terms_by_agent(accounts, whole.outside.tolist(), lambda: whole)
    assert np.array_equal(np.array(found).T, expected)
    assert [total(terms) for terms in found] == total(expected).tolist()


class _Column(RewardTerm):
    name = "column"

    def earned(self, step: StepAccount) -> Any:
        return np.atleast_2d(step.cost * 0.5)


class _Truth(RewardTerm):
    name = "truth"

    def earned(self, step: StepAccount) -> Any:
        return step.cost > 0.0


class _Flat(RewardTerm):
    name, is_shipped = "flat", True

    def earned(self, step: StepAccount) -> Any:
        return -0.01 * step.outside[..., 0, :] - 1.0


class _MyGrid(Grid):
    """Takes what the shipped one is, and looks at devices."""

    name = "my_grid"

    def earned(self, step: StepAccount) -> Any:
        assert step.p_mw is not None, "all agents are asked at once"
        return -step.p_mw


@pytest.mark.parametrize("n_agents", [1, 2, 3])
def test_terms_of_ones_own_come_to_the_same_as_in_arrays(n_agents: int) -> None:
    rng = np.random.default_rng(n_agents)
    outside, price = rng.uniform(size=(3, n_agents)), np.array([31.7])
    with contextlib.ExitStack() as added:
        for term in (_Column, _Truth, _Flat, _MyGrid):
            added.enter_context(REWARD_TERMS.added(term))
        scenario = load_scenario("three_microgrids").scenario
        table = scenario.reward.model_copy(update={"terms": {"column": 0.3, "truth": 0.7}})
        rewards = Rewards(scenario.model_copy(update={"reward": table}))
        for _ in range(200):
            cost, net, sold, usd, p_mw = rng.normal(size=(5, n_agents))
            whole = StepAccount(cost, net, sold, usd, price, outside, p_mw=p_mw)
            accounts = [
                StepAccount(*numbers, price.item(), outside)
                for numbers in np.array([cost, net, sold, usd]).T.tolist()
            ]
            found = rewards.terms_by_agent(accounts, outside.tolist(), lambda whole=whole: whole)
            expected = rewards.terms(whole)
            assert found == expected.T.tolist()
            assert {type(number) for terms in found for number in terms} == {float}
            assert [total(terms) for terms in found] == total(expected).tolist()
    assert rewards.names == (*TERMS, "column", "truth", "flat", "my_grid")


def test_groups_that_follow_one_another_are_summed_as_scattered_ones() -> None:
    values = np.arange(12.0).reshape(2, 6) ** 2
    in_order = GroupedReducer([[1, 2], [], [3, 4, 5]])
    scattered = GroupedReducer([[2, 1], [], [5, 3, 4]])
    expected = [[1.0 + 4.0, 0.0, 9.0 + 16.0 + 25.0], [49.0 + 64.0, 0.0, 81.0 + 100.0 + 121.0]]
    assert in_order.sums(values).tolist() == scattered.sums(values).tolist() == expected

"""The reward, term by term, against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heron_mqtt.protocols.p2p import SettledTrade, Trade, settle
from powergrid.groups import Groups
from powergrid.rewards import TERMS, RewardTerms, Violations, grid_bill, traded
from powergrid.scenario import RewardTable

LIMITS = RewardTable(vm_min_pu=0.95, vm_max_pu=1.05, loading_max_percent=100.0, soc_min=0.2, soc_max=0.8)
AGENTS = ("MG1", "MG2", "MG3", "MG4")
NONE: list[float] = []


def violations(
    vm_pu: list[float], loading: list[float], soc: list[float], limits: RewardTable = LIMITS
) -> list[float]:
    """Return voltage, loading and state of charge violation of one microgrid."""
    buses, branches, batteries = (Groups([range(len(values))]) for values in (vm_pu, loading, soc))
    found = Violations(limits, buses=buses, branches=branches, batteries=batteries).sizes(
        np.array(vm_pu, dtype=float), np.array(loading, dtype=float), np.array(soc, dtype=float)
    )
    return [float(size[0]) for size in found]


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


def test_each_microgrid_answers_for_its_own_buses_only() -> None:
    buses, nothing = Groups([[0, 2], [], [1]]), Groups([[], [], []])
    sizes = Violations(LIMITS, buses=buses, branches=nothing, batteries=nothing)
    vm_pu = np.array([[0.94, 1.07, 0.92], [1.0, 0.9, 1.0]])  # two copies of three buses
    voltage, loading, soc = sizes.sizes(buses.take(vm_pu), np.zeros((2, 0)), np.zeros((2, 0)))
    assert voltage == pytest.approx(np.array([[0.04, 0.0, 0.02], [0.0, 0.0, 0.05]]))
    assert loading.tolist() == soc.tolist() == [[0.0] * 3] * 2


@settings(deadline=None)
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


def _terms() -> RewardTerms:
    values = [[-1.0, 0.0], [2.0, 0.0], [4.0, 0.0], [-8.0, 0.0], [-16.0, 0.0], [-32.0, 7.0]]
    return RewardTerms(*(np.array(value) for value in values))


def test_the_reward_is_the_sum_of_its_terms() -> None:
    assert _terms().total.tolist() == [-51.0, 7.0]
    assert TERMS == ("generation", "grid", "trades", "voltage", "loading", "soc")


def test_without_a_power_flow_solution_nothing_is_known() -> None:
    terms = _terms()
    terms.forget()
    assert np.isnan(terms.total).all()
    assert all(np.isnan(getattr(terms, name)).all() for name in TERMS)


def test_what_one_copy_forgets_the_others_still_know() -> None:
    terms = RewardTerms(*(np.ones((3, 2)) for _ in TERMS))
    terms.forget(np.array([False, True, False]))
    assert terms.total.tolist()[::2] == [[6.0, 6.0], [6.0, 6.0]]
    assert np.isnan(terms.total[1]).all()

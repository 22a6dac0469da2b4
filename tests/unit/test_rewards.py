"""The reward, term by term, against numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heron_mqtt.protocols.p2p import SettledTrade, Trade, settle
from powergrid.rewards import RewardTerms, grid_bill, trade_sums, violations
from powergrid.scenario import RewardTable

LIMITS = RewardTable(vm_min_pu=0.95, vm_max_pu=1.05, loading_max_percent=100.0, soc_min=0.2, soc_max=0.8)
NONE = np.array([], dtype=float)


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
    assert trade_sums("MG1", trades) == pytest.approx((0.3, 16.4))
    assert trade_sums("MG2", trades) == pytest.approx((-0.6, -30.8))
    assert trade_sums("MG3", trades) == pytest.approx((0.3, 14.4))
    assert trade_sums("MG4", trades) == (0.0, 0.0)


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
    trades = settle(reported).trades
    sums = [trade_sums(agent, trades) for agent in "ABCD"]
    assert math.fsum(mwh for mwh, _ in sums) == pytest.approx(0.0, abs=1e-9)
    assert math.fsum(usd for _, usd in sums) == pytest.approx(0.0, abs=1e-9)


# -- violations --------------------------------------------------------------------------------------


def test_voltage_violation_is_the_sum_over_buses_of_what_lies_outside_the_band() -> None:
    vm_pu = np.array([0.93, 0.95, 1.0, 1.05, 1.08])
    voltage, loading, soc = violations(vm_pu, NONE, {}, LIMITS)
    assert voltage == pytest.approx(0.02 + 0.03)
    assert (loading, soc) == (0.0, 0.0)


def test_overload_is_counted_in_units_of_a_hundred_percent() -> None:
    _, loading, _ = violations(NONE, np.array([50.0, 100.0, 130.0, 250.0]), {}, LIMITS)
    assert loading == pytest.approx(0.3 + 1.5)


def test_the_limit_of_loading_is_the_scenarios() -> None:
    limits = RewardTable(loading_max_percent=80.0)
    assert violations(NONE, np.array([100.0]), {}, limits)[1] == pytest.approx(0.2)


def test_state_of_charge_is_counted_outside_its_preferred_band() -> None:
    charge = {"low": 0.15, "edge": 0.2, "middle": 0.5, "high": 0.95}
    assert violations(NONE, NONE, charge, LIMITS)[2] == pytest.approx(0.05 + 0.15)


def test_what_is_out_of_service_violates_nothing() -> None:
    nan = float("nan")
    vm_pu, loading = np.array([nan, 0.94, nan]), np.array([nan, 110.0])
    assert violations(vm_pu, loading, {}, LIMITS)[:2] == pytest.approx((0.01, 0.1))


@given(
    st.lists(st.floats(0.0, 2.0), max_size=5),
    st.lists(st.floats(0.0, 500.0), max_size=5),
    st.dictionaries(st.sampled_from("ab"), st.floats(0.0, 1.0)),
)
def test_a_violation_is_never_negative_and_zero_inside_the_limits(
    vm_pu: list[float], loading: list[float], soc: dict[str, float]
) -> None:
    found = violations(np.array(vm_pu), np.array(loading), soc, LIMITS)
    assert all(v >= 0.0 for v in found)
    assert (found[0] == 0.0) == all(0.95 <= v <= 1.05 for v in vm_pu)
    assert (found[1] == 0.0) == all(v <= 100.0 for v in loading)
    assert (found[2] == 0.0) == all(0.2 <= v <= 0.8 for v in soc.values())


# -- the sum -----------------------------------------------------------------------------------------


def test_the_reward_is_the_sum_of_its_terms() -> None:
    terms = RewardTerms(generation=-1.0, grid=2.0, trades=4.0, voltage=-8.0, loading=-16.0, soc=-32.0)
    assert terms.total == -51.0
    assert sum(terms.as_dict().values()) == terms.total
    assert list(terms.as_dict()) == ["generation", "grid", "trades", "voltage", "loading", "soc"]


def test_without_a_power_flow_solution_nothing_is_known() -> None:
    terms = RewardTerms.unknown()
    assert all(math.isnan(v) for v in terms.as_dict().values())
    assert math.isnan(terms.total)

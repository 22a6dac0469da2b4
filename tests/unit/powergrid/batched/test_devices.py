"""Vectorised device models, dispatch and protocols give what the scalar ones give, to the last bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heron_mqtt.protocols.base import LEAST_TRADE_MWH, neighbours
from heron_mqtt.protocols.consensus import ConsensusSession
from heron_mqtt.protocols.order_book import OrderBookSession
from heron_mqtt.protocols.p2p import Bid, P2PSession, settle
from powergrid.agents.economic_dispatch import economic_setpoint
from powergrid.batched.agents import economic_setpoints
from powergrid.batched.devices import (
    BatteryArray,
    CopiesArray,
    FormulaArray,
    GeneratorArray,
    make_device_array,
)
from powergrid.batched.trading import OrderBook, Trading, run_consensus
from powergrid.devices import DEVICES, Battery, BatterySpec, Generator, make_device
from powergrid.rewards import traded
from powergrid.scenario import PolicyTable, ProtocolTable
from support.device_strategies import battery_specs, formula_specs, generator_specs, load_specs, pv_specs

COPIES = 4
ordinary = st.one_of(st.just(0.0), st.floats(-12.0, 12.0))
durations_s = st.sampled_from([1.0, 60.0, 900.0, 3600.0])


@st.composite
def days(draw: st.DrawFn) -> tuple[Any, list[tuple[list[float], list[float], float, list[float] | None]]]:
    """Draw a spec, and for each step setpoints P and Q of every copy, its length and what the sun offers."""
    spec = draw(st.one_of(battery_specs(), generator_specs(), pv_specs, load_specs, formula_specs))
    copies = st.lists(ordinary, min_size=COPIES, max_size=COPIES)
    sun = st.lists(st.floats(0.0, 12.0), min_size=COPIES, max_size=COPIES)
    if spec.profile_says is None:
        available: st.SearchStrategy[Any] = st.none()
    else:
        sign = 1.0 if spec.profile_mw > 0.0 else -1.0
        there = sun.map(lambda values: [sign * value for value in values])
        available = st.one_of(st.none(), st.just([0.0] * COPIES), there)
    return spec, draw(st.lists(st.tuples(copies, copies, durations_s, available), min_size=1, max_size=12))


@given(days())
def test_copies_of_a_device_do_to_the_last_bit_what_single_devices_do(day: Any) -> None:
    spec, steps = day
    singles, copies = [make_device(spec) for _ in range(COPIES)], make_device_array(spec, COPIES)
    for p_mw, q_mvar, dt_s, available in steps:
        sun = [None] * COPIES if available is None else available
        p, q = np.array(p_mw), np.array(q_mvar)
        array = None if available is None else np.array(available)
        projected = copies.project(p, dt_s, array)
        done = copies.step(p, q, dt_s, array)
        for i, single in enumerate(singles):
            assert projected[i] == single.project(p_mw[i], dt_s, sun[i])
            expected = single.step(p_mw[i], q_mvar[i], dt_s, sun[i])
            assert (done.p_mw[i], done.q_mvar[i], done.cost[i]) == (*expected[:2], expected.cost)
            assert (None if done.soc is None else done.soc[i]) == expected.soc
            if isinstance(single, Generator) and isinstance(copies, GeneratorArray):
                assert copies.running[i] == single.state.running
                assert copies.time_in_state_s[i] == single.state.time_in_state_s


@given(days(), st.lists(st.booleans(), min_size=COPIES, max_size=COPIES))
def test_copies_that_are_reset_begin_anew_and_the_others_go_on(day: Any, which: list[bool]) -> None:
    spec, steps = day
    copies, begun = make_device_array(spec, COPIES), make_device_array(spec, COPIES)
    for p_mw, q_mvar, dt_s, available in steps:
        array = None if available is None else np.array(available)
        copies.step(np.array(p_mw), np.array(q_mvar), dt_s, array)
    before = {name: value.copy() for name, value in arrays(copies).items()}
    copies.reset(np.array(which))
    for name, value in arrays(copies).items():
        assert value.tolist() == np.where(which, arrays(begun)[name], before[name]).tolist()


def arrays(copies: Any) -> dict[str, Any]:
    """Return all that the copies hold, by name."""
    state = copies.state._asdict() if isinstance(copies, FormulaArray) else {}
    return {name: value for name, value in (vars(copies) | state).items() if isinstance(value, np.ndarray)}


@given(formula_specs, st.lists(st.tuples(ordinary, st.floats(0.0, 12.0)), min_size=1, max_size=8))
def test_the_policy_of_a_kind_is_the_same_for_one_device_and_for_copies(spec: Any, steps: Any) -> None:
    policy = PolicyTable(charge_below=-3.0, discharge_above=3.0)
    single, copies = make_device(spec), make_device_array(spec, 2)
    for price, size in steps:
        available = size if spec.profile_mw > 0.0 else -size
        both = np.array([available, available])
        usual = single.usual_p_mw(price, policy, 900.0, available)
        assert copies.usual_p_mw(np.array([price, price]), policy, 900.0, both).tolist() == [usual, usual]
        single.step(usual, 0.0, 900.0, available)
        copies.step(np.array([usual, usual]), np.zeros(2), 900.0, both)


@given(days())
def test_a_kind_without_formulas_is_run_copy_by_copy(day: Any) -> None:
    spec, steps = day
    written, looped = make_device_array(spec, COPIES), CopiesArray(DEVICES[spec.kind], spec, COPIES)
    for p_mw, q_mvar, dt_s, available in steps:
        p, q = np.array(p_mw), np.array(q_mvar)
        array = None if available is None else np.array(available)
        assert looped.project(p, dt_s, array).tolist() == written.project(p, dt_s, array).tolist()
        mine, theirs = looped.step(p, q, dt_s, array), written.step(p, q, dt_s, array)
        for one, other in zip(mine, theirs, strict=True):
            assert (None if one is None else one.tolist()) == (None if other is None else other.tolist())


# -- dispatch --------------------------------------------------------------------------------------------


@given(
    generator_specs(),
    st.lists(st.floats(-5.0, 15.0), min_size=COPIES, max_size=COPIES),
    st.lists(st.floats(-50.0, 300.0), min_size=COPIES, max_size=COPIES),
    st.sampled_from([0.0, 20.0]),
    st.lists(ordinary, min_size=COPIES, max_size=COPIES),
)
def test_generators_are_dispatched_as_single_ones(
    spec: Any, need_mw: list[float], price: list[float], adder: float, before_mw: list[float]
) -> None:
    singles, copies = [Generator(spec) for _ in range(COPIES)], GeneratorArray(spec, COPIES)
    copies.step(np.array(before_mw), np.zeros(COPIES), 900.0)
    export_value = np.array(price)
    found = economic_setpoints(copies, np.array(need_mw), export_value, export_value + adder, 900.0)
    for i, single in enumerate(singles):
        single.step(before_mw[i], 0.0, 900.0)
        setpoint, planned_mw = economic_setpoint(single, need_mw[i], price[i], price[i] + adder, 900.0)
        assert found[i] == setpoint
        assert planned_mw == single.project(setpoint, 900.0)


# -- trading ---------------------------------------------------------------------------------------------


def _converse(sessions: dict[str, Any], spoken: Any = None) -> None:
    """Let them speak; count in ``spoken``, (sender, receiver), how often."""
    going, number = True, {name: i for i, name in enumerate(sessions)}
    while going:
        for name, session in sessions.items():
            for peer, message in session.outgoing().items():
                sessions[peer].receive(name, message)
                if spoken is not None:
                    spoken[number[name], number[peer]] += 1
        still = [session.advance() for session in sessions.values()]  # every one, not just the first
        going = any(still)


rounding = [sign * size for sign in (1.0, -1.0) for size in (LEAST_TRADE_MWH, 0.1 + 0.5 * LEAST_TRADE_MWH)]
quantities = st.one_of(
    st.just(0.0), st.sampled_from([0.1, -0.1, 0.25, -0.5, *rounding]), st.floats(-1.0, 1.0)
)
prices = st.one_of(st.sampled_from([50.0, 55.0, 60.0]), st.floats(-20.0, 120.0))  # ties are what is hard


@st.composite
def markets(draw: st.DrawFn) -> tuple[list[str], list[list[tuple[float, float]]]]:
    """Draw names in any order, and for each of some copies everyone's quantity and price."""
    names = draw(st.permutations(["MG1", "MG2", "MG10", "a", "B"]))[: draw(st.integers(2, 5))]
    bids = st.lists(st.tuples(quantities, prices), min_size=len(names), max_size=len(names))
    return names, draw(st.lists(bids, min_size=1, max_size=4))


@given(markets(), st.sampled_from(["all", "ring"]))
def test_all_agents_trade_what_their_sessions_trade(market: Any, kind: Any) -> None:
    names, copies = market
    bids, protocol = np.array(copies), ProtocolTable(neighbours=kind)
    trading = Trading(names, protocol)
    mwh, usd = trading.settle(bids[:, :, 0], bids[:, :, 1])
    counts = trading.message_counts(bids[:, :, 0], bids[:, :, 1])
    for i, bids_of_copy in enumerate(copies):
        sessions = {
            name: P2PSession(name, tuple(neighbours(name, sorted(set(names) - {name}), protocol)), Bid(*bid))
            for name, bid in zip(names, bids_of_copy, strict=True)
        }
        spoken = np.zeros_like(counts[i])
        _converse(sessions, spoken)
        assert (counts[i] == spoken).all()
        assert set(zip(*np.nonzero(spoken), strict=True)) <= set(trading.pairs)
        settlement = settle({name: session.trades for name, session in sessions.items()})
        assert not settlement.void
        expected_mwh, expected_usd = traded(names, settlement.trades)
        assert mwh[i] == pytest.approx(expected_mwh, rel=1e-12, abs=1e-15)
        assert usd[i] == pytest.approx(expected_usd, rel=1e-12, abs=1e-12)


@given(markets())
def test_an_order_book_over_arrays_trades_what_its_sessions_trade(market: Any) -> None:
    names, copies = market
    bids = np.array(copies)
    book = OrderBook(names)
    mwh, usd = book.settle(bids[:, :, 0], bids[:, :, 1])
    counts = book.message_counts(bids[:, :, 0], bids[:, :, 1])
    for i, bids_of_copy in enumerate(copies):
        sessions = {
            name: OrderBookSession(name, tuple(set(names) - {name}), Bid(*bid))
            for name, bid in zip(names, bids_of_copy, strict=True)
        }
        spoken = np.zeros_like(counts[i])
        _converse(sessions, spoken)
        assert (counts[i] == spoken).all()
        assert set(zip(*np.nonzero(spoken), strict=True)) == set(book.pairs)
        settlement = settle({name: session.trades for name, session in sessions.items()})
        assert not settlement.void
        expected_mwh, expected_usd = traded(names, settlement.trades)
        assert (mwh[i] == expected_mwh).all()
        assert usd[i] == pytest.approx(expected_usd, rel=1e-12, abs=1e-12)


def test_an_order_book_over_arrays_takes_the_same_for_rounding() -> None:
    least, names = LEAST_TRADE_MWH, ["A", "B", "C"]
    copies = [
        [(least, 50.0), (-least, 60.0), (0.0, 0.0)],
        [(1.0 + 0.5 * least, 50.0), (-1.0, 60.0), (-1.0, 60.0)],
        [(-1.0 - 0.5 * least, 60.0), (1.0, 50.0), (1.0, 50.0)],
    ]
    bids = np.array(copies)
    mwh, _ = OrderBook(names).settle(bids[:, :, 0], bids[:, :, 1])
    assert mwh[:, 0, 1].tolist() == [least, 1.0, -1.0]
    assert not mwh[:, :, 2].any()


def test_an_order_book_over_arrays_matches_until_all_orders_are_used_up() -> None:
    bids = np.array([[(1.0, 50.0), (-0.5, 60.0), (-0.25, 58.0), (-0.25, 56.0)]])
    mwh, usd = OrderBook(["A", "B", "C", "D"]).settle(bids[:, :, 0], bids[:, :, 1])
    assert mwh[0, 0].tolist() == [0.0, 0.5, 0.25, 0.25]
    assert usd[0].tolist() == [53.0, -26.5, -13.25, -13.25]


@given(markets(), st.sampled_from(["p2p", "order_book"]), st.data())
def test_trades_of_agents_that_are_not_heard_are_void(market: Any, kind: str, data: st.DataObject) -> None:
    names, copies = market
    bids = np.array(copies)
    trading = OrderBook(names) if kind == "order_book" else Trading(names, ProtocolTable())
    heard = np.array(
        data.draw(st.lists(st.booleans(), min_size=len(names), max_size=len(names))), dtype=bool
    )[np.newaxis]
    every, _ = trading.settle(bids[:, :, 0], bids[:, :, 1])
    mwh, _ = trading.settle(bids[:, :, 0], bids[:, :, 1], np.repeat(heard, len(bids), axis=0))
    assert (mwh == every * (heard[:, :, np.newaxis] & heard[:, np.newaxis, :])).all()


@given(
    st.permutations(["MG1", "MG2", "MG10", "a", "B"]),
    st.integers(2, 5),
    st.sampled_from(["all", "ring"]),
    st.integers(1, 5),
    st.lists(st.lists(prices, min_size=5, max_size=5), min_size=1, max_size=3),
)
def test_all_agents_agree_on_what_their_sessions_agree_on(
    names: list[str], n_agents: int, kind: Any, rounds: int, copies: list[list[float]]
) -> None:
    names = names[:n_agents]
    protocol = ProtocolTable(horizontal="consensus", consensus_rounds=rounds, neighbours=kind)
    found = run_consensus(names, protocol, np.array(copies)[:, :n_agents])
    for i, values in enumerate(copies):
        sessions = {
            name: ConsensusSession(
                name, neighbours(name, sorted(set(names) - {name}), protocol), value, rounds
            )
            for name, value in zip(names, values[:n_agents], strict=True)
        }
        _converse(sessions)
        assert found[i].tolist() == [session.value for session in sessions.values()]


def test_a_battery_that_starts_outside_its_band_is_treated_alike() -> None:
    spec = BatterySpec(
        max_e_mwh=1.0,
        max_p_charge_mw=0.5,
        max_p_discharge_mw=0.5,
        min_soc=0.2,
        max_soc=0.8,
        standby_loss_mw=0.01,
    )
    single, copies = Battery(spec), BatteryArray(spec, 2)
    for soc in (0.05, 0.95):
        single.restore(0.0, soc)
        copies.p_mw, copies.soc = np.zeros(2), np.full(2, soc)
        for p_mw in (1.0, -1.0, 0.0):
            done = copies.step(np.full(2, p_mw), np.zeros(2), 900.0)
            expected = single.step(p_mw, 0.0, 900.0)
            assert done.p_mw.tolist() == [expected.p_mw] * 2
            assert done.soc is not None
            assert done.soc.tolist() == [expected.soc] * 2

"""EV charger, heat pump and flexible load: energy is conserved, and each does what it is there for."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from powergrid.devices import (
    EvCharger,
    EvChargerSpec,
    FlexibleLoad,
    FlexibleLoadSpec,
    HeatPump,
    HeatPumpSpec,
)
from powergrid.scenario import PolicyTable
from support.device_strategies import ev_charger_specs, flexible_load_specs, heat_pump_specs
from support.rows import each_row

STEP_S, STEP_H = 900.0, 0.25
setpoints = st.floats(-12.0, 12.0)
demands = st.floats(-12.0, 0.0)
days = st.lists(st.tuples(setpoints, demands), min_size=1, max_size=12)

# -- EV charger --------------------------------------------------------------------------------------------

CAR: dict[str, Any] = {
    "max_p_mw": 0.011,
    "min_p_mw": 0.004,
    "max_e_mwh": 0.05,
    "efficiency_charge": 0.9,
    "arrival_soc": 0.3,
    "target_soc": 0.8,
    "stay_s": 4 * 3600.0,
    "unserved_usd_per_mwh": 100.0,
}


def charger(**changes: Any) -> EvCharger:
    return EvCharger(EvChargerSpec(**{**CAR, **changes}))


@given(ev_charger_specs(), days)
def test_what_a_car_takes_is_in_its_battery_or_lost(spec: EvChargerSpec, day: Any) -> None:
    device = EvCharger(spec)
    for setpoint, cable in day:
        before = device.state
        done = device.step(setpoint, 0.0, STEP_S, cable)
        if cable < 0.0:
            stored = (device.state.soc - before.soc) * spec.max_e_mwh
            assert stored + done.p_mw * STEP_H + done.loss_mwh == pytest.approx(0.0, abs=1e-9)
            assert device.state.soc <= max(spec.target_soc, before.soc)
        else:
            assert done.p_mw == 0.0
            assert device.state.soc == spec.arrival_soc


@pytest.mark.parametrize(
    ("setpoint", "expected"),
    [
        (-0.02, -0.011),
        (-0.006, -0.006),
        (-0.003, -0.004),
        (-0.002, 0.0),
        (-0.001, 0.0),
        (0.0, 0.0),
        (1.0, 0.0),
    ],
)
def test_a_charger_gives_its_minimum_current_or_nothing(setpoint: float, expected: float) -> None:
    assert charger().step(setpoint, 0.0, STEP_S, -0.011).p_mw == expected


def test_a_cable_that_allows_less_than_the_minimum_allows_nothing() -> None:
    assert charger().step(-0.011, 0.0, STEP_S, -0.0039).p_mw == 0.0


def test_charging_ends_at_the_target_within_a_step() -> None:
    device = charger(arrival_soc=0.79)
    done = device.step(-0.011, 0.0, STEP_S, -0.011)
    assert device.state.soc == pytest.approx(0.8, abs=1e-15)
    assert done.p_mw == pytest.approx(-0.01 * 0.05 / 0.9 / STEP_H)
    assert device.feasible(STEP_S, -0.011)[0] == pytest.approx(0.0, abs=1e-15)


def test_what_is_missing_at_the_deadline_is_paid_once() -> None:
    device = charger(stay_s=1800.0)
    costs = [device.step(0.0, 0.0, STEP_S, cable).cost for cable in (-0.011, -0.011, -0.011, 0.0, 0.0)]
    assert costs == pytest.approx([0.0, 0.5 * 0.05 * 100.0, 0.0, 0.0, 0.0])


def test_a_car_that_leaves_early_is_paid_for_when_it_leaves() -> None:
    device = charger()
    costs = [device.step(0.0, 0.0, STEP_S, cable).cost for cable in (-0.011, 0.0, 0.0)]
    assert costs == pytest.approx([0.0, 0.5 * 0.05 * 100.0, 0.0])


@pytest.mark.parametrize("price", [0.0, 50.0, 100.0])
def test_its_own_policy_is_in_time_whatever_the_price(price: float) -> None:
    policy, device = PolicyTable(charge_below=30.0, discharge_above=70.0), charger()
    begun = None
    for step in range(16):
        wanted = device.usual_p_mw(price, policy, STEP_S, -0.011)
        done = device.step(wanted, 0.0, STEP_S, -0.011)
        begun = step if begun is None and done.p_mw < 0.0 else begun
        assert done.cost == 0.0
    assert device.state.soc == pytest.approx(0.8)
    assert (begun == 0) == (price < 70.0), "where energy is dear it waits"


@pytest.mark.parametrize(
    ("wrong", "where"),
    [({"min_p_mw": 0.02}, "min_p_mw must not exceed"), ({"arrival_soc": 0.9}, "arrival_soc must not exceed")],
)
def test_a_nameplate_that_contradicts_itself_is_refused(wrong: dict[str, Any], where: str) -> None:
    with pytest.raises(ValidationError, match=where):
        charger(**wrong)


def test_a_profile_of_the_wrong_sign_is_refused() -> None:
    with pytest.raises(ValueError, match=r"must be <= 0, got 0\.5"):
        charger().step(0.0, 0.0, STEP_S, 0.5)


@pytest.mark.parametrize(("factor", "left"), [(1.0, -0.008), (0.6, -0.0048), (0.3, -0.004), (0.2, 0.0)])
def test_a_part_of_a_plan_is_what_the_charger_would_do(factor: float, left: float) -> None:
    spec = EvChargerSpec(**CAR)
    assert spec.part_mw(-0.008, factor) == pytest.approx(left)


# -- heat pump ---------------------------------------------------------------------------------------------

PUMP: dict[str, Any] = {"max_p_mw": 0.01, "cop": 3.0, "max_heat_mw": 0.03, "max_e_mwh": 0.06}


@given(heat_pump_specs, days)
def test_heat_is_in_the_store_served_or_lost(spec: HeatPumpSpec, day: Any) -> None:
    device = HeatPump(spec)
    for setpoint, demand in day:
        before = device.state
        done = device.step(setpoint, 0.0, STEP_S, demand)
        unmet = done.cost / spec.unserved_usd_per_mwh if spec.unserved_usd_per_mwh else None
        stored = (device.state.soc - before.soc) * spec.max_e_mwh
        heat, served = -done.p_mw * spec.cop * STEP_H, -demand * spec.cop * STEP_H
        if unmet is not None:
            scale = 1.0 + heat + served + spec.max_e_mwh
            assert stored + served - unmet + done.loss_mwh == pytest.approx(heat, abs=1e-12 * scale + 1e-11)
        assert 0.0 <= device.state.soc <= 1.0


def test_it_heats_what_the_demand_needs_whatever_it_is_told() -> None:
    device = HeatPump(HeatPumpSpec(**PUMP, initial_soc=0.0))
    done = device.step(0.0, 0.0, STEP_S, -0.006)
    assert done.p_mw == pytest.approx(-0.006)
    assert done.clipped
    assert device.state.soc == pytest.approx(0.0, abs=1e-15)


def test_it_lives_on_its_store_and_fills_it_and_no_more() -> None:
    device = HeatPump(HeatPumpSpec(**PUMP, initial_soc=1.0))
    assert device.feasible(STEP_S, 0.0) == (0.0, 0.0)
    assert device.step(0.0, 0.0, STEP_S, -0.006).p_mw == 0.0
    assert device.state.soc == pytest.approx(1.0 - 0.006 * 3.0 * STEP_H / 0.06)
    assert device.step(-1.0, 0.0, STEP_S, 0.0).p_mw == pytest.approx(-0.006)
    assert device.state.soc == pytest.approx(1.0)


def test_heat_that_is_not_served_costs() -> None:
    device = HeatPump(HeatPumpSpec(**PUMP, initial_soc=0.0, unserved_usd_per_mwh=200.0))
    done = device.step(0.0, 0.0, STEP_S, -0.012)
    assert done.p_mw == -0.01
    assert done.cost == pytest.approx(0.002 * 3.0 * STEP_H * 200.0)


@pytest.mark.parametrize(("price", "expected"), [(20.0, -0.01), (50.0, -0.002), (80.0, 0.0)])
def test_its_own_policy_fills_the_store_when_energy_is_cheap(price: float, expected: float) -> None:
    policy = PolicyTable(charge_below=30.0, discharge_above=70.0)
    assert HeatPump(HeatPumpSpec(**PUMP)).usual_p_mw(price, policy, STEP_S, -0.002) == expected


# -- flexible load -----------------------------------------------------------------------------------------

LAUNDRY: dict[str, Any] = {
    "max_p_mw": 0.02,
    "max_shed_fraction": 0.5,
    "max_backlog_mwh": 0.01,
    "max_rebound_mw": 0.004,
}


@given(flexible_load_specs, days)
def test_what_is_shed_is_owed_and_what_is_owed_is_drawn(spec: FlexibleLoadSpec, day: Any) -> None:
    device = FlexibleLoad(spec)
    for setpoint, demand in day:
        before = device.state
        done = device.step(setpoint, 0.0, STEP_S, demand)
        wanted = min(-demand, spec.max_p_mw)
        shed, extra = max(wanted + done.p_mw, 0.0), max(-done.p_mw - wanted, 0.0)
        owed = (before.soc - device.state.soc) * spec.max_backlog_mwh
        assert owed == pytest.approx((shed * spec.rebound_factor - extra) * STEP_H, abs=1e-9)
        assert shed <= spec.max_shed_fraction * wanted + 1e-12
        assert extra <= spec.max_rebound_mw + 1e-12


def test_a_load_that_was_shed_catches_up_as_fast_as_it_may() -> None:
    device = FlexibleLoad(FlexibleLoadSpec(**LAUNDRY))
    drawn = [device.step(p, 0.0, STEP_S, -0.01).p_mw for p in (0.0, 0.0, -1.0, -1.0, -1.0, -1.0)]
    assert drawn == pytest.approx([-0.005, -0.005, -0.014, -0.014, -0.012, -0.01])
    assert device.state.soc == pytest.approx(1.0)


def test_nothing_more_is_shed_once_too_much_is_owed() -> None:
    device = FlexibleLoad(FlexibleLoadSpec(**{**LAUNDRY, "max_backlog_mwh": 0.002}))
    drawn = [device.step(0.0, 0.0, STEP_S, -0.01).p_mw for _ in range(3)]
    assert drawn == pytest.approx([-0.005, -0.007, -0.01])


@pytest.mark.parametrize(("price", "expected"), [(50.0, -0.02), (80.0, 0.0)])
def test_its_own_policy_sheds_when_energy_is_dear(price: float, expected: float) -> None:
    policy = PolicyTable(charge_below=30.0, discharge_above=70.0)
    assert FlexibleLoad(FlexibleLoadSpec(**LAUNDRY)).usual_p_mw(price, policy, STEP_S, -0.01) == expected


def test_an_episode_of_a_charger_begins_with_the_car_that_arrives() -> None:
    spec = EvChargerSpec(max_p_mw=0.011, max_e_mwh=0.05, arrival_soc=0.4)
    assert spec.soc_at_reset == 0.4


# -- to the number -----------------------------------------------------------------------------------------

POLICY = PolicyTable(charge_below=30.0, discharge_above=70.0)


def test_a_charging_point_knows_its_car_and_since_when_and_the_next_one_when_it_leaves() -> None:
    device = charger(arrival_soc=0.5)
    assert device.state == (0.0, 0.5, 0.0, 0.0)
    device.step(-0.008, 0.0, 1800.0, -0.011)
    assert device.state == (-0.008, pytest.approx(0.5 + 0.008 * 0.9 * 0.5 / 0.05), 1.0, 1800.0)
    device.step(0.0, 0.0, STEP_S, -0.001)
    assert device.state[2:] == (1.0, 2700.0)
    device.step(-0.008, 0.0, STEP_S, 0.0)
    assert device.state == (0.0, 0.5, 0.0, 0.0)
    alone = charger(arrival_soc=0.5)
    done = alone.step(-0.02, 0.0, STEP_S)
    assert (done.p_mw, done.loss_mwh) == (-0.011, pytest.approx(0.011 * 0.1 * STEP_H))
    assert alone.state[2:] == (1.0, STEP_S), "without a profile a car is there"
    assert alone.feasible(STEP_S) == (-0.011, 0.0)


@pytest.mark.parametrize(
    ("cables", "costs"),
    [
        ((-1, -1, -1), (0.0, 1.0, 0.0)),  # the deadline falls into the second step
        ((-1, 0, 0), (1.0 * 0, 1.0, 0.0)),  # it leaves before
        ((0, 0, -1), (0.0, 0.0, 0.0)),
        ((-1, -1, 0), (0.0, 1.0, 0.0)),
        ((-1, 0, -1), (0.0, 1.0, 0.0)),
    ],
)
def test_what_a_car_lacks_is_paid_at_its_deadline_or_when_it_leaves_before(
    cables: tuple[int, ...], costs: tuple[float, ...]
) -> None:
    device = charger(stay_s=1800.0)
    got = [device.step(0.0, 0.0, STEP_S, 0.011 * cable).cost for cable in cables]
    assert got == pytest.approx([2.5 * cost for cost in costs])


def test_a_car_that_has_what_it_wants_costs_nothing_and_one_with_more_takes_nothing() -> None:
    device = charger(stay_s=STEP_S, arrival_soc=0.8)
    assert device.step(0.0, 0.0, STEP_S, -0.011).cost == 0.0
    device.restore(0.0, soc=0.9)
    assert device.feasible(STEP_S, -0.011) == (0.0, 0.0)
    done = device.step(-0.011, 0.0, STEP_S, -0.011)
    assert (done.p_mw, done.cost, device.state.soc) == (0.0, 0.0, 0.9)


@pytest.mark.parametrize(
    ("setpoint", "cable", "p_mw"),
    [
        (-0.011, -0.004, -0.004),  # just the minimum
        (-0.011, -0.00399, 0.0),
        (-0.011, -0.02, -0.011),
        (-0.00201, -0.011, -0.004),
        (-0.002, -0.011, 0.0),
    ],
)
def test_a_charger_begins_at_its_minimum(setpoint: float, cable: float, p_mw: float) -> None:
    assert charger().step(setpoint, 0.0, STEP_S, cable).p_mw == p_mw


@each_row(
    ("price", "soc", "connected_s", "p_mw"),
    [
        (29.0, 0.3, 0.0, -0.011),
        (30.0, 0.3, 0.0, -0.011),
        (30.1, 0.3, 0.0, -0.5 * 0.05 / 0.9 / 4.0),  # evenly
        (69.9, 0.3, 0.0, -0.5 * 0.05 / 0.9 / 4.0),
        (70.0, 0.3, 0.0, 0.0),
        (50.0, 0.3, 7200.0, -0.011),  # it could not be in time after another step without
        (50.0, 0.5, 7200.0, -0.3 * 0.05 / 0.9 / 2.0),
        (99.0, 0.3, 7200.0, -0.011),
        (99.0, 0.5, 7200.0, 0.0),
        (99.0, 0.7, 99_999.0, -0.011),  # it is late: as fast as it can
        (50.0, 0.9, 0.0, 0.0),
    ],
)
def test_its_own_policy_is_by_the_price_and_in_time(
    price: float, soc: float, connected_s: float, p_mw: float
) -> None:
    device = charger()
    device.state = device.state._replace(soc=soc, connected_s=connected_s, connected=1.0)
    assert device.usual_p_mw(price, POLICY, STEP_S, -0.011) == pytest.approx(p_mw)


def test_a_charger_that_would_just_be_in_time_after_this_step_may_wait() -> None:
    device = charger(
        efficiency_charge=1.0, max_p_mw=0.01, max_e_mwh=0.04, arrival_soc=0.0, target_soc=0.75, min_p_mw=0.0
    )
    for connected_s, p_mw in ((900.0 * 3, 0.0), (900.0 * 3 + 1.0, -0.01)):  # 3 h of charging of the 4
        device.state = device.state._replace(connected_s=connected_s)
        assert device.usual_p_mw(99.0, POLICY, STEP_S, -0.01) == p_mw


HEAT: dict[str, Any] = {**PUMP, "unserved_usd_per_mwh": 100.0, "standby_loss_mw": 0.006}


@pytest.mark.parametrize(
    ("soc", "demand", "feasible"),
    [
        (0.5, -0.002, (-0.01, 0.0)),
        (1.0, 0.0, (-0.006 / 3.0, 0.0)),  # the room that its loss makes
        (0.0, -0.002, (-0.01, -0.002)),  # what the store lost was not there
        (0.98, -0.002, (-(0.0012 / STEP_H + 0.006 + 0.006) / 3.0, 0.0)),
        (0.01, -0.004, (-0.01, -(0.012 + 0.0024 - 0.0024) / 3.0)),
        (0.0, -0.05, (-0.01, -0.01)),
    ],
)
def test_a_heat_pump_heats_as_much_as_the_demand_needs_and_the_store_has_room_for(
    soc: float, demand: float, feasible: tuple[float, float]
) -> None:
    device = HeatPump(HeatPumpSpec(**HEAT, initial_soc=soc))
    assert device.feasible(STEP_S, demand) == pytest.approx(feasible)
    assert device.feasible(STEP_S) == (-0.01, 0.0)


def test_a_heat_pump_counts_heat_loss_and_what_it_owes() -> None:
    device = HeatPump(HeatPumpSpec(**HEAT))
    assert device.state == (0.0, 0.5)
    done = device.step(-0.004, 0.0, STEP_S, -0.002)
    assert done.loss_mwh == pytest.approx(0.0015)
    assert device.state == (-0.004, pytest.approx(0.5 + (0.002 * 3.0 * STEP_H - 0.0015) / 0.06))
    assert (done.cost, done.soc) == (0.0, device.state.soc)
    empty = HeatPump(HeatPumpSpec(**HEAT, initial_soc=0.0))
    for demand, cost in ((-0.01, 0.0), (-0.014, 0.004 * 3.0 * STEP_H * 100.0)):
        done = empty.step(0.0, 0.0, STEP_S, demand)
        assert (done.cost, done.loss_mwh) == (pytest.approx(cost, abs=1e-12), 0.0)
        assert empty.state.soc == 0.0
    alone = HeatPump(HeatPumpSpec(**PUMP))
    alone.step(-0.004, 0.0, STEP_S)
    assert alone.state.soc == pytest.approx(0.5 + 0.012 * STEP_H / 0.06), "without a profile nothing is drawn"
    assert alone.missing_mw(0.5, 0.4, 1800.0) == pytest.approx(0.1 * 0.06 / 3.0 / 0.5)


@pytest.mark.parametrize(
    ("price", "demand", "p_mw"),
    [
        (30.0, -0.002, -0.01),
        (30.1, -0.002, -0.002),
        (69.9, -0.002, -0.002),
        (70.0, -0.002, 0.0),
        (50.0, None, 0.0),
    ],
)
def test_a_heat_pumps_own_policy_acts_at_the_price_that_is_said(
    price: float, demand: float | None, p_mw: float
) -> None:
    assert HeatPump(HeatPumpSpec(**PUMP)).usual_p_mw(price, POLICY, STEP_S, demand) == p_mw


@each_row(
    ("changes", "soc", "demand", "feasible"),
    [
        ({}, 1.0, -0.01, (-0.01, -0.005)),
        ({}, 1.0, 0.0, (0.0, 0.0)),
        ({}, 1.0, -0.05, (-0.02, -0.01)),  # the nameplate bounds the demand
        ({}, 0.5, -0.01, (-0.014, -0.005)),
        ({}, 0.95, -0.01, (-0.012, -0.005)),  # so little is owed
        ({}, 0.5, -0.018, (-0.02, -0.009)),
        ({}, 0.05, -0.01, (-0.014, -0.008)),  # so little more may be owed
        ({"rebound_factor": 2.0}, 0.05, -0.01, (-0.014, -0.009)),
        ({"rebound_factor": 0.0}, 0.0, -0.01, (-0.014, -0.005)),  # nothing of it comes back
        ({"max_shed_fraction": 1.0}, 1.0, -0.01, (-0.01, 0.0)),
    ],
)
def test_a_flexible_load_sheds_and_catches_up_as_far_as_it_may(
    changes: dict[str, float], soc: float, demand: float, feasible: tuple[float, float]
) -> None:
    device = FlexibleLoad(FlexibleLoadSpec(**{**LAUNDRY, **changes}))
    device.restore(0.0, soc=soc)
    assert device.feasible(STEP_S, demand) == pytest.approx(feasible)
    assert device.feasible(STEP_S) == (-0.02, 0.0)


def test_a_flexible_load_owes_what_it_shed_and_no_less_than_nothing() -> None:
    device = FlexibleLoad(FlexibleLoadSpec(**LAUNDRY, rebound_factor=1.5))
    assert device.state == (0.0, 1.0)
    done = device.step(0.0, 0.0, STEP_S, -0.01)
    assert device.state == (-0.005, pytest.approx(1.0 - 0.005 * 1.5 * STEP_H / 0.01))
    assert (done.cost, done.loss_mwh, done.soc) == (0.0, 0.0, device.state.soc)
    before = device.state.soc
    device.step(-0.02, 0.0, STEP_S)
    assert device.state == (-0.02, before), "without a demand nothing is shed nor caught up"
    device.step(-1.0, 0.0, STEP_S, -0.01)
    assert device.state.soc == pytest.approx(before + 0.004 * STEP_H / 0.01)


@pytest.mark.parametrize(("price", "p_mw"), [(0.0, -0.02), (69.9, -0.02), (70.0, 0.0)])
def test_a_flexible_loads_own_policy_sheds_at_the_price_that_is_said(price: float, p_mw: float) -> None:
    assert FlexibleLoad(FlexibleLoadSpec(**LAUNDRY)).usual_p_mw(price, POLICY, STEP_S, -0.01) == p_mw


@pytest.mark.parametrize("soc", [-0.01, 1.01])
def test_a_restored_charge_that_cannot_be_is_refused_by_every_store(soc: float) -> None:
    for device in (charger(), HeatPump(HeatPumpSpec(**PUMP)), FlexibleLoad(FlexibleLoadSpec(**LAUNDRY))):
        before = device.state
        with pytest.raises(ValueError, match=rf"^soc must be within \[0, 1\], got {soc}$"):
            device.restore(0.0, soc=soc)
        assert device.state is before
        for end in (0, 1):
            device.restore(-0.001, soc=end)
            assert (device.state.p_mw, device.state.soc) == (-0.001, end)
            assert type(device.state.soc) is float
        device.reset()
        done = device.step(-0.005, 0.3, STEP_S)
        assert (done.p_mw, str(done.q_mvar)) == (-0.005, "0.0"), "it draws no reactive power"

"""GridAgent: its policy is the best it can do in a step, and commands are kept."""

from __future__ import annotations

import math

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from heron_mqtt.agents.base import SetpointRequest
from powergrid.agents import GridAgent
from powergrid.devices import Battery, Generator, GeneratorSpec, Pv
from powergrid.rewards import grid_bill
from powergrid.scenario import PolicyTable, ProtocolTable
from support.grid_agents import DT_H, DT_S, ESS, GEN, PV, command, make, observation, step

# -- economic dispatch and commitment ------------------------------------------------------------------

powers = st.floats(0.0, 0.5)
generators = st.builds(
    lambda low, span, ramp, a, b, c, start, stop, up, down, running: GeneratorSpec(
        min_p_mw=low,
        max_p_mw=low + span,
        ramp_mw_per_s=ramp,
        cost_a_usd_per_h=a,
        cost_b_usd_per_mwh=b,
        cost_c_usd_per_mw2h=c,
        start_cost_usd=start,
        stop_cost_usd=stop,
        min_up_s=up,
        min_down_s=down,
        initial_running=running,
    ),
    low=st.sampled_from([0.0, 0.01, 0.05]),
    span=st.floats(0.01, 0.3),
    ramp=st.none() | st.floats(1e-6, 1e-3),
    a=st.floats(0.0, 2.0),
    b=st.floats(0.0, 100.0),
    c=st.just(0.0) | st.floats(0.0, 500.0),
    start=st.just(0.0) | st.floats(0.0, 2.0),
    stop=st.just(0.0) | st.floats(0.0, 2.0),
    up=st.sampled_from([0.0, 3600.0]),
    down=st.sampled_from([0.0, 3600.0]),
    running=st.booleans(),
)


def profit(
    spec: GeneratorSpec, before: Generator, asked_mw: float, load_mw: float, price: float, adder: float
) -> float:
    """Return what a step earns, $, if the generator is asked for a power: two-price bill less its cost."""
    twin = Generator(spec)
    twin.state = before.state
    done = twin.step(asked_mw, 0.0, DT_S)
    return float(grid_bill((load_mw + done.p_mw) * DT_H, 0.0, price, adder)) - done.cost


@settings(deadline=None)
@given(
    spec=generators,
    history=st.lists(st.sampled_from([0.0, 1.0]), max_size=3),
    load_mw=st.floats(-0.5, 0.2),
    price=st.floats(-20.0, 150.0),
    adder=st.just(0.0) | st.floats(0.0, 60.0),
)
def test_no_other_power_of_the_generator_would_have_earned_more_in_the_step(
    spec: GeneratorSpec, history: list[float], load_mw: float, price: float, adder: float
) -> None:
    # at min_p_mw = 0 a unit told to give 0 stops, and only one told to give next to nothing idles
    assume(spec.min_p_mw > 0.0 or spec.stop_cost_usd == 0.0)
    generator = Generator(spec)
    agent = make({"gen": generator}, adder=adder)
    for asked in history:  # running or not, ramping, within its minimum times
        generator.step(asked * spec.max_p_mw, 0.0, DT_S)
    agent.observe(observation(load_mw), price)
    agent.decide(None)
    wanted = agent.wanted()["gen"].p_mw
    chosen = profit(spec, generator, wanted, load_mw, price, adder)
    n = 400
    low, high = generator.feasible(DT_S)
    scan = [0.0, low, high, -load_mw, *(low + (high - low) * i / n for i in range(n + 1))]
    best = max(profit(spec, generator, p, load_mw, price, adder) for p in scan)
    assert chosen >= best - 1e-9, f"{wanted} MW earns {chosen}, the best earns {best}"


def test_the_generator_covers_exactly_its_own_need_between_the_two_prices() -> None:
    """Marginal cost at 0.06 MW is 59.4: dearer than selling at 50, cheaper than buying at 70."""
    agent = make({"gen": Generator(GEN)})
    step(agent, 50.0, load_mw=-0.06)
    assert agent.report().p_mw["gen"] == pytest.approx(0.06)


def test_it_exports_up_to_where_its_marginal_cost_meets_the_price() -> None:
    agent = make({"gen": Generator(GEN)})
    step(agent, 63.0, load_mw=0.0)
    assert agent.report().p_mw["gen"] == pytest.approx((63.0 - 45.0) / 240.0)


def test_a_start_that_does_not_pay_within_the_step_is_not_made() -> None:
    """0.06 MW for a quarter of an hour, bought at 70 = 1.05 $; made at 45 + 7.2 + a: 0.833 $."""
    for start_cost, running in ((0.2, True), (0.24, False)):
        agent = make({"gen": Generator(GEN.model_copy(update={"start_cost_usd": start_cost}))})
        step(agent, 50.0, load_mw=-0.06)
        assert (agent.report().p_mw["gen"] > 0.0) is running


def test_a_stop_that_costs_more_than_running_on_is_not_made() -> None:
    spec = GEN.model_copy(update={"initial_running": True})
    for stop_cost, running in ((0.0, False), (0.5, True)):
        agent = make({"gen": Generator(spec.model_copy(update={"stop_cost_usd": stop_cost}))})
        step(agent, 40.0)
        assert (agent.report().p_mw["gen"] > 0.0) is running


def test_a_generator_that_must_run_still_runs_where_it_earns_most() -> None:
    """It may not stop yet; running at all is a loss, but 0.075 MW lose less than the least."""
    spec = GEN.model_copy(update={"initial_running": True, "min_up_s": 7200.0, "cost_a_usd_per_h": 20.0})
    generator = Generator(spec)
    agent = make({"gen": generator}, adder=0.0)
    generator.restore(0.05, running=True, time_in_state_s=0.0)
    step(agent, 63.0)
    assert agent.report().p_mw["gen"] == pytest.approx(0.075)


def test_the_power_it_holds_because_of_its_ramp_is_not_taken_for_the_others() -> None:
    """Marginal cost at 0.09 MW is 66.6: below the import price of 70, so it covers the whole load."""
    spec = GEN.model_copy(update={"initial_running": True, "initial_p_mw": 0.09, "ramp_mw_per_s": 1e-5})
    agent = make({"gen": Generator(spec)})
    step(agent, 50.0, load_mw=-0.09)
    assert agent.report().p_mw["gen"] == pytest.approx(0.09)


def test_the_dispatch_does_not_depend_on_the_step_before() -> None:
    """Two generators without ramps or start costs: the same need gives the same powers."""
    spec = GEN.model_copy(update={"start_cost_usd": 0.0})
    agent = make({"one": Generator(spec), "two": Generator(spec)})
    seen = []
    for load_mw in (-0.1, -0.19, -0.1, 0.0, -0.1):
        step(agent, 50.0, load_mw=load_mw)
        if load_mw == -0.1:
            seen.append(agent.report().p_mw)
    assert seen[0] == seen[1] == seen[2]


def test_pv_and_battery_are_counted_before_the_generator() -> None:
    agent = make({"gen": Generator(GEN), "pv": Pv(PV)})
    step(agent, 50.0, load_mw=-0.1, pv=0.04)
    report = agent.report()
    assert report.p_mw == pytest.approx({"gen": 0.06, "pv": 0.04})


# -- battery -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("price", "p_mw"),
    [(29.99, -0.02), (30.0, -0.02), (30.01, 0.0), (44.99, 0.0), (45.0, 0.025), (200.0, 0.025), (-5.0, -0.02)],
)
def test_the_battery_charges_when_energy_is_cheap_and_discharges_when_it_is_dear(
    price: float, p_mw: float
) -> None:
    agent = make({"ess": Battery(ESS)}, policy=PolicyTable(charge_below=30.0, discharge_above=45.0))
    step(agent, price)
    assert agent.report().p_mw["ess"] == pytest.approx(p_mw)


def test_the_batterys_share_is_a_part_of_its_power() -> None:
    for share in (0.1, 1.0):
        agent = make({"ess": Battery(ESS)}, policy=PolicyTable(battery_share=share))
        step(agent, 100.0)
        assert agent.report().p_mw["ess"] == pytest.approx(share * 0.05)


def test_an_empty_battery_stops_discharging_and_says_what_it_really_gave() -> None:
    agent = make({"ess": Battery(ESS)}, policy=PolicyTable(battery_share=1.0))
    given_mwh = 0.0
    for _ in range(40):
        step(agent, 100.0)
        given_mwh += agent.report().p_mw["ess"] * DT_H
    report = agent.report()
    assert report.p_mw["ess"] == 0.0
    assert report.soc["ess"] == pytest.approx(ESS.min_soc)
    assert given_mwh == pytest.approx((0.5 - 0.1) * 0.2 * 0.9)


# -- commands and limits ---------------------------------------------------------------------------------


def test_commanded_powers_are_kept_and_the_rest_keeps_its_policy() -> None:
    agent = make({"gen": Generator(GEN), "ess": Battery(ESS), "pv": Pv(PV)})
    step(agent, 100.0, load_mw=-0.1, given=command(p_gen=0.03, p_ess=-0.01, q_pv=0.02), pv=0.05)
    report = agent.report()
    assert report.p_mw == pytest.approx({"gen": 0.03, "ess": -0.01, "pv": 0.05})
    assert report.q_mvar == pytest.approx({"gen": 0.0, "ess": 0.0, "pv": 0.02})


def test_a_command_holds_for_one_step() -> None:
    agent = make({"ess": Battery(ESS)}, policy=PolicyTable(charge_below=0.0, discharge_above=1000.0))
    step(agent, 50.0, given=command(p_ess=0.03))
    assert agent.report().p_mw["ess"] == pytest.approx(0.03)
    step(agent, 50.0)
    assert agent.report().p_mw["ess"] == 0.0


def test_curtailment_is_kept() -> None:
    agent = make({"pv": Pv(PV)})
    step(agent, 50.0, given=command(p_pv=0.01), pv=0.05)
    assert agent.report().p_mw["pv"] == pytest.approx(0.01)


def test_a_commanded_generator_is_not_redispatched_by_consensus() -> None:
    agent = make(
        {"gen": Generator(GEN)},
        peers=("MG2",),
        protocol=ProtocolTable(horizontal="consensus", consensus_rounds=1),
    )
    step(agent, 100.0, given=command(p_gen=0.03))
    assert agent.report().p_mw["gen"] == pytest.approx(0.03)


any_power = st.floats(-1e6, 1e6)


@settings(deadline=None)
@given(
    gen=any_power,
    ess=any_power,
    pv=any_power,
    q=any_power,
    sun=st.floats(0.0, 0.2),
    price=st.floats(-50, 200),
)
def test_setpoints_never_leave_the_limits_whatever_is_commanded(
    gen: float, ess: float, pv: float, q: float, sun: float, price: float
) -> None:
    agent = make({"gen": Generator(GEN), "ess": Battery(ESS), "pv": Pv(PV)})
    agent.observe(observation(-0.1, pv=sun), price)
    agent.decide(command(p_gen=gen, p_ess=ess, p_pv=pv, q_gen=q, q_ess=q, q_pv=q))
    wanted = agent.wanted()
    assert wanted["gen"].p_mw == 0.0 or GEN.min_p_mw <= wanted["gen"].p_mw <= GEN.max_p_mw
    assert -ESS.max_p_charge_mw <= wanted["ess"].p_mw <= ESS.max_p_discharge_mw
    assert 0.0 <= wanted["pv"].p_mw <= PV.max_p_mw
    for name, spec in (("gen", GEN), ("ess", ESS), ("pv", PV)):
        assert abs(wanted[name].q_mvar) <= spec.rated_s_mva
        agent.simulate(name)
    report = agent.report()
    for name, spec in (("gen", GEN), ("ess", ESS), ("pv", PV)):
        assert math.hypot(report.p_mw[name], report.q_mvar[name]) <= spec.rated_s_mva * (1 + 1e-12)
    assert report.p_mw["pv"] <= sun


def test_a_setpoint_of_pv_is_a_limit_and_names_what_the_sun_offers() -> None:
    agent = make({"pv": Pv(PV)})
    agent.observe(observation(pv=0.05), 50.0)
    agent.decide(None)
    wanted = agent.wanted()["pv"]
    assert wanted.p_mw == pytest.approx(0.12)
    assert wanted.p_available_mw == pytest.approx(0.05)


def test_a_class_of_ones_own_is_asked_for_each_device_also_where_all_are_simulated() -> None:
    """``simulate_each`` is the quick way; one that overrides ``simulate`` is asked for each device."""
    asked = []

    class Counting(GridAgent):
        def simulate(
            self, device: str, reason: str | None = None, *, setpoint: SetpointRequest | None = None
        ) -> None:
            asked.append(device)
            super().simulate(device, reason, setpoint=setpoint)

    agent = make({"ess": Battery(ESS), "pv": Pv(PV)})
    agent.__class__ = Counting
    agent.observe(observation(0.1), 50.0)
    agent.decide(None)
    agent.simulate_each(["ess", "pv"])
    assert asked == ["ess", "pv"]
    assert set(agent.report().p_mw) == {"ess", "pv"}

"""The check of all setpoints together: cleared plans keep the limits, and no more is taken than has to be."""

from __future__ import annotations

import copy
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandapower as pp
import pytest

from heron_mqtt.errors import PowerFlowDiverged
from heron_mqtt.messages import Clearance
from heron_mqtt.messaging.base import Delivery
from heron_mqtt.messaging.memory import InMemoryBroker
from powergrid.envs import MultiAgentMicrogrids
from powergrid.networks import to_pandapower_p, to_pandapower_q
from powergrid.scenario import EnvelopeTable, scenario_from_dict
from powergrid.simulation.grid_check import BISECTIONS, GridCheck, _largest
from powergrid.simulation.grid_simulation import GridSimulation
from support.small_grid import build_once
from support.small_grid import scenario as small

ROW = 28
AGENTS = ("MG1", "MG2", "MG3")
Powers = dict[str, dict[str, float]]
VOLTAGE = EnvelopeTable(vm_min_pu=0.9, vm_max_pu=1.015, loading_max_percent=1e6)
LOADING = EnvelopeTable(vm_min_pu=0.5, vm_max_pu=1.5, loading_max_percent=40.0)


@pytest.fixture(scope="module")
def simulation() -> GridSimulation:
    return GridSimulation(build_once(scenario_from_dict(small())))


def some_plan(rng: random.Random, size: float = 1.0) -> tuple[Powers, Powers]:
    p, q = {}, {}
    for agent in AGENTS:
        p[agent] = {
            "gen": rng.choice([0.0, rng.uniform(0.004, 0.02)]) * size,
            "ess": rng.uniform(-0.008, 0.01) * size,
            "pv": rng.uniform(0.0, 0.02) * size,
        }
        q[agent] = {"gen": 0.0, "ess": rng.uniform(-0.002, 0.002), "pv": rng.uniform(-0.01, 0.01) * size}
    return p, q


def cleared(p: Powers, q: Powers, clearances: Mapping[str, Clearance]) -> tuple[Powers, Powers]:
    left_p, left_q = copy.deepcopy(p), copy.deepcopy(q)
    for agent, clearance in clearances.items():
        if clearance.limit is not None:
            left_p[agent], left_q[agent] = clearance.values("p_"), clearance.values("q_")
    return left_p, left_q


def worst(simulation: GridSimulation, limits: EnvelopeTable, p: Powers, q: Powers, row: int = ROW) -> float:
    """Return how far the worst quantity is beyond its limit, pu or part of the rating."""
    return max(beyond(simulation, limits, p, q, row))


def beyond(
    simulation: GridSimulation, limits: EnvelopeTable, p: Powers, q: Powers, row: int = ROW
) -> list[float]:
    result = simulation.solve(row, simulation.vector(p), simulation.vector(q))
    vm = result.vm_pu[~np.isnan(result.vm_pu)]
    loading = np.concatenate([result.line_loading_percent, result.trafo_loading_percent])
    over = (np.nan_to_num(loading) - limits.loading_max_percent) / 100.0
    return [*(limits.vm_min_pu - vm), *(vm - limits.vm_max_pu), *over]


def by_pandapower(
    simulation: GridSimulation, p: Powers, q: Powers, row: int = ROW
) -> tuple[float, float, float]:
    """Return lowest and highest voltage, pu, and highest loading, %, as pandapower itself finds them."""
    net = copy.deepcopy(simulation.blueprint.net)
    load_p, load_q = simulation.series.loads(row)
    positions = {int(index): k for k, index in enumerate(simulation.flow.load.index)}
    for index in net.load.index:
        if int(index) in positions:
            net.load.loc[index, ["p_mw", "q_mvar", "scaling"]] = [
                load_p[positions[int(index)]],
                load_q[positions[int(index)]],
                1.0,
            ]
    for device in simulation.devices:
        table, index = simulation.blueprint.devices[device.agent, device.name]
        net[table].loc[index, ["p_mw", "q_mvar", "scaling"]] = [
            to_pandapower_p(device.kind, p.get(device.agent, {}).get(device.name, 0.0)),
            to_pandapower_q(device.kind, q.get(device.agent, {}).get(device.name, 0.0)),
            1.0,
        ]
        net[table].loc[index, "in_service"] = True
    pp.runpp(net, tolerance_mva=1e-10)
    loading = max(net.res_line.loading_percent.max(), net.res_trafo.loading_percent.max())
    return float(net.res_bus.vm_pu.min()), float(net.res_bus.vm_pu.max()), float(loading)


@pytest.mark.parametrize("limits", [VOLTAGE, LOADING], ids=["voltage", "loading"])
def test_cleared_plans_keep_the_limits_and_are_never_more_than_planned(
    simulation: GridSimulation, limits: EnvelopeTable
) -> None:
    check, rng, reduced = GridCheck(simulation, limits), random.Random(1), 0
    for _ in range(40):
        p, q = some_plan(rng, size=rng.choice([0.5, 1.0, 2.0]))
        clearances = check.clear(ROW, p, q)
        reduced += any(c.limit is not None for c in clearances.values())
        p_left, q_left = cleared(p, q, clearances)
        reference = np.maximum(beyond(simulation, limits, {}, {}), 0.0)
        assert np.all(np.array(beyond(simulation, limits, p_left, q_left)) <= reference + 1e-6)
        for plan, left in ((p, p_left), (q, q_left)):
            for agent, own in plan.items():
                for device, planned in own.items():
                    assert abs(left[agent][device]) <= abs(planned) + 1e-15
                    assert left[agent][device] * planned >= 0.0
    assert 5 < reduced < 40, "some plans are cleared whole and some are not"


@pytest.mark.parametrize("limits", [VOLTAGE, LOADING], ids=["voltage", "loading"])
def test_pandapower_finds_the_limits_kept_too(simulation: GridSimulation, limits: EnvelopeTable) -> None:
    check, rng = GridCheck(simulation, limits), random.Random(2)
    for _ in range(3):
        p, q = some_plan(rng, size=2.0)
        clearances = check.clear(ROW, p, q)
        before = by_pandapower(simulation, p, q)
        low, high, loading = by_pandapower(simulation, *cleared(p, q, clearances))
        assert before[1] > limits.vm_max_pu or before[2] > limits.loading_max_percent
        assert low >= limits.vm_min_pu - 1e-6
        assert high <= limits.vm_max_pu + 1e-6
        assert loading <= limits.loading_max_percent + 1e-4


def test_a_little_more_would_break_the_limit(simulation: GridSimulation) -> None:
    check, rng, looked = GridCheck(simulation, VOLTAGE), random.Random(3), 0
    for _ in range(10):
        p, q = some_plan(rng, size=2.0)
        for agent in AGENTS:
            p[agent]["gen"] = 0.0  # its power comes in jumps
        clearances = check.clear(ROW, p, q)
        p_left, q_left = cleared(p, q, clearances)
        for agent, clearance in clearances.items():
            if clearance.limit is None:
                continue
            more = clearance.factor + 2 * 2.0**-BISECTIONS
            p_more = {**p_left, agent: {d: v * more for d, v in p[agent].items()}}
            q_more = {**q_left, agent: {d: v * more for d, v in q[agent].items()}}
            assert worst(simulation, VOLTAGE, p_more, q_more) > -1e-9, agent
            looked += 1
    assert looked > 5


def test_the_limit_that_bound_is_named_with_where_and_how_far(simulation: GridSimulation) -> None:
    p = {agent: {"gen": 0.0, "ess": 0.0, "pv": 0.06} for agent in AGENTS}
    q = {agent: {"gen": 0.0, "ess": 0.0, "pv": 0.0} for agent in AGENTS}
    limit = GridCheck(simulation, VOLTAGE).clear(ROW, p, q)["MG3"].limit
    vm = simulation.solve(ROW, simulation.vector(p), simulation.vector(q)).vm_pu
    assert limit == f"vm_max_pu 1.015 at {simulation.bus_names[int(np.nanargmax(vm))]}: {np.nanmax(vm):.4f}"
    limit = GridCheck(simulation, LOADING).clear(ROW, p, q)["MG3"].limit
    assert limit is not None
    assert limit.startswith("loading_max_percent 40 at ")
    assert float(limit.rpartition(": ")[2]) > 40.0


def test_a_limit_broken_without_devices_blames_nobody_but_must_not_get_worse(
    simulation: GridSimulation,
) -> None:
    vm = simulation.solve(ROW, simulation.vector({}), simulation.vector({})).vm_pu
    limits = EnvelopeTable(vm_min_pu=float(np.nanmax(vm)) + 0.01, vm_max_pu=1.5, loading_max_percent=1e6)
    nothing = {agent: {"gen": 0.0, "ess": 0.0, "pv": 0.0} for agent in AGENTS}
    helps = {agent: {"gen": 0.0, "ess": 0.005, "pv": 0.01} for agent in AGENTS}
    harms = {agent: {"gen": 0.0, "ess": -0.005, "pv": 0.0} for agent in AGENTS}
    check = GridCheck(simulation, limits)
    assert all(c.limit is None for c in check.clear(ROW, nothing, nothing).values())
    assert all(c.limit is None for c in check.clear(ROW, helps, nothing).values())
    for clearance in check.clear(ROW, harms, nothing).values():
        assert clearance.limit is not None
        assert clearance.values("p_")["ess"] == pytest.approx(0.0, abs=1e-5)


def test_a_plan_that_has_no_power_flow_is_cut_to_one_that_has(simulation: GridSimulation) -> None:
    p = {agent: {"gen": 0.0, "ess": -40.0, "pv": 0.0} for agent in AGENTS}
    q = {agent: {"gen": 0.0, "ess": 0.0, "pv": 0.0} for agent in AGENTS}
    with pytest.raises(PowerFlowDiverged):
        simulation.solve(ROW, simulation.vector(p), simulation.vector(q))
    clearances = GridCheck(simulation, EnvelopeTable()).clear(ROW, p, q)
    assert {c.limit for c in clearances.values()} == {"the power flow diverges"}
    assert worst(simulation, EnvelopeTable(), *cleared(p, q, clearances)) <= 1e-6


def test_what_is_left_of_a_generator_is_something_it_can_do(simulation: GridSimulation) -> None:
    """Told less than its least power it would run at that, which is more than was cleared."""
    check, rng = GridCheck(simulation, VOLTAGE), random.Random(5)
    seen = 0
    for _ in range(20):
        p, q = some_plan(rng, size=1.0)
        for agent in AGENTS:
            p[agent]["gen"] = rng.uniform(0.004, 0.02)
            p[agent]["pv"] = 0.03
        for clearance in check.clear(ROW, p, q).values():
            if clearance.limit is not None:
                seen += 1
                assert clearance.values("p_")["gen"] == 0.0 or clearance.values("p_")["gen"] >= 0.004
    assert seen


# -- loads that shed only a part -------------------------------------------------------------------

FIRM = 0.6  # the part of its demand that the load of these tests cannot shed


@pytest.fixture(scope="module")
def with_loads() -> GridSimulation:
    load = {"kind": "load", "max_p_mw": 0.2, "max_shed_fraction": 1.0 - FIRM, "profile": "residential_p_pu"}
    changes = {f"microgrids.{agent}.devices.load": load for agent in AGENTS}
    return GridSimulation(build_once(scenario_from_dict(small(changes))))


def drawing(p_mw: float, ess_mw: float = 0.0) -> Powers:
    return {agent: {"gen": 0.0, "ess": ess_mw, "pv": 0.0, "load": p_mw} for agent in AGENTS}


NO_Q: Powers = {agent: {"gen": 0.0, "ess": 0.0, "pv": 0.0, "load": 0.0} for agent in AGENTS}


def lowest_vm_pu(simulation: GridSimulation, p: Powers) -> float:
    return float(np.nanmin(simulation.solve(ROW, simulation.vector(p), simulation.vector({})).vm_pu))


def test_a_partly_sheddable_load_is_cut_to_what_the_grid_allows(with_loads: GridSimulation) -> None:
    between = 0.5 * (
        lowest_vm_pu(with_loads, drawing(-0.03)) + lowest_vm_pu(with_loads, drawing(-0.03 * FIRM))
    )
    limits = EnvelopeTable(vm_min_pu=between, vm_max_pu=1.5, loading_max_percent=1e6)
    clearances = GridCheck(with_loads, limits).clear(ROW, drawing(-0.03), NO_Q)
    left, _ = cleared(drawing(-0.03), NO_Q, clearances)
    for clearance in clearances.values():
        assert FIRM <= clearance.factor <= 1.0
        if clearance.limit is not None:
            assert clearance.values("p_")["load"] == pytest.approx(-0.03 * clearance.factor)
            assert clearance.limit.startswith("vm_min_pu ")
    assert any(FIRM < clearance.factor < 1.0 for clearance in clearances.values())
    assert lowest_vm_pu(with_loads, left) == pytest.approx(between, abs=1e-4)
    assert lowest_vm_pu(with_loads, left) >= between - 1e-6


def test_what_a_load_cannot_shed_is_blamed_on_nobody_and_the_rest_of_the_plan_gives_way(
    with_loads: GridSimulation,
) -> None:
    firm_vm_pu = lowest_vm_pu(with_loads, drawing(-0.03 * FIRM))
    limits = EnvelopeTable(vm_min_pu=firm_vm_pu + 0.01, vm_max_pu=1.5, loading_max_percent=1e6)
    clearances = GridCheck(with_loads, limits).clear(ROW, drawing(-0.03, ess_mw=-0.005), NO_Q)
    for clearance in clearances.values():
        assert clearance.limit is not None
        assert clearance.values("p_")["load"] == pytest.approx(-0.03 * FIRM), "the firm part is still drawn"
        assert clearance.values("p_")["ess"] == pytest.approx(0.0, abs=1e-5), "the battery charges no more"


def test_the_name_of_a_limit_at_a_bus_with_an_overlong_name_is_cut() -> None:
    simulation = GridSimulation(build_once(scenario_from_dict(small())))
    simulation.bus_names = [f"{'far ' * 200}{name}" for name in simulation.bus_names]
    p = {agent: {"gen": 0.0, "ess": 0.0, "pv": 0.06} for agent in AGENTS}
    q = {agent: {"gen": 0.0, "ess": 0.0, "pv": 0.0} for agent in AGENTS}
    limit = GridCheck(simulation, VOLTAGE).clear(ROW, p, q)["MG3"].limit
    assert limit is not None
    assert limit.startswith("vm_max_pu 1.015 at far far ")
    assert len(limit) == 500


# -- in the environment ----------------------------------------------------------------------------

TIGHT = {
    "envelope": {"grid_check": True, "vm_max_pu": 1.0, "vm_min_pu": 0.9, "loading_max_percent": 100.0},
    "steps": 4,
    "network.vm_pu": 0.995,
}


pytestmark = pytest.mark.usefixtures("built_once")


def most(env: MultiAgentMicrogrids) -> dict[str, Any]:
    return {agent: np.ones(env.action_space(agent).shape) for agent in env.agents}


def test_a_step_says_which_limit_bound_which_setpoint_and_by_how_much_in_every_mode() -> None:
    told = []
    for mode in ({"centralized": True}, {"centralized": False, "message_broker": InMemoryBroker()}):
        env = MultiAgentMicrogrids({"scenario": small(TIGHT), **mode})
        env.reset(seed=1)
        steps = []
        while env.agents:
            _, rewards, _, _, infos = env.step(most(env))
            steps.append((rewards, {a: (i["bounds"], i["p_mw"], i["soc"]) for a, i in infos.items()}))
            assert max(i["vm_pu"]["max"] for i in infos.values()) <= 1.0 + 1e-6
        told.append(steps)
        env.close()
    assert told[0] == told[1], "centralized and distributed clear alike"
    reasons = [why for _, infos in told[0] for bounds, _, _ in infos.values() for why in bounds.values()]
    assert any(
        why.startswith("vm_max_pu 1 at ") and why.endswith(" MW)") and " -> " in why for why in reasons
    )


class LosingBroker(InMemoryBroker):
    """Loses every message of one channel."""

    lost = ""

    def publish(self, channel: str, message: Mapping[str, Any], *, retain: bool = False) -> Delivery:
        return Delivery() if channel == self.lost else super().publish(channel, message, retain=retain)


@pytest.mark.parametrize("leaf", ["plan", "clearance"])
async def test_an_agent_whose_plan_or_clearance_is_lost_sends_nothing_but_zero_and_that_is_counted(
    leaf: str,
) -> None:
    broker = LosingBroker()
    deadlines = {"upstream_s": 0.2, "peer_s": 0.2, "device_s": 0.2, "action_s": 1.0, "ready_s": 5.0}
    scenario = small({"envelope.grid_check": True, "deadlines": deadlines, "steps": 2})
    env = MultiAgentMicrogrids({"scenario": scenario, "centralized": False, "message_broker": broker})
    await env.reset_async(seed=1)
    broker.lost = f"agents/MG2/{leaf}"
    _, _, _, _, infos = await env.step_async(most(env))
    assert infos["MG2"]["missed"] == 1
    for device in ("ess", "pv"):
        assert infos["MG2"]["p_mw"][device] == 0.0
        assert infos["MG2"]["bounds"][device].startswith("no clearance before the deadline")
    assert infos["MG1"]["p_mw"]["ess"] > 0.0, "the others go on"
    broker.lost = ""
    _, _, _, _, infos = await env.step_async(most(env))
    assert infos["MG2"]["missed"] == 0
    assert infos["MG2"]["p_mw"]["ess"] > 0.0
    await env.close_async()


@pytest.mark.parametrize(("most", "low"), [(0.3, 0.0), (0.999, 0.0), (0.7, 0.5), (0.0, 0.0)])
def test_the_largest_factor_is_found_between_its_bounds_and_as_exactly_as_is_said(
    most: float, low: float
) -> None:
    asked: list[float] = []
    found = _largest(lambda factor: bool(asked.append(factor)) or factor <= most, low)
    assert most - (1.0 - low) * 2.0**-BISECTIONS <= found <= most
    assert max(asked) == 1.0
    assert _largest(lambda _: True, low) == 1.0

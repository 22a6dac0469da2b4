"""The check of all setpoints together: cleared plans keep the limits, and no more is taken than has to be."""

from __future__ import annotations

import copy
import random
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandapower as pp
import pytest

from heron_mqtt.errors import PowerFlowDiverged
from heron_mqtt.messages import Clearance
from heron_mqtt.messaging.base import Delivery
from heron_mqtt.messaging.memory import InMemoryBroker
from powergrid.devices import GeneratorSpec
from powergrid.envs import MultiAgentMicrogrids
from powergrid.networks import to_pandapower_p, to_pandapower_q
from powergrid.powerflow import Loadings
from powergrid.scenario import EnvelopeTable, scenario_from_dict
from powergrid.simulation.grid_check import BISECTIONS, GridCheck, _largest
from powergrid.simulation.grid_simulation import GridSimulation
from support.rows import each_row
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


@pytest.mark.slow_but("voltage")
@pytest.mark.parametrize("limits", [VOLTAGE, LOADING], ids=["voltage", "loading"])
def test_pandapower_finds_the_limits_kept_too(simulation: GridSimulation, limits: EnvelopeTable) -> None:
    check, rng = GridCheck(simulation, limits), random.Random(2)
    for _ in range(2):
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


# -- to the number, on a grid that is a formula ----------------------------------------------------


class FormulaGrid:
    """A grid of two buses, two lines and a transformer whose every quantity follows from the total power.

    Args:
        at_rest: Voltages, pu, and loadings, %, without any device power.
        per_mw: How much each rises with 1 MW of active, and with 1 Mvar of reactive power.
    """

    def __init__(self, at_rest: list[float], per_mw: list[float], diverges_beyond_mw: float = 1e9) -> None:
        self.at_rest, self.per_mw = np.array(at_rest), np.array(per_mw)
        self._diverges_beyond_mw = diverges_beyond_mw
        self.devices = [
            SimpleNamespace(agent="A", name="gen", spec=GeneratorSpec(max_p_mw=1.0, min_p_mw=0.25))
        ]
        self.bus_names = ["north", "south"]
        self.flow = SimpleNamespace(line_index=[7, 9], trafo_index=[4])
        self.asked: list[tuple[int, Any]] = []

    @staticmethod
    def vector(powers: Mapping[str, Mapping[str, float]]) -> float:
        return sum(power for own in powers.values() for power in own.values())

    def solve(self, row: int, p_mw: float, q_mvar: float, load_factor: Any) -> Loadings:
        self.asked.append((row, load_factor))
        total = p_mw + q_mvar
        if total > self._diverges_beyond_mw:
            raise PowerFlowDiverged("too much")
        values = self.at_rest + self.per_mw * total
        return Loadings.of(values[:2], values[2:4], values[4:])


LIMITS = EnvelopeTable(vm_min_pu=0.9, vm_max_pu=1.1, loading_max_percent=80.0)
FREE = [1.0, 1.0, 0.0, 0.0, 0.0]


def on(grid: FormulaGrid, p: Powers, q: Powers | None = None) -> dict[str, Clearance]:
    none = {agent: dict.fromkeys(own, 0.0) for agent, own in p.items()}
    return GridCheck(grid, LIMITS).clear(3, p, none if q is None else q)  # type: ignore[arg-type]


@each_row(
    ("per_mw", "p_mw", "limit"),
    [
        ([-0.5, 0, 0, 0, 0], 0.8, "vm_min_pu 0.9 at north: 0.6000"),
        ([0, -0.5, 0, 0, 0], 0.8, "vm_min_pu 0.9 at south: 0.6000"),
        ([0.5, 0, 0, 0, 0], 0.8, "vm_max_pu 1.1 at north: 1.4000"),
        ([0, 0.5, 0, 0, 0], 0.8, "vm_max_pu 1.1 at south: 1.4000"),
        ([0, 0, 200, 0, 0], 0.8, "loading_max_percent 80 at line 7: 160.0"),
        ([0, 0, 0, 200, 0], 0.8, "loading_max_percent 80 at line 9: 160.0"),
        ([0, 0, 0, 0, 200], 0.8, "loading_max_percent 80 at trafo 4: 160.0"),
        ([0.25, 0, 0, 0, 200], 0.8, "loading_max_percent 80 at trafo 4: 160.0"),  # 0.8 beyond, and 0.1
        ([0.5, 0, 0, 0, 150], 0.8, "loading_max_percent 80 at trafo 4: 120.0"),
        ([0.8, 0, 0, 0, 150], 0.8, "vm_max_pu 1.1 at north: 1.6400"),
        ([1.11875, 0, 0, 0, 200], 0.8, "loading_max_percent 80 at trafo 4: 160.0"),  # 0.8 beyond, and 0.795
        ([1.13125, 0, 0, 0, 200], 0.8, "vm_max_pu 1.1 at north: 1.9050"),  # 0.805 beyond, and 0.8
    ],
)
def test_the_limit_that_is_broken_most_is_named_a_percent_of_loading_like_a_hundredth_of_a_voltage(
    per_mw: list[float], p_mw: float, limit: str
) -> None:
    grid = FormulaGrid(FREE, per_mw)
    clearance = on(grid, {"A": {"pv": p_mw}})["A"]
    assert clearance.limit == limit
    beyond_by = grid.at_rest + grid.per_mw * p_mw * clearance.factor
    assert np.all(beyond_by[:2] >= 0.9 - 1e-9)
    assert np.all(beyond_by[:2] <= 1.1 + 1e-9)
    assert np.all(beyond_by[2:] <= 80.0 + 1e-7)


def test_the_common_factor_is_found_to_a_part_of_1024_and_each_agents_own_is_raised_in_order() -> None:
    grid = FormulaGrid(FREE, [0.5, 0, 0, 0, 0])
    found = on(grid, {"B": {"pv": 0.4}, "A": {"pv": 0.4}})
    assert {a: c.factor for a, c in found.items()} == {"A": 0.25, "B": 0.25}
    assert found["A"].values("p_") == {"pv": 0.1}
    found = on(
        grid, {"B": {"pv": 0.3}, "A": {"pv": 0.3}}
    )  # a third: 341 parts of 1024, and what is left of A
    parts = found["B"].factor * 1024
    assert parts == 341
    assert found["B"].factor <= found["A"].factor
    assert 0.3 * (found["A"].factor + found["B"].factor) <= 0.2 + 1e-9
    raised = on(grid, {"A": {"pv": 0.5}, "B": {"pv": -0.1}})
    assert (raised["A"].factor, raised["B"].factor, raised["B"].limit) == (0.5, 1.0, None), "B helps"
    assert set(grid.asked) == {(3, None)}


def test_reactive_power_is_cut_by_the_same_factor_and_counts_like_the_other() -> None:
    grid = FormulaGrid(FREE, [0.5, 0, 0, 0, 0])
    found = on(grid, {"A": {"pv": 0.4}}, {"A": {"pv": 0.4}})["A"]
    assert (found.factor, found.values("p_"), found.values("q_")) == (0.25, {"pv": 0.1}, {"pv": 0.1})


def test_a_generator_is_cut_to_its_least_or_to_nothing_and_an_unknown_device_by_the_factor() -> None:
    grid = FormulaGrid(FREE, [0.5, 0, 0, 0, 0])
    found = on(grid, {"A": {"gen": 1.0}})["A"]
    assert found.values("p_") == {"gen": 0.0}, "its least is more than the 0.2 MW that fit"
    grid.at_rest[0] = 0.95
    found = on(grid, {"A": {"gen": 1.0}})["A"]
    assert found.values("p_")["gen"] == pytest.approx(0.3, abs=1e-3)


@pytest.mark.parametrize(("p_mw", "factor"), [(0.2, 0.0), (-0.2, None), (0.0, None)])
def test_what_is_broken_without_devices_is_nobodys_and_must_not_get_worse(
    p_mw: float, factor: float | None
) -> None:
    found = on(FormulaGrid([1.2, 1.0, 0.0, 0.0, 0.0], [0.5, 0, 0, 0, 0]), {"A": {"pv": p_mw}})["A"]
    assert (found.limit is None, found.factor) == (factor is None, 1.0 if factor is None else factor)


def test_what_is_broken_without_devices_is_not_named_and_whoever_helps_may() -> None:
    broken = FormulaGrid([1.5, 1.0, 0.0, 0.0, 0.0], [0, 0, 0, 0, 137.5])
    assert on(broken, {"A": {"pv": 0.8}})["A"].limit == "loading_max_percent 80 at trafo 4: 110.0"
    grid = FormulaGrid([1.2, 1.0, 0.0, 0.0, 0.0], [0.5, 0, 0, 0, 0])
    found = on(grid, {"A": {"pv": 0.4}, "B": {"pv": -0.1}})
    assert (found["A"].factor, found["B"].factor, found["B"].limit) == (0.0, 1.0, None)


def test_a_power_flow_that_diverges_is_a_broken_limit_and_without_a_reference_nothing_is_cleared() -> None:
    found = on(FormulaGrid(FREE, [0, 0, 0, 0, 0], diverges_beyond_mw=0.25), {"A": {"pv": 1.0}})["A"]
    assert (found.limit, found.factor) == ("the power flow diverges", 0.25)
    found = on(FormulaGrid(FREE, [0, 0, 0, 0, 0], diverges_beyond_mw=-1.0), {"A": {"pv": 1.0}})["A"]
    assert (found.limit, found.factor) == ("the power flow diverges", 0.0)


@pytest.mark.parametrize(
    ("vm_pu", "loading", "is_within"),
    [
        (1.1, 80.0, True),
        (1.100001, 0.0, False),
        (1.0, 80.001, False),
        (0.9, 0.0, True),
        (0.899999, 0.0, False),
        (np.nan, np.nan, True),
    ],
)
def test_a_result_is_within_its_limits_up_to_them_and_what_is_out_of_service_breaks_none(
    vm_pu: float, loading: float, is_within: bool
) -> None:
    check = GridCheck(FormulaGrid(FREE, FREE), LIMITS)  # type: ignore[arg-type]
    result = Loadings.of(np.array([1.0, vm_pu]), np.array([0.0, loading]), np.array([loading]))
    assert bool(check.is_within(result)) is is_within
    many = Loadings.of(
        *(
            np.stack([one, one * 0 + 1.0])
            for one in (result.vm_pu, result.line_loading_percent, result.trafo_loading_percent)
        )
    )
    assert check.is_within(many).tolist() == [is_within, True]


def test_a_plan_within_its_limits_is_cleared_by_one_power_flow_of_its_row_and_loads() -> None:
    grid = FormulaGrid(FREE, [0.5, 0, 0, 0, 0])
    loads = np.array([1.0])
    check = GridCheck(grid, LIMITS)  # type: ignore[arg-type]
    assert check.clear(5, {"A": {"pv": 0.2}}, {"A": {"pv": 0.0}}, loads) == {"A": Clearance()}
    assert grid.asked == [(5, loads)]
    assert _largest(lambda factor: factor <= 0.7, 0.0) == 716 / 1024


def test_solving_twice_may_differ_by_a_billionth() -> None:
    limits: Any = SimpleNamespace(vm_min_pu=-1.0, vm_max_pu=0.0, loading_max_percent=1.0)
    check = GridCheck(FormulaGrid(FREE, FREE), limits)  # type: ignore[arg-type]
    for beyond_by, is_within in ((1e-9, True), (1.001e-9, False)):
        result = Loadings.of(np.array([beyond_by, 0.0]), np.zeros(2), np.zeros(1))
        assert bool(check.is_within(result)) is is_within

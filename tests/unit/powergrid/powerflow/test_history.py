"""A solve depends on the present set-points alone: not on earlier ones, nor on failures."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from heron_mqtt.errors import PowerFlowDiverged
from powergrid.powerflow import CompiledPowerFlow, PowerFlow, compile_network, make_power_flow
from support.powerflow_nets import (
    assert_bitwise_equal,
    menagerie,
    menagerie_with_generators,
    power_flow,
    randomise,
    shipped,
)

CASES = [
    ("newton", lambda: shipped("cigre_lv")),
    pytest.param("newton", lambda: shipped("mv_oberrhein"), marks=pytest.mark.slow),
    pytest.param("newton", lambda: shipped("case118"), marks=pytest.mark.slow),
    ("newton", menagerie_with_generators),
    ("fixed_point", lambda: shipped("cigre_lv")),
    ("fixed_point", menagerie),
]


def overload(flow: PowerFlow) -> None:
    flow.load.p_mw[:] = 1e4
    flow.load.scaling[:], flow.load.in_service[:] = 1.0, True


@pytest.mark.parametrize(("solver", "build"), CASES)
def test_result_is_bitwise_the_same_whatever_was_solved_before(solver: Any, build: Any) -> None:
    net = build()
    wandering = CompiledPowerFlow(net, solver=solver)
    target = np.random.default_rng(11)
    detours = np.random.default_rng(12)
    network = compile_network(net, 1e-8)
    for k in (1, 3):
        for _ in range(k):
            randomise([wandering], net, detours)
            wandering.solve()
        fresh = CompiledPowerFlow(network, solver=solver)  # of which the other has nothing
        randomise([wandering, fresh], net, target)
        assert_bitwise_equal(wandering.solve(), fresh.solve())


@pytest.mark.parametrize("solver", ["newton", "fixed_point", "pandapower"])
def test_divergence_is_reported_and_leaves_the_next_solve_untouched(solver: Any) -> None:
    flow = power_flow("cigre_lv", solver)
    p_mw = flow.load.p_mw.copy()
    before = flow.solve()
    for _ in range(3):
        overload(flow)
        with pytest.raises(PowerFlowDiverged) as failure:
            flow.solve()
        assert failure.value.reason
        flow.load.p_mw[:] = p_mw
        assert_bitwise_equal(flow.solve(), before)


@pytest.mark.parametrize("solver", ["newton", "fixed_point"])
def test_divergence_names_the_worst_bus_and_its_mismatch(solver: Any) -> None:
    flow = make_power_flow(shipped("case33bw"), solver, max_iterations=15)
    flow.load.p_mw[:] *= 5.0
    with pytest.raises(PowerFlowDiverged, match=r"after 15 iterations.* MVA at bus \d+$"):
        flow.solve()


@pytest.mark.parametrize("solver", ["newton", "fixed_point", "pandapower"])
@pytest.mark.parametrize("row", [2, 4])  # the second at a slack bus, which no solver looks at
def test_a_set_point_that_is_not_a_number_is_named(solver: Any, row: int) -> None:
    net = menagerie()
    flow = power_flow("menagerie", solver)
    before = flow.solve()
    flow.load.q_mvar[row] = np.nan
    with pytest.raises(PowerFlowDiverged, match=rf"load {net.load.index[row]}: q_mvar is nan"):
        flow.solve()
    flow.load.q_mvar[row] = net.load.q_mvar.iloc[row]
    assert_bitwise_equal(flow.solve(), before)


def test_taps_and_slack_put_back_give_the_first_result_again() -> None:
    net = menagerie()
    flow = power_flow("menagerie", "newton")
    before = flow.solve()
    flow.set_taps([2.0, -2.0, np.nan, np.nan])
    flow.set_slack(1.05, 30.0)
    moved = flow.solve()
    assert not np.array_equal(moved.vm_pu, before.vm_pu, equal_nan=True)
    flow.set_taps(np.full(4, np.nan))
    flow.set_slack(net.ext_grid.vm_pu, net.ext_grid.va_degree)
    assert_bitwise_equal(flow.solve(), before)


def test_a_refused_set_point_changes_nothing() -> None:
    flow = power_flow("menagerie", "newton")
    before = flow.solve()
    for refused in (
        lambda: flow.set_taps([99.0, 0.0, np.nan, np.nan]),
        lambda: flow.set_slack([1.0, 1.0]),
        lambda: flow.set_slack(0.0),
        lambda: flow.solve_batch(np.zeros((1, 3)), np.zeros((1, 3))),
    ):
        with pytest.raises(ValueError, match="expected"):
            refused()
    assert_bitwise_equal(flow.solve(), before)

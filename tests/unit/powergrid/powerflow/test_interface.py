"""The promises of the power-flow interface: views, copies, signs, NaN, taps, and what a solve does not do."""

from __future__ import annotations

import copy
import dataclasses
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandapower as pp
import pytest
from hypothesis import given
from hypothesis import strategies as st
from threadpoolctl import threadpool_info, threadpool_limits

from heron_mqtt.errors import PowerFlowDiverged
from powergrid.powerflow import CompiledPowerFlow, PandapowerFlow, PowerFlow, make_power_flow
from powergrid.powerflow.blas import SingleThreadedBlas
from support.powerflow_nets import (
    ALLOWED,
    assert_bitwise_equal,
    assert_matches,
    assert_untouched,
    menagerie,
    power_flow,
    shipped,
)

SOLVERS = ["newton", "fixed_point", "pandapower"]


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_network_handed_in_is_never_written_to(solver: Any) -> None:
    net = menagerie()
    before = copy.deepcopy(net)
    flow = make_power_flow(net, solver)
    flow.load.p_mw[:] *= 1.1
    flow.load.in_service[0] = False
    flow.set_slack(1.03, 2.0)
    flow.set_taps([1.0, 2.0, np.nan, np.nan])
    flow.solve()
    assert_untouched(net, before)
    assert net["_ppc"] is None
    assert not len(net.res_bus)


@pytest.mark.parametrize("solver", SOLVERS)
def test_set_points_begin_as_in_the_network(solver: Any) -> None:
    net = menagerie()
    flow = make_power_flow(net, solver)
    for name in ("load", "sgen", "storage"):
        setpoints = getattr(flow, name)
        assert setpoints.index.tolist() == net[name].index.tolist()
        for column in ("p_mw", "q_mvar", "scaling", "in_service"):
            assert getattr(setpoints, column).tolist() == net[name][column].tolist()
    for name in ("bus", "line", "trafo", "ext_grid"):
        assert getattr(flow, f"{name}_index").tolist() == net[name].index.tolist()


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_view_cannot_be_replaced_by_mistake(solver: Any) -> None:
    flow = power_flow("case33bw", solver)
    with pytest.raises(dataclasses.FrozenInstanceError):
        flow.load.p_mw = np.zeros(32)  # type: ignore[misc]


@pytest.mark.parametrize("solver", SOLVERS)
def test_results_belong_to_the_caller(solver: Any) -> None:
    flow = power_flow("menagerie", solver)
    first, kept = flow.solve(), flow.solve()
    for name in ALLOWED:
        if name != "losses_mw":
            getattr(first, name)[:] = -1.0
    flow.load.p_mw[:] *= 0.5
    flow.solve()
    flow.load.p_mw[:] *= 2.0
    assert_bitwise_equal(flow.solve(), kept)


@pytest.mark.parametrize("solver", SOLVERS)
def test_buses_without_supply_are_nan_and_no_others(solver: Any) -> None:
    net = menagerie()
    result = make_power_flow(net, solver).solve()
    for values in (result.vm_pu, result.va_degree):
        assert net.bus.index[np.isnan(values)].tolist() == [60, 61, 70]
    loading = dict(zip(net.line.index, result.line_loading_percent, strict=True))
    assert np.isnan(loading[9])
    assert loading[31] == 0.0
    assert loading[34] == np.inf
    assert loading[32] > 0.0  # open at one end: charging current


@pytest.fixture(scope="module")
def two_buses() -> Any:
    """A slack bus and another one; a fifth of a second of pandas."""
    net = pp.create_empty_network()
    pp.create_buses(net, 2, 20.0)
    pp.create_ext_grid(net, 0)
    return net


@pytest.mark.parametrize("solver", SOLVERS)
def test_only_the_slack_bus_supplied(solver: Any, two_buses: Any) -> None:
    net = copy.deepcopy(two_buses)
    net.ext_grid.vm_pu = 1.02
    slack, far = net.bus.index
    pp.create_line(net, slack, far, 1.0, "NAYY 4x50 SE", in_service=False)
    pp.create_load(net, slack, p_mw=1.0, q_mvar=0.5)
    pp.create_load(net, far, p_mw=2.0)
    result = make_power_flow(net, solver).solve()
    np.testing.assert_array_equal(result.vm_pu, [1.02, np.nan])
    np.testing.assert_allclose([result.ext_grid_p_mw[0], result.ext_grid_q_mvar[0]], [1.0, 0.5])
    np.testing.assert_array_equal(result.line_loading_percent, [np.nan])
    assert result.losses_mw == 0.0


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_network_without_loads_is_solved(solver: Any, two_buses: Any) -> None:
    net = copy.deepcopy(two_buses)
    pp.create_line(net, *net.bus.index, 10.0, "NA2XS2Y 1x240 RM/25 12/20 kV")
    assert_matches(make_power_flow(net, solver).solve(), PandapowerFlow(net).solve())


@pytest.mark.parametrize("solver", SOLVERS)
def test_signs_are_those_of_the_pandapower_tables(solver: Any) -> None:
    flow = power_flow("menagerie", solver)
    supplied = flow.solve().ext_grid_p_mw.sum()
    for name, direction in (("load", 1.0), ("storage", 1.0), ("sgen", -1.0)):
        getattr(flow, name).p_mw[0] += 0.1
        more = flow.solve().ext_grid_p_mw.sum() - supplied
        assert more * direction > 0.08
        getattr(flow, name).p_mw[0] -= 0.1


@contextmanager
def calls_into(*packages: str) -> Iterator[list[str]]:
    calls: list[str] = []

    def record(frame: Any, event: str, _argument: Any) -> None:
        module = frame.f_globals.get("__name__", "")
        if event == "call" and module.split(".")[0] in packages:
            calls.append(f"{module}.{frame.f_code.co_name}")

    sys.setprofile(record)
    try:
        yield calls
    finally:
        sys.setprofile(None)


@pytest.mark.parametrize("solver", ["newton", "fixed_point"])
def test_a_solve_calls_neither_pandapower_nor_pandas(solver: Any) -> None:
    flow = power_flow("menagerie", solver)
    with calls_into("pandapower", "pandas") as calls:
        flow.load.p_mw[:] *= 0.9
        flow.solve()
    assert not calls


def test_fixed_point_keeps_blas_at_one_thread_and_restores_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def blas_threads() -> set[int]:
        return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}

    seen: list[set[int]] = []
    enter = SingleThreadedBlas.__enter__

    def enter_and_look(self: SingleThreadedBlas) -> None:
        enter(self)
        seen.append(blas_threads())

    flow = CompiledPowerFlow(shipped("cigre_lv"), solver="fixed_point")
    monkeypatch.setattr(SingleThreadedBlas, "__enter__", enter_and_look)
    with threadpool_limits(2, "blas"):
        flow.solve()
        flow.solve_batch(np.zeros((2, flow.n_injections)), np.zeros((2, flow.n_injections)))
        assert blas_threads() == {2}
    assert seen == [{1}, {1}]


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_tap_position_that_does_not_exist_is_refused(solver: Any) -> None:
    flow = power_flow("menagerie", solver)
    for taps, message in (
        ([0.0], r"expected shape \(4,\)"),
        ([3.0, 0.0, np.nan, np.nan], r"trafo 6 \(row 0\): expected a whole number from -2 to 2, got 3"),
        ([0.5, 0.0, np.nan, np.nan], r"trafo 6 \(row 0\): expected a whole number"),
        ([0.0, 0.0, 0.0, 1.0], r"trafo 1 \(row 3\): expected a whole number"),
    ):
        with pytest.raises(ValueError, match=message):
            flow.set_taps(taps)


def test_a_tap_position_that_pandapower_would_ignore_is_refused() -> None:
    net = menagerie()
    net.trafo.loc[6, "tap_changer_type"] = None
    with pytest.raises(
        ValueError, match=r"trafo 6 \(row 0\): its position has no effect; set its tap_changer"
    ):
        CompiledPowerFlow(net).set_taps([1.0, 1.0, np.nan, np.nan])


def test_slack_angle_turns_all_angles_and_changes_nothing_else() -> None:
    net = shipped("case118")
    flow = CompiledPowerFlow(net, tolerance_mva=1e-10)
    base = flow.solve()
    slack = np.flatnonzero(net.bus.index == net.ext_grid.bus.iloc[0])
    for va_degree in (None, 0.0, 170.0, -150.0):
        flow.set_slack(net.ext_grid.vm_pu, va_degree)
        turned = flow.solve()
        np.testing.assert_allclose(turned.vm_pu, base.vm_pu, atol=1e-10)
        relative = [result.va_degree - result.va_degree[slack] for result in (base, turned)]
        np.testing.assert_allclose((relative[0] - relative[1] + 180.0) % 360.0, 180.0, atol=1e-7)


@pytest.fixture(scope="module")
def low_voltage() -> dict[str, PowerFlow]:
    net = shipped("cigre_lv")
    return {name: make_power_flow(net, name) for name in ("newton", "fixed_point")}  # type: ignore[arg-type]


@given(
    p_mw=st.lists(st.floats(-0.05, 0.05), min_size=15, max_size=15),
    q_mvar=st.lists(st.floats(-0.02, 0.02), min_size=15, max_size=15),
    vm_pu=st.floats(0.95, 1.05),
)
def test_power_is_conserved_and_both_solvers_agree(
    low_voltage: dict[str, PowerFlow], p_mw: list[float], q_mvar: list[float], vm_pu: float
) -> None:
    results = []
    for flow in low_voltage.values():
        flow.load.p_mw[:], flow.load.q_mvar[:] = p_mw, q_mvar
        flow.set_slack(vm_pu)
        result = flow.solve()
        assert result.losses_mw > 0.0
        assert result.ext_grid_p_mw.sum() == pytest.approx(sum(p_mw) + result.losses_mw, abs=1e-6)
        results.append(result)
    np.testing.assert_allclose(results[0].vm_pu, results[1].vm_pu, atol=1e-7)


def test_a_fixed_point_that_does_not_suit_many_generators_names_the_solver_that_does() -> None:
    flow = CompiledPowerFlow(shipped("case118"), solver="fixed_point")
    with pytest.raises(PowerFlowDiverged, match=r'53 nodes hold voltages, which solver = "newton" is better'):
        flow.solve()

"""What the compiled power flow cannot do exactly is refused by name; bad networks get a clear error."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandapower as pp
import pytest

from heron_mqtt.errors import PowerFlowError, UnsupportedElement
from powergrid.powerflow import CompiledPowerFlow, PandapowerFlow, adapter, make_power_flow
from support.powerflow_nets import menagerie, menagerie_with_generators, shipped
from support.rows import each_row

UNSUPPORTED_TABLES = [
    *("trafo3w", "xward", "motor", "dcline", "asymmetric_load", "asymmetric_sgen"),
    *("svc", "tcsc", "ssc", "vsc", "line_dc", "bus_dc", "load_dc", "source_dc"),
]


def with_rows(net: Any, name: str, n_rows: int) -> Any:
    net[name] = net[name].reindex(range(n_rows))
    return net


@each_row("name", UNSUPPORTED_TABLES)
def test_unsupported_table_is_named_with_its_count(name: str) -> None:
    with pytest.raises(UnsupportedElement, match=rf"\b{name} \(2\)"):
        CompiledPowerFlow(with_rows(shipped("case33bw"), name, 2))


def test_every_unsupported_element_is_named_at_once() -> None:
    net = with_rows(with_rows(shipped("case33bw"), "xward", 1), "motor", 3)
    net.load["const_z_p_percent"] = 10.0
    with pytest.raises(UnsupportedElement, match=r"motor \(3\), xward \(1\), voltage-dependent load \(32\)"):
        CompiledPowerFlow(net)


def test_element_type_of_a_later_pandapower_is_refused() -> None:
    net = shipped("case33bw")
    net["_empty_res_flywheel"] = net["_empty_res_load"]
    net["flywheel"] = net.load.iloc[:1]
    with pytest.raises(UnsupportedElement, match=r"flywheel \(1\)"):
        CompiledPowerFlow(net)


@pytest.mark.parametrize(
    "column", ["const_z_p_percent", "const_i_p_percent", "const_z_q_percent", "const_i_q_percent"]
)
def test_voltage_dependent_load_is_refused(column: str) -> None:
    net = shipped("case33bw")
    net.load.loc[net.load.index[:2], column] = 30.0
    with pytest.raises(UnsupportedElement, match=r"voltage-dependent load \(2\)"):
        CompiledPowerFlow(net)


@pytest.mark.parametrize(
    "option",
    [
        {"enforce_q_lims": True},
        {"enforce_p_lims": True},
        {"trafo_loading": "power"},
        {"calculate_voltage_angles": False},
    ],
)
def test_pandapower_option_that_poses_another_problem_is_refused(option: dict[str, Any]) -> None:
    net = menagerie_with_generators()
    pp.set_user_pf_options(net, **option)
    with pytest.raises(UnsupportedElement, match=next(iter(option))):
        CompiledPowerFlow(net)


def test_generator_as_slack_is_refused() -> None:
    net = menagerie_with_generators()
    net.gen.loc[14, "slack"] = True
    with pytest.raises(UnsupportedElement, match=r"gen with slack=True \(1\)"):
        CompiledPowerFlow(net)


def test_generator_at_a_slack_bus_is_refused_even_out_of_service() -> None:
    net = menagerie()
    pp.create_gen(net, bus=3, p_mw=0.1, vm_pu=1.02, in_service=False)
    with pytest.raises(UnsupportedElement, match=r"gen at a slack bus \(1\)"):
        CompiledPowerFlow(net)


def test_ext_grids_at_one_bus_with_different_slack_weights_are_refused() -> None:
    net = menagerie()
    net.ext_grid.loc[7, "slack_weight"] = 3.0
    with pytest.raises(UnsupportedElement, match=r"ext_grid \(2\) at one bus with different slack_weight"):
        CompiledPowerFlow(net)


def test_what_is_refused_can_be_solved_with_pandapower() -> None:
    net = shipped("case33bw")
    net.load["const_z_p_percent"] = 100.0
    constant = make_power_flow(shipped("case33bw"), "pandapower").solve()
    dependent = make_power_flow(net, "pandapower").solve()
    assert dependent.vm_pu.min() > constant.vm_pu.min()


@pytest.mark.parametrize("kind", [CompiledPowerFlow, PandapowerFlow])
def test_network_without_reference_is_a_clear_error(kind: Any) -> None:
    net = shipped("case33bw")
    net.ext_grid["in_service"] = False
    with pytest.raises(PowerFlowError, match="No reference bus"):
        kind(net).solve()


def test_arrays_that_are_not_understood_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def shuffled(branch: np.ndarray, n_branch: int) -> Any:
        return tuple(values[::-1] for values in original(branch, n_branch))

    original = adapter.branch_vectors
    monkeypatch.setattr(adapter, "branch_vectors", shuffled)
    with pytest.raises(PowerFlowError, match=r"does not understand.*solver = \"pandapower\""):
        CompiledPowerFlow(shipped("case33bw"))


@pytest.mark.parametrize("kind", [CompiledPowerFlow, PandapowerFlow])
@pytest.mark.parametrize("limits", [{"tolerance_mva": 0.0}, {"tolerance_mva": np.nan}, {"max_iterations": 0}])
def test_limits_that_are_not_positive_are_refused(kind: Any, limits: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(limits))):
        kind(shipped("case33bw"), **limits)


@pytest.mark.parametrize("kind", [CompiledPowerFlow, make_power_flow])
def test_unknown_solver_is_refused(kind: Any) -> None:
    with pytest.raises(ValueError, match=r"solver: expected .*newton.*fixed_point.*, got 'newtn'"):
        kind(shipped("case33bw"), solver="newtn")


def test_generators_that_contradict_each_other_are_named() -> None:
    flow = CompiledPowerFlow(menagerie_with_generators())
    flow.gen.vm_pu[0] = 1.03
    with pytest.raises(PowerFlowError, match=r"generators at bus 8 .*1\.03.*1\.015"):
        flow.solve()
    flow.gen.vm_pu[:2] = [1.03, np.nan]
    with pytest.raises(PowerFlowError, match="gen 14: expected vm_pu > 0, got nan"):
        flow.solve()


@pytest.mark.parametrize("kind", [CompiledPowerFlow, PandapowerFlow])
def test_ext_grids_that_contradict_each_other_are_refused(kind: Any) -> None:
    flow = kind(menagerie())

    def set_and_solve() -> None:
        flow.set_slack([1.02, 1.03, 1.01, 1.0])
        flow.solve()

    with pytest.raises(PowerFlowError, match="different"):
        set_and_solve()

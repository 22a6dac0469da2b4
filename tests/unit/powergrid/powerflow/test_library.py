"""Every network of ``pandapower.networks`` is solved as pandapower solves it, or refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandapower as pp
import pytest

from heron_mqtt.errors import PowerFlowDiverged, PowerFlowError, UnsupportedElement
from powergrid.envs import MultiAgentMicrogrids
from powergrid.networks import load_network
from powergrid.networks.library import library_names
from powergrid.powerflow import CompiledPowerFlow, PandapowerFlow, make_power_flow
from powergrid.powerflow.adapter import run_scaled
from powergrid.powerflow.newton import rounding_mismatch

TOLERANCE_MVA = 1e-10
STAGNATING = ("case89pegase", "create_cigre_network_hv", "iceland")
UNSUPPORTED = {
    "example_multivoltage": "trafo3w",
    "ieee_european_lv_asymmetric": "asymmetric_load",
}


def check_exact(name: str) -> None:
    net = load_network(name)
    flow = CompiledPowerFlow(net, tolerance_mva=TOLERANCE_MVA)
    try:
        run_scaled(net, TOLERANCE_MVA, numba=False)
    except pp.LoadflowNotConverged:  # an ill-conditioned case that Newton's method is known to fail at
        with pytest.raises(PowerFlowDiverged):
            flow.solve()
        return
    found, expected = flow.solve(), net.res_bus
    np.testing.assert_allclose(found.vm_pu, expected.vm_pu.to_numpy(float), rtol=0.0, atol=1e-8)
    np.testing.assert_allclose(found.va_degree, expected.va_degree.to_numpy(float), rtol=0.0, atol=1e-6)


@pytest.mark.slow_but("create_cigre_network_hv")
@pytest.mark.parametrize("name", STAGNATING)
def test_a_network_whose_rounding_exceeds_the_tolerance_is_solved(name: str) -> None:
    check_exact(name)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", library_names())
def test_every_network_of_pandapower_is_exact_or_refused_by_name(name: str) -> None:
    if name in UNSUPPORTED:
        with pytest.raises(UnsupportedElement, match=UNSUPPORTED[name]):
            CompiledPowerFlow(load_network(name))
        return
    check_exact(name)


def test_rounding_does_not_loosen_the_tolerance_of_a_distribution_network() -> None:
    flow = CompiledPowerFlow(load_network("cigre_mv_lv"), tolerance_mva=TOLERANCE_MVA)
    matrix, base_mva = flow._admittance.matrix, flow._grid.base_mva
    assert rounding_mismatch(matrix) * base_mva < 0.1 * TOLERANCE_MVA


@pytest.mark.slow_but("newton", "fixed_point")
@pytest.mark.parametrize("solver", ["newton", "fixed_point", "pandapower"])
@pytest.mark.parametrize("column", ["length_km", "impedance"])
def test_a_line_without_impedance_is_refused_by_name(solver: Any, column: str) -> None:
    net = load_network("create_cigre_network_lv")
    columns = ["length_km"] if column == "length_km" else ["r_ohm_per_km", "x_ohm_per_km"]
    net.line.loc[3, columns] = 0.0
    with pytest.raises(PowerFlowError, match=r"^line 3 has no impedance .* closed switch"):
        make_power_flow(net, solver)
    net.line.loc[3, "in_service"] = False
    make_power_flow(net, solver).solve()


@pytest.mark.slow
def test_a_network_whose_slack_is_a_generator_is_solved_as_pandapower_solves_it(tmp_path: Path) -> None:
    net = load_network("create_cigre_network_lv")
    pp.create_gen(net, int(net.ext_grid.bus.iloc[0]), p_mw=0.0, vm_pu=1.02, slack=True)
    net.ext_grid = net.ext_grid.iloc[:0]
    path = tmp_path / "island.json"
    pp.to_json(net, str(path))
    pp.runpp(net, tolerance_mva=TOLERANCE_MVA, numba=False)
    for kind in (CompiledPowerFlow, PandapowerFlow):
        found = kind(load_network(path), tolerance_mva=TOLERANCE_MVA).solve()
        np.testing.assert_allclose(found.vm_pu, net.res_bus.vm_pu, rtol=0.0, atol=1e-9)
        np.testing.assert_allclose(found.ext_grid_p_mw, net.res_gen.p_mw, rtol=0.0, atol=1e-7)


def test_the_tolerance_is_a_key_of_the_scenario() -> None:
    device = {"kind": "battery", "max_e_mwh": 10.0, "max_p_charge_mw": 5.0, "max_p_discharge_mw": 5.0}
    scenario = {
        "name": "pegase",
        "steps": 2,
        "network": {"source": "case89pegase", "tolerance_mva": 1e-9},
        "microgrids": {"MG1": {"buses": [10], "devices": {"ess": device}}},
    }
    env = MultiAgentMicrogrids({"scenario": scenario})
    env.reset()
    _, _, terminated, _, _ = env.step({})
    assert not terminated["MG1"]

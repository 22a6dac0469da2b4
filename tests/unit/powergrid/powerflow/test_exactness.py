"""The compiled power flow gives what ``pandapower.runpp`` gives."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pandapower as pp
import pytest

from heron_mqtt.errors import PowerFlowDiverged
from powergrid.powerflow import CompiledPowerFlow, PandapowerFlow
from support.powerflow_nets import (
    NETS,
    NETS_WITHOUT_GENERATORS,
    TOLERANCE_MVA,
    assert_matches,
    menagerie,
    menagerie_with_generators,
    randomise,
    shipped,
)

Solver = Literal["newton", "fixed_point"]


def compare_steps(net: Any, solvers: list[Solver], n_steps: int, seed: int) -> None:
    reference = PandapowerFlow(net, tolerance_mva=TOLERANCE_MVA)
    compiled = [CompiledPowerFlow(net, solver=solver, tolerance_mva=TOLERANCE_MVA) for solver in solvers]
    rng = np.random.default_rng(seed)
    for _ in range(n_steps):
        randomise([reference, *compiled], net, rng)
        expected = reference.solve()
        for flow in compiled:
            assert_matches(flow.solve(), expected)


def solvers_for(name: str) -> list[Solver]:
    return ["newton", "fixed_point"] if name in NETS_WITHOUT_GENERATORS else ["newton"]


@pytest.mark.slow_but("cigre_lv")
@pytest.mark.parametrize("name", [name for name in NETS if name != "kerber_vorstadt"])
def test_random_steps_match_runpp(name: str) -> None:
    compare_steps(shipped(name), solvers_for(name), n_steps=4, seed=1)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", NETS)
def test_two_hundred_random_steps_match_runpp(name: str) -> None:
    compare_steps(shipped(name), solvers_for(name), n_steps=200, seed=2)


def test_every_supported_element_matches_runpp() -> None:
    compare_steps(menagerie(), ["newton", "fixed_point"], n_steps=5, seed=3)


def test_generators_in_and_out_of_service_match_runpp() -> None:
    compare_steps(menagerie_with_generators(), ["newton", "fixed_point"], n_steps=5, seed=4)


@pytest.mark.parametrize("name", ["cigre_lv", "case118"])
def test_a_network_whose_own_loads_have_no_solution_can_be_compiled(name: str) -> None:
    net = shipped(name)
    overloaded = shipped(name)
    overloaded.load["p_mw"] *= 100.0
    flow = CompiledPowerFlow(overloaded, tolerance_mva=TOLERANCE_MVA)
    with pytest.raises(PowerFlowDiverged):
        flow.solve()
    flow.load.p_mw[:] = net.load["p_mw"]
    assert_matches(flow.solve(), PandapowerFlow(net, tolerance_mva=TOLERANCE_MVA).solve())


def test_compiled_and_pandapower_agree_on_options_that_both_honour() -> None:
    net = menagerie()
    pp.set_user_pf_options(net, trafo_model="pi")
    compiled = CompiledPowerFlow(net, tolerance_mva=TOLERANCE_MVA)
    assert_matches(compiled.solve(), PandapowerFlow(net, tolerance_mva=TOLERANCE_MVA).solve())
    other = CompiledPowerFlow(menagerie(), tolerance_mva=TOLERANCE_MVA).solve()
    assert not np.array_equal(compiled.solve().vm_pu, other.vm_pu, equal_nan=True)

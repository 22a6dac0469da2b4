"""The compiled power flow gives what ``pandapower.runpp`` gives."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest
from powerflow_nets import (
    NETS,
    NETS_WITHOUT_GENERATORS,
    TOLERANCE_MVA,
    assert_matches,
    menagerie,
    menagerie_with_generators,
    randomise,
    shipped,
)

from powergrid.powerflow import CompiledPowerFlow, PandapowerFlow

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


@pytest.mark.parametrize("name", [name for name in NETS if name != "kerber_vorstadt"])
def test_random_steps_match_runpp(name: str) -> None:
    compare_steps(shipped(name), solvers_for(name), n_steps=8, seed=1)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", NETS)
def test_two_hundred_random_steps_match_runpp(name: str) -> None:
    compare_steps(shipped(name), solvers_for(name), n_steps=200, seed=2)


def test_every_supported_element_matches_runpp() -> None:
    compare_steps(menagerie(), ["newton", "fixed_point"], n_steps=10, seed=3)


def test_generators_in_and_out_of_service_match_runpp() -> None:
    compare_steps(menagerie_with_generators(), ["newton"], n_steps=10, seed=4)

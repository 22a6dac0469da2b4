"""A batch gives, scenario by scenario, what single solves give."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from heron_mqtt.errors import PowerFlowDiverged
from powergrid.powerflow import CompiledPowerFlow
from support.powerflow_nets import (
    ALLOWED,
    differences,
    menagerie,
    power_flow,
    scenario,
)

CASES = [
    ("fixed_point", "cigre_lv"),
    pytest.param("fixed_point", "mv_oberrhein", marks=pytest.mark.slow),
    ("fixed_point", "menagerie"),
    ("newton", "cigre_mv_der"),
    ("newton", "menagerie_with_generators"),
    ("fixed_point", "menagerie_with_generators"),
]

# Voltages agree to the last digits. A current through a short cable is the small difference of two voltages
# times a large admittance, which magnifies those digits in what is computed from it.
ROUNDING = {
    "vm_pu": 1e-12,
    "va_degree": 1e-11,
    "line_loading_percent": 1e-9,
    "trafo_loading_percent": 1e-9,
    "ext_grid_p_mw": 1e-10,
    "ext_grid_q_mvar": 1e-10,
    "losses_mw": 1e-10,
}


def compiled_flow(network: str, solver: str) -> CompiledPowerFlow:
    flow = power_flow(network, solver)
    assert isinstance(flow, CompiledPowerFlow)
    return flow


def random_powers(flow: CompiledPowerFlow, n_scenarios: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    tables = (flow.load, flow.sgen, flow.storage)
    p_mw = np.concatenate([table.p_mw for table in tables])
    q_mvar = np.concatenate([table.q_mvar for table in tables])
    shape = (n_scenarios, flow.n_injections)
    return p_mw * rng.uniform(0.2, 1.3, shape), q_mvar * rng.uniform(0.2, 1.3, shape)


def write(flow: CompiledPowerFlow, p_mw: np.ndarray, q_mvar: np.ndarray) -> None:
    for name, columns in flow.injection_columns.items():
        setpoints = getattr(flow, name)
        setpoints.p_mw[:], setpoints.q_mvar[:] = p_mw[columns], q_mvar[columns]


@pytest.mark.parametrize(("solver", "network"), CASES)
def test_batch_equals_single_solves(solver: Any, network: str) -> None:
    flow = compiled_flow(network, solver)
    flow.load.scaling[:] *= 0.95
    flow.load.in_service[0] = False
    flow.set_slack(1.03)
    p_mw, q_mvar = random_powers(flow, 300)  # more than one block
    batch = flow.solve_batch(p_mw, q_mvar)
    assert batch.converged.all()
    for k in (0, 1, 127, 128, 255, 299):
        write(flow, p_mw[k], q_mvar[k])
        single = flow.solve()
        assert batch.iterations[k] == single.iterations
        found = differences(scenario(batch, k), single)
        loose = {name: value for name, value in found.items() if not value <= ROUNDING[name]}
        assert not loose


@pytest.mark.parametrize("solver", ["newton", "fixed_point"])
def test_scenarios_without_solution_are_nan_and_disturb_no_other(solver: Any) -> None:
    flow = compiled_flow("menagerie", solver)
    slack_load = 4  # at a slack bus, whose power no solver looks at
    p_mw, q_mvar = random_powers(flow, 6)
    alone = flow.solve_batch(p_mw, q_mvar)
    p_mw[1], q_mvar[4, slack_load] = 1e5, np.nan
    batch = flow.solve_batch(p_mw, q_mvar)
    assert batch.converged.tolist() == [True, False, True, True, False, True]
    for name in ALLOWED:
        values = getattr(batch, name)
        assert np.isnan(values[[1, 4]]).all()
        np.testing.assert_allclose(values[batch.converged], getattr(alone, name)[batch.converged], atol=1e-10)
    write(flow, p_mw[1], q_mvar[1])
    with pytest.raises(PowerFlowDiverged):
        flow.solve()


def test_batch_neither_reads_nor_changes_the_present_powers() -> None:
    flow = compiled_flow("menagerie", "fixed_point")
    p_mw, q_mvar = random_powers(flow, 2)
    first = flow.solve_batch(p_mw, q_mvar)
    flow.load.p_mw[:] = 123.0
    second = flow.solve_batch(p_mw, q_mvar)
    np.testing.assert_array_equal(first.vm_pu, second.vm_pu)
    assert (flow.load.p_mw == 123.0).all()


@pytest.mark.parametrize("solver", ["newton", "fixed_point"])
def test_empty_batch_has_the_right_shapes(solver: Any) -> None:
    net = menagerie()
    flow = compiled_flow("menagerie", solver)
    batch = flow.solve_batch(np.zeros((0, flow.n_injections)), np.zeros((0, flow.n_injections)))
    assert batch.vm_pu.shape == (0, len(net.bus))
    assert batch.line_loading_percent.shape == (0, len(net.line))
    assert batch.ext_grid_p_mw.shape == (0, len(net.ext_grid))
    assert batch.losses_mw.shape == batch.converged.shape == (0,)


@pytest.mark.parametrize("shape", [(3,), (2, 3), (1, 2, 3)])
def test_batch_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    flow = compiled_flow("case33bw", "newton")
    with pytest.raises(ValueError, match=r"\(n_scenarios, 32\)"):
        flow.solve_batch(np.zeros(shape), np.zeros(shape))

"""A power flow of pandapower starts where it does by itself, though not pandapower looks that up."""

from __future__ import annotations

import copy
from typing import Any

import pandapower as pp
import pytest

from powergrid.powerflow.adapter import run_scaled
from support.powerflow_nets import menagerie_with_generators, shipped


def one_out_of_service() -> Any:
    net = menagerie_with_generators()
    assert len(net.gen) > 1
    net.gen.loc[net.gen.index[0], "in_service"] = False
    return net


def by_other_options() -> Any:
    net = shipped("cigre_mv_der")
    pp.set_user_pf_options(net, init="flat")
    return net


def with_a_converter() -> Any:
    net = shipped("cigre_mv_der")
    bus = net.ext_grid["bus"].iloc[0]
    dc = [pp.create_bus_dc(net, 20.0) for _ in range(2)]
    pp.create_line_dc_from_parameters(net, *dc, 1.0, 0.1, 1.0)
    for at, mode, volts in zip(dc, ("vm_pu", "p_mw"), (1.0, 0.0), strict=True):
        pp.create_vsc(net, bus, at, 0.1, 5.0, 0.1, control_mode_ac="q_mvar", control_value_ac=0.0,
                      control_mode_dc=mode, control_value_dc=volts)  # fmt: skip
    return net


@pytest.mark.parametrize(
    "build", [lambda: shipped("cigre_mv_der"), one_out_of_service, by_other_options, with_a_converter]
)
def test_it_starts_where_pandapower_does_and_gives_its_result_to_the_bit(build: Any) -> None:
    ours = build()
    theirs = copy.deepcopy(ours)
    run_scaled(ours, 1e-8, numba=False, lightsim2grid=False)
    pp.runpp(theirs, tolerance_mva=1e-8, numba=False, lightsim2grid=False)
    for option in ("init_vm_pu", "init_va_degree"):
        assert ours._options[option] == theirs._options[option]
    assert ours._ppc["iterations"] == theirs._ppc["iterations"]
    assert ours.res_bus.equals(theirs.res_bus)

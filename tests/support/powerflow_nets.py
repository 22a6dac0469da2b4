"""Networks and comparisons for the power-flow tests."""

from __future__ import annotations

import copy
from functools import cache, partial
from typing import Any

import numpy as np
import pandapower as pp
import pandapower.networks as pn
import pandas as pd

from powergrid.networks.loader import find_source
from powergrid.powerflow import (
    BatchPowerFlowResult,
    CompiledNetwork,
    PowerFlow,
    PowerFlowResult,
    compile_network,
    make_power_flow,
)

TOLERANCE_MVA = 1e-10

# The differences from pandapower that are allowed when both solve to TOLERANCE_MVA.
ALLOWED = {
    "vm_pu": 1e-9,
    "va_degree": 1e-7,
    "line_loading_percent": 1e-6,
    "trafo_loading_percent": 1e-6,
    "ext_grid_p_mw": 1e-8,
    "ext_grid_q_mvar": 1e-8,
    "losses_mw": 1e-8,
}


@cache
def _shipped(name: str) -> Any:
    if name == "cigre_mv_der":
        return pn.create_cigre_network_mv(with_der="pv_wind")
    full_name = {
        "cigre_lv": "create_cigre_network_lv",
        "kerber_landnetz": "create_kerber_landnetz_kabel_1",
        "kerber_vorstadt": "create_kerber_vorstadtnetz_kabel_1",
    }.get(name, name)
    source = find_source(full_name)
    assert source is not None, full_name
    return source.load(full_name).net  # built once, for others, too


def build_all() -> None:
    """Build the networks that most tests of power flows ask for; a fork of this process copies them."""
    for name in ("cigre_lv", "cigre_mv_der", "case33bw", "case118"):
        _shipped(name)
    pp.runpp(menagerie_with_generators(), numba=False)


def shipped(name: str) -> Any:
    """Return a network of pandapower or of the project, to do with as the test likes."""
    return copy.deepcopy(_shipped(name))


def power_flow(network: str, solver: Any) -> PowerFlow:
    """Return a power flow of a network named here; it is compiled once a process, which is most of it."""
    return make_power_flow(_NAMED[network]() if solver == "pandapower" else _compiled(network), solver)


@cache
def _compiled(network: str) -> CompiledNetwork:
    return compile_network(_NAMED[network](), 1e-8)


def assert_untouched(net: Any, before: Any) -> None:
    """Fail unless all tables and values of a network are those of the copy that was made before."""
    assert net.keys() == before.keys()
    for name, value in before.items():
        if isinstance(value, pd.DataFrame):
            assert net[name].equals(value), name
        else:
            assert net[name] == value, name


_CIGRE, _KERBER = ("cigre_lv", "cigre_mv_der"), ("kerber_landnetz", "kerber_vorstadt")
NETS_WITHOUT_GENERATORS = (*_CIGRE, *_KERBER, "case33bw", "mv_oberrhein")
NETS = (*NETS_WITHOUT_GENERATORS, "case118")

_CABLE = {"r_ohm_per_km": 0.2, "x_ohm_per_km": 0.12, "c_nf_per_km": 250.0, "max_i_ka": 0.3}


def menagerie() -> Any:
    """Return a copy of the network :func:`_menagerie` builds."""
    return copy.deepcopy(_menagerie())


@cache
def _menagerie() -> Any:
    """One of everything the compiled power flow supports, with indices out of order and sn_mva = 10.

    A 20 kV ring with two substations, a closed and an open bus-bus switch and one with impedance, lines
    open at one end and out of service, an island without supply, and 0.4 kV behind transformers.
    """
    net = pp.create_empty_network(sn_mva=10.0)
    for index in (40, 3, 17, 8, 25, 11, 30):
        pp.create_bus(net, vn_kv=20.0, index=index)
    for index in (2, 55, 9):
        pp.create_bus(net, vn_kv=0.4, index=index)
    pp.create_bus(net, vn_kv=20.0, index=60)
    pp.create_bus(net, vn_kv=20.0, index=61)
    pp.create_bus(net, vn_kv=20.0, index=70, in_service=False)

    # Two external grids on joined bus bars share a node; a third feeds elsewhere; a fourth is off.
    pp.create_ext_grid(net, bus=40, vm_pu=1.02, va_degree=5.0, index=7)
    pp.create_ext_grid(net, bus=3, vm_pu=1.02, va_degree=5.0, index=2)
    pp.create_ext_grid(net, bus=25, vm_pu=1.01, va_degree=5.5, index=9)
    pp.create_ext_grid(net, bus=61, vm_pu=1.0, index=4, in_service=False)
    pp.create_switch(net, bus=40, element=3, et="b", closed=True)
    pp.create_switch(net, bus=17, element=30, et="b", closed=True, z_ohm=0.05)
    pp.create_switch(net, bus=11, element=60, et="b", closed=False)

    lines = [(3, 17, 1), (30, 8, 2), (8, 25, 1), (25, 11, 1), (11, 40, 1), (60, 61, 1)]
    for index, (a, b, parallel) in zip((5, 1, 12, 3, 20, 9), lines, strict=True):
        pp.create_line_from_parameters(net, a, b, 2.5, index=index, parallel=parallel, **_CABLE)
    pp.create_line_from_parameters(net, 17, 11, 1.0, index=31, in_service=False, **_CABLE)
    pp.create_line_from_parameters(net, 8, 70, 1.0, index=30, **_CABLE)
    pp.create_line_from_parameters(net, 8, 11, 4.0, index=32, df=0.8, **_CABLE)
    pp.create_switch(net, bus=11, element=32, et="l", closed=False)
    pp.create_line_from_parameters(net, 2, 9, 0.1, index=33, **_CABLE)
    unrated = _CABLE | {"max_i_ka": 0.0}
    pp.create_line_from_parameters(net, 3, 30, 3.0, index=34, **unrated)

    pp.create_transformer(net, 8, 2, "0.63 MVA 20/0.4 kV", index=6, parallel=2)
    pp.create_transformer(net, 11, 55, "0.4 MVA 20/0.4 kV", index=4, tap_pos=1)
    pp.create_transformer(net, 25, 55, "0.4 MVA 20/0.4 kV", index=8, in_service=False)
    pp.create_transformer_from_parameters(
        net, 17, 9, 0.63, 20.0, 0.4, 1.2, 6.0, 1.5, 0.2, shift_degree=150.0, index=1
    )
    pp.create_impedance(net, 17, 25, rft_pu=0.05, xft_pu=0.2, sn_mva=10.0, rtf_pu=0.06, xtf_pu=0.25)
    pp.create_shunt(net, 11, q_mvar=-0.4, p_mw=0.01, step=2, max_step=3)
    pp.create_ward(net, 30, ps_mw=0.2, qs_mvar=0.05, pz_mw=0.1, qz_mvar=0.02)

    for index, bus in zip((9, 4, 6, 2, 30, 31, 32), (17, 2, 55, 9, 40, 60, 70), strict=True):
        pp.create_load(net, bus, p_mw=0.11 + 0.01 * index, q_mvar=0.04, index=index, scaling=0.9)
    for index, bus in zip((5, 3, 12), (8, 2, 61), strict=True):
        pp.create_sgen(net, bus, p_mw=0.15, q_mvar=0.03, index=index)
    pp.create_sgen(net, 25, p_mw=0.3, q_mvar=0.0, index=1, in_service=False)
    for index, bus in zip((8, 0), (55, 11), strict=True):
        pp.create_storage(net, bus, p_mw=0.05, max_e_mwh=1.0, q_mvar=0.01, index=index, scaling=1.1)
    return net


def menagerie_with_generators() -> Any:
    """:func:`menagerie` with voltage-controlling generators, two of them at one bus."""
    return copy.deepcopy(_menagerie_with_generators())


@cache
def _menagerie_with_generators() -> Any:
    net = menagerie()
    for index, bus in zip((3, 14, 6, 1), (8, 8, 11, 60), strict=True):
        pp.create_gen(net, bus, p_mw=0.2, vm_pu=1.015, index=index, scaling=0.95)
    return net


_NAMED = {
    "menagerie": menagerie,
    "menagerie_with_generators": menagerie_with_generators,
    **{name: partial(shipped, name) for name in NETS},
}


def randomise(flows: list[PowerFlow], net: Any, rng: np.random.Generator) -> None:
    """Draw one operating point around ``net`` and give it to every flow."""
    for name in ("load", "sgen", "storage"):
        table = net[name]
        n = len(table)
        p_mw = table["p_mw"].to_numpy(float) * rng.uniform(0.2, 1.3, n)
        q_mvar = table["q_mvar"].to_numpy(float) * rng.uniform(0.2, 1.3, n)
        scaling = table["scaling"].to_numpy(float) * rng.uniform(0.8, 1.1, n)
        in_service = table["in_service"].to_numpy(bool) & (rng.random(n) > 0.05)
        for flow in flows:
            setpoints = getattr(flow, name)
            setpoints.p_mw[:], setpoints.q_mvar[:] = p_mw, q_mvar
            setpoints.scaling[:], setpoints.in_service[:] = scaling, in_service
    p_mw = net.gen["p_mw"].to_numpy(float) * rng.uniform(0.8, 1.1, len(net.gen))
    bus_vm_pu = dict.fromkeys(net.bus.index, 1.0)
    bus_vm_pu.update(zip(net.gen["bus"], net.gen["vm_pu"], strict=True))
    bus_vm_pu = {bus: vm_pu * rng.uniform(0.99, 1.01) for bus, vm_pu in bus_vm_pu.items()}
    in_service = net.gen["in_service"].to_numpy(bool) & (rng.random(len(net.gen)) > 0.05)
    slack_vm_pu, slack_va_degree = rng.uniform(0.98, 1.04), rng.uniform(-20.0, 20.0)
    shift = net.ext_grid["va_degree"].to_numpy(float) - net.ext_grid["va_degree"].iloc[0]
    for flow in flows:
        flow.gen.p_mw[:], flow.gen.in_service[:] = p_mw, in_service
        flow.gen.vm_pu[:] = [bus_vm_pu[bus] for bus in net.gen["bus"]]
        flow.set_slack(slack_vm_pu, slack_va_degree + shift)
    taps = random_taps(net, rng)
    for flow in flows:
        flow.set_taps(taps)


def random_taps(net: Any, rng: np.random.Generator) -> np.ndarray:
    """Draw a tap position for every transformer whose position pandapower heeds, NaN for the others."""
    taps = np.full(len(net.trafo), np.nan)
    heeded = (
        net.trafo["tap_changer_type"].isin(["Ratio", "Symmetrical", "Ideal"]) & net.trafo["tap_min"].notna()
    )
    for row in np.flatnonzero(heeded):
        trafo = net.trafo.iloc[row]
        taps[row] = rng.integers(max(trafo.tap_min, -2), min(trafo.tap_max, 2) + 1)
    return taps


def differences(ours: PowerFlowResult, theirs: PowerFlowResult) -> dict[str, float]:
    """Return the largest absolute difference of each result; infinite if NaN or inf stand elsewhere."""
    found = {}
    for name in ALLOWED:
        a, b = np.atleast_1d(getattr(ours, name)), np.atleast_1d(getattr(theirs, name))
        same_shape = a.shape == b.shape and np.array_equal(np.isnan(a), np.isnan(b))
        finite = np.isfinite(a)
        if not same_shape or not np.array_equal(a[~finite], b[~finite], equal_nan=True):
            found[name] = np.inf
        else:
            found[name] = float(np.abs(a[finite] - b[finite]).max(initial=0.0))
    return found


def assert_matches(ours: PowerFlowResult, theirs: PowerFlowResult) -> None:
    """Fail unless every result agrees within ALLOWED, NaN for NaN."""
    too_far = {name: value for name, value in differences(ours, theirs).items() if not value <= ALLOWED[name]}
    assert not too_far, f"differences from pandapower beyond those allowed: {too_far}"


def assert_bitwise_equal(a: PowerFlowResult, b: PowerFlowResult) -> None:
    """Fail unless two results are the same bit for bit."""
    for name in (*ALLOWED, "iterations"):
        assert np.asarray(getattr(a, name)).tobytes() == np.asarray(getattr(b, name)).tobytes(), name


def scenario(batch: BatchPowerFlowResult, k: int) -> PowerFlowResult:
    """Return one scenario of a batch."""
    return PowerFlowResult(
        **{name: getattr(batch, name)[k] for name in ALLOWED if name != "losses_mw"},
        losses_mw=float(batch.losses_mw[k]),
        iterations=int(batch.iterations[k]),
    )

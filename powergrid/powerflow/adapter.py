"""From a pandapower network to :class:`GridArrays`: the only file that reads pandapower's private arrays.

pandapower solves the network once. What it built on the way (``net._ppc``, ``net._pd2ppc_lookups``) is
read here, and the admittance matrix assembled from it is compared with pandapower's own, so that a
pandapower version that arranges these arrays differently is noticed when a network is compiled.
"""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import numpy as np
import pandapower as pp
from numpy.typing import NDArray
from pandapower.build_branch import _calc_trafo_parameter
from pandapower.pypower import idx_brch, idx_bus
from pandapower.pypower.makeYbus import branch_vectors

from heron_mqtt.errors import PowerFlowError, UnsupportedElement
from powergrid.powerflow.admittance import AdmittanceMatrix
from powergrid.powerflow.arrays import ComplexArray, GridArrays, IntArray
from powergrid.powerflow.injections import InjectionArrays, index_of, read_injections
from powergrid.powerflow.network import CompiledNetwork
from powergrid.powerflow.results import Array
from powergrid.powerflow.setpoints import TapPositions
from powergrid.powerflow.taps import TapTable, tap_positions_to_read
from powergrid.powerflow.unsupported import (
    refuse_unsupported,
    refuse_unsupported_options,
    refuse_zero_impedance,
)

__all__ = ["compile_network", "iterations_of", "read_tap_positions", "run_scaled"]

_REFERENCE = 3  # BUS_TYPE of a bus whose voltage is fixed (pypower REF)
_PANDAPOWER_TOLERANCE_MVA = 1e-8
_NO_SUPPLY = 4  # BUS_TYPE of a bus out of the model (pypower NONE)
_POWERS = {
    "load": ["p_mw", "q_mvar"],
    "sgen": ["p_mw", "q_mvar"],
    "storage": ["p_mw", "q_mvar"],
    "ward": ["ps_mw", "qs_mvar"],
    "gen": ["p_mw"],
}


def compile_network(net: Any, tolerance_mva: float) -> CompiledNetwork:
    """Return a network as plain arrays.

    Args:
        net: A pandapower network; copied, never written to.
        tolerance_mva: Largest power mismatch of a node in the base case, MVA.

    Raises:
        UnsupportedElement: The network holds what cannot be represented exactly; names it.
        PowerFlowError: pandapower cannot build a model of this network.
    """
    refuse_unsupported(net)
    net = copy.deepcopy(net)
    injections = read_injections(net)
    grid = _read_grid(net, injections, tolerance_mva)
    return CompiledNetwork(
        grid=grid,
        injections=injections,
        line_index=index_of(net.line),
        trafo_index=index_of(net.trafo),
        ext_grid_index=index_of(net.ext_grid),
        read_taps=partial(_read_taps, net),
    )


def _read_grid(net: Any, injections: InjectionArrays, tolerance_mva: float) -> GridArrays:
    """Let pandapower solve ``net`` once and take what it built.

    Args:
        net: A pandapower network; results and private arrays are written to it, so hand in a copy.
        injections: Those of the same network.
        tolerance_mva: Largest power mismatch of the base case, MVA.

    Raises:
        PowerFlowError: pandapower cannot build a model of this network.
        UnsupportedElement: An option or a connection the compiled power flow cannot represent.
    """
    refuse_zero_impedance(net)
    solved = _solve_base_case(net, tolerance_mva)
    refuse_unsupported_options(net._options)
    ppc, lookups = net._ppc, net._pd2ppc_lookups
    bus, branch = ppc["bus"], ppc["branch"].real.astype(float)
    n_node = int((bus[:, idx_bus.BUS_TYPE].real != _NO_SUPPLY).sum())
    bus = bus[:n_node].real
    in_model = np.asarray(ppc["internal"]["branch_is"], dtype=bool)
    used = branch[in_model]
    yff_yft_ytf_ytt = _two_port(used)
    from_node, to_node = (used[:, column].astype(np.intp) for column in (idx_brch.F_BUS, idx_brch.T_BUS))

    node_of = _NodeLookup(lookups["bus"], n_node)
    reference = np.flatnonzero(bus[:, idx_bus.BUS_TYPE] == _REFERENCE)
    gen_node = node_of(net.gen["bus"])
    at_slack = np.isin(gen_node, reference)
    if at_slack.any():
        raise UnsupportedElement(
            f"the compiled power flow does not support gen at a slack bus ({at_slack.sum()}); remove it: "
            "the ext_grid there already holds the voltage"
        )
    slots = _LoadingSlots(branch, in_model, n_node)
    line_range, trafo_range = (lookups["branch"].get(name, (0, 0)) for name in ("line", "trafo"))
    amps = float(net.sn_mva) / (np.sqrt(3.0) * bus[:, idx_bus.BASE_KV])  # per unit -> kA, by node
    factor = np.zeros((2, len(branch)))
    factor[:, slice(*line_range)], line_rating = _line_factor(net.line)
    factor[:, slice(*trafo_range)] = _trafo_factor(net.trafo)
    factor = factor[:, in_model] * np.stack([amps[from_node], amps[to_node]])

    grid = GridArrays(
        base_mva=float(net.sn_mva),
        n_node=n_node,
        node_of_bus=node_of(net.bus.index),
        bus_index=net.bus.index.to_numpy(np.int64, copy=True),
        injection_node=np.concatenate([node_of(net[name]["bus"]) for name in injections.index]),
        gen_node=gen_node,
        reference_node=reference,
        base_voltage=_voltage(bus) if solved else None,
        branch_from=from_node,
        branch_to=to_node,
        branch_admittance=yff_yft_ytf_ytt,
        shunt_admittance=(bus[:, idx_bus.GS] + 1j * bus[:, idx_bus.BS]) / float(net.sn_mva),
        loading_factor=factor,
        line_slot=slots.of(line_range, unrated=line_rating == 0.0),
        trafo_slot=slots.of(trafo_range, unrated=np.zeros(len(net.trafo), dtype=bool)),
        trafo_branch=slots.branch_of(trafo_range),
        **_ext_grid_fields(net.ext_grid, node_of(net.ext_grid["bus"]), reference, n_node),
    )
    _check_admittance(grid, ppc["internal"].get("Ybus"))
    return grid


def iterations_of(net: Any) -> int:
    """Return how many iterations the last ``runpp`` of this network took."""
    return int(net._ppc["iterations"])


def _solve_base_case(net: Any, tolerance_mva: float) -> bool:
    """Run pandapower; return whether it found voltages (its arrays are there in either case).

    Where generators hold voltages these are needed to start from, and a network whose own powers have no
    solution is tried without powers.
    """
    if _runpp(net, tolerance_mva):
        return True
    if not len(net.gen):
        return False
    for name, columns in _POWERS.items():
        net[name][columns] = 0.0
    return _runpp(net, tolerance_mva)


def run_scaled(net: Any, tolerance_mva: float, **options: Any) -> None:
    """Run ``runpp`` to ``tolerance_mva``, or to pandapower's own 1e-8 MVA where rounding allows no less.

    Raises:
        pandapower.LoadflowNotConverged: Neither is reached.
    """
    options = {**_start_voltage(net), **options}
    try:
        pp.runpp(net, tolerance_mva=tolerance_mva, **options)
    except pp.LoadflowNotConverged:
        if tolerance_mva >= _PANDAPOWER_TOLERANCE_MVA:
            raise
        pp.runpp(net, tolerance_mva=_PANDAPOWER_TOLERANCE_MVA, **options)


def _start_voltage(net: Any) -> dict[str, float]:
    """Return the mean voltage that sources hold, pu, as ``init_vm_pu``: what ``runpp`` starts from by itself.

    It asks for it by six queries of pandas, which take a third of a power flow of some hundred nodes. Empty
    where it would start from something else.
    """
    if net.user_pf_options or len(net.get("vsc", ())):  # pandapower 3.1 has no vsc
        return {}
    sources = (net.ext_grid, net.gen)
    held = [table["vm_pu"].to_numpy()[table["in_service"].to_numpy(bool)] for table in sources]
    count = sum(len(vm_pu) for vm_pu in held)
    return {"init_vm_pu": sum(float(vm_pu.sum()) for vm_pu in held) / count} if count else {}


def _runpp(net: Any, tolerance_mva: float) -> bool:
    try:
        run_scaled(net, tolerance_mva, numba=False, lightsim2grid=False)
    except pp.LoadflowNotConverged:
        return False
    except (UserWarning, ValueError, FloatingPointError) as error:
        raise PowerFlowError(f"pandapower cannot build a model of this network: {error}") from error
    return True


def _two_port(branch: Array) -> ComplexArray:
    """Admittances (4, n) yff, yft, ytf, ytt of branch rows, by pandapower's own formula."""
    if not len(branch):
        return np.zeros((4, 0), dtype=complex)
    ytt, yff, yft, ytf = branch_vectors(branch, len(branch))
    return np.stack([yff, yft, ytf, ytt]).astype(complex)


def _voltage(bus: Array) -> ComplexArray:
    direction: ComplexArray = np.exp(1j * np.deg2rad(bus[:, idx_bus.VA]))
    return bus[:, idx_bus.VM] * direction


class _NodeLookup:
    """Bus index values -> nodes, with ``n_node`` for what pandapower left out of the model."""

    def __init__(self, lookup: IntArray, n_node: int) -> None:
        self._lookup, self._n_node = lookup, n_node

    def __call__(self, buses: Any) -> IntArray:
        node = self._lookup[np.asarray(buses, dtype=np.int64)]
        return np.where((node >= 0) & (node < self._n_node), node, self._n_node).astype(np.intp)


class _LoadingSlots:
    """Table rows -> positions in (loading of every branch in the model, 0, NaN, inf).

    pandapower reports 0 for a branch out of service between supplied buses, NaN where a bus has no
    supply, and infinity for a line without a rating.
    """

    def __init__(self, branch: Array, in_model: NDArray[np.bool_], n_node: int) -> None:
        n_branch = int(in_model.sum())
        self._branch = np.full(len(branch), -1, dtype=np.intp)
        self._branch[in_model] = np.arange(n_branch)
        ends = branch[:, [idx_brch.F_BUS, idx_brch.T_BUS]]
        absent = np.where((ends >= n_node).any(axis=1), n_branch + 1, n_branch)
        self._slot = np.where(in_model, self._branch, absent).astype(np.intp)
        self._infinite = n_branch + 2

    def branch_of(self, rows: tuple[int, int]) -> IntArray:
        return self._branch[slice(*rows)].copy()

    def of(self, rows: tuple[int, int], unrated: NDArray[np.bool_]) -> IntArray:
        return np.where(unrated, self._infinite, self._slot[slice(*rows)]).astype(np.intp)


def _line_factor(line: Any) -> tuple[Array, Array]:
    """Loading in percent per kA of each line, and its rating in kA."""
    rating = line["max_i_ka"].to_numpy(float) * line["df"].to_numpy(float) * line["parallel"].to_numpy(float)
    return 100.0 / np.where(rating == 0.0, 1.0, rating), rating


def _trafo_factor(trafo: Any) -> Array:
    """Loading in percent per kA on the (hv, lv) side of each transformer, relative to rated current."""
    rating = trafo["sn_mva"].to_numpy(float) * trafo["parallel"].to_numpy(float) * trafo["df"].to_numpy(float)
    vn_kv = np.stack([trafo["vn_hv_kv"].to_numpy(float), trafo["vn_lv_kv"].to_numpy(float)])
    factor: Array = vn_kv * (np.sqrt(3.0) * 100.0) / rating
    return factor


def _ext_grid_fields(table: Any, node: IntArray, reference: IntArray, n_node: int) -> dict[str, Any]:
    """Which ext_grid fixes which reference node, and how several at one node share its power: equally.

    Raises:
        UnsupportedElement: They have different slack weights; how pandapower then shares active power
            depends on the voltages it starts from.
    """
    active = table["in_service"].to_numpy(bool) & (node < n_node)
    position = np.where(active, np.searchsorted(reference, node), 0).astype(np.intp)
    weight = table["slack_weight"].to_numpy(float)
    share = np.zeros(len(table))
    for k in range(len(reference)):
        here = np.flatnonzero(active & (position == k))
        share[here] = 1.0 / len(here)
        if len(set(weight[here])) > 1:
            raise UnsupportedElement(
                f"the compiled power flow does not support ext_grid ({len(here)}) at one bus with different "
                "slack_weight; give them the same"
            )
    return {
        "ext_grid_reference": position,
        "ext_grid_share": share,
        "ext_grid_vm_pu": table["vm_pu"].to_numpy(float, copy=True),
        "ext_grid_va_degree": table["va_degree"].to_numpy(float, copy=True),
    }


def _check_admittance(grid: GridArrays, expected: Any) -> None:
    """Compare our admittance matrix with pandapower's (absent when only slack buses are supplied)."""
    if expected is None or expected.shape != (grid.n_node, grid.n_node):
        return
    difference = abs(AdmittanceMatrix(grid).assemble(grid.branch_admittance) - expected)
    if difference.max() > 1e-9 * abs(expected).max():
        raise PowerFlowError(
            f"pandapower {pp.__version__} arranges its arrays in a way this version does not understand; "
            'solve with solver = "pandapower" and report this'
        )


def read_tap_positions(trafo: Any) -> TapPositions:
    """Return the tap changers of a transformer table."""
    present, lowest, highest = (trafo[name].to_numpy(float) for name in ("tap_pos", "tap_min", "tap_max"))
    return TapPositions(index_of(trafo), present.copy(), lowest.copy(), highest.copy())


def _read_taps(net: Any) -> TapTable:
    """Return the admittances at every tap position (1-3 ms each) of a network that was solved."""
    trafo = read_tap_positions(net.trafo)
    admittances = _TapAdmittances(net)
    return TapTable(trafo, np.stack([admittances.at(tap_pos) for tap_pos in tap_positions_to_read(trafo)]))


class _TapAdmittances:
    """Branch admittances of the transformers at given tap positions, by pandapower's own formula.

    Args:
        net: The copy of the network that :func:`_read_grid` solved.
    """

    def __init__(self, net: Any) -> None:
        self._net = net
        self._ppc = {**net._ppc, "branch": net._ppc["branch"].real.astype(float)}
        self._rows = slice(*net._pd2ppc_lookups["branch"].get("trafo", (0, 0)))

    def at(self, tap_pos: Array) -> ComplexArray:
        """Return (4, n_trafo) yff, yft, ytf, ytt at ``tap_pos`` (n_trafo,), NaN = no tap changer."""
        if not len(tap_pos):
            return np.zeros((4, 0), dtype=complex)
        present = self._net.trafo["tap_pos"]
        try:
            self._net.trafo["tap_pos"] = tap_pos
            _calc_trafo_parameter(self._net, self._ppc)
        finally:
            self._net.trafo["tap_pos"] = present
        return _two_port(self._ppc["branch"][self._rows])

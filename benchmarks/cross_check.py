"""The batched power flow beside power-grid-model: the same voltages, and how long each takes.

    pip install power-grid-model
    python benchmarks/cross_check.py [--copies 256] [--rounds 5]

Networks of pandapower as pandapower's own model of them (pi circuits, per unit) is handed to both; each copy
scales every load by its own factor. Told are the largest difference of a voltage magnitude, pu, and CPU time
a copy. power-grid-model gives voltages and powers of all elements; ours voltages, loadings and losses.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pandapower as pp
import pandapower.networks as pn
from numpy.typing import NDArray

from powergrid.powerflow import CompiledPowerFlow

Array = NDArray[np.float64]
clock = time.process_time
NETWORKS: dict[str, Callable[[], Any]] = {
    "case33bw": pn.case33bw,
    "CIGRE LV": pn.create_cigre_network_lv,
    "CIGRE MV": pn.create_cigre_network_mv,
}
TOLERANCE = 1e-12
LARGEST_DIFFERENCE_PU = 1e-9


class Rival:
    """One network in power-grid-model, with a batch of its loads.

    Args:
        net: Of pandapower, solved.
        p_mw, q_mvar: (n_copies, n_loads) consumed.
    """

    def __init__(self, net: Any, p_mw: Array, q_mvar: Array) -> None:
        import power_grid_model as pgm

        model: Any = net._ppc["internal"]
        bus, branch = model["bus"].real, model["branch"]
        n, m = len(bus), len(branch)
        to = branch[:, 1].real.astype(int)
        ohm = bus[to, 9] ** 2 / model["baseMVA"]  # voltages in kV, powers in MVA
        node = pgm.initialize_array("input", "node", n)
        node["id"], node["u_rated"] = np.arange(n), bus[:, 9] * 1e3
        pi = pgm.initialize_array("input", "generic_branch", m)
        pi["id"], pi["from_node"], pi["to_node"] = n + np.arange(m), branch[:, 0].real, to
        pi["from_status"] = pi["to_status"] = 1
        pi["r1"], pi["x1"] = branch[:, 2].real * ohm, branch[:, 3].real * ohm
        pi["g1"], pi["b1"] = 0.0, branch[:, 4].real / ohm
        pi["k"] = np.where(branch[:, 8].real == 0.0, 1.0, branch[:, 8].real)
        pi["theta"] = np.deg2rad(branch[:, 9].real)
        (reference,) = np.flatnonzero(bus[:, 1] == 3)
        source = pgm.initialize_array("input", "source", 1)
        source["id"], source["node"], source["status"] = n + m, reference, 1
        source["u_ref"], source["u_ref_angle"] = bus[reference, 7], np.deg2rad(bus[reference, 8])
        source["sk"] = 1e18  # as stiff as pandapower's: a voltage without an impedance
        at = net._pd2ppc_lookups["bus"][net.load.bus.to_numpy()]
        load = pgm.initialize_array("input", "sym_load", len(at))
        load["id"], load["node"], load["status"], load["type"] = n + m + 1 + np.arange(len(at)), at, 1, 0
        load["p_specified"] = load["q_specified"] = 0.0
        self._at = net._pd2ppc_lookups["bus"][net.bus.index.to_numpy()]
        self._model = pgm.PowerGridModel(
            {"node": node, "generic_branch": pi, "source": source, "sym_load": load}
        )
        told = pgm.initialize_array("update", "sym_load", p_mw.shape)
        told["id"] = load["id"]
        told["p_specified"], told["q_specified"] = p_mw * 1e6, q_mvar * 1e6
        self._told = {"sym_load": told}

    def solve(self) -> Any:
        """Solve all copies, in one thread; returns their results."""
        return self._model.calculate_power_flow(
            error_tolerance=TOLERANCE, max_iterations=50, update_data=self._told, threading=-1
        )

    def vm_pu(self) -> Array:
        """Return (n_copies, n_buses) voltage magnitudes, in pandapower's order."""
        found: Array = self.solve()["node"]["u_pu"][:, self._at]
        return found


def cpu_us(work: Callable[[], object], copies: int, rounds: int) -> float:
    """Return the CPU time of a copy, us: the median of the rounds."""
    took_s = []
    for _ in range(rounds):
        began_s = clock()
        work()
        took_s.append(clock() - began_s)
    return statistics.median(took_s) / copies * 1e6


def main() -> None:
    """Compare on each network, and say so."""
    parser = argparse.ArgumentParser(
        description="The batched power flow beside power-grid-model.", allow_abbrev=False
    )
    parser.add_argument("--copies", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    has_rival = importlib.util.find_spec("power_grid_model") is not None
    print("network     largest difference pu   fixed point us   power-grid-model us   ratio")
    for name, make in NETWORKS.items():
        net = make()
        pp.runpp(net, numba=False, calculate_voltage_angles=True)
        flow = CompiledPowerFlow(net, solver="fixed_point", tolerance_mva=TOLERANCE)
        scales = np.random.default_rng(0).uniform(0.5, 1.5, (options.copies, len(net.load)))
        columns = flow.injection_columns["load"]
        p_mw = np.zeros((options.copies, flow.n_injections))
        q_mvar = np.zeros_like(p_mw)
        p_mw[:, columns] = scales * net.load.p_mw.to_numpy()
        q_mvar[:, columns] = scales * net.load.q_mvar.to_numpy()
        ours = cpu_us(lambda: flow.solve_batch(p_mw, q_mvar), options.copies, options.rounds)  # noqa: B023
        if not has_rival:
            print(f"{name:<11} {'':21} {ours:16.1f} {'not installed':>21}")
            continue
        rival = Rival(net, p_mw[:, columns], q_mvar[:, columns])
        difference = float(np.abs(flow.solve_batch(p_mw, q_mvar).vm_pu - rival.vm_pu()).max())
        theirs = cpu_us(rival.solve, options.copies, options.rounds)
        print(f"{name:<11} {difference:21.1e} {ours:16.1f} {theirs:21.1f} {theirs / ours:7.2f}")
        if not difference <= LARGEST_DIFFERENCE_PU:
            raise SystemExit(f"{name}: the voltages differ by {difference:.1e} pu")


if __name__ == "__main__":
    main()

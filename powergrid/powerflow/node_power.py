"""From set-points in table order to complex power injected at nodes."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from powergrid.powerflow.arrays import ComplexArray, GridArrays
from powergrid.powerflow.injections import FlatInjections
from powergrid.powerflow.results import Array

__all__ = ["NodePower"]


class NodePower:
    """Sum the injections of each node; pu, positive = into the network, without the ext_grids.

    Args:
        grid: The compiled network.
        injections: Its set-points, read again at every call.
    """

    def __init__(self, grid: GridArrays, injections: FlatInjections) -> None:
        self._n_node, self._injections = grid.n_node, injections
        node = self._slot = grid.injection_node
        self._n_slot = grid.n_node + 1  # one more slot: buses without supply
        # Sums of active and reactive power alternate, as the parts of complex numbers do.
        self._slot_of_part = np.concatenate([2 * node, 2 * node + 1])
        self._per_unit = injections.sign / grid.base_mva
        self._weights = np.empty((2, len(node)))  # the same for active and reactive power
        self._weight = self._weights[0]
        self._weighted_by: tuple[bytes, bytes] | None = None
        self._weighted = np.empty((2, len(node)))
        # For batches: settable columns sorted by node, and where each node's columns begin.
        settable = node[: injections.n_settable]
        self._order = np.argsort(settable, kind="stable")
        self._order = self._order[settable[self._order] < grid.n_node]
        by_node = settable[self._order]
        self._begin = np.flatnonzero(np.diff(by_node, prepend=-1))
        self._nodes = by_node[self._begin]

    def one(self) -> ComplexArray:
        """Return (n_node,) for the present set-points."""
        given = self._injections
        self._update_weight()
        np.multiply(given.power, self._weights, out=self._weighted)
        total = np.bincount(self._slot_of_part, self._weighted.ravel(), 2 * self._n_slot)
        return total.view(complex)[: self._n_node]

    def batch(self, p_mw: Array, q_mvar: Array) -> ComplexArray:
        """Return (n_scenarios, n_node) for (n_scenarios, n_settable) powers in the tables' own sign.

        Scaling, what is in service, generators and wards are those of the present set-points.
        """
        power = np.zeros((len(p_mw), self._n_node), dtype=complex)
        if len(self._order):
            self._update_weight()
            weight = self._weight[self._order]
            power.real[:, self._nodes] = self._summed(p_mw, weight)
            power.imag[:, self._nodes] = self._summed(q_mvar, weight)
        power += self._not_settable()
        return power

    def checked_batch(self, p_mw: ArrayLike, q_mvar: ArrayLike) -> tuple[Array, Array]:
        """Return the powers of a batch as float arrays.

        Raises:
            ValueError: A shape other than (n_scenarios, n_settable), or not the same one twice.
        """
        p, q = np.asarray(p_mw, dtype=float), np.asarray(q_mvar, dtype=float)
        n = self._injections.n_settable
        if p.ndim != 2 or p.shape[1] != n or p.shape != q.shape:
            raise ValueError(
                f"p_mw and q_mvar: expected one shape (n_scenarios, {n}), load, sgen and storage in this "
                f"order; got {p.shape} and {q.shape}"
            )
        return p, q

    def _update_weight(self) -> None:
        """Work out the weights, if scaling or what is in service has changed."""
        given = self._injections
        by = (given.scaling.tobytes(), given.in_service.tobytes())
        if by != self._weighted_by:
            self._weights[:] = self._per_unit * given.scaling * given.in_service
            self._weighted_by = by

    def _summed(self, values: Array, weight: Array) -> Array:
        ordered = values[:, self._order]
        ordered *= weight
        return np.add.reduceat(ordered, self._begin, axis=1)

    def _not_settable(self) -> ComplexArray:
        """(n_node,) power of generators and wards."""
        rest = slice(self._injections.n_settable, None)
        slots, weight = self._slot[rest], self._weight[rest]
        p, q = (np.bincount(slots, row[rest] * weight, self._n_slot) for row in self._injections.power)
        return (p + 1j * q)[:-1]

"""Reductions over the quantities that belong to each microgrid, all microgrids in one call."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def consecutive(index: NDArray[np.intp]) -> slice | NDArray[np.intp]:
    """Return the slice that positions amount to, where they follow one another: nothing need be copied."""
    if len(index) and bool((np.diff(index) == 1).all()):
        return slice(int(index[0]), int(index[-1]) + 1)
    return index


class GroupedReducer:
    """Positions in a vector, group by group.

    Args:
        members: For each group its positions in the last axis of the vectors to come; may be empty.
    """

    def __init__(self, members: Sequence[NDArray[np.intp] | Sequence[int]]) -> None:
        sizes = np.array([len(group) for group in members], dtype=np.intp)
        index = np.concatenate([np.asarray(group, dtype=np.intp) for group in members])
        self._index: slice | NDArray[np.intp] = consecutive(index)
        self._filled = np.flatnonzero(sizes)
        self._starts = (np.cumsum(sizes) - sizes)[self._filled]
        self._n_groups = len(members)
        self._has_all = len(self._filled) == self._n_groups

    def take(self, values: Array) -> Array:
        """Return (..., n_members) the members' values, group after group."""
        if isinstance(self._index, slice):
            return values[..., self._index]
        return values.take(self._index, -1)

    def reduce(self, ufunc: np.ufunc, taken: Array, empty: float | Array) -> Array:
        """Return (..., n_groups) ``ufunc`` over each group of ``taken``; ``empty`` where there is nothing.

        ``empty`` is one number for all groups, or (n_groups,).
        """
        found: Array = ufunc.reduceat(taken, self._starts, -1)
        if self._has_all:
            return found
        whole = np.full((*taken.shape[:-1], self._n_groups), empty)
        whole[..., self._filled] = found
        return whole

    def sums(self, values: Array) -> Array:
        """Return (..., n_groups) the sum over each group of ``values``."""
        return self.reduce(np.add, self.take(values), 0.0)

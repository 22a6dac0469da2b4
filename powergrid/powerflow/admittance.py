"""The bus admittance matrix, assembled in place."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

if TYPE_CHECKING:
    from powergrid.powerflow.arrays import ComplexArray, GridArrays, IntArray

__all__ = ["AdmittanceMatrix"]


class AdmittanceMatrix:
    """The admittance matrix of a grid; its sparsity pattern never changes.

    Args:
        grid: The compiled network.

    Attributes:
        matrix: (n_node, n_node) CSC, complex.
    """

    def __init__(self, grid: GridArrays) -> None:
        n, diagonal = grid.n_node, np.arange(grid.n_node)
        rows = np.concatenate([grid.branch_from, grid.branch_from, grid.branch_to, grid.branch_to, diagonal])
        columns = np.concatenate(
            [grid.branch_from, grid.branch_to, grid.branch_from, grid.branch_to, diagonal]
        )
        pattern = sp.csc_matrix((np.ones(len(rows)), (rows, columns)), shape=(n, n))
        pattern.sum_duplicates()
        pattern.sort_indices()
        self.matrix = sp.csc_matrix((np.zeros(pattern.nnz, complex), pattern.indices, pattern.indptr), (n, n))
        self.column_of_entry = np.repeat(np.arange(n), np.diff(pattern.indptr))
        # Entries are sorted by column, then row; this is where each branch value and shunt adds itself.
        key = self.column_of_entry * n + pattern.indices
        self._entry: IntArray = np.searchsorted(key, columns * n + rows)
        self._shunt = grid.shunt_admittance

    def assemble(self, branch_admittance: ComplexArray) -> sp.csc_matrix:
        """Fill the matrix again from (4, n_branch) yff, yft, ytf, ytt and the shunts, and return it.

        Every entry is summed from scratch and in the same order, so that equal admittances give a
        bitwise equal matrix whatever was set before.
        """
        values = np.concatenate([branch_admittance.ravel(), self._shunt])
        data = self.matrix.data
        data.real = np.bincount(self._entry, weights=values.real, minlength=len(data))
        data.imag = np.bincount(self._entry, weights=values.imag, minlength=len(data))
        return self.matrix

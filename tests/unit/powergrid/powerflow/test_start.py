"""The no-load profile that every solve starts from: dense where small, sparse where not."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from powergrid.powerflow import start


@pytest.mark.parametrize("n", [1, 5, 60])
def test_dense_and_sparse_give_the_same_voltages(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(n)
    y = -(rng.uniform(1.0, 3.0, n - 1) - 1j * rng.uniform(5.0, 9.0, n - 1))  # a line of buses
    diagonal = np.zeros(n, dtype=complex)
    diagonal[0] = 4.0 - 9.0j  # to the slack
    diagonal[:-1] -= y
    diagonal[1:] -= y
    matrix = sp.csc_matrix(np.diag(diagonal) + np.diag(y, -1) + np.diag(y, 1))
    right = np.zeros((n, 1), dtype=complex)
    right[0] = 4.0 - 9.0j
    dense = start._solved(matrix, right)
    monkeypatch.setattr(start, "_DENSE_NODES", 0)
    sparse = start._solved(matrix, right)
    np.testing.assert_allclose(dense, sparse, rtol=0.0, atol=1e-12)
    np.testing.assert_allclose(dense, 1.0, atol=1e-12)  # nothing flows: all are at the slack's voltage

"""How the fixed point holds the voltages of generators: by the reactive power that they must give."""

from __future__ import annotations

from typing import Any

import numpy as np

from powergrid.powerflow.arrays import ComplexArray, IntArray

__all__ = ["VoltageHold"]

_ROUNDINGS = 4.0  # how many times the bound of one rounding counts as rounding


class VoltageHold:
    """Corrects reactive powers, and with them currents and voltages, in each iteration.

    A change of reactive power dQ at a node changes its current by -j dQ / conj(V), and this the voltages by Z
    times it. The magnitudes' response is linearised once, at the start voltages: the error that leaves is
    taken up by the iterations that come anyway.

    Source: G.-X. Luo, A. Semlyen, "Efficient load flow for large weakly meshed networks", IEEE Trans. Power
    Systems 5(4), 1990 (compensation of PV nodes).

    Args:
        at: (n_held,) positions of the nodes among the active ones, each once.
        start: (n_active,) start voltages, pu, with the magnitudes to be held.
        z: (n_active, n_active) voltages per current, pu.
    """

    def __init__(self, at: IntArray, start: ComplexArray, z: ComplexArray) -> None:
        self._at, self._z = at, np.ascontiguousarray(z[:, at].T)
        self._magnitude = np.abs(start[at])
        direction = start[at] / self._magnitude
        per_reactive = z[np.ix_(at, at)] * (-1j / start[at].conj())
        response = (direction.conj()[:, np.newaxis] * per_reactive).real
        try:
            gain = np.linalg.inv(response)
        except np.linalg.LinAlgError:  # reactive power moves no magnitude: then there is no solution to find
            gain = np.full_like(response, np.nan)
        self._gain = np.ascontiguousarray(gain.T)
        self._rounding = _ROUNDINGS * float(np.finfo(float).eps) * float(np.abs(gain).sum(axis=1).max())

    def correct(
        self, s_conj: ComplexArray, v: ComplexArray, current: ComplexArray, update: ComplexArray
    ) -> Any:
        """Move reactive powers towards the held magnitudes; return the largest change, (...) pu.

        A change that is due to rounding of the voltages does not count.

        Args:
            s_conj: (..., n_active) conjugate powers; changed.
            v: (..., n_active) voltages that the currents are for.
            current: (..., n_active) currents; changed.
            update: (..., n_active) voltages of these currents; changed.
        """
        at = self._at
        more = (self._magnitude - np.abs(update[..., at])) @ self._gain
        s_conj[..., at] -= 1j * more
        change = -1j * more / v[..., at].conj()
        current[..., at] += change
        update += change @ self._z
        return np.maximum(np.abs(more).max(axis=-1) - self._rounding, 0.0)

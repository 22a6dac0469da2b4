"""What a caller sets, checked: limits of the solver, slack voltages, tap positions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from powergrid.powerflow.results import Array

__all__ = ["TapPositions", "check_limits", "checked_slack", "checked_taps"]


@dataclass(frozen=True, slots=True, eq=False)
class TapPositions:
    """The tap changers of a network, as given; NaN where a transformer has none.

    Attributes:
        index: (n_trafo,) pandapower index values.
        present: (n_trafo,) positions.
        lowest, highest: (n_trafo,) their limits.
    """

    index: NDArray[np.int64]
    present: Array
    lowest: Array
    highest: Array


def check_limits(tolerance_mva: float, max_iterations: int | None) -> None:
    """Raise ValueError unless both limits of a solver are positive."""
    if not 0.0 < tolerance_mva < float("inf"):
        raise ValueError(f"tolerance_mva: expected a positive number, got {tolerance_mva!r}")
    if max_iterations is not None and max_iterations < 1:
        raise ValueError(f"max_iterations: expected at least 1, got {max_iterations!r}")


def checked_slack(vm_pu: ArrayLike, va_degree: ArrayLike, n_ext_grid: int) -> tuple[Array, Array]:
    """Return (n_ext_grid,) magnitudes, pu, and angles, degrees.

    Raises:
        ValueError: Wrong shape, not finite, or a magnitude that is not positive.
    """
    checked = []
    for name, given in (("vm_pu", vm_pu), ("va_degree", va_degree)):
        values = np.asarray(given, dtype=float)
        if values.shape not in {(), (n_ext_grid,)}:
            raise ValueError(f"slack {name}: expected one number or {n_ext_grid}, got shape {values.shape}")
        if not np.isfinite(values).all() or (name == "vm_pu" and not (values > 0.0).all()):
            raise ValueError(f"slack {name}: expected finite numbers (vm_pu > 0), got {values}")
        checked.append(np.array(np.broadcast_to(values, n_ext_grid)))
    return checked[0], checked[1]


def checked_taps(trafo: TapPositions, tap_pos: ArrayLike) -> Array:
    """Return (n_trafo,) tap positions.

    Args:
        trafo: The transformers of the network as it was given.
        tap_pos: (n_trafo,) positions; NaN stands for the given position.

    Raises:
        ValueError: Wrong shape, a position outside tap_min..tap_max or between two positions, or a
            position for a transformer without tap changer.
    """
    given = np.asarray(tap_pos, dtype=float)
    if given.shape != trafo.present.shape:
        raise ValueError(f"tap_pos: expected shape ({len(trafo.present)},), got {given.shape}")
    present, lowest, highest = trafo.present, trafo.lowest, trafo.highest
    positions = np.where(np.isnan(given), present, given)
    changed = ~((positions == present) | np.isnan(given))
    allowed = (positions >= lowest) & (positions <= highest) & (positions == np.round(positions))
    wrong = np.flatnonzero(changed & ~allowed)
    if len(wrong):
        row = wrong[0]
        raise ValueError(
            f"tap_pos of trafo {trafo.index[row]} (row {row}): expected a whole number from "
            f"{lowest[row]:g} to {highest[row]:g}, got {positions[row]:g}"
        )
    return positions

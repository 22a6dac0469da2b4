"""Time series from CSV files: load, PV, wind, price. docs/profiles.md has the format.

Needs numpy and the standard library alone: device scripts read profiles too and must start fast.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from powergrid.profiles.csv_reader import UNIT_NAMES, Unit, read_table

__all__ = ["Profiles", "Unit", "load_profiles"]


@dataclass(frozen=True, eq=False)
class Profiles:
    """Columns of one CSV file on a regular time grid.

    Attributes:
        source: The file, for messages.
        start: Time of step 0, as written in the file (with its UTC offset, if it has one).
        step_s: Length of a step, s. A value holds from its own time until the next.
        columns: Header -> ``(n_steps,)`` float64, finite, read-only, in the unit of ``units``; a
            ``_kw`` or ``_kvar`` column has already been converted to MW or Mvar.
        units: Header -> unit of the values.

    Raises:
        ValueError: No columns, columns of unequal length, values that are not finite, ``step_s`` <= 0.
    """

    source: str
    start: datetime
    step_s: float
    columns: Mapping[str, NDArray[np.float64]]
    units: Mapping[str, Unit]

    def __post_init__(self) -> None:
        if not self.columns or self.columns.keys() != self.units.keys():
            raise ValueError("a Profiles needs at least one column, and a unit for each")
        if not (math.isfinite(self.step_s) and self.step_s > 0):
            raise ValueError(f"step_s must be positive, not {self.step_s}")
        frozen = {name: np.array(values, dtype=np.float64) for name, values in self.columns.items()}
        if len({values.shape for values in frozen.values()}) != 1 or next(iter(frozen.values())).ndim != 1:
            raise ValueError("columns must be one-dimensional and of equal length")
        for name, values in frozen.items():
            if values.size == 0 or not np.isfinite(values).all():
                raise ValueError(f"column '{name}' must have values, all of them finite")
            values.setflags(write=False)
        object.__setattr__(self, "columns", MappingProxyType(frozen))
        object.__setattr__(self, "units", MappingProxyType(dict(self.units)))

    @property
    def n_steps(self) -> int:
        """Number of rows."""
        return len(next(iter(self.columns.values())))

    def at(self, column: str, step: int, *, wrap: bool = False) -> float:
        """Return the value of ``column`` that holds during ``step``, in the column's unit.

        Args:
            column: Header as in the file.
            step: >= 0. Step 0 is the first row.
            wrap: Repeat the file end to start: the row is ``step`` modulo ``n_steps``.

        Raises:
            KeyError: No such column was loaded.
            IndexError: ``step`` is negative, or past the last row and ``wrap`` is False.
        """
        return float(self.columns[column][self._row(step, wrap)])

    def time(self, step: int, *, wrap: bool = False) -> datetime:
        """Return the time at which the row of ``step`` begins; arguments and errors as in ``at``."""
        return self.start + timedelta(seconds=self._row(step, wrap) * self.step_s)

    def _row(self, step: int, wrap: bool) -> int:
        if step < 0 or (step >= self.n_steps and not wrap):
            raise IndexError(f"{self.source} has steps 0 to {self.n_steps - 1}, not {step}")
        return step % self.n_steps


def load_profiles(
    path: str | Path,
    columns: Iterable[str] | Mapping[str, Collection[Unit]],
    *,
    step_s: float,
    n_steps: int | None = None,
) -> Profiles:
    """Read columns of a CSV file and check every value that will be used.

    Args:
        path: UTF-8 file, comma separated, with a header. The ``time`` column is ISO 8601, all rows with
            a UTC offset or all without. Every other column used ends in its unit: ``_mw``, ``_kw``,
            ``_mvar``, ``_kvar``, ``_pu`` or ``_per_mwh``. Columns not asked for are not looked at.
        columns: Headers; as a mapping, with the units that the caller can use (``{"pv_1_pu": {"pu"}}``).
        step_s: Step length that the file must have, s.
        n_steps: Rows that the caller needs; more are kept, fewer are an error. None: at least one.

    Raises:
        DataError: All that is wrong with the file, one line each with row (line number) and column; the
            first ten in full, the rest counted.
        ValueError: No columns are asked for, or ``step_s`` <= 0.
    """
    wanted = columns if isinstance(columns, Mapping) else dict.fromkeys(columns, tuple(UNIT_NAMES))
    table = read_table(Path(path), wanted, step_s, 1 if n_steps is None else n_steps)
    return Profiles(
        source=str(path),
        start=table.start,
        step_s=step_s,
        columns={
            name: np.array(values) / table.scales[name].divisor for name, values in table.values.items()
        },
        units={name: scale.unit for name, scale in table.scales.items()},
    )

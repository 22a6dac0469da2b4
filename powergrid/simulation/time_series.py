"""The time series of a scenario as arrays: what holds in a row, for one row or many at once."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from heron_mqtt.messaging.stamping import utc_text
from powergrid.simulation.build import Blueprint

Array = NDArray[np.float64]
Positions = NDArray[np.intp]
Rows = int | NDArray[np.int64]

_DAY_S = 86_400.0
_DAY_ZERO = date(1970, 1, 1).toordinal()
KNOWN_LOADS = 100_000  # numbers that are kept, 8 bytes each


class Outlook(NamedTuple):
    """What the time series say of one row, or of (...) rows at once.

    Attributes:
        price: (...) $/MWh.
        p_load_mw: (..., n_agents) sum of each microgrid's loads, MW, negative = consuming.
        q_load_mvar: (..., n_agents) likewise, Mvar.
        p_available_mw: (..., n_profiled) of each device with a profile, MW: what the sun offers PV, >= 0;
            what a load wants, <= 0.
    """

    price: Any
    p_load_mw: Array
    q_load_mvar: Array
    p_available_mw: Array


class TimeSeries:
    """Price, loads and available PV power, row by row; arrays are read-only for callers.

    Rows count on past the end where the scenario repeats its series: ``row`` and ``row + n_rows`` hold the
    same values at different times.

    Args:
        blueprint: The scenario with its profiles.
        base_p_mw: (n_load,) nominal loads, MW, positive = consumed, in the order of the load table.
        base_q_mvar: (n_load,) likewise, Mvar.
        loads: For each microgrid the positions of its loads in that table.

    Attributes:
        n_rows: Rows of the shortest file.
        repeats: Whether the series begin again after the last row.
        clock: The simulated time of rows.
    """

    def __init__(
        self, blueprint: Blueprint, base_p_mw: Array, base_q_mvar: Array, loads: Sequence[Positions]
    ) -> None:
        scenario = blueprint.loaded.scenario
        prices, profiles = blueprint.prices, blueprint.profiles
        self.n_rows = min(prices.n_steps, profiles.n_steps) if profiles else prices.n_steps
        self.repeats = scenario.profiles.repeat
        self._step_s = scenario.step_s
        start = prices.start
        self._local_start = start
        in_utc = (start if start.tzinfo else start.replace(tzinfo=UTC)).astimezone(UTC)
        self.clock = RowClock(in_utc, scenario.step_s)
        self._start_s = (start.hour * 60 + start.minute) * 60.0 + start.second
        columns: Mapping[str, Array] = profiles.columns if profiles else {}
        scale = np.array([load.scale for load in blueprint.loads])
        # Active powers of all loads, then their reactive powers, in one vector.
        self._n_loads = len(blueprint.loads)
        followed = [load.p_column for load in blueprint.loads] + [load.q_column for load in blueprint.loads]
        base = np.concatenate((base_p_mw * scale, base_q_mvar * scale))
        self._loads = _Loads(base, followed, columns, self.n_rows)
        p_load = 0.0 - self._loads.sums(loads)
        q_load = 0.0 - self._loads.sums([self._n_loads + group for group in loads])
        plants = [
            columns[table.profile][: self.n_rows] * float(table.spec.profile_mw)
            for microgrid in scenario.microgrids.values()
            for table in microgrid.devices.values()
            if table.profile is not None
        ]
        available = np.stack(plants, axis=1) if plants else np.empty((self.n_rows, 0))
        # One row of one array for each step: read and handed on at once.
        price = prices.columns[scenario.profiles.price_column][: self.n_rows, np.newaxis]
        self._rows = np.concatenate((price, p_load, q_load, available), axis=1)
        self._price = self._rows[:, 0]
        begin, ends = 1, [1 + len(loads), 1 + 2 * len(loads)]
        self._p_load, self._q_load = self._rows[:, begin : ends[0]], self._rows[:, ends[0] : ends[1]]
        self._available = self._rows[:, ends[1] :]

    def change_prices(self, change: Callable[[float], float]) -> None:
        """Put ``change(price)`` in the place of every price, $/MWh."""
        self._price[:] = [change(price) for price in self._price.tolist()]

    @property
    def prices(self) -> Array:
        """Every price, (n_rows,) $/MWh; a copy."""
        return self._price.copy()

    @prices.setter
    def prices(self, prices: Array) -> None:
        self._price[:] = prices

    def has(self, row: int) -> bool:
        """Whether the series say anything of a row."""
        return self.repeats or row < self.n_rows

    def last_start(self, n_steps: int) -> int:
        """Return the last row with which an episode of ``n_steps`` steps can begin."""
        return self.n_rows - 1 if self.repeats else max(self.n_rows - n_steps, 0)

    def outlook(self, row: Rows) -> Outlook:
        """Return what holds during a row, or during each of (...) rows.

        Raises:
            IndexError: The series end before, and the scenario does not repeat them.
        """
        at = self._wrapped(row)
        return Outlook(self._price[at], self._p_load[at], self._q_load[at], self._available[at])

    def vector(self, row: int) -> Array:
        """Return ``outlook`` of one row as one vector: its values in their order.

        Raises:
            IndexError: As ``outlook``.
        """
        if not self.repeats and row >= self.n_rows:
            self._wrapped(row)
        values: Array = self._rows[row % self.n_rows]
        return values

    def loads(self, row: Rows) -> Array:
        """Return (..., 2, n_load) MW and Mvar of every load, positive = consumed, in the order of the table.

        Of one row it cannot be written to: copy it first.

        Raises:
            IndexError: As ``outlook``.
        """
        at = self._wrapped(row)
        both = self._loads.at_one(at) if isinstance(at, int) else self._loads.at(at)
        return both.reshape(*both.shape[:-1], 2, self._n_loads)

    def local_clock(self, row: int) -> datetime:
        """Return the time at which a row begins by the clock of the file."""
        return self._local_start + timedelta(seconds=row * self._step_s)

    def clock_s(self, row: Rows) -> Any:
        """Return the seconds since local midnight at which a row begins, (...) float."""
        return (self._start_s + row * self._step_s) % _DAY_S

    def _wrapped(self, row: Rows) -> Rows:
        last = row if isinstance(row, int) else int(row.max())
        if not self.has(last):
            raise IndexError(f"row {last}: the time series have {self.n_rows} rows and do not repeat")
        return row % self.n_rows


class RowClock:
    """The simulated time at which each row begins.

    Args:
        start: Of row 0, UTC.
        step_s: Length of a row, s.
    """

    def __init__(self, start: datetime, step_s: float) -> None:
        self._start = start
        self._step_s = step_s
        # Texts are made faster of whole seconds since 1970 than of moments; None = they are not whole
        is_whole = start.microsecond == 0 and float(step_s).is_integer()
        self._start_epoch_s = int(start.timestamp()) if is_whole else None
        self._whole_step_s = int(step_s)

    def moment(self, row: int) -> datetime:
        """Return the simulated time at which a row begins, UTC."""
        return self._start + timedelta(seconds=row * self._step_s)

    def text(self, row: int) -> str:
        """Return the same as messages and records carry it: see ``utc_text``."""
        if self._start_epoch_s is None:
            return utc_text(self.moment(row))
        day, of_day_s = divmod(self._start_epoch_s + row * self._whole_step_s, 86_400)
        return _date_text(day) + _time_text(of_day_s)


@functools.lru_cache(maxsize=16)
def _date_text(day: int) -> str:
    """Return the date of a day since 1970, as a moment's text begins."""
    return f"{date.fromordinal(_DAY_ZERO + day).isoformat()}T"


@functools.lru_cache(maxsize=4096)  # the same times come every day
def _time_text(of_day_s: int) -> str:
    """Return a time of day in UTC, s since midnight, as a moment's text ends."""
    minutes, seconds = divmod(of_day_s, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{seconds:02d}Z"


class _Loads:
    """Powers of loads: each a nominal value times the column that it follows."""

    def __init__(
        self, base: Array, names: Sequence[str | None], columns: Mapping[str, Array], n_rows: int
    ) -> None:
        used = sorted({name for name in names if name is not None})
        self._base = base
        # (row, column) factors; column 0 is all 1, for loads that follow none
        self._factors = np.ones((n_rows, len(used) + 1))
        for i, name in enumerate(used, start=1):
            self._factors[:, i] = columns[name][:n_rows]
        column = {name: i for i, name in enumerate(used, start=1)}
        self._column_of = np.array([column[name] if name else 0 for name in names], dtype=np.intp)
        self._known: dict[int, Array] = {}  # rows that were worked out; episodes come back to them
        self._most_known = max(1, KNOWN_LOADS // max(1, len(names)))

    def at_one(self, row: int) -> Array:
        """(n,) in one row; the array stays as it is."""
        known = self._known.get(row)
        if known is None:
            if len(self._known) >= self._most_known:
                self._known.clear()
            known = self._known[row] = self.at(row)
            known.flags.writeable = False  # later steps and episodes get the same
        return known

    def at(self, row: Rows) -> Array:
        """(..., n) in one row or several."""
        values: Array = self._factors[row].take(self._column_of, -1)
        values *= self._base
        return values

    def sums(self, groups: Sequence[Positions]) -> Array:
        """(n_rows, n_groups) sums over groups of powers."""
        # Per column first: a year of rows times every load would be gigabytes.
        weight = np.zeros((self._factors.shape[1], len(groups)))
        for i, group in enumerate(groups):
            np.add.at(weight[:, i], self._column_of[group], self._base[group])
        sums: Array = np.einsum("rc,cg->rg", self._factors, weight)
        return sums

"""Reading a profile CSV: file, rows, header, cells, times; every problem with its row and column."""

from __future__ import annotations

import csv
import io
import itertools
import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal, NamedTuple, NoReturn

from heron_mqtt.errors import DataError
from heron_mqtt.input_files import NO_SUCH_FILE, is_file, why_no_file

Unit = Literal["mw", "mvar", "pu", "per_mwh"]
"""Unit of the values as loaded: MW, Mvar, per unit of a rating, or $/MWh."""

UNIT_NAMES: Mapping[Unit, str] = {
    "mw": "power",
    "mvar": "reactive power",
    "pu": "per unit",
    "per_mwh": "price",
}

TIME_COLUMN = "time"
MAX_BYTES = 64 * 2**20
MAX_ROWS = 600_000  # a leap year of minutes is 527,040
MAX_PROBLEMS = 10  # shown in full; the rest are counted


class Scale(NamedTuple):
    """What the end of a column's name says: the unit as loaded, and what to divide a cell by to get it."""

    unit: Unit
    divisor: float


SCALES: Mapping[str, Scale] = {
    "_per_mwh": Scale("per_mwh", 1.0),
    "_mw": Scale("mw", 1.0),
    "_kw": Scale("mw", 1000.0),
    "_mvar": Scale("mvar", 1.0),
    "_kvar": Scale("mvar", 1000.0),
    "_pu": Scale("pu", 1.0),
}


class CsvRow(NamedTuple):
    """One row and the line of the file it begins on, counted from 1 as an editor does."""

    line: int
    cells: list[str]


@dataclass(frozen=True, slots=True)
class CsvTable:
    """The parsed part of a file: cells as written, in the unit of their column's name.

    Attributes:
        scales: Unit and divisor of each wanted column.
        start: Time of the first row.
        values: The numbers of each wanted column, finite, in the order of the rows.
    """

    scales: Mapping[str, Scale]
    start: datetime
    values: Mapping[str, Sequence[float]]


class CsvProblems:
    """Collects what is wrong, so that a file is mended once and not ten times."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._shown: list[str] = []
        self._more = 0

    def add(self, what: str, *, row: int | None = None, column: str | None = None) -> None:
        if len(self._shown) == MAX_PROBLEMS:
            self._more += 1
            return
        where = [str(self._path)]
        where += [f"row {row}"] if row is not None else []
        where += [f"column '{_short(column)}'"] if column is not None else []
        self._shown.append(f"{', '.join(where)}: {what}")

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._shown)

    def raise_if_any(self) -> None:
        if self._shown:
            raise self._error()

    def stop(self, what: str, *, row: int | None = None) -> NoReturn:
        """Raise at once: nothing behind this problem can be read."""
        self.add(what, row=row)
        raise self._error()

    def _error(self) -> DataError:
        more = [f"{self._path}: and {self._more} more"] if self._more else []
        return DataError(*self._shown, *more)


def read_table(path: Path, wanted: Mapping[str, Collection[Unit]], step_s: float, n_rows: int) -> CsvTable:
    """Read and check the wanted columns; arguments and errors as ``profiles.load_profiles`` says."""
    problems = CsvProblems(path)
    text = _text(path, problems)
    rows = _rows(text, problems)
    header = _header(rows, problems)
    scales = _scales(header, wanted, problems)
    if not problems:
        values = [(name, header.index(name)) for name in scales]
        found = _flawless(text, len(header), header.index(TIME_COLUMN), values, step_s)
        if found is not None and len(found[0]) >= n_rows:
            return CsvTable(scales, found[0][0], found[1])
    return _looked_through(rows, header, scales, step_s, n_rows, problems)


def _flawless(
    text: str, width: int, time: int, values: Sequence[tuple[str, int]], step_s: float
) -> tuple[list[datetime], dict[str, list[float]]] | None:
    """Return times and values of a file in which nothing is wrong; None where something may be.

    Column by column, in a fifth of the time that it takes to say of each cell what is wrong with it.
    """
    try:
        _, *rows = csv.reader(io.StringIO(text, newline=""), strict=True)
        if not 0 < len(rows) <= MAX_ROWS or any(len(row) != width for row in rows):
            return None
        columns = list(zip(*rows, strict=True))
        times = [datetime.fromisoformat(cell.strip()) for cell in columns[time]]
        step = timedelta(seconds=step_s)
        if any(later - earlier != step for earlier, later in itertools.pairwise(times)):
            return None
        found = {name: [float(cell) for cell in columns[position]] for name, position in values}
    except (csv.Error, ValueError, TypeError, OverflowError):  # TypeError: some times have a UTC offset
        return None
    for name, position in values:
        if "_" in "".join(columns[position]) or not all(map(math.isfinite, found[name])):
            return None
    return times, found


def _looked_through(
    rows: Iterator[CsvRow],
    header: Sequence[str],
    scales: Mapping[str, Scale],
    step_s: float,
    n_rows: int,
    problems: CsvProblems,
) -> CsvTable:
    """Read the rows one by one, and say of each what is wrong with it."""
    lines: list[int] = []
    times: list[datetime | None] = []
    values: dict[str, list[float]] = {name: [] for name in scales}
    positions = {name: header.index(name) for name in scales}
    time_position = header.index(TIME_COLUMN) if TIME_COLUMN in header else None
    for row in rows:
        if len(lines) == MAX_ROWS:
            problems.stop(f"more than {MAX_ROWS} rows of data; cut the file to what is needed", row=row.line)
        lines.append(row.line)
        if len(row.cells) != len(header):
            problems.add(f"has {len(row.cells)} cells, the header has {len(header)}", row=row.line)
            times.append(None)
            continue
        times.append(None if time_position is None else _time(row.cells[time_position], row.line, problems))
        for name, position in positions.items():
            values[name].append(_number(row.cells[position].strip(), row.line, name, problems))
    _check_times(lines, times, step_s, problems)
    if len(lines) < n_rows:
        problems.add(f"too few rows: {len(lines)}, but {n_rows} steps are needed")
    problems.raise_if_any()
    start = times[0]
    assert start is not None  # a row without a time is a problem, and raises
    return CsvTable(scales, start, values)


def _text(path: Path, problems: CsvProblems) -> str:
    if not is_file(path) and (why := why_no_file(path)) != NO_SUCH_FILE:
        problems.stop(why)
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except FileNotFoundError:
        problems.stop("no such file; check the path")
    except (OSError, ValueError) as exc:  # ValueError: a path with a null character
        problems.stop(f"cannot be read: {getattr(exc, 'strerror', None) or exc}")
    if len(data) > MAX_BYTES:
        problems.stop(f"larger than {MAX_BYTES // 2**20} MiB; cut the file to what is needed")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        row = data.count(b"\n", 0, exc.start) + 1
        problems.stop(f"byte 0x{data[exc.start]:02x} is not UTF-8; save the file as UTF-8", row=row)


def _rows(text: str, problems: CsvProblems) -> Iterator[CsvRow]:
    """Yield every row that is not blank."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    while True:
        line = reader.line_num + 1  # a quoted cell may hold line breaks: the row begins here
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as exc:
            problems.stop(f"is not CSV: {exc}", row=line)
        if any(cell.strip() for cell in cells):
            yield CsvRow(line, cells)


def _header(rows: Iterator[CsvRow], problems: CsvProblems) -> list[str]:
    row = next(rows, None)
    if row is None:
        problems.stop(f"is empty; expected a header with a column '{TIME_COLUMN}'")
    header = [cell.strip() for cell in row.cells]
    if len(header) == 1 and ";" in header[0]:
        problems.stop("cells are separated by ';'; separate them by ',' and use decimal points", row=row.line)
    if TIME_COLUMN not in header and any(_is_number(cell) for cell in header):
        problems.stop(f"no header; expected names of columns, found {_quoted(header[0])}", row=row.line)
    for name, count in Counter(header).items():
        if count > 1:
            problems.add(f"the name appears {count} times; name each column once", row=row.line, column=name)
    if TIME_COLUMN not in header:
        problems.add(f"no such column; there are {_listed(header)}", row=row.line, column=TIME_COLUMN)
    return header


def _scales(
    header: list[str], wanted: Mapping[str, Collection[Unit]], problems: CsvProblems
) -> dict[str, Scale]:
    """Return the scale of each wanted column that can be read."""
    scales: dict[str, Scale] = {}
    for name, accepted in wanted.items():
        scale = next((scale for suffix, scale in SCALES.items() if name.endswith(suffix)), None)
        if name not in header:
            problems.add(f"no such column; there are {_listed(header)}", column=name)
        elif scale is None:
            problems.add(f"the name does not say the unit; end it in {' or '.join(SCALES)}", column=name)
        elif scale.unit not in accepted:
            usable = " or ".join(UNIT_NAMES[unit] for unit in UNIT_NAMES if unit in accepted)
            suffixes = " or ".join(suffix for suffix, known in SCALES.items() if known.unit in accepted)
            problems.add(
                f"is {UNIT_NAMES[scale.unit]}; expected {usable} (a name in {suffixes})", column=name
            )
        else:
            scales[name] = scale
    return scales


def _time(cell: str, line: int, problems: CsvProblems) -> datetime | None:
    try:
        return datetime.fromisoformat(cell.strip())
    except ValueError:
        expected = "expected ISO 8601, such as 2016-07-04T00:15:00+02:00"
        problems.add(f"{_quoted(cell)} is not a time; {expected}", row=line, column=TIME_COLUMN)
        return None


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return "_" not in cell  # float() takes 1_000, which is not meant as a number in a data file


def _number(cell: str, line: int, column: str, problems: CsvProblems) -> float:
    if not cell:
        problems.add("the cell is empty; expected a number", row=line, column=column)
    elif not _is_number(cell):
        problems.add(
            f"{_quoted(cell)} is not a number; expected digits with a decimal point", row=line, column=column
        )
    elif not math.isfinite(float(cell)):
        problems.add(f"{_quoted(cell)} is not finite; expected a finite number", row=line, column=column)
    else:
        return float(cell)
    return math.nan


def _check_times(
    lines: Sequence[int], times: Sequence[datetime | None], step_s: float, problems: CsvProblems
) -> None:
    """Check that every row begins ``step_s`` after the row before it."""
    known = [(line, time) for line, time in zip(lines, times, strict=True) if time is not None]
    for line, time in known:
        if (time.tzinfo is None) != (known[0][1].tzinfo is None):
            first = f"row {known[0][0]} ({known[0][1].isoformat()})"
            what = f"{time.isoformat()} and {first}: give all times a UTC offset, or none"
            problems.add(what, row=line, column=TIME_COLUMN)
            return
    # Only neighbouring rows are compared: a row without a readable time is already reported.
    rows = zip(lines, times, strict=True)
    pairs = [
        (line, time, next_line, next_time, round((next_time - time).total_seconds() - step_s, 6))
        for (line, time), (next_line, next_time) in itertools.pairwise(rows)
        if time is not None and next_time is not None
    ]
    # A file with another step length is one mistake, not one a row.
    excess_s, count = Counter(excess_s for *_, excess_s in pairs).most_common(1)[0] if pairs else (0.0, 0)
    if excess_s != 0 and step_s + excess_s > 0 and count > len(pairs) / 2:
        problems.add(f"rows are {step_s + excess_s:g} s apart; expected {step_s:g} s", column=TIME_COLUMN)
        return
    for line, time, next_line, next_time, excess_s in pairs:
        between = f"row {line} is {time.isoformat()}, row {next_line} is {next_time.isoformat()}"
        if step_s + excess_s <= 0:
            problems.add(f"time does not advance: {between}", row=next_line, column=TIME_COLUMN)
        elif excess_s != 0:
            what = "gap" if excess_s > 0 else "step too short"
            problems.add(f"{what}: {between}; expected {step_s:g} s", row=next_line, column=TIME_COLUMN)


def _short(text: str) -> str:
    return text if len(text) <= 40 else text[:37] + "..."


def _quoted(cell: str) -> str:
    """Return ``cell`` printable and short enough for a message."""
    return repr(_short(cell))


def _listed(names: list[str]) -> str:
    return ", ".join(_short(name) for name in names[:20]) + (
        f" and {len(names) - 20} more" if names[20:] else ""
    )

"""Make ``config/profiles/*.csv`` again from an installed copy of SimBench.

    python -m venv simbench-venv && simbench-venv/bin/pip install simbench==1.6.3
    simbench-venv/bin/python scripts/extract_profiles.py

With ``--year FOLDER`` it makes ``simbench_year.csv`` and ``price_year.csv`` there: the same columns and the
same formula over all of 2016. They are not shipped.

Only the standard library is used, and the same input gives the same bytes. ``simbench_week.csv`` is
an extract of SimBench (ODbL); ``price_week.csv`` is synthetic: the formula is ``price_usd_per_mwh``
below, its input the extract as written. docs/profiles.md describes both.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path

GRID_FOLDER = "1-complete_data-mixed-all-0-sw"
SIMBENCH_TIME = "%d.%m.%Y %H:%M"
CEST = timezone(timedelta(hours=2))  # SimBench's clock is German local time; the whole week is in summer time
START = datetime(2016, 7, 4, tzinfo=CEST)  # a Monday
# SimBench's rows are equidistant and its clock has summer time: a year of them is in standard time.
YEAR_START = datetime(2016, 1, 1, tzinfo=timezone(timedelta(hours=1)))
STEP = timedelta(minutes=15)
N_STEPS = 7 * 96
STEPS_PER_HOUR = 4
DECIMALS = 4


@dataclass(frozen=True)
class Source:
    """Where one column of the extract comes from.

    Attributes:
        file: SimBench file.
        column: Column in that file.
        rescale: Divide by the year's maximum, so that 1.0 is the year's peak. Set for profiles of
            whole low-voltage grids, which SimBench normalises by the sum of their customers' own peaks.
    """

    file: str
    column: str
    rescale: bool = False


SOURCES: Mapping[str, Source] = {
    "residential_p_pu": Source("LoadProfile.csv", "lv_rural3_pload", rescale=True),
    "residential_q_pu": Source("LoadProfile.csv", "lv_rural3_qload", rescale=True),
    "industrial_p_pu": Source("LoadProfile.csv", "WB-H_pload"),
    "industrial_q_pu": Source("LoadProfile.csv", "WB-H_qload"),
    "commercial_p_pu": Source("LoadProfile.csv", "G0-M_pload"),
    "commercial_q_pu": Source("LoadProfile.csv", "G0-M_qload"),
    "pv_1_pu": Source("RESProfile.csv", "PV3"),
    "pv_2_pu": Source("RESProfile.csv", "PV5"),
    "pv_3_pu": Source("RESProfile.csv", "PV8"),
    "wind_pu": Source("RESProfile.csv", "WP4"),
}


def read_series(folder: Path, *, year: bool = False) -> dict[str, list[float]]:
    """Return the columns as they will be written (rounded): ``N_STEPS`` values each, or the whole year's.

    Args:
        folder: SimBench's data folder, with ``LoadProfile.csv`` and ``RESProfile.csv``.
        year: All of 2016.

    Raises:
        SystemExit: A file, a column or the week is not there.
    """
    week: dict[str, list[float]] = {}
    for file in sorted({source.file for source in SOURCES.values()}):
        wanted = {name: source for name, source in SOURCES.items() if source.file == file}
        week |= _read_file(folder / file, wanted, year=year)
    return {name: week[name] for name in SOURCES}


def _read_file(path: Path, wanted: Mapping[str, Source], *, year: bool) -> dict[str, list[float]]:
    try:
        stream = path.open(encoding="utf-8", newline="")
    except OSError as exc:
        raise SystemExit(f"{path}: cannot be read: {exc.strerror}") from exc
    with stream:
        rows = csv.DictReader(stream, delimiter=";")
        missing = {source.column for source in wanted.values()} - set(rows.fieldnames or ())
        if missing:
            raise SystemExit(f"{path}: no column {', '.join(sorted(missing))}; is this SimBench 1.6?")
        found: dict[str, list[float]] = {name: [] for name in wanted}
        first = None
        for row, record in enumerate(rows):
            if datetime.strptime(record["time"], SIMBENCH_TIME).replace(tzinfo=CEST) == START:
                first = row
            for name, source in wanted.items():
                found[name].append(float(record[source.column]))
    if first is None:
        raise SystemExit(f"{path}: no row for {START:%d.%m.%Y %H:%M}")
    week = {}
    for name, values in found.items():
        peak = max(values) if wanted[name].rescale else 1.0
        # + 0.0 turns the -0.0 of a rounded -0.00001 (a wind turbine's own use) into 0.0.
        week[name] = [
            round(v / peak, DECIMALS) + 0.0 for v in (values if year else values[first : first + N_STEPS])
        ]
        if not year and len(week[name]) != N_STEPS:
            raise SystemExit(f"{path}: the year ends within the week that starts at {START:%d.%m.%Y}")
    return week


def price_usd_per_mwh(residual: float, hour: int) -> float:
    """Return the synthetic day-ahead price of one hour, $/MWh, rounded to cents.

    A merit order in three pieces, as a function of the residual load, plus the shape of the day:

    ``price = 28 + 95 r + 10 exp(8 (r - 0.4)) - 36 max(0, 1 - r / 0.1) + shape(hour)``

    The linear term stands for lignite, coal and gas in turn, the exponential for peaking plant, the
    negative term for must-run plant that pays to stay on. The shape adds the morning and evening ramp.
    The constants were chosen, not fitted: see docs/profiles.md for the resulting range.

    Args:
        residual: Load less wind and PV, as a fraction of peak load; may be negative.
        hour: Local hour of the day, 0 to 23.
    """
    shape = 8.0 * _bump(hour, 8.0) + 16.0 * _bump(hour, 19.5)
    peaking = 10.0 * math.exp(8.0 * (residual - 0.4))
    surplus = 36.0 * max(0.0, 1.0 - residual / 0.1)
    return round(28.0 + 95.0 * residual + peaking - surplus + shape, 2)


def _bump(hour: int, centre: float) -> float:
    return math.exp(-(((hour + 0.5 - centre) / 2.0) ** 2))


def residual_load(week: Mapping[str, Sequence[float]]) -> list[float]:
    """Return the hourly residual load of the extract, as a fraction of peak load.

    The mix is chosen: 40 % residential, 30 % industrial and 30 % commercial load, with as much PV and
    wind (45 % and 25 % of peak load) as brings the residual load down to zero at noon on the weekend.
    """
    quarter_hours = [
        0.4 * residential
        + 0.3 * industrial
        + 0.3 * commercial
        - 0.45 * (pv_1 + pv_2 + pv_3) / 3
        - 0.25 * wind
        for residential, industrial, commercial, pv_1, pv_2, pv_3, wind in zip(
            week["residential_p_pu"],
            week["industrial_p_pu"],
            week["commercial_p_pu"],
            week["pv_1_pu"],
            week["pv_2_pu"],
            week["pv_3_pu"],
            week["wind_pu"],
            strict=True,
        )
    ]
    return [
        math.fsum(quarter_hours[first : first + STEPS_PER_HOUR]) / STEPS_PER_HOUR
        for first in range(0, len(quarter_hours), STEPS_PER_HOUR)
    ]


def prices(week: Mapping[str, Sequence[float]]) -> list[float]:
    """Return the price of every quarter hour, $/MWh; constant over each hour, as a day-ahead price is."""
    hourly = [price_usd_per_mwh(residual, hour % 24) for hour, residual in enumerate(residual_load(week))]
    return [price for price in hourly for _ in range(STEPS_PER_HOUR)]


def write_csv(
    path: Path, columns: Mapping[str, Sequence[float]], decimals: int, start: datetime = START
) -> None:
    """Write ``columns`` below a ``time`` column, with Unix line ends."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        rows = csv.writer(stream, lineterminator="\n")
        rows.writerow(["time", *columns])
        for step, values in enumerate(zip(*columns.values(), strict=True)):
            time = (start + step * STEP).isoformat(timespec="minutes")
            rows.writerow([time, *(f"{value:.{decimals}f}" for value in values)])


def _installed_simbench() -> Path:
    spec = importlib.util.find_spec("simbench")
    if spec is None or spec.origin is None:
        raise SystemExit("simbench is not installed here; install it, or say --simbench FOLDER")
    return Path(spec.origin).parent / "networks" / GRID_FOLDER


def main(arguments: Sequence[str] | None = None) -> None:
    """Write ``simbench_week.csv`` and ``price_week.csv``, or the year's."""
    parser = argparse.ArgumentParser(description="Make config/profiles/*.csv again from SimBench.")
    parser.add_argument(
        "--simbench", type=Path, help=f"the folder {GRID_FOLDER} (default: the installed one)"
    )
    default = Path(__file__).resolve().parents[1] / "config" / "profiles"
    parser.add_argument("--output", type=Path, default=default, help="folder to write to")
    parser.add_argument("--year", type=Path, metavar="FOLDER", help="write a year of them there instead")
    options = parser.parse_args(arguments)
    simbench = options.simbench or _installed_simbench()
    if options.year is not None:
        series = read_series(simbench, year=True)
        write_csv(options.year / "simbench_year.csv", series, DECIMALS, YEAR_START)
        write_csv(options.year / "price_year.csv", {"price_per_mwh": prices(series)}, 2, YEAR_START)
        return
    week = read_series(simbench)
    write_csv(options.output / "simbench_week.csv", week, DECIMALS)
    price = prices(week)
    write_csv(options.output / "price_week.csv", {"price_per_mwh": price}, 2)
    sys.stdout.write(
        f"{N_STEPS} steps from {START.isoformat()}; price {min(price)} to {max(price)} $/MWh, "
        f"mean {math.fsum(price) / len(price):.2f}\n"
    )


if __name__ == "__main__":
    main()

"""Make ``config/profiles/neighbourhood_days.csv``: two days of the shipped week, and cars and heat.

python scripts/neighbourhood_profiles.py

Only the standard library is used, and the same input gives the same bytes. What is added is synthetic;
docs/profiles.md has the formulas.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / "config" / "profiles"
SATURDAY = 5
N_ROWS = 2 * 96
LEFT_OUT = {"pv_2_pu", "pv_3_pu", "wind_pu"}  # the neighbourhood has no use for them


def at_home(time: datetime) -> float:
    """Return 1 while a commuter's car is plugged in at home: from 18:00 to 07:00, at weekends to 10:00."""
    return float(_hour(time) >= 18.0 or _hour(time) < (10.0 if time.weekday() >= SATURDAY else 7.0))


def at_work(time: datetime) -> float:
    """Return 1 while a car is plugged in at work: 08:00 to 16:30 of working days."""
    return float(time.weekday() < SATURDAY and 8.0 <= _hour(time) < 16.5)


def heat(time: datetime) -> float:
    """Return the heat demand of a summer's day: hot water in the morning and the evening, a little always."""
    return 0.12 + 0.6 * _bell(time, 7.0) + 0.45 * _bell(time, 20.0)


COLUMNS: dict[str, Callable[[datetime], float]] = {
    "ev_home_pu": at_home,
    "ev_work_pu": at_work,
    "heat_pu": heat,
}


def _hour(time: datetime) -> float:
    return time.hour + time.minute / 60.0


def _bell(time: datetime, centre: float) -> float:
    return math.exp(-(((_hour(time) - centre) / 1.5) ** 2))


def main() -> None:
    """Write the file."""
    with (FOLDER / "simbench_week.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))[:N_ROWS]
    kept = [name for name in rows[0] if name not in LEFT_OUT]
    with (FOLDER / "neighbourhood_days.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*kept, *COLUMNS])
        for row in rows:
            time = datetime.fromisoformat(row["time"])
            added = (f"{value(time):.3g}" for value in COLUMNS.values())
            writer.writerow([*(row[name] for name in kept), *added])


if __name__ == "__main__":
    main()

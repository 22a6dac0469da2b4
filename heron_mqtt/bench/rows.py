"""What a benchmark finds: samples round by round, ratios within each round, and how to show them."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True)
class BenchRow:
    """One line of the table.

    Attributes:
        what: What was measured.
        value: The figure, median over the rounds.
        unit: ``R`` and the like for ratios, else a unit.
        low, high: Smallest and largest value of a round.
        must, aim: What issue and documentation ask for; shown, not judged.
        raw: The numbers behind it, by name with unit.
    """

    what: str
    value: float
    unit: str
    low: float
    high: float
    must: float | None = None
    aim: float | None = None
    raw: Mapping[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class BenchReport:
    """Everything that one run of the benchmark found.

    Attributes:
        machine: What it ran on.
        settings: Rounds and counts.
        rows: In the order of the table.
        skipped: Why rows are missing.
    """

    machine: dict[str, Any]
    settings: dict[str, Any]
    rows: list[BenchRow] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON."""
        return asdict(self)


def ratio(
    what: str,
    unit: str,
    samples: Sequence[float],
    floors: Sequence[float],
    *,
    must: float | None = None,
    aim: float | None = None,
    raw: Mapping[str, float] | None = None,
) -> BenchRow:
    """Return a row of samples relative to a floor measured in the same rounds."""
    ratios = [sample / floor for sample, floor in zip(samples, floors, strict=True)]
    return BenchRow(what, statistics.median(ratios), unit, min(ratios), max(ratios), must, aim, raw or {})


def print_report(console: Console, report: BenchReport) -> None:
    """Print the table, and what could not be measured."""
    machine = report.machine
    table = Table(
        title=f"heron-mqtt {machine['version']} on {machine['cores']} cores, Python {machine['python']}",
        caption="R = raw TCP relay of the same messages, message by message; everything on one core",
    )
    for name in ("what", "median", "of rounds", "must", "aim", "raw numbers (medians)"):
        table.add_column(name, justify="left" if name in {"what", "raw numbers (medians)"} else "right")
    for row in report.rows:
        raw = ", ".join(f"{name} {value:.4g}" for name, value in row.raw.items())
        limits = ["" if limit is None else f"{limit:g}" for limit in (row.must, row.aim)]
        table.add_row(
            row.what, f"{row.value:.3g} {row.unit}", f"{row.low:.3g} .. {row.high:.3g}", *limits, raw
        )
    console.print(table)
    for line in report.skipped:
        console.print(f"not measured: {line}")

"""The results of fault trials as a Markdown table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from heron_mqtt.testing.faults.run import FaultResult

__all__ = ["HEADINGS", "cells", "markdown"]

HEADINGS: Final = (
    "fault",
    "what is done",
    "promised",
    "broker",
    "tried",
    "recovered in, median / worst s",
    "longest power after the last rightful setpoint, s",
    "lost",
    "undetected",
    "outside the envelope",
    "past their lease",
    "after a stop, in shadow, second owner",
    "hung",
    "verdict",
)


def cells(result: FaultResult) -> tuple[str, ...]:
    """Return the row of one result."""
    t = result.tally
    is_site = result.trial.at_site is not None
    counts = (t.outside, t.past_lease, t.forbidden) if is_site else ("-", "-", "-")
    recovered = "-" if t.median_s is None else f"{t.median_s:.2f} / {t.worst_s:.2f}"
    held = f"{t.held_s:.2f}" if t.held_s else "-"
    trial = result.trial
    row = (f"`{trial.name}`", trial.what, trial.promise, result.broker, t.tried, recovered, held)
    if result.verdict == "not tried":
        return (*map(str, row[:5]), *["-"] * 8, f"not tried: {result.why_not}")
    return tuple(map(str, (*row, t.lost, t.undetected, *counts, t.hung, result.verdict)))


def markdown(results: Sequence[FaultResult]) -> str:
    """Return the table; ends with a line break."""
    lines = [HEADINGS, ["---"] * len(HEADINGS), *map(cells, results)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)

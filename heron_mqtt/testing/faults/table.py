"""The results of fault trials as Markdown tables: each fault, and sums by group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from heron_mqtt.testing.faults.run import FaultResult

__all__ = ["HEADINGS", "SUM_HEADINGS", "cells", "markdown", "sums"]

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

SUM_HEADINGS: Final = ("kind of fault", *HEADINGS[3:5], *HEADINGS[6:13])


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


def sums(results: Sequence[FaultResult]) -> str:
    """Return the sums by group and broker as a table; ends with a line break.

    What was not tried adds nothing; a group without a site has no setpoints to count (``-``).
    """
    lines: list[Sequence[object]] = [SUM_HEADINGS, ["---"] * len(SUM_HEADINGS)]
    for group, broker in dict.fromkeys((one.trial.group, one.broker) for one in results):
        mine = [one for one in results if (one.trial.group, one.broker) == (group, broker)]
        every = [one.tally for one in mine]
        at_site = [one.tally for one in mine if one.trial.at_site is not None]
        held_s = max((t.held_s for t in at_site), default=0.0)
        setpoints = [(t.outside, t.past_lease, t.forbidden) for t in at_site]
        lines.append(
            (
                group,
                broker,
                sum(t.tried for t in every),
                f"{held_s:.2f}" if held_s else "-",
                sum(t.lost for t in every),
                sum(t.undetected for t in every),
                *([sum(column) for column in zip(*setpoints, strict=True)] or ["-"] * 3),
                sum(t.hung for t in every),
            )
        )
    return _table(lines)


def markdown(results: Sequence[FaultResult]) -> str:
    """Return the table; ends with a line break."""
    return _table([HEADINGS, ["---"] * len(HEADINGS), *map(cells, results)])


def _table(lines: Sequence[Sequence[object]]) -> str:
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)

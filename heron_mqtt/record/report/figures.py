"""What a record's figures show: series over simulated time, limits, and marks for what happened."""

from __future__ import annotations

import json
import math
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import accumulate
from typing import Any

from heron_mqtt.record.reader import RecordFile

MAX_POINTS = 1_000  # of a series: more than a screen shows
MAX_MARKS = 300
MAX_DEVICES = 12  # with a figure of their own

SeriesValues = list[float | None]

MARKS: dict[str, str] = {
    "stop": "stop",
    "authority": "authority",
    "lease": "lease",
    "take": "authority",
    "fault": "fault",
    "fallback": "fallback",
    "back": "back",
    "resumed": "resumed",
}
"""Kinds of events that stand in every figure, and the colour they have there."""


@dataclass(frozen=True, slots=True)
class Series:
    """One line of a figure.

    Attributes:
        label: In the legend.
        values: One a step; None = not known.
        colour: Number of the colour.
        dashed: The second run, or what was asked for rather than measured.
        steps: Holds for the whole step; else a line from point to point.
    """

    label: str
    values: SeriesValues
    colour: int
    dashed: bool = False
    steps: bool = False


@dataclass(frozen=True, slots=True)
class Figure:
    """Series over one axis of time.

    Attributes:
        title: Above it.
        unit: Of its values.
        x: Simulated time, s since 1970 UTC; one a step.
        series: At least one.
        limits: Horizontal lines: label and value.
        group: Heading under which it stands.
    """

    title: str
    unit: str
    x: list[float]
    series: list[Series]
    limits: list[tuple[str, float]] = field(default_factory=list)
    group: str = "The day"


@dataclass(frozen=True, slots=True)
class Mark:
    """One thing that happened, at a point of every figure."""

    x: float
    colour: str
    text: str


class RunFigures:
    """Reads the series of one run.

    Args:
        record: The run.
        name: Put behind labels where two runs are shown.
        dashed: Its lines are dashed.
    """

    def __init__(self, record: RecordFile, name: str = "", *, dashed: bool = False) -> None:
        self._record = record
        self._suffix = f" {name}" if name else ""
        self._dashed = dashed
        self.steps = record.query("SELECT * FROM steps ORDER BY id")
        self._place = {(row["episode"], row["step"]): i for i, row in enumerate(self.steps)}
        self.x = _increasing([_seconds(row["clock"]) for row in self.steps], record.step_s)
        self.agents = record.agents
        self._rows: dict[str, list[Any]] = defaultdict(list)
        for row in record.query("SELECT * FROM agents ORDER BY id"):
            self._rows[row["agent"]].append(row)

    # -- figures -----------------------------------------------------------------------------------

    def all(self) -> list[Figure]:
        """Return every figure that the record has data for."""
        found = [
            self._figure(
                "Price", "$/MWh", [self._line("price", self._steps("price_per_mwh"), 0, steps=True)]
            ),
            *(self._powers(agent) for agent in self.agents),
            self._state_of_charge(),
            self._voltages(),
            self._agent_figure("Highest loading", "%", "loading_max_percent", limits=[("limit", 100.0)]),
            self._trades(),
            self._costs(),
            self._phases(),
            *self._devices(),
        ]
        return [figure for figure in found if figure.x and any(_known(s.values) for s in figure.series)]

    def _figure(self, title: str, unit: str, series: list[Series], **more: Any) -> Figure:
        return Figure(title, unit, self.x, series, **more)

    def _line(self, label: str, values: SeriesValues, colour: int, **more: Any) -> Series:
        dashed = more.pop("dashed", False) or self._dashed
        return Series(label + self._suffix, values, colour, dashed=dashed, **more)

    def _steps(self, column: str, factor: float = 1.0) -> SeriesValues:
        return [None if row[column] is None else row[column] * factor for row in self.steps]

    def _agent_values(self, agent: str, value: Callable[[Any], float | None]) -> SeriesValues:
        values: SeriesValues = [None] * len(self.steps)
        for row in self._rows[agent]:
            values[self._place[row["episode"], row["step"]]] = value(row)
        return values

    def _agent_figure(
        self, title: str, unit: str, column: str, limits: Sequence[tuple[str, float]] = ()
    ) -> Figure:
        lines = [
            self._line(agent, self._agent_values(agent, lambda row: row[column]), i)
            for i, agent in enumerate(self.agents)
        ]
        return self._figure(title, unit, lines, limits=list(limits))

    def _device_values(self, sql: str, *parameters: Any) -> dict[str, SeriesValues]:
        found: dict[str, SeriesValues] = {}
        for row in self._record.each(sql, *parameters):
            values = found.setdefault(row["name"], [None] * len(self.steps))
            at = self._place.get((row["episode"], row["step"]))
            if at is not None:
                values[at] = row["value"]
        return found

    def _powers(self, agent: str) -> Figure:
        found = self._device_values(
            "SELECT episode, step, device AS name, p_mw AS value FROM devices WHERE agent = ? ORDER BY id",
            agent,
        )
        lines = [self._line(name, values, i, steps=True) for i, (name, values) in enumerate(found.items())]
        load = self._agent_values(agent, lambda row: row["p_load_mw"])
        lines.append(self._line("load", load, 6, steps=True))
        return self._figure(f"Powers of {agent}, positive = injected", "MW", lines)

    def _state_of_charge(self) -> Figure:
        found = self._device_values(
            "SELECT episode, step, agent || '/' || device AS name, soc AS value FROM devices "
            "WHERE soc IS NOT NULL ORDER BY id"
        )
        lines = [self._line(name, values, i) for i, (name, values) in enumerate(found.items())]
        return self._figure("State of charge", "", lines)

    def _voltages(self) -> Figure:
        reward = self._record.scenario.get("reward", {})
        limits = [
            (f"{label}", reward[key])
            for label, key in (("lower limit", "vm_min_pu"), ("upper limit", "vm_max_pu"))
            if isinstance(reward.get(key), float | int)
        ]
        lines = []
        for i, agent in enumerate(self.agents):
            for label, column in (("lowest", "vm_min_pu"), ("highest", "vm_max_pu")):
                values = self._agent_values(agent, lambda row, column=column: row[column])  # type: ignore[misc]
                lines.append(self._line(f"{agent} {label}", values, i))
        return self._figure("Voltage band", "pu", lines, limits=limits)

    def _trades(self) -> Figure:
        sold: dict[str, SeriesValues] = {agent: [0.0] * len(self.steps) for agent in self.agents}
        for row in self._record.query("SELECT * FROM trades WHERE settled = 1 ORDER BY id"):
            at = self._place.get((row["episode"], row["step"]))
            if at is None or row["seller"] not in sold or row["buyer"] not in sold:
                continue
            for agent, sign in ((row["seller"], 1.0), (row["buyer"], -1.0)):
                sold[agent][at] = (sold[agent][at] or 0.0) + sign * row["mwh"]
        lines = [self._line(agent, values, i, steps=True) for i, (agent, values) in enumerate(sold.items())]
        return self._figure("Traded with peers, positive = sold", "MWh", lines)

    def _costs(self) -> Figure:
        lines = [
            self._line(
                agent,
                list(accumulate(-(v or 0.0) for v in self._agent_values(agent, lambda row: row["reward"]))),
                i,
            )
            for i, agent in enumerate(self.agents)
        ]
        return self._figure("Cost so far, penalties included", "$", lines)

    def _phases(self) -> Figure:
        names = ("inform", "plans", "check", "actions", "solve")
        lines = [self._line("whole step", self._steps("took_s", 1e3), 6)]
        for i, name in enumerate(names):
            values = self._steps(f"{name}_s", 1e3)
            if _known(values):
                lines.append(self._line(name, values, i))
        return self._figure("Step time by phase, wall clock", "ms", lines, group="The loop")

    def _devices(self) -> list[Figure]:
        """Return a figure for each device with telemetry: asked against measured."""
        names = self._record.query(
            "SELECT agent, device FROM devices WHERE telemetry_p_mw IS NOT NULL GROUP BY agent, device "
            "ORDER BY min(id) LIMIT ?",
            MAX_DEVICES,
        )
        figures = []
        for agent, device in ((row["agent"], row["device"]) for row in names):
            parts = []
            for i, (label, column, dashed) in enumerate(
                (
                    ("setpoint", "sent_p_mw", True),
                    ("measured", "telemetry_p_mw", False),
                    ("residual", "residual_mw", False),
                )
            ):
                found = self._device_values(
                    f"SELECT episode, step, '{label}' AS name, {column} AS value FROM devices "  # noqa: S608
                    "WHERE agent = ? AND device = ? ORDER BY id",
                    agent,
                    device,
                )
                parts += [
                    self._line(label, values, i, dashed=dashed, steps=True) for values in found.values()
                ]
            figures.append(self._figure(f"{agent}/{device}", "MW", parts, group="Devices"))
        return figures

    # -- marks -------------------------------------------------------------------------------------

    def marks(self) -> list[Mark]:
        """Return what stands in every figure, the first ``MAX_MARKS``."""
        begun = [row["begun_at_s"] or 0.0 for row in self.steps]
        found = []
        for row in self._record.query("SELECT * FROM events ORDER BY id"):
            colour = MARKS.get(row["kind"])
            if colour is None or not self.x:
                continue
            at = self._place.get((row["episode"], row["step"]))
            if at is None:  # it says no step: the one that was under way
                at = bisect_right(begun, row["at_s"] or 0.0) - 1
            if row["kind"] == "authority" and at < 0:
                continue  # how it began
            found.append(Mark(self.x[max(at, 0)], colour, f"{row['subject']}: {row['what']}"))
        return found[:MAX_MARKS]


def together(first: list[Figure], second: list[Figure]) -> list[Figure]:
    """Return the figures of two runs in one another; those of only one run stay as they are."""
    others = {figure.title: figure for figure in second}
    joined = []
    for figure in first:
        other = others.pop(figure.title, None)
        if other is None:
            joined.append(figure)
            continue
        x = sorted({*figure.x, *other.x})
        series = [
            *(_spread(one, figure.x, x) for one in figure.series),
            *(_spread(one, other.x, x) for one in other.series),
        ]
        joined.append(replace(figure, x=x, series=series))
    return [*joined, *others.values()]


def _spread(series: Series, own: list[float], x: list[float]) -> Series:
    if own == x:
        return series
    at = dict(zip(own, series.values, strict=True))
    values: SeriesValues = [at.get(one) for one in x]
    return replace(series, values=values)


def thinned(figure: Figure, most: int = MAX_POINTS) -> Figure:
    """Return a figure with at most ``most`` points: of each stretch the value farthest from its mean."""
    n = len(figure.x)
    if n <= most:
        return figure
    size = math.ceil(n / most)
    starts = range(0, n, size)
    series = [
        replace(one, values=[_farthest(one.values[i : i + size]) for i in starts]) for one in figure.series
    ]
    return replace(figure, x=[figure.x[i] for i in starts], series=series)


def _farthest(values: SeriesValues) -> float | None:
    known = [value for value in values if value is not None]
    if not known:
        return None
    mean = math.fsum(known) / len(known)
    return max(known, key=lambda value: abs(value - mean))


def _known(values: SeriesValues) -> bool:
    return any(value is not None for value in values)


def _seconds(clock: str | None) -> float:
    return 0.0 if clock is None else datetime.fromisoformat(clock).timestamp()


def _increasing(x: list[float], step_s: float) -> list[float]:
    """Return times that only rise: a second episode begins where the first one ends."""
    shift, before, risen = 0.0, -math.inf, []
    for one in x:
        if one + shift <= before:
            shift = before + step_s - one
        before = one + shift
        risen.append(before)
    return risen


def as_json(figures: Sequence[Figure], marks: Sequence[Mark]) -> str:
    """Return what the page's script draws, safe inside a ``script`` element."""
    data: Mapping[str, Any] = {
        "figures": [
            {
                "title": figure.title,
                "unit": figure.unit,
                "x": figure.x,
                "limits": figure.limits,
                "series": [
                    {
                        "label": s.label,
                        "values": [_short(value) for value in s.values],
                        "colour": s.colour,
                        "dashed": s.dashed,
                        "steps": s.steps,
                    }
                    for s in figure.series
                ],
            }
            for figure in figures
        ],
        "marks": [{"x": mark.x, "colour": mark.colour, "text": mark.text} for mark in marks],
    }
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _short(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(f"{value:.6g}")

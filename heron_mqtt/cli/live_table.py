"""What a run shows on a terminal while it lasts: a table that fits, sparklines, newest events, the stop."""

from __future__ import annotations

import textwrap
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from heron_mqtt.app.operator_client.text import printable
from heron_mqtt.app.run_summary import Summary
from heron_mqtt.cli.kilo import kilo
from heron_mqtt.cli.sparkline import sparkline

KEPT = 24  # points of a sparkline
SOC_KEPT = 8
EVENTS = 3
GAP = 2

# Columns, and which goes first where they do not all fit: no value is ever cut.
HEADINGS = ("microgrid", "load kW", "devices kW", "charge %", "net kWh", "voltage pu", "traded kWh")
LEFT = {"microgrid", "devices kW"}
GIVE_WAY = ("net kWh", "traded kWh", "voltage pu", "load kW")

Infos = Mapping[str, Mapping[str, Any]]


class LiveTable:
    """Remembers what sparklines and events need, and draws the step that was just done.

    Args:
        steps: Steps of the run.
    """

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._prices: deque[float] = deque(maxlen=KEPT)
        self._socs: dict[str, deque[float]] = {}
        self._events: deque[tuple[str, str]] = deque(maxlen=EVENTS)
        self._standing_in: dict[str, str] = {}
        self._stopped = False

    def note(self, summary: Summary, price: float, infos: Infos) -> None:
        """Take the step that was just done."""
        self._prices.append(price)
        for agent, info in infos.items():
            if info["soc"]:
                socs = self._socs.setdefault(agent, deque(maxlen=SOC_KEPT))
                socs.append(sum(info["soc"].values()) / len(info["soc"]))
        self._note_events(summary, infos)

    def _note_events(self, summary: Summary, infos: Infos) -> None:
        step = summary.steps
        now = {
            f"{agent}/{name}": why for agent, info in infos.items() for name, why in info["fallbacks"].items()
        }
        for label, why in now.items():
            if label not in self._standing_in:
                self._events.append((f"step {step}  {label}: its model replaces it: {why}", "yellow"))
        for label in self._standing_in.keys() - now.keys():
            self._events.append((f"step {step}  {label} is back", "green"))
        self._standing_in = now
        for agent, info in infos.items():
            if info.get("missed"):
                self._events.append((f"step {step}  {agent}: {info['missed']} deadlines missed", "yellow"))
        stopped = summary.estop is not None and bool(summary.estop["active"])
        if stopped != self._stopped:
            what = "emergency stop in force" if stopped else "emergency stop released"
            self._events.append((f"step {step}  {what}", "bold red" if stopped else "green"))
        self._stopped = stopped

    def drawn(self, summary: Summary, price: float, infos: Infos) -> RenderableType:
        """Return the step as it is shown; as wide as the terminal is when it is drawn."""
        return _Drawn(self, summary, price, infos)

    def parts(
        self, summary: Summary, price: float, infos: Infos, width: int, *, ascii_only: bool
    ) -> list[RenderableType]:
        """Return the lines and the table.

        Args:
            summary: So far.
            price: Of the step, $/MWh.
            infos: By agent, what happened in the step.
            width: Columns there are.
            ascii_only: Whether the terminal knows no blocks.
        """
        line = sparkline(self._prices, ascii_only=ascii_only)
        heads = (
            f"step {summary.steps}/{self._steps}",
            f"{price:.2f} $/MWh {line}",
            f"{summary.step_ms[-1]:.1f} ms a step",
        )
        found: list[RenderableType] = [Text("  ".join(heads), "bold")]
        if summary.estop is not None and summary.estop["active"]:
            stop = summary.estop
            who, why = printable(stop["who"] or "unknown"), printable(stop["why"] or "no reason given", 300)
            text = f"EMERGENCY STOP since step {stop['first_step']}, by {who}: {why}"
            found += [Text(one, "bold white on red") for one in textwrap.wrap(text, max(width, 20))]
        found.append(self._table(infos, width, ascii_only=ascii_only))
        for text, style in self._events:
            found += [Text(one, style) for one in textwrap.wrap(printable(text, 300), max(width, 20))]
        return found

    def _table(self, infos: Infos, width: int, *, ascii_only: bool) -> Table:
        rows = [self._row(agent, info, ascii_only=ascii_only) for agent, info in infos.items()]
        shown = _that_fit(rows, width)
        table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0))
        for heading in shown:
            table.add_column(heading, justify="left" if heading in LEFT else "right", overflow="fold")
        for row in rows:
            table.add_row(*(Text(row[heading]) for heading in shown))
        return table

    def _row(self, agent: str, info: Mapping[str, Any], *, ascii_only: bool) -> dict[str, str]:
        traded = sum(t.mwh if t.seller == agent else -t.mwh for t in info["trades"])
        marks = info["fallbacks"]
        charge = " ".join(f"{100 * soc:.0f}" for soc in info["soc"].values()) or "-"
        line = sparkline(self._socs.get(agent, ()), low=0.0, high=1.0, ascii_only=ascii_only)
        return {
            "microgrid": printable(agent, 40),
            "load kW": kilo(info["p_load_mw"], signed=True),
            "devices kW": "\n".join(
                f"{printable(name, 40)} {kilo(p, signed=True)}{'*' if name in marks else ''}"
                for name, p in info["p_mw"].items()
            ),
            "charge %": f"{line} {charge}" if line else charge,
            "net kWh": kilo(info["net_mwh"], signed=True),
            "voltage pu": f"{info['vm_pu']['min']:.3f}-{info['vm_pu']['max']:.3f}",
            "traded kWh": kilo(traded, signed=True),
        }


class _Drawn:
    """One step; how wide it may be is known when it is drawn."""

    def __init__(self, table: LiveTable, summary: Summary, price: float, infos: Infos) -> None:
        self._table, self._summary, self._price, self._infos = table, summary, price, infos

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width, ascii_only = options.max_width, options.ascii_only
        yield Group(*self._table.parts(self._summary, self._price, self._infos, width, ascii_only=ascii_only))


def _that_fit(rows: Sequence[Mapping[str, str]], width: int) -> list[str]:
    """Return the headings whose columns fit side by side."""
    shown = list(HEADINGS)
    needs = {
        heading: max([len(heading), *(len(line) for row in rows for line in row[heading].split("\n"))])
        for heading in HEADINGS
    }
    for heading in GIVE_WAY:
        if sum(needs[one] + GAP for one in shown) - GAP <= width:
            break
        shown.remove(heading)
    return shown

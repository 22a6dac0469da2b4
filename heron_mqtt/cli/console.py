"""A run on the terminal: live while it lasts, a table at its end."""

from __future__ import annotations

import math
import shlex
import sys
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

from rich.console import Console, JustifyMethod
from rich.live import Live
from rich.measure import Measurement
from rich.table import Table

from heron_mqtt.app.run_summary import Summary, told
from heron_mqtt.cli.live_table import LiveTable
from heron_mqtt.units import KW_PER_MW

FILE_WIDTH = 120  # columns of an output of unknown width: a file, a pipe, a log
UNBOUNDED = 10_000  # columns: wider than any table
EVERY = 8  # steps between lines where there is no terminal to redraw


def make_console() -> Console:
    """Return the terminal as it is: names of a scenario are not to be read as colours or emoji."""
    plain: dict[str, Any] = {"markup": False, "emoji": False, "highlight": False}
    console = Console(**plain)
    return console if console.is_terminal else Console(width=max(console.width, FILE_WIDTH), **plain)


class ConsoleProgress:
    """Shows each step: redrawn in place on a terminal, else a line every few steps.

    Args:
        console: Where to.
        steps: Steps of the run.
        page: Begins the live page of a broker; None = there is none.
        every: Steps between lines where there is no terminal; at 1 each line leaves at once.
    """

    def __init__(
        self,
        console: Console,
        steps: int,
        page: Callable[[str], None] | None = None,
        *,
        every: int = EVERY,
    ) -> None:
        self._console = console
        self._every = every
        self._page = page
        self._steps = steps
        self._live = (
            Live(
                console=console,
                refresh_per_second=8,
                transient=True,
                vertical_overflow="crop",
                redirect_stderr=sys.stderr.isatty(),  # warnings stand above the table, or in their file
            )
            if console.is_terminal
            else None
        )
        self._table = LiveTable(steps)

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def note(self, text: str) -> None:
        """Say something once."""
        self._console.print(text, soft_wrap=True)

    def opened(self, url: str) -> None:
        """Begin the live page, where one was asked for."""
        if self._page is not None:
            self._page(url)

    def step(self, summary: Summary, price: float, infos: Mapping[str, Mapping[str, Any]]) -> None:
        """Show the step that was just done."""
        if self._live is not None:
            self._table.note(summary, price, infos)
            self._live.update(self._table.drawn(summary, price, infos))
        elif summary.steps % self._every == 0 or summary.steps == self._steps:
            self._console.print(self._line(summary, price, infos), soft_wrap=True)
            if self._every == 1:
                self._console.file.flush()

    def _line(self, summary: Summary, price: float, infos: Mapping[str, Mapping[str, Any]]) -> str:
        parts = [
            f"{agent}: {_powers(info)} soc {_socs(info)} "
            f"vm {info['vm_pu']['min']:.3f}..{info['vm_pu']['max']:.3f}"
            for agent, info in infos.items()
        ]
        head = f"step {summary.steps}/{self._steps}  {price:.2f} $/MWh  {summary.step_ms[-1]:.1f} ms"
        return "  |  ".join([head, *parts])


def print_summary(console: Console, summary: Summary) -> None:
    """Print the table at the end of a run."""
    what = "interrupted after" if summary.interrupted else "ran"
    table = Table(
        title=f"{summary.scenario}: {what} {summary.steps} steps, {summary.mode}"
        + (f" over {summary.broker} broker" if summary.mode == "distributed" else "")
        + f", seed {summary.seed}"
    )
    for heading in (
        "microgrid",
        "consumed MWh",
        "own devices MWh",
        "imported MWh",
        "exported MWh",
        "cost $",
        "reward",
    ):
        table.add_column(heading, justify="left" if heading == "microgrid" else "right")
    for agent, t in summary.agents.items():
        table.add_row(
            agent,
            f"{t.consumed_mwh:.3f}",
            f"{t.generated_mwh:.3f}",
            f"{t.imported_mwh:.3f}",
            f"{t.exported_mwh:.3f}",
            f"{t.cost:.2f}",
            f"{t.reward:.2f}",
        )
    console.print(table)
    if any(
        device["fallbacks"] or device["changes"] or device["authority"] != "emulated"
        for device in summary.devices.values()
    ):
        for table in _device_tables(console, summary):
            console.print(table)
    if summary.estop is not None:
        style = "bold red" if summary.estop["active"] else None
        console.print(f"{'EMERGENCY STOP':>16}  {_stop(summary.estop)}", soft_wrap=True, style=style)
    for name, value in _facts(summary):
        console.print(f"{name:>16}  {value}", soft_wrap=True)


def _stop(estop: Mapping[str, Any]) -> str:
    """Say which stop was in force, and when."""
    when = f"by {estop['who'] or 'unknown'}: {estop['why'] or 'no reason given'}"
    if estop["active"]:
        return f"IN FORCE since step {estop['first_step']}, {when}"
    return f"in force in steps {estop['first_step']} to {estop['last_step']} and released, {when}"


def _device_tables(console: Console, summary: Summary) -> list[Table]:
    """Return the devices as one table, or as two where one is too wide: no number is cut off."""
    title = "devices; times in ms (p50/p99), powers in kW"
    whole = _device_table(summary, [*_COUNTS, *_TIMES_AND_POWERS], title)
    if Measurement.get(console, console.options.update(width=UNBOUNDED), whole).maximum <= console.width:
        return [whole]
    return [
        _device_table(summary, _COUNTS, title),
        _device_table(summary, _TIMES_AND_POWERS, None),
    ]


Cell = Callable[[Mapping[str, Any]], str]

_COUNTS: list[tuple[str, Cell]] = [
    ("authority", lambda d: d["authority"]),
    ("telemetry", lambda d: str(d["telemetry"])),
    ("lost/dup/late", lambda d: f"{d['lost']}/{d['duplicated']}/{d['late']}"),
    ("fallback/longest", lambda d: f"{d['fallbacks']}/{d['longest_fallback']}"),
]
_TIMES_AND_POWERS: list[tuple[str, Cell]] = [
    ("age", lambda d: f"{_ms(d['age_s']['p50'])}/{_ms(d['age_s']['p99'])}"),
    ("round trip", lambda d: f"{_ms(d['round_trip_s']['p50'])}/{_ms(d['round_trip_s']['p99'])}"),
    ("safe s", lambda d: "-" if d["time_to_safe_s"] is None else f"{d['time_to_safe_s']:.2f}"),
    ("tracking", lambda d: _kw(d["tracking_error_mw"])),
    ("residual", lambda d: _kw(d["residual_mw"])),
]


def _device_table(summary: Summary, columns: list[tuple[str, Cell]], title: str | None) -> Table:
    table = Table(title=title)
    table.add_column("device", overflow="fold")
    for heading, _ in columns:
        justify: JustifyMethod = "left" if heading == "authority" else "right"
        table.add_column(heading, justify=justify, overflow="fold")
    for name, device in summary.devices.items():
        table.add_row(name, *(cell(device) for _, cell in columns))
    return table


def _against(calm: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    """Say what the faults and the network changed."""
    costs = ", ".join(
        f"{agent} {_change(ours['cost'][agent], cost)} $" for agent, cost in calm["cost"].items()
    )
    lowest = _change(ours["vm_pu"]["min"], calm["vm_pu"]["min"], digits=5)
    highest = _change(ours["vm_pu"]["max"], calm["vm_pu"]["max"], digits=5)
    return f"cost {costs}; lowest voltage {lowest} pu, highest {highest} pu, against the undisturbed run"


def _change(ours: float | None, calm: float | None, digits: int = 2) -> str:
    return "unknown" if ours is None or calm is None else f"{ours - calm:+.{digits}f}"


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1e3:.1f}"


def _kw(mw: float | None) -> str:
    return "-" if mw is None else f"{mw * KW_PER_MW:.3f}"


def _facts(summary: Summary) -> list[tuple[str, str]]:
    facts = []
    if summary.steps:
        facts += [
            (
                "trades",
                f"{summary.trades} ({summary.traded_mwh:.4f} MWh), {summary.void_trades} reports void",
            ),
            ("voltage", _voltage(summary)),
            ("loading", _loading(summary)),
            (
                "step time",
                f"median {summary.percentile_ms(0.5):.2f} ms, p99 {summary.percentile_ms(0.99):.2f} ms, "
                f"longest {summary.percentile_ms(1.0):.2f} ms",
            ),
        ]
    if summary.mode == "distributed":
        facts.append(("messages", ", ".join(f"{count} {name}" for name, count in summary.messages.items())))
        facts.append(("deadlines", f"{summary.deadline_misses} missed, {summary.fallbacks} fallbacks"))
    if summary.impairment is not None:
        counts = (f"{value:g} {name}" for name, value in summary.impairment.items() if name != "name")
        facts.append(("network", f"{summary.impairment['name']}: {', '.join(counts)}"))
    if summary.undisturbed is not None:
        facts.append(("disturbance", _against(summary.undisturbed, summary.as_dict())))
    if summary.overruns:
        facts.append(("real time", summary.overruns_told))
    if summary.record is not None:
        facts.append(("record", _recorded(summary.record["file"], summary.record["head"])))
    facts += [("NOT HANDED BACK", f"{name}: {left.why}") for name, left in summary.unreturned.items()]
    if summary.shortfalls:
        facts.append(("NOT WELL", f"{told(summary.shortfalls)}{_worst(summary)}"))
    if summary.unknown is not None:
        facts.append(("NOT KNOWN", summary.unknown))
    if summary.diverged is not None:
        facts.append(("FAILED", f"the power flow diverged in step {summary.steps - 1}: {summary.diverged}"))
    return facts


def _recorded(file: str, head: str | None) -> str:
    """Say where a record is; without a head it is not there any more."""
    if head is None:
        return f"{file} was removed or replaced during the run: it is lost"
    return f"{file}  head {head[:16]}; see it: heron-mqtt report {shlex.quote(file)}"


def _worst(summary: Summary) -> str:
    """Say which devices were stood in for most."""
    counts = {name: device["fallbacks"] for name, device in summary.devices.items() if device["fallbacks"]}
    if not counts or not summary.steps:
        return ""
    most = sorted(counts, key=lambda name: (-counts[name], name))[:3]
    named = ", ".join(f"{name} in {counts[name]} of {summary.steps} steps" for name in most)
    more = f" and {len(counts) - 3} more" if len(counts) > 3 else ""
    return f": a model stood in for {named}{more}"


def _voltage(summary: Summary) -> str:
    if not math.isfinite(summary.vm_min_pu):
        return "unknown: no step has a solution"
    return f"{summary.vm_min_pu:.4f} .. {summary.vm_max_pu:.4f} pu"


def _loading(summary: Summary) -> str:
    if not math.isfinite(summary.loading_max_percent):
        return "unknown"
    return f"at most {summary.loading_max_percent:.1f} %"


def _powers(info: Mapping[str, Any]) -> str:
    marks = info["fallbacks"]
    return " ".join(f"{name} {p:+.3f}{'*' if name in marks else ''}" for name, p in info["p_mw"].items())


def _socs(info: Mapping[str, Any]) -> str:
    return " ".join(f"{soc:.2f}" for soc in info["soc"].values()) or "-"

"""``heron-mqtt evaluate``: policies compared on the same days."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from heron_mqtt.cli import completions
from heron_mqtt.errors import ConfigError

if TYPE_CHECKING:
    from rich.table import Table

    from heron_mqtt.app.evaluate import Evaluation, MeanEstimate

MAX_SEEDS = 100_000

DISTRICT_COLUMNS = {
    "cost_usd": "cost",
    "consumption_mwh": "consumption",
    "ramping_mw": "ramping",
    "daily_peak_mw": "daily peak",
    "one_minus_load_factor": "1 - load factor",
}
"""Of ``DistrictScores`` -> its heading."""


def add_evaluate_commands(app: typer.Typer) -> None:
    """Add the command to ``heron-mqtt``."""
    example = "Example: heron-mqtt evaluate training_days --policy rule --policy learned --seeds 20"
    app.command(epilog=example)(evaluate)


def evaluate(
    scenario: Annotated[
        str, typer.Argument(help="A file, or a shipped scenario.", autocompletion=completions.scenarios)
    ] = "training_days",
    policy: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="rule, idle, random, mpc, learned, field, scenario (as it names them), module:Class or "
            "file.py:Class; may be repeated. Gains are above the first one.",
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(metavar="N", help="How many episodes.")] = 20,
    first_seed: Annotated[int, typer.Option(metavar="N", help="Seed of the first.")] = 0,
    over: Annotated[
        str | None,
        typer.Option(metavar="WAY", help="calls, memory or mqtt; default calls, with --network memory."),
    ] = None,
    network: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Also over this impaired network; may be repeated."),
    ] = None,
    bound: Annotated[bool, typer.Option("--bound", help="Also the optimum with perfect foresight.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Run policies on the same days and compare them, with 95 % confidence intervals."""
    from heron_mqtt.app.evaluate import evaluate as run_all
    from heron_mqtt.app.evaluate import idle_of

    if not 1 <= seeds <= MAX_SEEDS or first_seed < 0:
        raise ConfigError(
            f"--seeds {seeds} --first-seed {first_seed}: expected 1 to {MAX_SEEDS}, and at least 0"
        )

    def progress(text: str) -> None:
        sys.stderr.write(f"{text}\n")

    with _errors_only():
        found = run_all(
            scenario,
            policy or ["rule", "idle", "learned"],
            seeds=range(first_seed, first_seed + seeds),
            over=over,  # type: ignore[arg-type] # checked there, with the words of the command line
            networks=network or (),
            with_bound=bound,
            progress=progress,
        )
    if as_json:
        evaluations = [one.as_dict(idle_of(found, one.network)) for one in found]
        typer.echo(json.dumps({"scenario": scenario, "evaluations": evaluations}))
    else:
        _print(scenario, seeds, found)


@contextlib.contextmanager
def _errors_only() -> Iterator[None]:
    """Log no warnings while inside: what is missed is counted in the table."""
    logger = logging.getLogger("heron_mqtt")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _print(scenario: str, seeds: int, found: list[Evaluation]) -> None:
    from rich.console import Console
    from rich.table import Table

    first = found[0]
    table = Table(title=f"{scenario}: {seeds} episodes, mean and 95 % interval", title_justify="left")
    for name in ("policy", "network"):
        table.add_column(name)
    columns = "cost $", "violations", "traded MWh", "messages", "missed"
    for name in ("score $", f"above {first.policy} $", *columns):
        table.add_column(name, justify="right")
    for one in found:
        gain = "" if one is first else _text(one.gain(first))
        cost = [_text(one.estimate(name)) for name in ("cost_usd", "violations", "traded_mwh")]
        counts = [f"{one.estimate(name).mean:.0f}" for name in ("messages", "missed")]
        rest = [""] * len(columns) if one.policy == "bound" else [*cost, *counts]
        table.add_row(one.policy, one.network or "-", _text(one.estimate("score_usd")), gain, *rest)
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(table)
    if any(one.policy == "idle" for one in found):
        console.print(_district_table(found))


def _district_table(found: list[Evaluation]) -> Table:
    from rich.table import Table

    from heron_mqtt.app.evaluate import idle_of

    title = "what all microgrids draw from the grid, ratio to idle (CityLearn's scores; less is better)"
    table = Table(title=title, title_justify="left")
    for name in ("policy", "network"):
        table.add_column(name)
    for column in DISTRICT_COLUMNS.values():
        table.add_column(column, justify="right")
    for one in found:
        idle = idle_of(found, one.network)
        if idle is not None and one.policy != "bound":
            ratios = [one.district_ratio(name, idle) for name in DISTRICT_COLUMNS]
            table.add_row(one.policy, one.network or "-", *("-" if r is None else _text(r) for r in ratios))
    return table


def _text(estimate: MeanEstimate) -> str:
    width = "" if estimate.half is None else f" ± {estimate.half:.2f}"
    return f"{estimate.mean:.2f}{width}"

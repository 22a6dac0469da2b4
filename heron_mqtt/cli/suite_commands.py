"""``heron-mqtt suite``: a controller through scenarios, networks, faults and seeds, with budgets."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from heron_mqtt.cli.complaints import EXIT_FAILED, EXIT_OK, complain
from heron_mqtt.end_signals import EXIT_INTERRUPTED, run_until_told
from heron_mqtt.errors import ConfigError

if TYPE_CHECKING:
    from heron_mqtt.testing.suite import CaseOutcome, SuiteOutcome

COLOURS = {"pass": "green", "fail": "red", "error": "red", "not run": "yellow"}


def add_suite_commands(app: typer.Typer) -> None:
    """Add the command to ``heron-mqtt``."""
    app.command(
        epilog="Example: heron-mqtt suite config/suites/controller.toml --junit suite.xml --html suite.html"
    )(suite)


def suite(
    file: Annotated[Path, typer.Argument(metavar="SUITE", help="A suite: a TOML file.")],
    parallel: Annotated[
        int | None, typer.Option(metavar="N", help="Runs at a time; default: the suite's number.")
    ] = None,
    only: Annotated[
        str,
        typer.Option(metavar="TEXT", help="Only the runs whose name contains this, for example 'seed 0'."),
    ] = "",
    junit: Annotated[Path | None, typer.Option(metavar="FILE", help="Write JUnit XML.")] = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a report.")] = None,
    keep: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Keep the record of each run there.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Run a suite: scenarios x networks x faults x seeds, side by side, each compared with its budget.

    Exit code 0: every run is within its budget; 1: not; 2: the suite is wrong; 130: interrupted.
    """
    from heron_mqtt.app.policies import policy_maker
    from heron_mqtt.app.suite_file import load_suite
    from heron_mqtt.record.result_file import JUNIT, PAGE, require_places
    from heron_mqtt.testing.suite import SuiteOutcome, run_suite

    if parallel is not None and not 1 <= parallel <= 64:
        raise ConfigError(f"--parallel {parallel}: expected a number from 1 to 64")
    require_places([("--junit", junit, JUNIT), ("--html", html, PAGE)])
    loaded = load_suite(file)
    if loaded.suite.policy is not None:
        policy_maker(loaded.suite.policy)
    if not any(only in case.name for case in loaded.cases()):
        raise ConfigError(f"--only {only!r}: no run has this name; one is {loaded.cases()[0].name!r}")
    if keep is not None:
        try:
            keep.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise ConfigError(f"--keep {keep}: cannot be made: {exc.strerror}") from None
    outcome = SuiteOutcome(loaded.suite.name, datetime.now(UTC))
    code = EXIT_OK
    try:
        run_until_told(
            run_suite(
                loaded,
                parallel=parallel,
                keep=keep,
                only=only,
                tell=(lambda _: None) if as_json else _print,
                outcome=outcome,
            )
        )
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
    _write(outcome, junit, html)
    if as_json:
        typer.echo(json.dumps(outcome.as_dict(), allow_nan=False))
    else:
        _table(outcome)
    raise SystemExit(code or (EXIT_OK if outcome.passed else EXIT_FAILED))


def _print(one: CaseOutcome) -> None:
    verdict = typer.style(f"{one.verdict.upper():8}", fg=COLOURS[one.verdict], bold=True)
    typer.echo(f"{verdict} {one.case.name}  {one.seconds:.1f} s" + (f"  {one.why[0]}" if one.why else ""))


def _table(outcome: SuiteOutcome) -> None:
    from rich.table import Table

    from heron_mqtt.cli.status_table import status_console
    from heron_mqtt.testing.suite.outcome import SHOWN

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("", "scenario", "network", "faults", "seed", *SHOWN):
        table.add_column(heading, justify="right" if heading in SHOWN else "left")
    for one in outcome.cases:
        case = one.case
        figures = [one.figures.get(name) for name in SHOWN]
        cells = ["-" if value is None else f"{value:.5g}" for value in figures]
        table.add_row(one.verdict, case.scenario, case.network, case.faults, str(case.seed), *cells)
    console = status_console()
    console.width = max(console.width, 140)  # a log of CI has no width of its own
    console.print(table)
    for one in outcome.cases:
        for line in one.why:
            console.print(f"{one.case.name}: {line}", markup=False, soft_wrap=True)
    console.print(outcome.told, markup=False, soft_wrap=True)


def _write(outcome: SuiteOutcome, junit: Path | None, html: Path | None) -> None:
    from heron_mqtt.record.result_file import JUNIT, PAGE, write_result
    from heron_mqtt.testing.suite import suite_page

    for path, text, kind in ((junit, outcome.junit(), JUNIT), (html, suite_page(outcome), PAGE)):
        if path is not None:
            try:
                write_result(path, text, kind)
            except OSError as exc:
                complain(f"{path}: cannot be written: {exc.strerror}")
                raise SystemExit(EXIT_FAILED) from None

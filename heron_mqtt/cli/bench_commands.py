"""``heron-mqtt bench``: measure the message path here, against raw floors."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from heron_mqtt.end_signals import run_until_told


def add_bench_commands(app: typer.Typer) -> None:
    """Add this command to the command line."""
    app.command(epilog="Example: heron-mqtt bench --quick")(bench)


def bench(
    quick: Annotated[bool, typer.Option("--quick", help="Fewer and shorter rounds, about 20 s.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object and nothing else on standard output.")
    ] = False,
    broker: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Measure this broker instead of a mosquitto started here."),
    ] = None,
) -> None:
    """Measure the message path, as ratios to raw floors of the same run; docs/performance.md reads it.

    It measures and does not judge: the exit code is 0 whatever it finds.
    """
    from rich.console import Console

    from heron_mqtt.app.gc_freeze import frozen_gc
    from heron_mqtt.bench.rows import print_report
    from heron_mqtt.bench.suite import FULL, QUICK, run_suite

    progress = Console(stderr=True)
    with frozen_gc(), progress.status("starting") as status:
        report = run_until_told(run_suite(QUICK if quick else FULL, broker, status.update))
    if as_json:
        typer.echo(json.dumps(report.as_dict(), allow_nan=False))
    else:
        console = Console()
        print_report(console if console.is_terminal else Console(width=max(console.width, 180)), report)

"""``heron-mqtt verify``, ``report``, ``export``: what is done with the record of a run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from heron_mqtt.record.verify.finding import Finding

Run = Annotated[Path, typer.Argument(metavar="RUN", help="The record of a run: a .heron file.")]


def add_record_commands(app: typer.Typer) -> None:
    """Add the commands to ``heron-mqtt``."""
    app.command(epilog="Example: heron-mqtt verify runs/*.heron")(verify)
    app.command(epilog="Example: heron-mqtt report runs/centralized.heron runs/distributed.heron")(report)
    app.command(epilog="Example: heron-mqtt export runs/day.heron --format parquet")(export)


def verify(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Records of runs.")],
    head: Annotated[
        str | None,
        typer.Option(metavar="HASH", help="The hash that the run printed or published, or its beginning."),
    ] = None,
) -> None:
    """Check records: hash chain, energy, bounds, twins, leases, trades, messages; exit 1 if one fails."""
    from heron_mqtt.app.verify import verify as verify_file
    from heron_mqtt.errors import ConfigError

    if head is not None and len(runs) > 1:
        raise ConfigError("--head: is of one record; verify them one by one")
    if head is not None and not re.fullmatch(r"[0-9a-fA-F]{12,64}", head):
        raise ConfigError(f"--head {head!r}: expected 12 to 64 hexadecimal digits, as the run printed them")
    failed = False
    for path in runs:
        findings = verify_file(path, head)
        _print_findings(path, findings)
        failed |= any(finding.failed for finding in findings)
    raise SystemExit(1 if failed else 0)


def _print_findings(path: Path, findings: list[Finding]) -> None:
    from rich.table import Table

    from heron_mqtt.cli.console import make_console

    console = make_console()
    table = Table(title=str(path), title_justify="left")
    for heading in ("invariant", "", "checked", "failed"):
        table.add_column(heading, justify="right" if heading in {"checked", "failed"} else "left")
    for finding in findings:
        table.add_row(finding.name, finding.verdict, str(finding.checked), str(finding.failed))
    console.print(table)
    for finding in findings:
        if finding.first:
            console.print(f"FAILED {finding.name}: {finding.first}", soft_wrap=True)
        if finding.note:
            console.print(f"{finding.name}: {finding.note}", soft_wrap=True)


def report(
    run: Run,
    other: Annotated[
        Path | None, typer.Argument(metavar="[RUN2]", help="A second run, shown beside the first.")
    ] = None,
    to: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The HTML file; else the record's name with .html.")
    ] = None,
) -> None:
    """Write one HTML file that shows a run, or two side by side: figures, devices, messages, proof."""
    from contextlib import ExitStack

    from heron_mqtt.app.verify import verify as verify_file
    from heron_mqtt.errors import ConfigError
    from heron_mqtt.record.reader import RecordFile
    from heron_mqtt.record.report.page import report as report_page
    from heron_mqtt.record.report.page import write

    with ExitStack() as stack:
        paths = [run] if other is None else [run, other]
        records = [stack.enter_context(RecordFile(path)) for path in paths]  # or none: said at once
        page = report_page([(record, verify_file(path)) for record, path in zip(records, paths, strict=True)])
    target = to or run.with_suffix(".html")  # a record has a name
    try:
        write(target, page)
    except OSError as exc:
        raise ConfigError(f"report {target}: cannot be written: {exc.strerror}") from None
    typer.echo(target)


def export(
    run: Run,
    kind: Annotated[
        Literal["csv", "parquet", "mcap", "otlp"],
        typer.Option("--format", help="csv, parquet, mcap or otlp."),
    ] = "csv",
    to: Annotated[
        Path | None,
        typer.Option(metavar="DIRECTORY", help="Where to write; default: a directory beside the record."),
    ] = None,
) -> None:
    """Write a record in another format: a file a view (csv, parquet), log viewers (mcap), traces (otlp)."""
    from heron_mqtt.record.export import export as export_file

    for path in export_file(run, kind, to):
        typer.echo(path)

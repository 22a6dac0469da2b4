"""``heron-mqtt calibrate``: devices and network, as a record shows them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from heron_mqtt.errors import ConfigError
from heron_mqtt.units import KW_PER_MW

if TYPE_CHECKING:
    from rich.console import Console

    from heron_mqtt.app.calibrate.device import Calibration
    from heron_mqtt.app.calibrate.network import NetworkFit

Run = Annotated[Path, typer.Argument(metavar="RUN", help="The record of a run: a .heron file.")]


def add_calibrate_commands(app: typer.Typer) -> None:
    """Add the command to ``heron-mqtt``."""
    example = "Example: heron-mqtt calibrate runs/day.heron --device MG1/ess --to ess.toml"
    app.command(epilog=example)(calibrate)


def calibrate(
    run: Run,
    device: Annotated[
        str | None, typer.Option(metavar="AGENT/DEVICE", help="One device; default: all that were driven.")
    ] = None,
    network: Annotated[
        bool, typer.Option("--network", help="Fit the network instead: delays, losses, bursts.")
    ] = False,
    to: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the TOML there; else it is printed.")
    ] = None,
) -> None:
    """Fit devices, or the network, to what a run recorded; prints TOML for a scenario."""
    from heron_mqtt.app.calibrate.device import calibrate as fit_devices
    from heron_mqtt.app.calibrate.network import fit_network
    from heron_mqtt.cli.console import make_console
    from heron_mqtt.record.reader import RecordFile
    from heron_mqtt.record.result_file import FITTED, write_result

    if network and device is not None:
        raise ConfigError("--network and --device: one or the other")
    console = make_console()
    with RecordFile(run) as record:
        if network:
            found = fit_network(record)
            _print_network(console, found)
            text = found.file()
        else:
            devices = fit_devices(record, device)
            for each in devices:
                _print_device(console, each)
            text = "\n".join(each.fragment() for each in devices)
    if to is None:
        typer.echo(text)
        return
    try:
        write_result(to, text, FITTED)
    except OSError as exc:
        raise ConfigError(f"--to {to}: cannot be written: {exc.strerror}") from None
    typer.echo(to)


def _print_device(console: Console, found: Calibration) -> None:
    from rich.table import Table

    table = Table(title=f"{found.label}: {found.kind}, {found.steps} steps", title_justify="left")
    for heading in ("", "in the scenario", "found", "95 %"):
        table.add_column(heading, justify="left" if not heading else "right")
    for e in found.estimates:
        if e.value is not None:
            assumed = "" if e.assumed is None else f"{e.assumed:.5g}"
            table.add_row(e.name, assumed, f"{e.value:.5g}", f"{e.low:.4g} .. {e.high:.4g}")
    console.print(table)
    for e in found.estimates:
        if e.value is None:
            console.print(f"{e.name}: not determined: {e.note}", soft_wrap=True)
        elif e.note:
            console.print(f"{e.name}: {e.note}", soft_wrap=True)
    better = f"{found.before_mw * KW_PER_MW:.4g} kW before, {found.after_mw * KW_PER_MW:.4g} kW after"
    console.print(f"the twin leaves unexplained (root mean square): {better}\n", soft_wrap=True)


def _print_network(console: Console, found: NetworkFit) -> None:
    from rich.table import Table

    table = Table(title="network", title_justify="left")
    left = {"channel", "from", "jitter", "fits"}
    counts = ("loss %", "burst", "copies %", "KS", "fits")
    for heading in ("channel", "messages", "from", "delay ms", "jitter", *counts):
        table.add_column(heading, justify="left" if heading in left else "right")
    for one in found.channels:
        burst = "-" if one.burst is None else f"{1.0 / one.burst[1]:.1f}"
        table.add_row(
            one.pattern,
            str(one.sent),
            one.source,
            f"{one.delay_s * 1e3:.2f}",
            one.jitter_text,
            f"{one.lost_share * 100.0:.2f}",
            burst,
            f"{one.duplicate * 100.0:.2f}",
            f"{one.distance:.3f}",
            "yes" if one.fits else "no",
        )
    console.print(table)
    for note in found.notes:
        console.print(note, soft_wrap=True)

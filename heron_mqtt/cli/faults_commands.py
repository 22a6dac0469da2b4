"""``heron-mqtt faults``: what a site does while brokers, programs, links and disks fail."""

from __future__ import annotations

import json
import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from heron_mqtt.cli.complaints import EXIT_FAILED, EXIT_OK, complain
from heron_mqtt.end_signals import EXIT_INTERRUPTED, OF_THIS_PROGRAM
from heron_mqtt.errors import ConfigError, NotReady

if TYPE_CHECKING:
    from heron_mqtt.testing.faults import FaultResult, FaultsOutcome

COLOURS = {"kept": "green", "BROKEN": "red", "not tried": "yellow"}
MAX_TIMES = 1_000


def add_faults_commands(app: typer.Typer) -> None:
    """Add the command to ``heron-mqtt``."""
    some = "Example: heron-mqtt faults --only kill-broker --on mosquitto --times 5"
    app.command(epilog=f"Example: heron-mqtt faults --quick\n\n{some}")(faults)


def faults(
    quick: Annotated[
        bool, typer.Option("--quick", help="A part of the faults, each once: less than two minutes.")
    ] = False,
    only: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="This fault alone; may be repeated.")
    ] = None,
    on: Annotated[
        list[str] | None,
        typer.Option(
            metavar="BROKER",
            help="mosquitto, embedded or nats; may be repeated. Default: all that are installed; with "
            "--quick mosquitto, or embedded where it is not installed.",
        ),
    ] = None,
    times: Annotated[
        int | None, typer.Option(metavar="N", help="Trials of each fault on each broker; default 3, quick 1.")
    ] = None,
    seed: Annotated[
        int, typer.Option(metavar="N", help="Seed of the moments at which the faults begin.")
    ] = 0,
    list_them: Annotated[bool, typer.Option("--list", help="Print the faults, and try none.")] = False,
    table: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write sums and table as Markdown, too."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Break a site of its own on loopback again and again, and compare what was seen with the promises.

    It starts brokers, a run, a remote agent and devices of its own, kills and stops them, and spoils the
    network between them. The observer is plain paho; nothing outside is touched. Exit code 0: every promise
    was kept, and what --only and --on ask for was tried; 1: not; 2: arguments; 130: interrupted.
    """
    from heron_mqtt.record.result_file import FAULT_TABLE, require_places
    from heron_mqtt.testing.faults import FaultsOutcome, chosen_trials, run_trials

    if times is not None and not 1 <= times <= MAX_TIMES:
        raise ConfigError(f"--times {times}: expected a number from 1 to {MAX_TIMES}")
    require_places([("--table", table, FAULT_TABLE)])
    trials = chosen_trials(only, quick=quick)
    if list_them:
        for trial in trials:
            typer.echo(f"{trial.name:28} {trial.what}; promised: {trial.promise}")
        raise SystemExit(EXIT_OK)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # started with & by a script: children inherit it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # what fails here is meant to, and what counts of it the tallies say; -v shows it all the same
    messaging = logging.getLogger("heron_mqtt.messaging")
    if not messaging.isEnabledFor(logging.INFO):
        messaging.setLevel(logging.ERROR)
    outcome = FaultsOutcome(seed, frozenset([*(only or ()), *(on or ())]))
    code = EXIT_OK
    try:
        with OF_THIS_PROGRAM:
            run_trials(
                trials,
                on or _installed(quick=quick),
                times=times or (1 if quick else 3),
                outcome=outcome,
                compare_each=not quick,
                tell=(lambda _: None) if as_json else _print,
            )
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
    except NotReady:  # of what the trials need; earlier results are still printed
        if as_json:
            _tell_json(outcome)
        raise
    finally:  # what was tried is worth having, also where a later trial could not be set up
        if table is not None:
            _write(table, outcome)
    if as_json:
        _tell_json(outcome)
    else:
        _print_end(outcome)
    raise SystemExit(code or (EXIT_OK if outcome.is_kept else EXIT_FAILED))


def _tell_json(outcome: FaultsOutcome) -> None:
    typer.echo(json.dumps(outcome.as_dict(), allow_nan=False))


def _installed(*, quick: bool) -> list[str]:
    from heron_mqtt.testing.faults import KINDS, why_no_broker

    there = [kind for kind in KINDS if not why_no_broker(kind)]
    return there[:1] if quick else there


def _print(result: FaultResult) -> None:
    t = result.tally
    verdict = typer.style(f"{result.verdict.upper():10}", fg=COLOURS[result.verdict], bold=True)
    figures = f"lost {t.lost}, undetected {t.undetected}"
    if result.trial.at_site is not None:
        figures += f", outside {t.outside}, past lease {t.past_lease}, forbidden {t.forbidden}"
    if t.median_s is not None:
        figures = f"recovered in {t.median_s:.2f} s (worst {t.worst_s:.2f}), {figures}"
    typer.echo(
        f"{verdict} {result.broker:9} {result.trial.name}: "
        f"{result.why_not or f'{t.tried} tried in {result.seconds:.0f} s, {figures}'}"
    )
    sys.stdout.flush()


def _print_end(outcome: FaultsOutcome) -> None:
    bad = [_named(one) for one in outcome.results if not one.tally.is_kept]
    tried = sum(one.tally.tried for one in outcome.results)
    what = f"BROKEN: {', '.join(bad)}" if bad else "every promise was kept" if tried else "nothing was tried"
    if asked := outcome.asked_in_vain:
        what += f"; ASKED FOR AND NOT TRIED: {_listed(asked)}"
    elif left_out := outcome.not_tried:
        what += f"; not tried: {_listed(left_out)}"
    typer.echo(
        f"\n{tried} trials in {outcome.seconds:.0f} s, seed {outcome.seed}; the machine delayed the observer "
        f"by {outcome.longest_stall_s:.2f} s at most: {what}"
    )


def _named(result: FaultResult) -> str:
    return f"{result.trial.name} on {result.broker}"


def _listed(results: Sequence[FaultResult]) -> str:
    """Name results with why they were not tried, each reason once."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for one in results:
        reasons.setdefault((one.why_not, one.broker), []).append(one.trial.name)
    return "; ".join(f"{', '.join(names)} on {broker} ({why})" for (why, broker), names in reasons.items())


def _write(path: Path, outcome: FaultsOutcome) -> None:
    from heron_mqtt.record.result_file import FAULT_TABLE, write_result
    from heron_mqtt.testing.faults import markdown, sums

    try:
        write_result(path, f"{sums(outcome.results)}\n{markdown(outcome.results)}", FAULT_TABLE)
    except OSError as exc:
        complain(f"{path}: cannot be written: {exc.strerror}")
        raise SystemExit(EXIT_FAILED) from None

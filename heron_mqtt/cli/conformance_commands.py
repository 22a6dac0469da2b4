"""``heron-mqtt conformance``: whether a device keeps what ``docs/safety.md`` promises of it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from heron_mqtt.cli.complaints import EXIT_FAILED, EXIT_OK, complain
from heron_mqtt.end_signals import EXIT_INTERRUPTED
from heron_mqtt.errors import ConfigError, NotReady
from heron_mqtt.messaging import topics

if TYPE_CHECKING:
    from heron_mqtt.testing.conformance import ConformanceBench, ConformanceResult, PromiseResult

COLOURS = {
    "pass": "green",
    "fail": "red",
    "not tried": "yellow",
    "not shown": "yellow",
    "not applicable": "bright_black",
}


def add_conformance_commands(app: typer.Typer) -> None:
    """Add the command to ``heron-mqtt``."""
    program = "Example: heron-mqtt conformance --device MG1/ess -- python my_device.py {broker} {env}"
    running = "Example: heron-mqtt conformance --device MG1/ess --broker mqtt://127.0.0.1:1883 --env-id lab"
    app.command(epilog=f"{program}\n\n{running}")(conformance)


def conformance(
    device: Annotated[str, typer.Option(metavar="AGENT/DEVICE", help="Its name, for example MG1/ess.")],
    command: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="-- COMMAND",
            help="The device's program; {broker}, {host}, {port}, {env}, {agent}, {device} are filled in.",
        ),
    ] = None,
    class_name: Annotated[
        str | None,
        typer.Option(
            "--class", metavar="MODULE:CLASS", help="A class derived from FieldDevice, or FILE.py:CLASS."
        ),
    ] = None,
    broker: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="Where the device is; with a program the default is a broker of its own."
        ),
    ] = None,
    env_id: Annotated[
        str | None,
        typer.Option(metavar="NAME", callback=topics.checked_env_id, help="Environment on the wire."),
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(metavar="PROMISE", help="This promise alone; may be repeated.")
    ] = None,
    max_power: Annotated[
        float | None, typer.Option(metavar="MW", help="Largest power to request; default: the nameplate.")
    ] = None,
    min_power: Annotated[
        float | None,
        typer.Option(
            metavar="MW", help="Smallest power other than 0 that the device can hold; less is not requested."
        ),
    ] = None,
    within: Annotated[
        float, typer.Option(metavar="SECONDS", help="How long the device may take for each reaction.")
    ] = 5.0,
    settle: Annotated[
        float, typer.Option(metavar="SECONDS", help="How long its output may move after an answer.")
    ] = 0.0,
    tolerance: Annotated[
        float, typer.Option(metavar="PART", help="Allowed error of its power, as a part of the nameplate.")
    ] = 0.02,
    ramp: Annotated[
        float | None, typer.Option(metavar="MW_PER_S", help="Its ramp, which is then tested, too.")
    ] = None,
    dt: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS", help="Simulated time of a setpoint, for an emulated device that ramps."
        ),
    ] = None,
    requires_proof: Annotated[
        bool,
        typer.Option("--requires-proof", help="The device is set to refuse setpoints without proof of age."),
    ] = False,
    by_hand: Annotated[
        bool, typer.Option("--by-hand", help="Ask me to switch the device's power off and on again.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before a real device is moved.")] = False,
    junit: Annotated[Path | None, typer.Option(metavar="FILE", help="Write JUnit XML.")] = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a page to be signed.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Examine a device by the lines of docs/safety.md: it is driven, stopped and sent garbage.

    A device that runs already is asked for no more than its rating, under leases of at most a minute, and
    only after you have confirmed. Exit code 0: what could be examined is kept; 1: not; 2: arguments.
    """
    from heron_mqtt.record.result_file import JUNIT, PAGE, require_places
    from heron_mqtt.testing.conformance import ConformanceOptions, ConformanceResult, bench_of, examine_device
    from heron_mqtt.testing.device_harness import CheckFailed

    require_places([("--junit", junit, JUNIT), ("--html", html, PAGE)])
    options = ConformanceOptions(
        device=device,
        broker=broker,
        env_id=("conformance" if command or class_name else _asked_for_env()) if env_id is None else env_id,
        command=command or (),
        class_name=class_name,
        only=only,
        max_p_mw=max_power,
        min_p_mw=min_power,
        within_s=within,
        dt_s=dt,
        settle_s=settle,
        tolerance=tolerance,
        ramp_mw_per_s=ramp,
        requires_proof=requires_proof,
    )
    tell: Callable[[PromiseResult], None] = (lambda _: None) if as_json else _print
    result = ConformanceResult(device, {}, datetime.now(UTC))
    code = EXIT_OK
    try:
        with bench_of(options, _ask if by_hand else None) as bench:
            if not options.is_started_here and not yes:
                _confirm(bench)
            examine_device(bench, only=only, tell=tell, result=result)
    except KeyboardInterrupt:
        result.interrupted, code = True, EXIT_INTERRUPTED
    except CheckFailed as exc:
        raise NotReady(f"{device}: {exc}") from None
    _write(result, junit, html)
    if as_json:
        typer.echo(json.dumps(result.as_dict(), allow_nan=False))
    else:
        _print_lines(result)
    raise SystemExit(code or (EXIT_OK if result.conforms else EXIT_FAILED))


def _asked_for_env() -> str:
    raise ConfigError("--env-id: which environment is the device in? heron-mqtt status --broker URL shows it")


def _confirm(bench: ConformanceBench) -> None:
    """Ask before something real is moved."""
    harness = bench.harness
    told = harness.birth()
    sys.stderr.write(
        f"{harness.label} at {harness.address}, environment {harness.env_id}, is a {told.get('kind')} of "
        f"{told.get('p_min_mw')} to {told.get('p_max_mw')} MW.\n"
        f"It will be driven with up to {abs(harness.full_mw):g} MW with leases of at most a minute. The "
        "emergency stop of its environment is pressed about 40 times; it stops every device in this "
        "environment.\n"
    )
    sys.stderr.flush()
    if not sys.stdin.isatty():
        raise ConfigError("--yes: needed, because there is no terminal to confirm on")
    answer = typer.prompt(f"Type {harness.label} to continue", default="", show_default=False, err=True)
    if answer.strip() != harness.label:
        raise NotReady("not confirmed: nothing was sent")


def _ask(what: str) -> None:
    sys.stderr.write(f"heron-mqtt: please {what}\n")
    sys.stderr.flush()


def _print(result: PromiseResult) -> None:
    verdict = typer.style(f"{result.verdict.upper():15}", fg=COLOURS[result.verdict], bold=True)
    promise = result.promise
    typer.echo(f"{verdict} {promise.rule}. {promise.id}: {promise.text}")
    if result.what:
        typer.echo(f"{'':15} {result.what}")


def _print_lines(result: ConformanceResult) -> None:
    """Print the verdict by line of docs/safety.md, and the whole."""
    from heron_mqtt.testing.conformance import RULES, verdict_of

    typer.echo()
    for rule, heading in RULES.items():
        verdict = result.verdict_of_rule(rule)
        styled = typer.style(f"{verdict.upper():15}", fg=COLOURS[verdict], bold=True)
        typer.echo(f"{styled} {rule}. {heading}")
        if verdict == "not shown":
            typer.echo(f"{'':15} {', '.join(result.not_shown_of_rule(rule))}")
    typer.echo(f"\n{result.device}: {verdict_of(result)}")


def _write(result: ConformanceResult, junit: Path | None, html: Path | None) -> None:
    from heron_mqtt.record.result_file import JUNIT, PAGE, write_result
    from heron_mqtt.testing.conformance import conformance_junit, conformance_page

    for path, make, kind in ((junit, conformance_junit, JUNIT), (html, conformance_page, PAGE)):
        if path is not None:
            try:
                write_result(path, make(result), kind)
            except OSError as exc:
                complain(f"{path}: cannot be written: {exc.strerror}")
                raise SystemExit(EXIT_FAILED) from None

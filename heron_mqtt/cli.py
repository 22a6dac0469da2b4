"""The command ``heron-mqtt``: thin; everything it does is a call into the library."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

import typer

from heron_mqtt.errors import ConfigError, HeronError

if TYPE_CHECKING:
    from heron_mqtt.run import Plan
    from heron_mqtt.summary import Summary

EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 0, 1, 2, 130
DEFAULT_SCENARIO = "three_microgrids"

app = typer.Typer(
    name="heron-mqtt",
    help="An MQTT hardware-in-the-loop gateway for multi-agent microgrid control.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # a bug keeps its plain traceback
)

Scenario = Annotated[str, typer.Argument(help="A scenario file, or the name of a shipped one.")]


def main() -> None:
    """Run the command line; a user's mistake ends in one line and exit code 1 or 2."""
    try:
        app()
    except HeronError as exc:
        _fail(exc)


def _fail(exc: HeronError) -> NoReturn:
    problems = exc.problems if isinstance(exc, ConfigError) else (str(exc),)
    for problem in problems:
        sys.stderr.write(f"heron-mqtt: {problem}\n")
    sys.stderr.flush()
    raise SystemExit(EXIT_USAGE if isinstance(exc, ConfigError) else EXIT_FAILED)


def _version(wanted: bool) -> None:
    if wanted:
        import heron_mqtt

        typer.echo(f"heron-mqtt {heron_mqtt.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log more, to standard error.")] = False,
) -> None:
    """Take the options that stand before a command."""
    level = logging.INFO if verbose else logging.WARNING
    logging.basicConfig(stream=sys.stderr, level=level, format="%(levelname)s %(name)s: %(message)s")


@app.command()
def run(
    scenario: Scenario = DEFAULT_SCENARIO,
    steps: Annotated[int | None, typer.Option(help="Steps to run instead of the scenario's.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed instead of the scenario's.")] = None,
    broker: Annotated[str, typer.Option(help="embedded, memory or mqtt://host:port.")] = "embedded",
    centralized: Annotated[
        bool, typer.Option("--centralized", help="Direct calls instead of messages; no broker.")
    ] = False,
    devices: Annotated[
        Literal["emulated", "simulated"] | None,
        typer.Option(help="emulated: processes on the broker; simulated: models in process."),
    ] = None,
    realtime: Annotated[
        float | None, typer.Option(metavar="SECONDS_PER_STEP", help="Run on a clock, not as fast as it goes.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Run a scenario; without arguments the main job: three microgrids for a day over the embedded broker."""
    from heron_mqtt.run import RunOptions, new_summary, plan_run
    from powergrid.scenario import load_scenario

    options = RunOptions(steps, seed, broker, centralized, devices, realtime)
    plan = plan_run(load_scenario(scenario), options)
    summary = new_summary(plan)
    raise SystemExit(_run(plan, summary, as_json=as_json))


def _run(plan: Plan, summary: Summary, *, as_json: bool) -> int:
    from rich.console import Console

    from heron_mqtt.console import ConsoleProgress, QuietProgress, print_summary
    from heron_mqtt.run import run as run_plan

    code, failure = EXIT_OK, None
    console = Console()
    try:
        if as_json:
            asyncio.run(run_plan(plan, QuietProgress(), summary))
        else:
            with ConsoleProgress(console, plan.steps) as progress:
                asyncio.run(run_plan(plan, progress, summary))
    except KeyboardInterrupt:
        summary.interrupted, code = True, EXIT_INTERRUPTED
    except HeronError as exc:
        failure = exc
    if as_json:
        sys.stdout.write(json.dumps(summary.as_dict(), allow_nan=False) + "\n")
        sys.stdout.flush()
    elif summary.steps or failure is None:
        print_summary(console, summary)
    if failure is not None:
        _fail(failure)
    return EXIT_FAILED if summary.diverged is not None and code == EXIT_OK else code


@app.command()
def check(scenario: Scenario = DEFAULT_SCENARIO) -> None:
    """Validate a scenario with all it names, and print what would run."""
    from heron_mqtt.checking import describe
    from powergrid.scenario import load_scenario

    for line in describe(load_scenario(scenario)):
        typer.echo(line)


@app.command()
def broker(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="TCP port; 0 takes a free one.")] = 1883,
    tls_cert: Annotated[Path | None, typer.Option(help="Server certificate chain, PEM.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its private key, PEM.")] = None,
    client_ca: Annotated[
        Path | None, typer.Option(help="Require client certificates of this authority.")
    ] = None,
    users: Annotated[Path | None, typer.Option(help="Users file (heron-mqtt credentials add).")] = None,
    acl: Annotated[Path | None, typer.Option(help="Access control file.")] = None,
    websocket: Annotated[int | None, typer.Option(metavar="PORT", help="Also speak WebSocket here.")] = None,
) -> None:
    """Run the embedded broker alone until Ctrl-C; prints its address when it is ready."""
    from heron_mqtt.messaging.embedded.command import run_broker, run_in_foreground

    run_in_foreground(
        lambda: run_broker(
            host,
            port,
            tls_cert=tls_cert,
            tls_key=tls_key,
            client_ca=client_ca,
            users_file=users,
            acl_file=acl,
            websocket_port=websocket,
        )
    )


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True}, add_help_option=False
)
def device(
    context: typer.Context,
    kind: Annotated[str, typer.Argument(help="battery, genset or pv_inverter; then --help for its options.")],
) -> None:
    """Run one emulated field device: the same as python devices/KIND.py."""
    from devices import SCRIPTS, run_script

    if kind not in SCRIPTS.values():
        raise ConfigError(f"device {kind}: no such kind; expected {', '.join(sorted(SCRIPTS.values()))}")
    raise SystemExit(run_script(kind, context.args))


@app.command()
def proxy(
    scenario: Scenario,
    agent: Annotated[str, typer.Option(help="The agent, marked remote = true in the scenario.")],
    broker: Annotated[str, typer.Option(metavar="URL", help="mqtt://host:port")],
) -> None:
    """Run one agent with its proxy in this process, for an environment that runs elsewhere."""
    from heron_mqtt.run import serve_proxy
    from powergrid.scenario import load_scenario

    loaded = load_scenario(scenario)
    try:
        asyncio.run(serve_proxy(loaded, agent, broker, typer.echo))
    except KeyboardInterrupt:
        raise SystemExit(EXIT_INTERRUPTED) from None


if __name__ == "__main__":
    main()

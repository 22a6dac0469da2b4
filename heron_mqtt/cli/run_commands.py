"""The commands of ``heron-mqtt``: what each takes; everything it does is a call into the library."""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from heron_mqtt.cli import completions
from heron_mqtt.cli.bench_commands import add_bench_commands
from heron_mqtt.cli.broker_commands import add_broker_commands
from heron_mqtt.cli.broker_options import add_broker_options
from heron_mqtt.cli.calibrate_commands import add_calibrate_commands
from heron_mqtt.cli.commands_in_full import CommandsInFull
from heron_mqtt.cli.conformance_commands import add_conformance_commands
from heron_mqtt.cli.control_commands import add_control_commands
from heron_mqtt.cli.doctor_commands import add_doctor_commands
from heron_mqtt.cli.end_codes import end_code
from heron_mqtt.cli.evaluate_commands import add_evaluate_commands
from heron_mqtt.cli.faults_commands import add_faults_commands
from heron_mqtt.cli.integration_commands import add_integration_commands
from heron_mqtt.cli.logs import set_up_logging
from heron_mqtt.cli.probe_commands import add_probe_commands
from heron_mqtt.cli.record_commands import add_record_commands
from heron_mqtt.cli.replay_commands import add_replay_commands
from heron_mqtt.cli.run_to_end import run_to_end
from heron_mqtt.cli.setup_commands import add_setup_commands
from heron_mqtt.cli.suite_commands import add_suite_commands
from heron_mqtt.cli.watch_commands import add_watch_commands
from heron_mqtt.end_signals import run_until_told
from heron_mqtt.errors import ConfigError
from heron_mqtt.importing import importing
from heron_mqtt.scheduling import PRIORITY_MEANS

if TYPE_CHECKING:
    from heron_mqtt.field.gateway.succession import StateFolder

DEFAULT_SCENARIO = "three_microgrids"


class InterruptibleCommands(CommandsInFull):
    """The commands; one that is interrupted, and says nothing else of it, prints nothing.

    Its exit code is 130; of one that serves and is ended by SIGTERM 0.

    click would make 1 of it.
    """

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override] # typer's own kind of context
        """Run a command."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as asked:
            raise SystemExit(end_code(asked, [ctx.invoked_subcommand or ""])) from None


app = typer.Typer(
    name="heron-mqtt",
    cls=InterruptibleCommands,
    help="An MQTT hardware-in-the-loop gateway for multi-agent microgrid control.",
    epilog="Example: heron-mqtt run. More: heron-mqtt COMMAND --help, and the pages of docs.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,  # its boxes cut off names of options, also at 80 columns
    pretty_exceptions_enable=False,  # a bug keeps its plain traceback
)

ScenarioArgument = Annotated[
    str,
    typer.Argument(
        metavar="SCENARIO",
        help="A scenario file, or the name of a shipped one.",
        autocompletion=completions.scenarios,
    ),
]
Devices = Annotated[
    Literal["emulated", "simulated"] | None,
    typer.Option(help="emulated: processes on the broker; simulated: models in process."),
]
State = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="After a kill, take over the leases of the earlier start that is recorded in this folder; "
        "default: the first of $STATE_DIRECTORY, as systemd sets it.",
    ),
]
TakeOver = Annotated[
    bool,
    typer.Option("--take-over", help="Displace another process that holds this environment or agent."),
]

Watch = Annotated[
    bool,
    typer.Option("--watch", help="Reload mappings of vendors' devices when their files change."),
]

Priority = Annotated[int | None, typer.Option(metavar="N", help=PRIORITY_MEANS)]

AcceptLimits = Annotated[
    bool,
    typer.Option(
        "--accept-broker-limits",
        help="Accept a broker without retained messages or last wills, although safety depends on them.",
    ),
]


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
    set_up_logging(verbose=verbose)


@app.command(
    epilog="Example: heron-mqtt run hil_battery --broker mqtt://127.0.0.1:1883\n\n"
    "A recorded run, and how to continue it after an interruption: heron-mqtt run hil_battery --record "
    "day.heron; "
    "heron-mqtt run hil_battery --resume day.heron"
)
def run(
    scenario: Annotated[
        str | None,
        typer.Argument(
            metavar="SCENARIO",
            help=f"A scenario file, or the name of a shipped one; default: {DEFAULT_SCENARIO}.",
            autocompletion=completions.scenarios,
        ),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(metavar="N", help="Steps to run instead of the scenario's.")
    ] = None,
    days: Annotated[float | None, typer.Option(metavar="N", help="Days to run, in place of --steps.")] = None,
    start: Annotated[
        str | None, typer.Option(metavar="TIME", help='First step, for example "2016-07-05 06:00".')
    ] = None,
    until: Annotated[
        str | None, typer.Option(metavar="TIME", help="Where the run ends, in place of --steps.")
    ] = None,
    seed: Annotated[int | None, typer.Option(metavar="N", help="Seed instead of the scenario's.")] = None,
    broker: Annotated[
        str | None,
        typer.Option(
            metavar="BROKER",
            help="embedded, memory or mqtt://host:port; default: the scenario's, or else embedded.",
        ),
    ] = None,
    centralized: Annotated[
        bool, typer.Option("--centralized", help="Direct calls instead of messages; no broker.")
    ] = False,
    devices: Devices = None,
    realtime: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS_PER_STEP", help="Wall-clock time of a step; without it as fast as possible."
        ),
    ] = None,
    priority: Priority = None,
    network: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Impair the network: a file of config/networks or its name.",
            autocompletion=completions.impaired_networks,
        ),
    ] = None,
    take_over: TakeOver = False,
    state: State = None,
    watch: Watch = False,
    accept_broker_limits: AcceptLimits = False,
    record: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Record the run in this file instead of one in runs/."),
    ] = None,
    no_record: Annotated[bool, typer.Option("--no-record", help="Do not record the run.")] = False,
    resume: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN", help="Continue an interrupted run, from its record and in the same file."
        ),
    ] = None,
    record_messages: Annotated[
        bool | None,
        typer.Option(help="Record every message, or none; default: where a broker is used."),
    ] = None,
    publish_record: Annotated[
        bool, typer.Option("--publish-record", help="Publish the record's hash on run/record at the end.")
    ] = False,
    policy: Annotated[
        str | None,
        typer.Option(
            metavar="MODULE:CLASS",
            help="Decides in place of the agents' rule: a class, made with the environment, with act().",
        ),
    ] = None,
    csv: Annotated[
        str | None, typer.Option(metavar="FILE", help="Results as CSV: a row an agent and step.")
    ] = None,
    dashboard: Annotated[
        int | None, typer.Option(metavar="PORT", help="Serve a live page at this port; 0 = a free port.")
    ] = None,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict",
            help="Exit 1 after a fallback, missed deadline, lost message or row, or device not handed back.",
        ),
    ] = False,
    max_fallbacks: Annotated[
        int | None, typer.Option(metavar="N", help="Exit 1 after more than N fallbacks.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object and nothing else on standard output.")
    ] = False,
) -> None:
    """Run a scenario; without arguments the main job: three microgrids for a day over the embedded broker."""
    with importing():
        import powergrid.scenario  # noqa: F401  what plan_run needs
        from heron_mqtt.app.run_plan import RunOptions, plan_run

    options = RunOptions(
        steps=steps,
        days=days,
        start=start,
        until=until,
        seed=seed,
        broker=broker,
        centralized=centralized,
        devices=devices,
        realtime_s=realtime,
        network=network,
        record=_where(record, no_record),
        record_messages=record_messages,
        publish_record=publish_record,
        csv=csv,
        policy=policy,
        take_over=take_over,
        state=_state(state),
        watch=watch,
        accept_broker_limits=accept_broker_limits,
        priority=priority,
    )
    if max_fallbacks is not None and max_fallbacks < 0:
        raise ConfigError(f"--max-fallbacks {max_fallbacks}: expected a number of at least 0")
    if resume is None:
        plan = plan_run(scenario or DEFAULT_SCENARIO, options)
    else:
        from heron_mqtt.app.resume_plan import plan_resumed

        plan = plan_resumed(resume, scenario, options)
    if dashboard is not None and not plan.options.is_reachable:
        raise ConfigError("--dashboard: the page needs a broker that it can reach, and this run has none")
    code = run_to_end(
        plan,
        as_json=as_json,
        dashboard=dashboard,
        strict=strict,
        max_fallbacks=max_fallbacks,
        record=record,
        resume=resume,
    )
    raise SystemExit(code)


def _where(record: str | None, no_record: bool) -> str | None:
    """Return the file of the record, ``auto``, or None = no record."""
    if record is not None and no_record:
        raise ConfigError("--record and --no-record: give one of them")
    return None if no_record else record or "auto"


def _state(folder: Path | None) -> StateFolder | None:
    """Return the folder that outlives this process: as it is given, or the first that systemd names."""
    variable = "STATE_DIRECTORY"
    named = os.environ.get(variable, "").split(":")[0]
    if folder is None and not named:
        return None
    from heron_mqtt.field.gateway.succession import StateFolder

    return StateFolder(Path(named), variable) if folder is None else StateFolder(folder)


@app.command(epilog="Example: heron-mqtt check three_microgrids")
def check(scenario: ScenarioArgument = DEFAULT_SCENARIO) -> None:
    """Validate a scenario with all it names, and print what would run."""
    from heron_mqtt.app.scenario_check import describe
    from powergrid.scenario import load_scenario

    for line in describe(load_scenario(scenario)):
        typer.echo(line)


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    add_help_option=False,
    epilog="Example: heron-mqtt device battery --agent MG1 --name ess --broker mqtt://127.0.0.1:1883",
)
def device(
    context: typer.Context,
    kind: Annotated[
        str,
        typer.Argument(
            metavar="KIND",
            help="battery, genset, ..., modbus_bridge, sunspec_bridge; KIND --help has its options.",
            autocompletion=completions.device_programs,
        ),
    ],
) -> None:
    """Run one emulated field device, or the bridge to one on Modbus: the same as python devices/KIND.py."""
    from powergrid.emulators import run_script, script_of, scripts

    if kind in {"--help", "-h"}:
        typer.echo(context.get_help())
        raise typer.Exit
    script = script_of(kind)  # a scenario says generator, its script is called genset
    if script is None:
        names = scripts()
        known = sorted(names.values())
        close = difflib.get_close_matches(kind, [*names, *known], n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ConfigError(f"device {kind}: no such kind; expected {', '.join(known)}{hint}")
    raise SystemExit(run_script(script, context.args))


@app.command(
    epilog="Example: heron-mqtt proxy mine.toml --agent MG2 --agent MG3 --broker mqtt://127.0.0.1:1883"
)
def proxy(
    scenario: ScenarioArgument,
    agent: Annotated[
        list[str] | None,
        typer.Option(metavar="AGENT", help="An agent marked remote = true in the scenario; may be repeated."),
    ] = None,
    everyone: Annotated[
        bool, typer.Option("--all", help="Every agent that is marked remote = true.")
    ] = False,
    broker: Annotated[
        str | None, typer.Option(metavar="URL", help="mqtt://host:port; default: the scenario's.")
    ] = None,
    devices: Devices = None,
    take_over: TakeOver = False,
    state: State = None,
    watch: Watch = False,
    accept_broker_limits: AcceptLimits = False,
    priority: Priority = None,
    record: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Record this side in this file instead of one in runs/."),
    ] = None,
    no_record: Annotated[bool, typer.Option("--no-record", help="Do not record this side.")] = False,
) -> None:
    """Run agents with their proxies and devices here, for an environment that runs elsewhere."""
    from heron_mqtt.app.remote_agent import chosen_agents, serve_proxies
    from powergrid.scenario import load_scenario

    loaded = load_scenario(scenario)
    agents = chosen_agents(loaded, agent or [], everyone=everyone)
    url = broker or loaded.scenario.broker.url
    if url is None:
        raise ConfigError("--broker: expected mqtt://host:port; the scenario names no broker either")
    run_until_told(
        serve_proxies(
            loaded,
            agents,
            url,
            devices or "emulated",
            typer.echo,
            take_over=take_over,
            state=_state(state),
            accept_broker_limits=accept_broker_limits,
            record=_where(record, no_record),
            watch=watch,
            priority=priority,
        )
    )


add_bench_commands(app)
add_broker_commands(app)
add_control_commands(app)
add_doctor_commands(app)
add_conformance_commands(app)
add_faults_commands(app)
add_suite_commands(app)
add_record_commands(app)
add_replay_commands(app)
add_calibrate_commands(app)
add_setup_commands(app)
add_evaluate_commands(app)
add_probe_commands(app)
add_watch_commands(app)
add_integration_commands(app)
add_broker_options(app)  # last: for all of them

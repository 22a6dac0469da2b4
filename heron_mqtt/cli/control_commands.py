"""``heron-mqtt status``, ``estop``, ``take`` and ``authority``: what a person sees and does from outside."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from heron_mqtt.end_signals import run_until_told
from heron_mqtt.errors import ConfigError
from heron_mqtt.messaging import topics
from heron_mqtt.units import KW_PER_MW

if TYPE_CHECKING:
    from heron_mqtt.app.operator_client import StopReport
    from heron_mqtt.messages import AuthorityState

Broker = Annotated[str, typer.Option(metavar="URL", help="mqtt://host:port")]
EnvId = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        callback=topics.checked_env_id,
        help="The environment: second level of the topics. Default: the one that is alive; if several are, "
        "they are listed and nothing is done.",
    ),
]
DeviceArgument = Annotated[str, typer.Argument(metavar="AGENT/DEVICE", help="For example MG1/ess.")]
Who = Annotated[
    str | None, typer.Option(metavar="NAME", help="Who, for the record; default: the login name.")
]
Why = Annotated[str, typer.Option(metavar="TEXT", help="Why, for the record.")]
Power = Annotated[str | None, typer.Option(metavar="NUMBER")]


def add_control_commands(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.command(epilog="Example: heron-mqtt status --broker mqtt://127.0.0.1:1883")(status)
    app.command(epilog="Example: heron-mqtt estop on --broker mqtt://127.0.0.1:1883 --why smoke")(estop)
    app.command(epilog="Example: heron-mqtt take MG1/ess --p-kw 5 --for 10m --broker mqtt://127.0.0.1:1883")(
        take
    )
    app.command(epilog="Example: heron-mqtt authority MG1/ess shadow --broker mqtt://127.0.0.1:1883")(
        authority
    )


def status(
    broker: Broker,
    env_id: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", callback=topics.checked_env_id, help="Only this environment; without it all."
        ),
    ] = None,
    listen: Annotated[float, typer.Option(metavar="SECONDS", help="How long to listen for telemetry.")] = 2.0,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object and nothing else on standard output.")
    ] = False,
) -> None:
    """Show who is alive at a broker, and whether all is well.

    Exit code 0: something is alive and all is well; 1: something is not (NOT WELL says what), nothing is
    alive, or the broker is not there; 2: wrong arguments.
    """
    from heron_mqtt.app.operator_client import look
    from heron_mqtt.cli.status_table import print_status, status_console

    if not 0.0 <= listen <= 3600.0:
        raise ConfigError(f"--listen {listen:g}: expected seconds, 0 to 3600")
    seen = run_until_told(look(broker, env_id, listen_s=listen))
    if as_json:
        typer.echo(json.dumps(seen, allow_nan=False))
    else:
        print_status(status_console(), seen)
    raise SystemExit(0 if seen["well"] else 1)


def estop(
    state: Annotated[Literal["on", "off"], typer.Argument(help="on presses it, off releases it.")],
    broker: Broker,
    env_id: EnvId = None,
    who: Who = None,
    why: Why = "",
    wait: Annotated[
        float,
        typer.Option(
            metavar="SECONDS", help="How long gateways and devices may take to confirm, and to measure."
        ),
    ] = 5.0,
) -> None:
    """Emergency stop: every device to its safe state until released, those that connect later too.

    Prints who has confirmed it. Exit code 0: the broker has stored it, and every gateway and device that is
    known to be there has confirmed, each device also by telemetry since then. Devices that cannot be set from
    here are excepted, and named NOT OURS TO STOP. 1: otherwise, or none is known. 2: wrong arguments, nothing
    was sent.
    """
    from heron_mqtt.app.operator_client import Person, set_stop

    if not 0.0 < wait <= 3600.0:
        raise ConfigError(f"--wait {wait:g}: expected seconds, more than 0 and at most 3600")
    person = Person.checked(who, why)
    report = run_until_told(set_stop(broker, env_id, person, active=state == "on", wait_s=wait))
    _print_stop(report)
    raise SystemExit(0 if report.is_proven else 1)


def _print_stop(report: StopReport) -> None:
    what, where = ("pressed" if report.active else "released"), f"in environment {report.env_id}"
    if report.failure is None:
        typer.echo(f"emergency stop {what} {where}")
    else:
        _warn(f"emergency stop NOT {what} {where}: {report.failure}")
    for name, how in report.confirmed.items():
        typer.echo(f"  {name}: {how}")
    for name, why in report.missing.items():
        _warn(f"  {name}: {'NOT CONFIRMED' if report.active else 'STILL STOPPED or silent'}: {why}")
    for name, why in report.unmeasured.items():
        _warn(f"  {name}: {why}")
    for name, what in report.not_ours.items():
        _warn(f"  {name}: NOT OURS TO STOP: {what}")
    if not (report.confirmed or report.missing or report.unmeasured or report.not_ours):
        _warn(f"no gateway or device is known {where}: there is no confirmation")


def _warn(line: str) -> None:
    typer.secho(line, fg="red", bold=True, err=True)


def take(
    device: DeviceArgument,
    broker: Broker,
    p_kw: Power = None,
    p_mw: Power = None,
    q_kvar: Power = None,
    for_: Annotated[
        str | None, typer.Option("--for", metavar="TIME", help="How long: 90s, 10m, 1h or 1h30m.")
    ] = None,
    release: Annotated[bool, typer.Option("--release", help="Give it back now.")] = False,
    env_id: EnvId = None,
    who: Who = None,
    why: Why = "",
) -> None:
    """Control one device by hand for a limited time, within nameplate, band and lease; or give it back.

    Positive power is injected into the grid. Exit code 0: granted, and the answer is as requested; 1:
    refused, no gateway answered, or the answer differs from the request; 2: wrong arguments.
    """
    from heron_mqtt.app.operator_client import Person, take_device
    from heron_mqtt.app.operator_client.take import parse_duration, parse_power

    person = Person.checked(who, why)
    given = {"--p-kw": p_kw, "--p-mw": p_mw, "--q-kvar": q_kvar, "--for": for_}
    named = [option for option, value in given.items() if value is not None]
    if release:
        if named:
            raise ConfigError(f"--release gives the device back: leave out {', '.join(named)}")
        asked: dict[str, float] = {}
    else:
        if (p_kw is None) == (p_mw is None):
            raise ConfigError("expected one of --p-kw and --p-mw (or --release)")
        if for_ is None:
            raise ConfigError("--for is missing: expected a duration such as 90s, 10m or 1h")
        p = parse_power("--p-mw", p_mw) if p_mw is not None else parse_power("--p-kw", p_kw or "") / KW_PER_MW
        q = 0.0 if q_kvar is None else parse_power("--q-kvar", q_kvar) / KW_PER_MW
        asked = {"p_mw": p, "q_mvar": q, "for_s": parse_duration("--for", for_)}
    _print_answer(device, run_until_told(take_device(broker, env_id, device, person, **asked)))


def authority(
    device: DeviceArgument,
    level: Annotated[
        Literal["simulated", "emulated", "shadow", "limited", "full"],
        typer.Argument(help="The level to go to."),
    ],
    broker: Broker,
    env_id: EnvId = None,
    who: Who = None,
    why: Why = "",
) -> None:
    """Promote or demote a device of a running scenario.

    After a demotion that ends its control, a device has 5 s to show its release, and longer if it measures
    more seldom. Exit code 0: granted, with
    the requested level; 1: a gate refused (it is named), no gateway answered, the answer has another level,
    or the device has not shown its release (it is named, with its power); 2: wrong arguments.
    """
    from heron_mqtt.app.operator_client import Person, ask_authority, why_not_handed_back
    from heron_mqtt.app.operator_client.text import printable

    person = Person.checked(who, why)
    answer = run_until_told(ask_authority(broker, env_id, device, level, person))
    typer.echo(
        f"{device}: {answer.level}"
        + ("" if answer.granted else f" (refused: {printable(answer.reason, 600)})")
    )
    left = run_until_told(why_not_handed_back(broker, env_id, device, answer))
    if left is not None:
        _warn(f"{device}: {left}")
    raise SystemExit(0 if answer.granted and left is None else 1)


def _print_answer(device: str, answer: AuthorityState) -> None:
    from heron_mqtt.app.operator_client.text import printable

    told = printable(answer.reason, 600)
    typer.echo(f"{device}: {told}" if answer.granted else f"{device}: refused: {told}")
    raise SystemExit(0 if answer.granted else 1)

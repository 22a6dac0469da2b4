"""``heron-mqtt doctor``: whether a run may rely on a broker."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from heron_mqtt.cli import completions
from heron_mqtt.end_signals import run_until_told
from heron_mqtt.messaging import topics

if TYPE_CHECKING:
    from heron_mqtt.app.doctor import BrokerFinding

COLOURS = {"go": "green", "no-go": "red", "note": "yellow", "not tried": "bright_black"}


def add_doctor_commands(app: typer.Typer) -> None:
    """Add the commands to ``heron-mqtt``."""
    app.command(epilog="Example: heron-mqtt acl three_microgrids --format mosquitto > acl.txt")(acl)
    app.command(epilog="Example: heron-mqtt doctor --broker mqtt://127.0.0.1:1883 three_microgrids")(doctor)


def acl(
    scenario: Annotated[
        str,
        typer.Argument(
            metavar="SCENARIO", help="Names agents and devices.", autocompletion=completions.scenarios
        ),
    ],
    kind: Annotated[
        str, typer.Option("--format", metavar="BROKER", help="mosquitto, emqx or nats.")
    ] = "mosquitto",
    for_doctor: Annotated[
        bool, typer.Option("--doctor", help="Also where heron-mqtt doctor tries the rights.")
    ] = False,
) -> None:
    """Print who may publish and read what, for the broker of a site: users are named as in the scenario."""
    from heron_mqtt.app.acl_files import acl_file
    from powergrid.scenario import load_scenario

    typer.echo(acl_file(load_scenario(scenario), kind, doctor=for_doctor), nl=False)


def doctor(
    scenario: Annotated[
        str | None,
        typer.Argument(
            metavar="[SCENARIO]",
            help="The scenario that is to run there: its names, deadlines and broker.",
            autocompletion=completions.scenarios,
        ),
    ] = None,
    broker: Annotated[
        str | None, typer.Option(metavar="URL", help="mqtt://host:port; default: the scenario's.")
    ] = None,
    logins: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="TOML with the login of each user, to try the rights of each."),
    ] = None,
    env_id: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            callback=topics.checked_env_id,
            help="Environment of the probes; default: the scenario's, with -doctor.",
        ),
    ] = None,
    stall: Annotated[
        bool,
        typer.Option("--stall", help="Also stop a reader, and count what the broker keeps: 3,000 messages."),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object and nothing else on standard output.")
    ] = False,
) -> None:
    """Examine a broker as every user of a site: go or no-go by line, with what to change.

    No device is on its topics, and it leaves nothing behind. Exit code 0: go; 1: no-go, or the broker is
    not there; 2: wrong arguments.
    """
    from heron_mqtt.app.doctor import examine, read_logins
    from heron_mqtt.errors import ConfigError

    loaded = None
    if scenario is not None:
        from powergrid.scenario import load_scenario

        loaded = load_scenario(scenario)
    url = broker or (loaded.scenario.broker.url if loaded is not None else None)
    if url is None:
        raise ConfigError("--broker: expected mqtt://host:port; no scenario names one either")
    users = [] if logins is None else read_logins(logins)
    found = run_until_told(
        examine(
            url,
            users,
            loaded=loaded,
            env_id=env_id,
            stall=stall,
            tell=(lambda _: None) if as_json else _print,
        )
    )
    if as_json:
        typer.echo(json.dumps(found.as_dict(), allow_nan=False))
    else:
        bad = [f.check for f in found.findings if f.verdict == "no-go"]
        typer.echo(f"\n{found.broker}: {'GO' if found.is_go else 'NO-GO: ' + ', '.join(bad)}")
    raise SystemExit(0 if found.is_go else 1)


def _print(finding: BrokerFinding) -> None:
    verdict = typer.style(f"{finding.verdict.upper():9}", fg=COLOURS[finding.verdict], bold=True)
    typer.echo(f"{verdict} {finding.check}: {finding.what}")
    if finding.change and finding.verdict != "go":
        typer.echo(f"          change: {finding.change}")

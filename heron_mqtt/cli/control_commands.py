"""``heron-mqtt authority`` and ``heron-mqtt estop``: what a person does to a running gateway."""

from __future__ import annotations

import asyncio
from typing import Annotated, Literal

import typer

Broker = Annotated[str, typer.Option(metavar="URL", help="mqtt://host:port")]
EnvId = Annotated[str, typer.Option(help="The environment: second level of the topics, the scenario's name.")]
Who = Annotated[str | None, typer.Option(help="Who, for the record; default: the login name.")]
Why = Annotated[str, typer.Option(help="Why, for the record.")]


def add_control_commands(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.command()(authority)
    app.command()(estop)


def authority(
    device: Annotated[str, typer.Argument(metavar="AGENT/DEVICE", help="For example MG1/ess.")],
    level: Annotated[
        Literal["simulated", "emulated", "shadow", "limited", "full"],
        typer.Argument(help="The level to go to."),
    ],
    broker: Broker,
    env_id: EnvId = "three_microgrids",
    who: Who = None,
    why: Why = "",
) -> None:
    """Promote or demote a device of a running scenario; exit code 1 if a gate refused, and which."""
    from heron_mqtt.app.operator_client import ask_authority, whoami

    answer = asyncio.run(ask_authority(broker, env_id, device, level, who=who or whoami(), why=why))
    typer.echo(f"{device}: {answer.level}" + ("" if answer.granted else f" (refused: {answer.reason})"))
    raise SystemExit(0 if answer.granted else 1)


def estop(
    state: Annotated[Literal["on", "off"], typer.Argument(help="on presses it, off releases it.")],
    broker: Broker,
    env_id: EnvId = "three_microgrids",
    who: Who = None,
    why: Why = "",
) -> None:
    """Emergency stop: every device to its safe state until released, those that connect later too."""
    from heron_mqtt.app.operator_client import set_estop, whoami

    asyncio.run(set_estop(broker, env_id, active=state == "on", who=who or whoami(), why=why))
    typer.echo(f"emergency stop {'pressed' if state == 'on' else 'released'} in environment {env_id}")

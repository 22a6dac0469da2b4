"""``heron-mqtt home-assistant``: what other programs get about a scenario."""

from __future__ import annotations

from typing import Annotated

import typer

from heron_mqtt.cli import completions
from heron_mqtt.end_signals import run_until_told


def add_integration_commands(app: typer.Typer) -> None:
    """Add the commands to ``heron-mqtt``."""
    app.command(epilog="Example: heron-mqtt home-assistant mine.toml --broker mqtt://127.0.0.1:1883")(
        home_assistant
    )


def home_assistant(
    scenario: Annotated[
        str,
        typer.Argument(
            metavar="SCENARIO",
            help="A scenario file, or the name of a shipped one.",
            autocompletion=completions.scenarios,
        ),
    ],
    broker: Annotated[str, typer.Option(metavar="URL", help="mqtt://host:port")],
    retract: Annotated[
        bool, typer.Option("--retract", help="Remove everything that was announced of it.")
    ] = False,
) -> None:
    """Announce a scenario's devices and microgrids to Home Assistant, or take that back.

    The broker is read back. A run does the same by itself where the scenario has the table
    [integrations.home_assistant].
    """
    from heron_mqtt.app import home_assistant as integration
    from powergrid.scenario import HomeAssistantTable, load_scenario

    loaded = load_scenario(scenario)
    if retract:
        count = run_until_told(integration.retract(loaded, broker))
        typer.echo(f"Home Assistant: {count} entities of {loaded.scenario.topic_env_id} retracted")
    else:
        table = loaded.scenario.integrations.home_assistant or HomeAssistantTable()
        count = run_until_told(integration.announce(loaded, broker, table))
        typer.echo(f"Home Assistant: {count} entities of {loaded.scenario.topic_env_id} announced")

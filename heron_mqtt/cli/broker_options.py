"""The options of every command that connects to a broker: one for each setting of the connection.

Commands whose connection lasts as long as they do take those of a lasting one, too.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import typer

from heron_mqtt.cli.commands_in_full import OptionsInSections
from heron_mqtt.messaging.settings import EVERYWHERE, SETTINGS, metavar_of, option_of, use_options

PANEL = "Connection to the broker"
LASTING_COMMANDS = {"run", "proxy"}


def add_broker_options(app: typer.Typer) -> None:
    """Give the options to each command of ``app`` that takes a broker."""
    for command in app.registered_commands:
        if command.callback is not None and "broker" in inspect.signature(command.callback).parameters:
            lasts = command.callback.__name__ in LASTING_COMMANDS
            command.callback = with_broker_options(command.callback, EVERYWHERE if lasts else SETTINGS)
            command.cls = OptionsInSections


def with_broker_options(command: Callable[..., Any], named: Mapping[str, str]) -> Callable[..., Any]:
    """Return a command that takes settings too, and puts them into the environment before it begins.

    Args:
        command: The function.
        named: The settings, each with its meaning.
    """
    signature = inspect.signature(command, eval_str=True)

    @functools.wraps(command)
    def run(**options: Any) -> Any:
        use_options({**{name: options.pop(name) for name in named}, "broker": options.get("broker")})
        return command(**options)

    settings = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[
                str | None,
                typer.Option(
                    option_of(name),
                    help=text,
                    metavar=metavar_of(name),
                    rich_help_panel=PANEL,
                ),
            ],
        )
        for name, text in named.items()
    ]
    parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in signature.parameters.values()]
    run.__signature__ = signature.replace(parameters=[*parameters, *settings])  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in [*parameters, *settings]}
    del run.__wrapped__  # or else the command's own signature is looked at
    return run

"""``heron-mqtt init``, ``list``, ``schema``: what a new project begins with."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Annotated

import typer

from heron_mqtt.cli import completions


def add_setup_commands(app: typer.Typer) -> None:
    """Add the commands to ``heron-mqtt``."""
    app.command(epilog="Example: heron-mqtt init my_site --microgrids 5 --network mv_oberrhein")(init)
    app.command("list", epilog="Example: heron-mqtt list device-profiles")(list_)
    app.command(epilog="Example: heron-mqtt schema scenario > scenario.json")(schema)


def init(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Folder of the project; made if it does not exist.")
    ],
    network: Annotated[
        str, typer.Option(metavar="NAME", help="A network of heron-mqtt list networks, or a .json file.")
    ] = "create_cigre_network_lv",
    microgrids: Annotated[int | None, typer.Option(metavar="N", help="How many; default 3.")] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of the sizes of the devices.")] = 0,
) -> None:
    """Begin a project: a commented scenario, a device, a controller, tests, a README."""
    from heron_mqtt.app.project.write import make_project

    for path in make_project(folder, network, microgrids, seed):
        typer.echo(path)
    typer.echo(f"next: heron-mqtt run {shlex.quote(str(folder / 'scenario.toml'))}")


def list_(
    what: Annotated[
        str | None,
        typer.Argument(
            metavar="WHAT", help="One of the lists; default all.", autocompletion=completions.lists
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """List what there is by name: scenarios, networks, data, device profiles, policies, kinds."""
    from heron_mqtt.app.catalogue import catalogue

    found = catalogue(what)
    if as_json:
        typer.echo(json.dumps({title: dict(rows) for title, rows in found.items()}))
        return
    for title, rows in found.items():
        typer.echo(f"{title}:")
        width = max((len(name) for name, _ in rows), default=0)
        for name, text in rows:
            typer.echo(f"  {name:<{width}}  {text}".rstrip())


def schema(
    what: Annotated[
        str,
        typer.Argument(
            metavar="WHAT",
            help="scenario, mapping, impairment or suite.",
            autocompletion=completions.schemas,
        ),
    ],
) -> None:
    """Print the JSON Schema of a file, for editors: completion and checks while you write."""
    from heron_mqtt.app.schemas import schema_of

    typer.echo(json.dumps(schema_of(what), indent=1))

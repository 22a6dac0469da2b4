"""What ``heron-mqtt status`` prints: one block an environment, in 80 columns unless more are known."""

from __future__ import annotations

import textwrap
from typing import Any

from rich.console import Console
from rich.table import Table

from heron_mqtt.app.operator_client.text import printable
from heron_mqtt.cli.kilo import kilo
from heron_mqtt.json_object import Json

WIDTH = 80


def status_console() -> Console:
    """Return the terminal, or 80 columns where there is none."""
    plain: dict[str, Any] = {"markup": False, "emoji": False, "highlight": False}
    console = Console(**plain)
    return console if console.is_terminal else Console(width=WIDTH, **plain)


def print_status(console: Console, seen: Json) -> None:
    """Print what ``operator_client.look`` returned."""
    for environment in seen["environments"]:
        _print_environment(console, environment)
    gone = ", ".join(f"{printable(each['env_id'])} ({each['run']})" for each in seen["not_alive"])
    if gone:
        _say(console, f"not alive: {gone}")
    if not seen["environments"]:
        _say(console, f"no environment is alive at {seen['broker']}", "bold red")
    elif seen["well"]:
        _say(console, "all is well", "green")


def _print_environment(console: Console, environment: Json) -> None:
    _say(console, f"environment {printable(environment['env_id'])}", "bold")
    _fact(console, "run", _run(environment["run"]))
    stop = environment["stop"]
    if stop is None:
        _fact(console, "stop", "none")
    else:
        _fact(
            console,
            "stop",
            f"IN FORCE, by {printable(stop['who'] or 'unknown')}: "
            f"{printable(stop['why'] or 'no reason given', 500)}",
            "bold red",
        )
    for name, agent in environment["agents"].items():
        _fact(console, "agent", f"{printable(name)} {_agent(agent)}")
    if environment["devices"]:
        console.print(_devices(environment["devices"]))
    for label, device in environment["devices"].items():
        if device["manual"] is not None:
            _fact(console, "manual", f"{printable(label)} {_manual(device['manual'])}", "yellow")
    for client, outbox in environment["outboxes"].items():
        if outbox["messages"] or outbox["dropped"] or outbox["disk_errors"]:
            is_bad = outbox["dropped"] or outbox["disk_errors"]
            _fact(console, "outbox", f"{printable(client)} {_outbox(outbox)}", "red" if is_bad else "yellow")
    for note in environment["notes"]:
        _fact(console, "not ours", printable(note, 700), "yellow")
    for problem in environment["problems"]:
        _fact(console, "NOT WELL", printable(problem, 700), "red")


def _outbox(outbox: Json) -> str:
    age = "" if outbox["age_s"] is None else f", the oldest for {outbox['age_s']:.0f} s"
    dropped = f", {outbox['dropped']} given up" if outbox["dropped"] else ""
    errors = f", its disk failed {outbox['disk_errors']} times" if outbox["disk_errors"] else ""
    return f"{outbox['messages']} messages wait ({outbox['size_bytes'] / 1e6:.1f} MB{age}){dropped}{errors}"


def _run(run: Json | None) -> str:
    if run is None:
        return "none"
    where = "" if run["step"] is None else f", step {run['step']} of episode {run['episode']}"
    owner = "" if run["owner"] is None else f", held by {printable(run['owner']['who'] or 'unknown')}"
    scenario = f" scenario {printable(run['scenario'])}" if run["scenario"] else ""
    return f"{run['state']}{scenario}{where}{owner}"


def _agent(agent: Json) -> str:
    owner = "" if agent["owner"] is None else f", held by {printable(agent['owner']['who'] or 'unknown')}"
    reason = "" if not agent["reason"] else f": {printable(agent['reason'])}"
    return f"{agent['state'] or 'without a status'}{reason}{owner}"


def _devices(devices: Json) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("  device", "health", "age s", "kW", "authority", "lease of"):
        table.add_column(heading, justify="right" if heading in {"age s", "kW"} else "left", overflow="fold")
    for label, device in devices.items():
        table.add_row(
            f"  {printable(label)}",
            device["health"],
            "-" if device["age_s"] is None else f"{device['age_s']:.1f}",
            "-" if device["p_mw"] is None else kilo(device["p_mw"]),
            _authority(device["authority"]),
            _lease(device["lease"]),
        )
    return table


def _authority(authority: Json | None) -> str:
    if authority is None:
        return "-"
    level, ceiling = authority["level"], authority["ceiling"]
    return str(level) if ceiling in {None, level} else f"{level} < {ceiling}"


def _lease(lease: Json | None) -> str:
    if lease is None:
        return "-"
    if lease["state"] == "free":
        return "free"
    return printable(lease["holder"] or "by hand", 40)


def _manual(manual: Json) -> str:
    p_kw = "" if manual["p_mw"] is None else f", {kilo(manual['p_mw'])} kW"
    for_s = "" if manual["for_s"] is None else f", for {manual['for_s']:.0f} s when the gateway reported it"
    return f"by {printable(manual['who'])}{p_kw}{for_s}"


def _fact(console: Console, name: str, text: str, style: str | None = None) -> None:
    indent = " " * 11
    lines = textwrap.wrap(
        text,
        width=max(console.width, 40),
        initial_indent=f"  {name:<9}",
        subsequent_indent=indent,
        break_on_hyphens=False,
    )
    for line in lines or [f"  {name}"]:
        console.print(line, style=style, soft_wrap=True)


def _say(console: Console, text: str, style: str | None = None) -> None:
    for line in textwrap.wrap(text, width=max(console.width, 40), subsequent_indent="  "):
        console.print(line, style=style, soft_wrap=True)

"""``heron-mqtt dashboard``, ``top``, ``tail``: what happens at a broker, in a browser or a terminal."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from heron_mqtt.cli.live_page import NICENESS
from heron_mqtt.cli.streams import until_reader_leaves
from heron_mqtt.end_signals import run_until_told, until_input_ends
from heron_mqtt.errors import ConfigError
from heron_mqtt.messaging import topics
from heron_mqtt.messaging.embedded.auth.credentials import DEFAULT_ACL_FILE, DEFAULT_USERS_FILE
from heron_mqtt.scheduling import ordinary_scheduling

if TYPE_CHECKING:
    import ssl

    from heron_mqtt.app.operator_client.observer import Heard

Broker = Annotated[str, typer.Option(metavar="URL", help="mqtt://host:port")]
EnvId = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", callback=topics.checked_env_id, help="Only this environment; without it all."
    ),
]
DEFAULT_PORT = 8700


def add_watch_commands(app: typer.Typer) -> None:
    """Add the commands to ``heron-mqtt``."""
    app.command(epilog="Example: heron-mqtt dashboard --broker mqtt://127.0.0.1:1883")(dashboard)
    app.command(epilog="Example: heron-mqtt top --broker mqtt://127.0.0.1:1883")(top)
    app.command(epilog="Example: heron-mqtt tail --broker mqtt://127.0.0.1:1883 --channel 'devices/MG1/#'")(
        tail
    )


def dashboard(
    broker: Annotated[
        str | None, typer.Option(metavar="URL", help="mqtt://host:port: a live view of this broker.")
    ] = None,
    run: Annotated[
        str | None, typer.Option(metavar="FILE", help="A record: what happened, with a time slider.")
    ] = None,
    env_id: EnvId = None,
    port: Annotated[int, typer.Option(metavar="PORT", help="Of the page; 0 = a free one.")] = DEFAULT_PORT,
    host: Annotated[
        str,
        typer.Option(
            metavar="ADDRESS", help="Address to listen on; another than this machine lets every client read."
        ),
    ] = "127.0.0.1",
    served_as: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="A further host name of the page, such as that of a reverse proxy; may be repeated.",
        ),
    ] = None,
    control: Annotated[
        bool, typer.Option("--control", help="Let people log in and control; without it the page only reads.")
    ] = False,
    users: Annotated[
        Path, typer.Option(metavar="FILE", help="Who may log in (heron-mqtt credentials add).")
    ] = Path(DEFAULT_USERS_FILE),
    acl: Annotated[Path, typer.Option(metavar="FILE", help="Their rights: only operators control.")] = Path(
        DEFAULT_ACL_FILE
    ),
    tls_cert: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Serve the page by TLS: certificate chain, PEM.")
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Key of the certificate, PEM, not encrypted.")
    ] = None,
    ends_with_input: Annotated[bool, typer.Option("--ends-with-input", hidden=True)] = False,
) -> None:
    """Serve a page of what happens at a broker, or of what happened in a recorded run. Ctrl-C ends it.

    It reads and never publishes, unless --control lets people log in.
    """
    from heron_mqtt.dashboard.server import serve_dashboard, serve_record

    if (broker is None) == (run is None):
        raise ConfigError("dashboard: expected --broker URL for a live view, or --run FILE for a record")
    if run is not None and env_id is not None:
        raise ConfigError("--env-id: a record has one environment; leave it out")
    if run is not None and control:
        raise ConfigError("--control: what happened cannot be changed; leave it out with --run")
    if not 0 <= port <= 65_535:
        raise ConfigError(f"--port {port}: expected 0 to 65535")
    tls = _tls(tls_cert, tls_key)
    files, names = (users, acl) if control else None, served_as or []
    serving = (
        serve_record(run, host, port, _say_where, tls, names)
        if run is not None
        else serve_dashboard(broker or "", env_id, host, port, _say_where, files, tls, names)
    )
    run_until_told(_until_input_ends(serving) if ends_with_input else serving)


def _tls(cert: Path | None, key: Path | None) -> ssl.SSLContext | None:
    from heron_mqtt.messaging.embedded.net.tls import server_context

    if cert is None and key is not None:
        raise ConfigError("--tls-key: expected --tls-cert with it")
    return None if cert is None else server_context(cert, key, "--tls-cert, --tls-key")


def _say_where(url: str) -> None:
    typer.echo(f"dashboard: {url}")


async def _until_input_ends(serving: Coroutine[Any, Any, None]) -> None:
    """Serve until standard input ends, as it does with the run that has started us; the run comes first."""
    ordinary_scheduling()
    os.nice(NICENESS)
    await until_input_ends(asyncio.create_task(serving, name="dashboard"))


def top(
    broker: Broker,
    env_id: EnvId = None,
    once: Annotated[bool, typer.Option("--once", help="Print it once, after two seconds, and end.")] = False,
) -> None:
    """Show microgrids, devices and what is wrong, live in a terminal; Ctrl-C ends it."""
    run_until_told(_top(broker, env_id, once=once))


async def _top(broker: str, env_id: str | None, *, once: bool) -> None:
    from rich.live import Live

    from heron_mqtt.app.live_view import LiveView
    from heron_mqtt.cli.status_table import status_console
    from heron_mqtt.cli.top_table import TopScreen

    console, screen = status_console(), TopScreen()
    async with LiveView(broker, env_id) as view:
        await view.settle()
        if once or not console.is_terminal:
            await asyncio.sleep(2.0)
            told = screen.draw(view.snapshot(), console.width, None, ascii_only=console.options.ascii_only)
            console.print(told)
            return
        with Live(console=console, screen=True, auto_refresh=False) as live:
            while True:
                size, plain = console.size, console.options.ascii_only
                told = screen.draw(view.snapshot(), size.width, size.height, ascii_only=plain)
                live.update(told, refresh=True)
                await asyncio.sleep(0.5)


def tail(
    broker: Broker,
    env_id: EnvId = None,
    channel: Annotated[
        str, typer.Option(metavar="FILTER", help="Channels, with + and #; for example devices/+/ess/#.")
    ] = "#",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Print messages as they come, one a line: age, sender, what they say in engineering units, gaps."""
    from heron_mqtt.messaging import topics

    try:
        topics.check_filter(channel)
    except ValueError as exc:
        raise ConfigError(f"--channel {channel}: {exc}") from None
    run_until_told(_tail(broker, env_id, channel, as_json=as_json))


async def _tail(broker: str, env_id: str | None, channel: str, *, as_json: bool) -> None:
    from rich.console import Console

    from heron_mqtt.app.operator_client.observer import Observer
    from heron_mqtt.cli.tail_lines import TailLines

    console = Console(markup=False, emoji=False, highlight=False, soft_wrap=True)
    lines = TailLines(many=env_id is None)

    def on_message(heard: Heard) -> None:
        if as_json:
            typer.echo(json.dumps(_plain(heard), ensure_ascii=False))
        else:
            text, style = lines.line(heard)
            console.print(text, style=style)

    async with Observer(broker, env_id, (channel,), on_message, only_watches=True):
        await until_reader_leaves()


def _plain(heard: Heard) -> dict[str, Any]:
    return {
        "env_id": heard.env_id,
        "channel": heard.channel,
        "retained": heard.retained,
        "malformed": heard.malformed,
        "message": heard.fields,
    }

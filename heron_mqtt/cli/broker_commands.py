"""``heron-mqtt broker`` and ``heron-mqtt credentials``: the embedded broker alone, and who may use it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

import typer

from heron_mqtt.cli.commands_in_full import CommandsInFull
from heron_mqtt.cli.complaints import complain
from heron_mqtt.errors import ConfigError
from heron_mqtt.messaging import topics
from heron_mqtt.messaging.embedded.auth.credentials import DEFAULT_ACL_FILE, DEFAULT_USERS_FILE
from heron_mqtt.messaging.settings import SETTINGS, topic_prefix_of, topics_begin
from heron_mqtt.scheduling import PRIORITY_MEANS, real_time_priority

UsersFile = Annotated[Path, typer.Option("--users", metavar="FILE", help="Users file.")]
AclFile = Annotated[Path, typer.Option("--acl", metavar="FILE", help="Access control file.")]
TopicPrefix = Annotated[
    str | None, typer.Option("--topic-prefix", metavar="LEVELS", help=SETTINGS["topic_prefix"])
]
Name = Annotated[str, typer.Argument(metavar="NAME", help="MG1, MG1/ess for a device, or any other name.")]

credentials = typer.Typer(
    cls=CommandsInFull,
    help="Maintain the users of an embedded broker, and what each may do.",
    epilog="Example: heron-mqtt credentials add ann --role operator",
    no_args_is_help=True,
)


def add_broker_commands(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.command(epilog="Example: heron-mqtt broker --port 1883")(broker)
    app.add_typer(credentials, name="credentials")


def broker(
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(metavar="PORT", min=0, max=65535, help="TCP port; 0 takes a free one.")
    ] = 1883,
    tls_cert: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Server certificate chain, PEM.")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(metavar="FILE", help="Its private key, PEM.")] = None,
    client_ca: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Require client certificates of this authority.")
    ] = None,
    users: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Users file (heron-mqtt credentials add).")
    ] = None,
    acl: Annotated[Path | None, typer.Option(metavar="FILE", help="Access control file.")] = None,
    websocket: Annotated[
        int | None, typer.Option(metavar="PORT", help="Also serve WebSocket here; 0 takes a free port.")
    ] = None,
    allow_remote_anonymous: Annotated[
        bool,
        typer.Option(
            "--allow-remote-anonymous",
            help="Accept clients without a login from every machine; only on a network that you trust.",
        ),
    ] = False,
    denied: Annotated[
        Literal["acknowledge", "disconnect"],
        typer.Option(
            help="For a publish without the right: acknowledge and drop it, or disconnect the client."
        ),
    ] = "acknowledge",
    topic_prefix: TopicPrefix = None,
    priority: Annotated[int | None, typer.Option(metavar="N", help=PRIORITY_MEANS)] = None,
) -> None:
    """Run the embedded broker alone until Ctrl-C; prints its address when it is ready."""
    from heron_mqtt.messaging.embedded.process.foreground import run_broker, run_in_foreground

    try:
        with real_time_priority(priority):
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
                    allow_remote_anonymous=allow_remote_anonymous,
                    denied=denied,
                    topic_prefix=topic_prefix,
                )
            )
    except ConfigError as exc:
        raise ConfigError(*map(_by_options, exc.problems)) from None


_OPTIONS = {
    "host": "--host",
    "port": "--port",
    "websocket_port": "--websocket",
    "tls_cert": "--tls-cert",
    "tls_key": "--tls-key",
    "client_ca": "--client-ca",
    "users_file": "--users",
    "acl_file": "--acl",
    "allow_remote_anonymous": "--allow-remote-anonymous",
}
"""What the command calls the arguments of ``EmbeddedBroker``, which are named in what is wrong with them."""


def _by_options(problem: str) -> str:
    """Name the options that a problem comes from, not the arguments in Python."""
    words = "|".join(name for name in _OPTIONS if "_" in name)
    named = re.sub(rf"(?<!\S)({words})(?![\w/.])", lambda match: _OPTIONS[match[1]], problem)
    return re.sub(r"^(host|port):", lambda match: f"{_OPTIONS[match[1]]}:", named)


@credentials.command("add", epilog="Example: heron-mqtt credentials add MG1 --role agent")
def add(
    name: Name,
    role: Annotated[
        Literal["agent", "device", "operator", "observer"], typer.Option(help="What the user may do.")
    ],
    users: UsersFile = Path(DEFAULT_USERS_FILE),
    acl: AclFile = Path(DEFAULT_ACL_FILE),
    env_id: Annotated[
        str | None,
        typer.Option(
            metavar="ENV",
            callback=topics.checked_env_id,
            help="Rights in this environment only, not in every one.",
        ),
    ] = None,
    topic_prefix: TopicPrefix = None,
    scenario: Annotated[
        str | None,
        typer.Option(
            metavar="SCENARIO",
            help="Rights in its environment only, and on the topics of the vendors' devices that it maps.",
        ),
    ] = None,
) -> None:
    """Add a user or change its password, which is asked for, or read from standard input."""
    from heron_mqtt.messaging.embedded.auth.credentials import add_credentials, read_password

    prefix: str | None = None
    foreign: dict[str, str] = {}
    if scenario is not None:
        if env_id is not None:
            raise ConfigError("--env-id and --scenario: each names the environment; give one of them")
        env_id, prefix, foreign = _rights_in(scenario, name, role)
    before = topics_begin(prefix) if topic_prefix is None else topic_prefix_of(topic_prefix)
    notes = add_credentials(
        *(name, role, read_password(name)),
        users_file=users,
        acl_file=acl,
        env_id=env_id,
        before=before,
        foreign=foreign,
    )
    typer.echo(f"{name} may now connect as {role}; users in {users}, rights in {acl}")
    for note in notes:
        complain(f"{acl}: {note}")


def _rights_in(scenario: str, name: str, role: str) -> tuple[str, str | None, dict[str, str]]:
    """Return a scenario's environment, its topic prefix, and a user's rights on topics that are not ours.

    Raises:
        ConfigError: The scenario is wrong, or knows no such agent or device.
    """
    from heron_mqtt.app.acl_files import foreign_rights, users_of
    from powergrid.scenario import load_scenario

    loaded = load_scenario(scenario)
    names = [user.name for user in users_of(loaded.scenario) if user.role == role]
    if role in {"agent", "device"} and name not in names:
        raise ConfigError(f"--scenario {scenario}: has no {role} {name!r}; it has {', '.join(names)}")
    user = name if role in {"agent", "device"} else role  # of operators any may start the run
    return (
        loaded.scenario.topic_env_id,
        loaded.scenario.broker.topic_prefix,
        foreign_rights(loaded).get(user, {}),
    )


@credentials.command("remove", epilog="Example: heron-mqtt credentials remove MG1")
def remove(
    name: Name, users: UsersFile = Path(DEFAULT_USERS_FILE), acl: AclFile = Path(DEFAULT_ACL_FILE)
) -> None:
    """Remove a user; a running broker ends its connections within 10 s."""
    from heron_mqtt.messaging.embedded.auth.credentials import remove_credentials

    remove_credentials(name, users_file=users, acl_file=acl)
    typer.echo(f"{name} was removed from {users} and {acl}")

"""What can be set about the connection to an MQTT broker, beside its URL: one name, everywhere the same.

The name of a setting is the keyword argument of ``MqttBroker`` and a key of a scenario's ``[broker]``. In
capitals behind ``HERON_MQTT_`` it is the environment variable, with dashes the option of every command. An
argument or option wins over the URL, the URL over the environment, the environment over the scenario. The
password itself is given by a file or the environment alone: never where others can read it.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Final

from heron_mqtt.errors import ConfigError
from heron_mqtt.messaging import topics

SETTINGS: Final[Mapping[str, str]] = {
    "username": "User name at the MQTT broker.",
    "password_file": "File that holds the password in its first line.",
    "ca": "PEM file of the authority that signed the broker's certificate.",
    "cert": "PEM file of a client certificate.",
    "key": "PEM file of its private key, unencrypted.",
    "server_name": "Name that the broker's certificate must have, if not the host of the URL.",
    "alpn": "Application protocol to name in the TLS handshake, for example mqtt.",
    "protocol": "MQTT version: 3.1.1 or 5.",
    "topic_prefix": "Topic levels that stand before heron/ at this broker, for example sites/7.",
    "keepalive_s": "Seconds of silence after which either side gives the other up.",
}
LASTING: Final[Mapping[str, str]] = {
    "client_id": "MQTT client id, unique at the broker; made at random if left out.",
    "clean_start": "false: the broker keeps what others publish while this is away; needs a client id.",
    "session_expiry_s": "Seconds for which it shall keep it (MQTT 5; else the broker decides).",
    "outbox": "File that keeps what was published while the broker was away.",
    "outbox_max_mb": "Megabytes that it may hold; then the oldest goes.",
    "outbox_max_age_s": "Seconds after which what it holds is not sent any more.",
}
"""Settings of the one connection of a process that lasts: no other one may have the same. Commands that only
look, or ask for something once, do not take them, and emulated devices do not inherit them."""
EVERYWHERE: Final[Mapping[str, str]] = {**SETTINGS, **LASTING}
MAX_PREFIX_BYTES = 500
FILES: Final = frozenset({"password_file", "ca", "cert", "key", "outbox"})
METAVARS: Final[Mapping[str, str]] = {"s": "SECONDS", "mb": "MB", "start": "true|false", "prefix": "LEVELS"}
"""By the last word of a setting."""
FOR_TLS: Final = ("ca", "cert", "key", "server_name", "alpn")
PLAIN: Final = frozenset({"mqtt", "ws"})  # of the schemes whose encrypted ones are mqtts and wss


def prefix_problem(topic_prefix: str) -> str | None:
    """Return why topics cannot begin with a prefix (without the last ``/``), or None."""
    if len(topic_prefix.encode(errors="replace")) > MAX_PREFIX_BYTES:
        return f"expected at most {MAX_PREFIX_BYTES} bytes"
    if topic_prefix.startswith("$"):
        return "topics that begin with $ are the broker's own"
    if not topic_prefix.isprintable() or any(
        not level or set(level) & {"+", "#"} for level in topic_prefix.split("/")
    ):
        return "expected topic levels such as sites/7: none empty, no + and no #"
    return None


def topic_prefix_of(said: str | None) -> str:
    """Return what stands before every topic of ours, with its last ``/``; "" = nothing.

    Raises:
        ConfigError: Topics cannot begin with it.
    """
    if not said:
        return ""
    if problem := prefix_problem(prefix := said.removesuffix("/")):
        raise ConfigError(f"topic_prefix {said!r}: {problem}")
    return f"{prefix}/"


def topics_begin(scenario_says: str | None) -> str:
    """Return what stands before every topic of ours, by environment or scenario, with its last ``/``.

    Raises:
        ConfigError: Topics cannot begin with it.
    """
    variable = variable_of("topic_prefix")
    said = os.environ.get(variable)
    try:
        return topic_prefix_of(said or scenario_says)
    except ConfigError as exc:
        where = variable if said else "broker"
        raise ConfigError(*(f"{where}: {problem}" for problem in exc.problems)) from None


def variable_of(setting: str) -> str:
    """Return the environment variable of a setting."""
    return f"HERON_MQTT_{setting.upper()}"


def option_of(setting: str) -> str:
    """Return the command line option of a setting."""
    return f"--{setting.replace('_', '-')}"


def metavar_of(setting: str) -> str:
    """Return what stands for the value of a setting in a program's help."""
    return "FILE" if setting in FILES else METAVARS.get(setting.rpartition("_")[2], "TEXT")


def without_lasting(settings: Mapping[str, str]) -> dict[str, str]:
    """Return settings by name, those of a lasting connection left out."""
    return {name: value for name, value in settings.items() if name not in LASTING}


def inherited(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment as a child process gets it: the settings of our lasting connection are ours."""
    ours = {variable_of(name) for name in LASTING}
    return {name: value for name, value in environment.items() if name not in ours}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Give a program, whose connection lasts, the option of each setting."""
    group = parser.add_argument_group("connection to the broker")
    for name, meaning in EVERYWHERE.items():
        group.add_argument(option_of(name), metavar=metavar_of(name), help=meaning)


def env_id_argument(text: str) -> str:
    """Return the name of an environment, as ``type`` of a program's argument ``--env-id``.

    Raises:
        argparse.ArgumentTypeError: It cannot be one.
    """
    try:
        topics.checked_env_id(text)
    except ConfigError as exc:
        raise argparse.ArgumentTypeError(str(exc).removeprefix("--env-id ")) from None
    return text


def use_options(options: Mapping[str, object], environment: MutableMapping[str, str] | None = None) -> None:
    """Put the settings among a program's options into its environment, for itself and its children.

    Args:
        options: By name; None = not given. With ``broker``, the URL that they are for, where it is known.
        environment: Where to; this process's if left out.

    Raises:
        ConfigError: One is for TLS, and the URL is not: the connection would be plain, without an error.
    """
    url = options.get("broker")
    if isinstance(url, str) and url.partition("://")[0].lower() in PLAIN:
        for_tls = [option_of(name) for name in FOR_TLS if options.get(name) is not None]
        if for_tls:
            raise ConfigError(
                f"{', '.join(for_tls)}: for TLS, but --broker is plain ({url.partition('://')[0]}://): use "
                "mqtts:// or wss://, or leave it out"
            )
    environment = os.environ if environment is None else environment
    for name in EVERYWHERE:
        value = options.get(name)
        if value is not None:
            environment[variable_of(name)] = str(Path(str(value)).absolute()) if name in FILES else str(value)

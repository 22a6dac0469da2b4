"""What can be set about the connection to an MQTT broker, beside its URL: one name, everywhere the same.

A setting is the keyword argument of ``MqttBroker``; in capitals behind ``HERON_MQTT_`` the environment
variable; with dashes the option of every command; and a key of a scenario's ``[broker]``. An argument or
option wins over the URL, the URL over the environment, the environment over the scenario. The password
itself is given by a file or the environment alone: never where others can read it.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Final

SETTINGS: Final[Mapping[str, str]] = {
    "username": "User name at the MQTT broker.",
    "password_file": "File that holds the password in its first line.",
    "ca": "PEM file of the authority that signed the broker's certificate.",
    "cert": "PEM file of a client certificate.",
    "key": "PEM file of its private key, unencrypted.",
    "server_name": "Name that the broker's certificate must have, if not the host of the URL.",
    "alpn": "Application protocol to name in the TLS handshake, for example mqtt.",
    "protocol": "MQTT version: 3.1.1 or 5.",
    "keepalive_s": "Seconds of silence after which either side gives the other up.",
}
FILES: Final = frozenset({"password_file", "ca", "cert", "key"})


def variable_of(setting: str) -> str:
    """Return the environment variable of a setting."""
    return f"HERON_MQTT_{setting.upper()}"


def option_of(setting: str) -> str:
    """Return the command line option of a setting."""
    return f"--{setting.replace('_', '-')}"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Give a program the option of each setting."""
    group = parser.add_argument_group("connection to the broker")
    for name, meaning in SETTINGS.items():
        metavar = "FILE" if name in FILES else "S" if name == "keepalive_s" else "TEXT"
        group.add_argument(option_of(name), metavar=metavar, help=meaning)


def use_options(options: Mapping[str, object], environment: MutableMapping[str, str] | None = None) -> None:
    """Put the settings among a program's options into its environment, for itself and its children.

    Args:
        options: By name; None = not given.
        environment: Where to; this process's if left out.
    """
    environment = os.environ if environment is None else environment
    for name in SETTINGS:
        value = options.get(name)
        if value is not None:
            environment[variable_of(name)] = str(Path(str(value)).absolute()) if name in FILES else str(value)

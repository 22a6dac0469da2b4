"""The logins file: how each user of a site connects, for an examination as every one of them.

::

    [operator]
    username = "operator"              # the table's name, if left out
    password_file = "operator.pass"    # beside this file

    [MG1]                              # an agent
    password_file = "mg1.pass"

    ["MG1/ess"]                        # a device
    cert = "ess.pem"
    key = "ess.key"

The password itself stands in no file of this kind; files that hold it are named.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from heron_mqtt.config import read_toml
from heron_mqtt.errors import ConfigError
from heron_mqtt.messaging.topics import ROLES

FILE_KEYS = ("password_file", "cert", "key", "ca")
KEYS = ("role", "username", *FILE_KEYS)


@dataclass(frozen=True, slots=True)
class Login:
    """One user of the broker.

    Attributes:
        name: As in the wire contract: ``MG1``, ``MG1/ess``; of an operator or observer any.
        role: What it may do; one of ``topics.ROLES``.
        settings: What a ``MqttBroker`` is given to connect as this user; empty = the command's own login.
    """

    name: str
    role: str
    settings: dict[str, str] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """How it is called in a line for people."""
        return self.name if self.name == self.role else f"{self.name} ({self.role})"


def read_logins(path: str | Path) -> list[Login]:
    """Read a logins file.

    Raises:
        ConfigError: It cannot be read, or a key is not one of a login.
    """
    file = Path(path)
    try:
        data = read_toml(file)
    except ConfigError as exc:
        raise ConfigError(f"--logins {exc}") from None
    if not data:
        raise ConfigError(f"--logins {file}: names no login; expected a table for each, such as [operator]")
    problems: list[str] = []
    logins = [login for name, table in data.items() if (login := _login(file, name, table, problems))]
    if problems:
        raise ConfigError(*problems)
    return logins


def _login(file: Path, name: str, table: object, problems: list[str]) -> Login | None:
    if not isinstance(table, dict):
        problems.append(f"--logins {file}: {name}: expected a table, such as [{name}]")
        return None
    known = len(problems)
    for key, value in table.items():
        if key == "password":
            problems.append(
                f"--logins {file}: [{name}] password: this file must not contain passwords; put the password "
                "into a separate file and name that file as password_file"
            )
        elif key not in KEYS:
            problems.append(f"--logins {file}: [{name}] {key}: expected one of {', '.join(KEYS)}")
        elif not isinstance(value, str) or not value:
            problems.append(f"--logins {file}: [{name}] {key} = {value!r}: expected a text")
    role = table.get("role", _usual_role(name))
    if role not in ROLES:
        problems.append(f"--logins {file}: [{name}] role = {role!r}: expected one of {', '.join(ROLES)}")
    elif role == "device" and (name.count("/") != 1 or name.startswith("/") or name.endswith("/")):
        problems.append(f'--logins {file}: [{name}] of a device: expected ["AGENT/DEVICE"]')
    if len(problems) > known:
        return None
    settings = {key: str(table[key]) for key in KEYS[1:] if key in table}
    settings |= {key: str(file.parent / settings[key]) for key in FILE_KEYS if key in settings}
    settings.setdefault("username", name)
    return Login(name, role, settings)


def _usual_role(name: str) -> str:
    if name in {"operator", "observer"}:
        return name
    return "device" if "/" in name else "agent"

"""What belongs to one connection alone and outlives it: its client id and its outbox."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from heron_mqtt.errors import ConfigError
from heron_mqtt.messaging.settings import variable_of

DEFAULT_MAX_MB, DEFAULT_MAX_AGE_S = 100.0, 7 * 86_400.0
MAX_MB, MAX_AGE_S = 1_000_000.0, 10 * 365 * 86_400.0


@dataclass(frozen=True, slots=True)
class LastingOptions:
    """Checked.

    Attributes:
        client_id: None = one is made.
        outbox: Its file; None = there is none.
        outbox_max_mb: 10^6 bytes.
        outbox_max_age_s: Of one message.
    """

    client_id: str | None = None
    outbox: Path | None = None
    outbox_max_mb: float = DEFAULT_MAX_MB
    outbox_max_age_s: float = DEFAULT_MAX_AGE_S

    @property
    def outbox_max_bytes(self) -> int:
        """The same in bytes."""
        return int(self.outbox_max_mb * 1e6)


def read_lasting(
    given: Mapping[str, object], defaults: Mapping[str, str] | None, *, use_environment: bool
) -> LastingOptions:
    """Check what was said of them; arguments win over the environment, that over ``defaults``.

    Args:
        given: Arguments, by name; None = not said.
        defaults: By name: a scenario's.
        use_environment: Whether environment and defaults count: they are for one connection of a process.

    Raises:
        ConfigError: Says which value is wrong and what was expected.
    """

    def said(name: str) -> object:
        if given.get(name) is not None or not use_environment:
            return given.get(name)
        return os.environ.get(variable_of(name)) or (defaults or {}).get(name)

    problems: list[str] = []

    def number(name: str, default: float, most: float, unit: str) -> float:
        value = said(name)
        if value is None:
            return default
        try:
            found = float(str(value))
        except ValueError:
            found = 0.0
        if not 0.0 < found <= most:
            problems.append(f"{name} {value!r}: expected {unit}, more than 0, at most {most:g}")
        return found

    client_id, outbox = said("client_id"), said("outbox")
    found = LastingOptions(
        None if client_id is None else str(client_id),
        None if outbox is None else Path(str(outbox)).absolute(),
        number("outbox_max_mb", DEFAULT_MAX_MB, MAX_MB, "megabytes"),
        number("outbox_max_age_s", DEFAULT_MAX_AGE_S, MAX_AGE_S, "seconds"),
    )
    if outbox == "":
        problems.append("outbox '': expected the name of a file; leave it out for none")
    if problems:
        raise ConfigError(*(f"MqttBroker: {problem}" for problem in problems))
    return found

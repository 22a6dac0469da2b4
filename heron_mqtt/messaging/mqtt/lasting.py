"""What belongs to one connection alone and outlives it: its client id, its session and its outbox."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from heron_mqtt.errors import ConfigError
from heron_mqtt.messaging.settings import variable_of

DEFAULT_MAX_MB, DEFAULT_MAX_AGE_S = 100.0, 7 * 86_400.0
DEFAULT_SESSION_EXPIRY_S, MAX_SESSION_EXPIRY_S = 3_600, (1 << 32) - 1  # MQTT 5, section 3.1.2.11.2
YES, NO = {"true", "yes", "1"}, {"false", "no", "0"}
MAX_MB, MAX_AGE_S = 1_000_000.0, 10 * 365 * 86_400.0


@dataclass(frozen=True, slots=True)
class LastingOptions:
    """Checked.

    Attributes:
        client_id: None = one is made.
        session_expiry_s: How long the broker shall keep a session for us; None = not at all.
        outbox: Its file; None = there is none.
        outbox_max_mb: 10^6 bytes.
        outbox_max_age_s: Of one message.
    """

    client_id: str | None = None
    session_expiry_s: int | None = None
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
    session_expiry_s = _session(said("clean_start"), said("session_expiry_s"), client_id, problems)
    found = LastingOptions(
        None if client_id is None else str(client_id),
        session_expiry_s,
        None if outbox is None else Path(str(outbox)).absolute(),
        number("outbox_max_mb", DEFAULT_MAX_MB, MAX_MB, "megabytes"),
        number("outbox_max_age_s", DEFAULT_MAX_AGE_S, MAX_AGE_S, "seconds"),
    )
    if outbox == "":
        problems.append("outbox '': expected the name of a file; leave it out for none")
    if problems:
        raise ConfigError(*(f"MqttBroker: {problem}" for problem in problems))
    return found


def _session(clean_start: object, expiry_s: object, client_id: object, problems: list[str]) -> int | None:
    """Return how long a session is to be kept; None = not at all."""
    word = "true" if clean_start is None else str(clean_start).lower()
    if word not in YES | NO:
        problems.append(f"clean_start {clean_start!r}: expected true or false")
    if word not in NO:
        if expiry_s is not None:
            problems.append(f"session_expiry_s {expiry_s!r}: no session is kept; give clean_start false, too")
        return None
    if client_id is None:
        problems.append("clean_start false: the broker knows a session by its client; give client_id, too")
    try:
        found = float(str(DEFAULT_SESSION_EXPIRY_S if expiry_s is None else expiry_s))
    except ValueError:
        found = 0.0
    if not 1 <= found <= MAX_SESSION_EXPIRY_S or found != int(found):
        problems.append(f"session_expiry_s {expiry_s!r}: expected whole seconds, 1 to {MAX_SESSION_EXPIRY_S}")
        return DEFAULT_SESSION_EXPIRY_S
    return int(found)

"""The users file: names and argon2id hashes."""

from __future__ import annotations

import functools
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

from heron_mqtt.errors import DataError
from heron_mqtt.messaging.topics import user_problem

if TYPE_CHECKING:
    from argon2 import PasswordHasher


def load_users(path: str | Path) -> dict[str, str]:
    """Read a users file: a row ``NAME:HASH`` each, the hash as argon2 writes it.

    Raises:
        DataError: One line for each row that is wrong, with its number; hashes are not repeated.
    """
    users: dict[str, str] = {}
    problems: list[str] = []
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as exc:
        raise DataError(f"{path}: cannot be read as UTF-8 text: {exc}") from exc
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, _, stored = line.strip().partition(":")
        if not name or not stored.startswith("$argon2"):
            problems.append(
                f"{path}: row {number}: expected NAME:$argon2..., made by heron-mqtt credentials add"
            )
        elif (problem := user_problem(name)) is not None:
            problems.append(f"{path}: row {number}: user {name!r}: {problem}")
        elif name in users:
            problems.append(f"{path}: row {number}: {name!r} appears twice")
        else:
            users[name] = stored
    if problems:
        raise DataError(*problems)
    return users


@functools.cache
def hasher() -> PasswordHasher:
    """Return argon2id with 19 MiB, 2 passes, 1 lane: about 25 ms a check.

    Source: OWASP Password Storage Cheat Sheet, one of its equivalent argon2id settings.
    """
    from argon2 import PasswordHasher

    return PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)


def hash_password(password: bytes) -> str:
    """Return a salted argon2id hash in its usual text form."""
    return hasher().hash(password)


def password_matches(stored: str | None, password: bytes) -> bool:
    """Return whether a password is that of a stored hash; None (no such user) takes as long."""
    from argon2.exceptions import InvalidHashError, VerificationError

    try:
        # An unknown user costs the same time as a known one, so that names cannot be found by timing.
        hasher().verify(stored or _decoy_hash(), password)
    except (VerificationError, InvalidHashError):
        return False
    return stored is not None


@functools.cache
def _decoy_hash() -> str:
    return hash_password(secrets.token_bytes(16))

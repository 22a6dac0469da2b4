"""Passwords hashed with little work: the hash that is stored in use takes 25 ms and 19 MiB, on purpose.

Hundreds of logins of a test run take that time, and as much again to get that memory from the system. What
is hashed so is checked so, since a hash says how it was made. A test of what hashing costs others has the
fixture ``costly_hashes``; with ``HERON_FRESH_PROCESSES=1`` all of them have it.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator

from argon2 import PasswordHasher

from heron_mqtt.messaging.embedded.auth import users

__all__ = ["costly_hashes", "hash_quickly"]


@functools.cache
def _quick_hasher() -> PasswordHasher:
    return PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)


_costly_hasher = users.hasher


def hash_quickly() -> None:
    """Have the passwords of this process, and of its forks, hashed with little work from now on."""
    _hash_by(_quick_hasher)


@contextlib.contextmanager
def costly_hashes() -> Iterator[None]:
    """Have them hashed as in use meanwhile."""
    before = users.hasher
    _hash_by(_costly_hasher)
    try:
        yield
    finally:
        _hash_by(before)


def _hash_by(hasher: functools._lru_cache_wrapper[PasswordHasher]) -> None:
    users.hasher = hasher
    users._decoy_hash.cache_clear()

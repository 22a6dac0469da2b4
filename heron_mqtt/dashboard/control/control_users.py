"""Who may control: the users of a credentials file whose rights let them stop everything."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from heron_mqtt.errors import DataError
from heron_mqtt.messaging.embedded.auth.acl import Acl
from heron_mqtt.messaging.embedded.auth.turns import TooManyWait, Turns
from heron_mqtt.messaging.embedded.auth.users import load_users, password_matches

MAX_WAITING = 10
"""Logins of one name that wait for the hash to be computed."""


class ControlUsers:
    """The two files that ``heron-mqtt credentials add`` writes; read again at every question.

    Args:
        users_file: Names and argon2id hashes.
        acl_file: Rights; who may not publish the emergency stop (a device, an agent) controls nothing here.

    Raises:
        DataError: A file cannot be read, or no user in it may control.
    """

    def __init__(self, users_file: str | Path, acl_file: str | Path) -> None:
        self._users_file = users_file
        self._acl_file = acl_file
        self._turns = Turns(MAX_WAITING)
        # The one thread: argon2 computes for tens of milliseconds and releases the interpreter lock.
        self._hashing = ThreadPoolExecutor(1, "argon2")
        if not any(self.may_control(name) for name in load_users(users_file)):
            raise DataError(
                f"{users_file}: none of its users may control by {acl_file}; make one with heron-mqtt "
                "credentials add NAME --role operator"
            )

    def close(self) -> None:
        """Stop checking passwords."""
        self._hashing.shutdown(wait=False, cancel_futures=True)

    def may_control(self, name: str) -> bool:
        """Return whether a user is there and is in charge, by the files as they are now.

        Raises:
            DataError: One of them cannot be read.
        """
        return (
            name in load_users(self._users_file) and Acl.load(self._acl_file).grant(name, "").is_in_charge()
        )

    async def check(self, name: str, password: str) -> bool:
        """Return whether name and password are right, and that person may control.

        Raises:
            DataError: A file cannot be read.
            TooManyWait: Too many logins of this name wait already.
        """
        stored = load_users(self._users_file).get(name)
        async with self._turns.turn(name if stored is not None else ""):
            loop = asyncio.get_running_loop()
            is_right = await loop.run_in_executor(
                self._hashing, password_matches, stored, password.encode("utf-8", "surrogatepass")
            )
        return is_right and self.may_control(name)


__all__ = ["ControlUsers", "TooManyWait"]

"""Who a client is: by password, by certificate, or anonymous.

Nothing here touches a session. The broker asks before it looks at the client identifier, so that a
wrong password cannot disturb the device whose name was used.
"""

from __future__ import annotations

import asyncio
import hmac
import secrets
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heron_mqtt.errors import DataError
from heron_mqtt.messaging.embedded.auth.acl import Acl
from heron_mqtt.messaging.embedded.auth.turns import TooManyWait, Turns
from heron_mqtt.messaging.embedded.auth.users import load_users, password_matches
from heron_mqtt.messaging.embedded.options import is_loopback
from heron_mqtt.messaging.embedded.protocol import packets
from heron_mqtt.messaging.topics import user_problem
from heron_mqtt.scheduling import ordinary_scheduling

if TYPE_CHECKING:
    from collections.abc import Callable

    from heron_mqtt.messaging.embedded.event_log import EventLog
    from heron_mqtt.messaging.embedded.options import BrokerOptions
    from heron_mqtt.messaging.embedded.server.session import Grant

_MAX_TRACKED_ADDRESSES = 10_000
_FORGET_FAILURES_S = 300.0
MAX_WAITING_LOGINS = 50
"""Of one user, with different passwords; at 25 ms each the last one waits about a second."""


@dataclass(frozen=True, slots=True)
class Admitted:
    """A client whose identity is settled; ``user`` None is a client that did not log in."""

    user: str | None


@dataclass(frozen=True, slots=True)
class Refused:
    """A client that is not let in, the CONNACK code that tells it, and why (for the log)."""

    return_code: int
    reason: str
    delay_s: float = 0.0


AuthResult = Admitted | Refused


class Authenticator:
    """Decides who a client is, and what it may do.

    Args:
        options: Users file, ACL file, certificates, anonymous access.
        events: Log.
        clock: Monotonic time, s.

    Raises:
        DataError: The users or the ACL file is wrong.
    """

    def __init__(self, options: BrokerOptions, events: EventLog, clock: Callable[[], float]) -> None:
        self._options = options
        self._events = events
        self._clock = clock
        self._users: dict[str, str] = {}
        self._acl: Acl | None = None
        self._signature = self._read_signature()
        self._load()
        self._failures: dict[str, tuple[int, float]] = {}
        # A device reconnects often and argon2 is slow on purpose: a password that was right once is
        # recognised by its keyed digest. The key never leaves this process.
        self._digest_key = secrets.token_bytes(32)
        self._known: dict[str, bytes] = {}
        # The one thread: argon2 computes for tens of milliseconds and releases the interpreter lock.
        # One, so that a flood of logins takes one core at most.
        self._turns = Turns(MAX_WAITING_LOGINS)
        self._checking: dict[bytes, asyncio.Task[bool]] = {}  # many processes may share one login
        # Without a real-time priority, should the broker have one: that is for messages.
        self._hashing = (
            None
            if options.users_file is None
            else ThreadPoolExecutor(1, "argon2", initializer=ordinary_scheduling)
        )

    def close(self) -> None:
        """Stop checking passwords."""
        if self._hashing is not None:
            self._hashing.shutdown(wait=False, cancel_futures=True)

    def decide(
        self, connect: packets.Connect, peer: str, certificate: dict[str, Any] | None
    ) -> AuthResult | None:
        """Return the verdict, or None if a password has to be checked: see `verify`."""
        if self._options.identity_from_certificate:
            return self._by_certificate(connect, certificate)
        if self._options.users_file is None or connect.username is None:
            return self._without_login(peer)
        known = self._known.get(connect.username)
        if known is not None and hmac.compare_digest(known, self._digest(connect)):
            self._failures.pop(_host_of(peer), None)
            return Admitted(connect.username)
        return None

    async def verify(self, connect: packets.Connect, peer: str) -> AuthResult:
        """Check the password; the computation runs beside the event loop."""
        user = connect.username or ""
        digest = self._digest(connect)
        checking = self._checking.get(digest)
        if checking is None:
            checking = asyncio.create_task(self._check(user, connect.password or b""), name=f"argon2 {user}")
            self._checking[digest] = checking
            checking.add_done_callback(lambda _: self._checking.pop(digest, None))
        try:
            matches = await asyncio.shield(checking)
        except TooManyWait:
            return Refused(packets.SERVER_UNAVAILABLE, f"too many logins of user {user!r} wait already")
        if matches and self._digest(connect) == digest:  # not changed or removed meanwhile
            self._known[user] = digest
            self._failures.pop(_host_of(peer), None)
            return Admitted(user)
        # The client is not told which of the two was wrong.
        return self._failed(peer, packets.BAD_CREDENTIALS, f"wrong user name or password for user {user!r}")

    async def _check(self, user: str, password: bytes) -> bool:
        stored = self._users.get(user)
        # names that do not exist share one turn: inventing them delays no user
        async with self._turns.turn(user if stored is not None else ""):
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._hashing, password_matches, stored, password)

    def grant(self, user: str | None, client_id: str) -> Grant | None:
        """Return what a client may do, or None if it may do everything."""
        return None if self._acl is None else self._acl.grant(user, client_id)

    def is_in_charge(self, user: str | None) -> bool:
        """Return whether the access file lets a user stop everything, as an operator may."""
        return self._acl is not None and self._acl.grant(user, "").is_in_charge(self._options.topics_begin)

    @property
    def has_rights(self) -> bool:
        """Whether there is an access file."""
        return self._acl is not None

    def knows(self, user: str | None) -> bool:
        """Return whether a client that was admitted as ``user`` would still be."""
        if user is None or self._options.identity_from_certificate or self._options.users_file is None:
            return True
        return user in self._users

    def reload_if_changed(self) -> bool:
        """Read the files again if they changed; a file that is wrong is reported and the old one kept."""
        signature = self._read_signature()
        if signature == self._signature:
            return False
        self._signature = signature
        before = dict(self._users)
        try:
            self._load()
        except DataError as exc:
            self._events.warning("credentials_not_reloaded", problem=str(exc))
            return False
        for user in list(self._known):
            if self._users.get(user) != before.get(user):
                del self._known[user]
        self._events.info("credentials_reloaded", users=len(self._users))
        return True

    def _load(self) -> None:
        users = load_users(self._options.users_file) if self._options.users_file is not None else {}
        acl = Acl.load(self._options.acl_file) if self._options.acl_file is not None else None
        self._users, self._acl = users, acl

    def _read_signature(self) -> tuple[tuple[int, int, int] | None, ...]:
        signature: list[tuple[int, int, int] | None] = []
        for path in (self._options.users_file, self._options.acl_file):
            try:
                state = Path(path).stat() if path is not None else None
            except OSError:
                state = None
            signature.append(state and (state.st_mtime_ns, state.st_size, state.st_ino))
        return tuple(signature)

    def _by_certificate(self, connect: packets.Connect, certificate: dict[str, Any] | None) -> AuthResult:
        subject = (certificate or {}).get("subject", ())
        names = [value for part in subject for key, value in part if key == "commonName"]
        if len(names) != 1:
            return Refused(packets.NOT_AUTHORISED, "the client certificate has not exactly one common name")
        if connect.username not in (None, names[0]):
            return Refused(
                packets.NOT_AUTHORISED,
                f"user name {connect.username!r} contradicts the certificate, which names {names[0]!r}",
            )
        if (problem := user_problem(names[0])) is not None:
            return Refused(packets.NOT_AUTHORISED, f"common name {names[0]!r} of the certificate: {problem}")
        return Admitted(names[0])

    def _without_login(self, peer: str) -> AuthResult:
        """A user name that is not checked is not used: ``%u`` never stands for a mere claim."""
        options = self._options
        if options.users_file is None and options.client_ca is not None:
            return Admitted(None)  # the certificate was demanded and verified by TLS
        if not options.admits_anonymous:
            return self._failed(peer, packets.NOT_AUTHORISED, "no user name and password")
        if not is_loopback(_host_of(peer)) and not options.allow_remote_anonymous:
            return self._failed(peer, packets.NOT_AUTHORISED, "no login, and not from this machine")
        return Admitted(None)

    def _failed(self, peer: str, return_code: int, reason: str) -> Refused:
        host, now = _host_of(peer), self._clock()
        failures, last_s = self._failures.get(host, (0, now))
        failures = 1 if now - last_s > _FORGET_FAILURES_S else failures + 1
        if len(self._failures) >= _MAX_TRACKED_ADDRESSES:
            self._failures.clear()
        self._failures[host] = (failures, now)
        limits = self._options.limits
        delay_s = min(limits.login_delay_s * 2.0 ** min(failures - 1, 30), limits.max_login_delay_s)
        return Refused(return_code, reason, delay_s)

    def _digest(self, connect: packets.Connect) -> bytes:
        user = connect.username or ""
        stored = self._users.get(user, "")
        parts = b"\0".join((user.encode(), stored.encode(), connect.password or b""))
        return hmac.digest(self._digest_key, parts, "sha256")


def _host_of(peer: str) -> str:
    return peer.rpartition(":")[0]

"""Sessions of logged-in users, and how often a login may be tried. No I/O; the clock is handed in."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass

IDLE_S, LONGEST_S = 30 * 60.0, 12 * 3600.0
TICKET_S = 15.0  # from the right password to the cookie
MAX_SESSIONS = 64
FREE_FAILURES, FORGET_S, LONGEST_WAIT_S = 5, 300.0, 60.0
MAX_TRACKED = 10_000


@dataclass(slots=True)
class Session:
    """One person in one browser.

    Attributes:
        who: The name.
        csrf: What the page has to say first on the socket; a page of another site cannot know it.
        begun_s, seen_s: By the clock of the sessions.
    """

    who: str
    csrf: str
    begun_s: float
    seen_s: float


class Sessions:
    """Who is logged in.

    Args:
        clock: Monotonic time, s.
        token: Makes a secret.
    """

    def __init__(
        self, clock: Callable[[], float], token: Callable[[], str] = lambda: secrets.token_urlsafe(32)
    ) -> None:
        self._clock = clock
        self._token = token
        self._tickets: dict[str, tuple[str, float]] = {}
        self._sessions: dict[str, Session] = {}

    def ticket(self, who: str) -> str:
        """Return what a browser changes into a session, once and soon: the password was right."""
        now_s = self._clock()
        self._tickets = {key: held for key, held in self._tickets.items() if held[1] > now_s}
        if len(self._tickets) >= MAX_SESSIONS:
            self._tickets.pop(next(iter(self._tickets)))
        made = self._token()
        self._tickets[made] = (who, now_s + TICKET_S)
        return made

    def begin(self, ticket: str) -> tuple[str, Session] | None:
        """Return the secret of the cookie and the session of a ticket; None if it is not valid."""
        who, ends_s = self._tickets.pop(ticket, ("", 0.0))
        now_s = self._clock()
        if now_s >= ends_s:
            return None
        self._drop_old()
        if len(self._sessions) >= MAX_SESSIONS:
            self._sessions.pop(min(self._sessions, key=lambda key: self._sessions[key].seen_s))
        key = self._token()
        self._sessions[key] = Session(who, self._token(), now_s, now_s)
        return key, self._sessions[key]

    def of(self, key: str | None) -> Session | None:
        """Return the session of a cookie, and note that it is used."""
        self._drop_old()
        session = self._sessions.get(key or "")
        if session is not None:
            session.seen_s = self._clock()
        return session

    def peek(self, key: str | None) -> Session | None:
        """Return the session of a cookie, without using it."""
        self._drop_old()
        return self._sessions.get(key or "")

    def end(self, key: str | None) -> None:
        """End a session. Idempotent."""
        self._sessions.pop(key or "", None)

    def _drop_old(self) -> None:
        now_s = self._clock()
        self._sessions = {
            key: session
            for key, session in self._sessions.items()
            if now_s - session.seen_s < IDLE_S and now_s - session.begun_s < LONGEST_S
        }


def is_same(told: object, secret: str) -> bool:
    """Compare in constant time."""
    return isinstance(told, str) and hmac.compare_digest(told.encode("utf-8", "replace"), secret.encode())


class LoginLimit:
    """How long a client waits after too many failed logins; by address and by name, whichever is longer.

    Args:
        clock: Monotonic time, s.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._failures: dict[str, tuple[int, float]] = {}

    def wait_s(self, *keys: str) -> float:
        """Return for how long a login is refused from now on, s; 0 = it may be tried."""
        return max((self._wait_s(key) for key in keys), default=0.0)

    def _wait_s(self, key: str) -> float:
        count, last_s = self._failures.get(key, (0, 0.0))
        if count < FREE_FAILURES:
            return 0.0
        return max(0.0, last_s + min(2.0 ** (count - FREE_FAILURES + 1), LONGEST_WAIT_S) - self._clock())

    def failed(self, *keys: str) -> None:
        """Note a wrong password."""
        now_s = self._clock()
        if len(self._failures) >= MAX_TRACKED:
            self._failures = {k: held for k, held in self._failures.items() if now_s - held[1] < FORGET_S}
        for key in keys:
            count, last_s = self._failures.get(key, (0, now_s))
            if key in self._failures or len(self._failures) < MAX_TRACKED:
                self._failures[key] = (1 if now_s - last_s > FORGET_S else count + 1, now_s)

    def succeeded(self, *keys: str) -> None:
        """Forget what was wrong before."""
        for key in keys:
            self._failures.pop(key, None)

"""What one user takes up: counted for each user first, so that no login can use up what all share.

A user who logged in has bounds of its own (``Limits.max_user_...``). Two kinds of clients have not: those
without a login, who cannot be told apart, and those in charge, whose rights let them stop everything.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from heron_mqtt.messaging.embedded.options import Limits

BURST_S = 2.0  # a user may publish so many seconds' worth of messages at once


class AccountSession(Protocol):
    """What an account needs of a session."""

    client_id: str

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection that serves it."""


class Account:
    """One user's sessions, subscriptions, retained and waiting messages, and rate.

    Args:
        user: None for all clients without a login together.
        limits: The bounds.
        in_charge: Whether the user's rights let it stop everything.
        is_paced: Whether the number of messages a second is bounded.
    """

    def __init__(self, user: str | None, limits: Limits, *, in_charge: bool, is_paced: bool) -> None:
        self.user = user
        self.in_charge = in_charge
        self.is_paced = is_paced
        self.sessions: dict[str, AccountSession] = {}
        """By client identifier, in the order in which they were last connected or left."""
        self.subscriptions = 0
        self.queued_bytes = 0
        """Memory of what waits for, or is in flight to, its sessions."""
        self.retained: dict[str, int] = {}
        """Bytes by topic, the oldest first."""
        self.retained_bytes = 0
        self.environments: Counter[str] = Counter()
        self._limits = limits
        self._tokens = BURST_S * limits.max_user_messages_per_s
        self._tokens_at_s = 0.0

    @property
    def is_limited(self) -> bool:
        """Whether the bounds of a user hold for this one."""
        return self.user is not None and not self.in_charge

    def connected(self) -> int:
        """Return how many of the sessions are connected."""
        return sum(session.is_connected for session in self.sessions.values())

    def oldest_away(self) -> AccountSession | None:
        """Return the session without a connection that has been without one for longest."""
        return next((s for s in self.sessions.values() if not s.is_connected), None)

    def touch(self, session: AccountSession) -> None:
        """Note that a session was connected or left just now."""
        self.sessions.pop(session.client_id, None)
        self.sessions[session.client_id] = session

    def pause_s(self, messages: int, now_s: float) -> float:
        """Note published messages; return for how long to read no more from this user, s."""
        rate = self._limits.max_user_messages_per_s
        if not rate or not self.is_paced or not self.is_limited:
            return 0.0
        self._tokens = min(BURST_S * rate, self._tokens + (now_s - self._tokens_at_s) * rate) - messages
        self._tokens_at_s = now_s
        return max(0.0, -self._tokens / rate)

    def is_empty(self) -> bool:
        """Whether there is nothing to remember of the user."""
        return not self.sessions and not self.retained


class Accounts:
    """The account of each user that takes anything up."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._by_user: dict[str | None, Account] = {}

    def of(self, user: str | None, *, in_charge: bool, is_paced: bool) -> Account:
        """Return a user's account, with what its rights are now."""
        account = self._by_user.get(user)
        if account is None:
            account = Account(user, self._limits, in_charge=in_charge, is_paced=is_paced)
            self._by_user[user] = account
        account.in_charge, account.is_paced = in_charge, is_paced
        return account

    def settle(self, account: Account) -> None:
        """Forget an account that holds nothing any more."""
        if account.is_empty():
            self._by_user.pop(account.user, None)

    def all(self) -> list[Account]:
        """Return every account."""
        return list(self._by_user.values())

    def most_sessions(self) -> Account | None:
        """Return, of those with a session that is away, the one with most; those in charge come last."""
        return max(
            (a for a in self._by_user.values() if a.oldest_away() is not None),
            key=lambda a: (not a.in_charge, len(a.sessions)),
            default=None,
        )

"""Who may publish, subscribe and receive what.

The file has mosquitto's format, so that one file serves both brokers, with two additions: ``%u`` and
``%c`` also work in ``topic`` rows, and the three rights can be given one by one::

    # rows before the first "user" are for clients without a user name
    topic read heron/+/run/state
    user MG1
    topic write heron/+/agents/%u/action
    topic deny heron/+/agents/%u/secret/#
    # "pattern" rows are for every user
    pattern read heron/+/agents/%u/observation

``read`` is ``subscribe`` and ``receive``, ``write`` is ``publish``, ``readwrite`` (or nothing) all three.
``deny`` wins over everything else. A subscription is granted when one row covers all that it can match.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from heron_mqtt.errors import DataError
from heron_mqtt.messaging.embedded.protocol.topic_filters import covers, filter_problem
from heron_mqtt.messaging.topics import ESTOP, NO_USER, ROOT, user_problem

_ACCESS: dict[str, frozenset[str]] = {
    "publish": frozenset({"publish"}),
    "write": frozenset({"publish"}),
    "subscribe": frozenset({"subscribe"}),
    "receive": frozenset({"receive"}),
    "read": frozenset({"subscribe", "receive"}),
    "readwrite": frozenset({"publish", "subscribe", "receive"}),
    "deny": frozenset(),
}
_MAX_CACHED_ANSWERS = 1_024


@dataclass(frozen=True, slots=True)
class AclRow:
    """One row: the rights it gives (none of them: it denies) on a topic filter."""

    rights: frozenset[str]
    topic_filter: str

    def filled_in(self, user: str | None, client_id: str) -> AclRow | None:
        """Return the row for one client, or None if it is not for this client.

        A name with a wildcard would widen the row, and a client chooses its own identifier: a row with
        such a value applies to no user.
        """
        topic_filter = self.topic_filter
        if "%u" in topic_filter and (not user or "+" in user or "#" in user):
            return None
        if "%c" in topic_filter and (not client_id or any(sign in client_id for sign in "+#/")):
            return None
        # In one pass, so that a user called "%c" stays a user called "%c".
        parts = [part.replace("%c", client_id) for part in topic_filter.split("%u")]
        return AclRow(self.rights, (user or "").join(parts))


class ClientGrant:
    """The rights of one client; answers are remembered, for a device uses few topics again and again."""

    def __init__(self, rows: list[AclRow]) -> None:
        self._rows = rows
        self._answers: dict[tuple[str, str], bool] = {}

    def may_publish(self, topic: str) -> bool:
        """Return whether messages to this topic are taken from the client."""
        return self._may("publish", topic)

    def may_subscribe(self, topic_filter: str) -> bool:
        """Return whether one row covers the whole filter, and none denies it."""
        return self._may("subscribe", topic_filter)

    def may_receive(self, topic: str) -> bool:
        """Return whether messages on this topic are sent to the client."""
        return self._may("receive", topic)

    def is_in_charge(self, before: str = "") -> bool:
        """Return whether the client may stop everything, in one environment at least.

        Args:
            before: What stands before every topic of ours, with its last ``/``.
        """
        level = before.count("/") + 1  # that names the environment
        environments = (_level(row.topic_filter, level) for row in self._rows if "publish" in row.rights)
        return any(self.may_publish(f"{before}{ROOT}/{env}/{ESTOP}") for env in environments)

    def _may(self, right: str, asked: str) -> bool:
        key = (right, asked)
        answer = self._answers.get(key)
        if answer is None:
            matching = [row for row in self._rows if covers(row.topic_filter, asked)]
            answer = any(right in row.rights for row in matching) and all(row.rights for row in matching)
            if len(self._answers) >= _MAX_CACHED_ANSWERS:
                self._answers.clear()
            self._answers[key] = answer
        return answer


def _level(topic_filter: str, number: int) -> str:
    """Return one level of a filter, from 0; what ends before it, or with ``#``, has any there."""
    levels = topic_filter.split("/")
    return levels[number] if len(levels) > number and levels[number] != "#" else "+"


class Acl:
    """The rows of an ACL file, by user."""

    def __init__(self, by_user: dict[str | None, list[AclRow]], for_all: list[AclRow]) -> None:
        self._by_user = by_user
        self._for_all = for_all

    def grant(self, user: str | None, client_id: str) -> ClientGrant:
        """Return the rights of one client; ``user`` None is a client that did not log in."""
        rows = [*self._by_user.get(user, ()), *self._for_all]
        filled = (row.filled_in(user, client_id) for row in rows)
        return ClientGrant([row for row in filled if row is not None])

    @classmethod
    def load(cls, path: str | Path) -> Acl:
        """Read a file.

        Raises:
            DataError: One line for each row that is wrong, with its number.
        """
        by_user: dict[str | None, list[AclRow]] = {None: []}
        for_all: list[AclRow] = []
        problems: list[str] = []
        user: str | None = None
        try:
            lines = Path(path).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as exc:
            raise DataError(f"{path}: cannot be read as UTF-8 text: {exc}") from exc
        for number, line in enumerate(lines, 1):
            text = line.strip()
            if not text or text.startswith("#"):
                continue
            keyword, _, rest = text.partition(" ")
            rest = rest.strip()
            if keyword == "user" and rest == NO_USER:
                problems.append(f"{path}: row {number}: user {rest!r}: {user_problem(rest)}")
            elif keyword == "user" and rest:
                user = rest
                by_user.setdefault(user, [])
            elif keyword in ("topic", "pattern") and rest:
                row = _parse_row(rest)
                if isinstance(row, str):
                    problems.append(f"{path}: row {number}: {row}")
                else:
                    (by_user[user] if keyword == "topic" else for_all).append(row)
            else:
                problems.append(
                    f"{path}: row {number}: {text!r}, expected user NAME, topic ... or pattern ..."
                )
        if problems:
            raise DataError(*problems)
        return cls(by_user, for_all)


def parse_row(line: str) -> AclRow | str | None:
    """Return a ``topic`` or ``pattern`` row, or what is wrong with it; None = another kind of line."""
    keyword, _, rest = line.strip().partition(" ")
    return _parse_row(rest.strip()) if keyword in ("topic", "pattern") and rest.strip() else None


def _parse_row(text: str) -> AclRow | str:
    access, _, topic_filter = text.partition(" ")
    if access not in _ACCESS:
        access, topic_filter = "readwrite", text
    topic_filter = topic_filter.strip()
    problem = filter_problem(topic_filter)
    if problem is not None:
        return f"{topic_filter!r}: {problem}, expected {'|'.join(_ACCESS)} and a topic filter"
    return AclRow(_ACCESS[access], topic_filter)

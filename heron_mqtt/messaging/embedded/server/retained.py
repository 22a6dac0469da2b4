"""Retained messages: the last message of each topic, for those who subscribe later.

Which message is dropped when there is no room, so that a user's flood affects only this user:

- A user that has reached its own limit keeps what it has, and a new topic is not retained. A vital topic is
  an exception (a birth, a stop, an owner: see ``is_vital``). Then the user's own oldest message that is not
  vital is dropped.
- When the store is full, the oldest message of the user with the most messages is dropped for users with
  fewer. A vital message is dropped only for another vital one.
- A message of a user in charge (an operator) is never dropped for another.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from heron_mqtt.messaging.embedded.protocol.topic_filters import TopicTree

if TYPE_CHECKING:
    from collections.abc import Iterable

    from heron_mqtt.messaging.embedded.options import Limits
    from heron_mqtt.messaging.embedded.server.accounts import Account
    from heron_mqtt.messaging.embedded.server.session import BrokerMessage
    from heron_mqtt.messaging.embedded.stats import BrokerStats


class RetainedStore:
    """Keeps at most ``max_retained_messages`` topics in ``max_retained_bytes``.

    Args:
        limits: Bounds, of the whole and of a user.
        stats: Counts.
        is_vital: Whether a topic carries what safety depends on.
        accounts: Returns every account.
        before: What stands before every topic of ours, with its last ``/``.
    """

    def __init__(
        self,
        limits: Limits,
        stats: BrokerStats,
        is_vital: Callable[[str], bool] = lambda _: False,
        accounts: Callable[[], Iterable[Account]] = tuple,
        before: str = "",
    ) -> None:
        self._limits = limits
        self._stats = stats
        self._is_vital = is_vital
        self._accounts = accounts
        self._before = before
        self._tree: TopicTree[BrokerMessage] = TopicTree()
        self._owners: dict[str, Account] = {}  # by topic; those of the broker itself are not in it

    def keep(self, message: BrokerMessage, account: Account | None = None) -> bool:
        """Keep a message, or delete its topic's if the payload is empty; return whether that was possible.

        Args:
            message: To keep.
            account: Whose it is; None = the broker's own, which always has room.
        """
        topic = message.topic
        replaced = self.get(topic)
        if not message.payload:
            if replaced is not None:
                self._drop(topic)
            return True
        if account is not None and not self._has_room(message, replaced, account):
            return False
        if replaced is not None:
            self._drop(topic)
        self._tree.put(topic, None, message)
        self._stats.retained_bytes += message.size
        self._stats.retained = len(self._tree)
        if account is not None:
            self._owners[topic] = account
            account.retained[topic] = message.size
            account.retained_bytes += message.size
            account.environments[environment_of(topic, self._before)] += 1
        return True

    def get(self, topic: str) -> BrokerMessage | None:
        """Return the message of one topic."""
        return self._tree.get(topic, None)

    def match(self, topic_filter: str) -> list[BrokerMessage]:
        """Return the retained messages that a filter matches."""
        return self._tree.match(topic_filter)

    def _drop(self, topic: str) -> None:
        message = self._tree.discard(topic, None)
        if message is None:
            return
        self._stats.retained_bytes -= message.size
        self._stats.retained = len(self._tree)
        account = self._owners.pop(topic, None)
        if account is not None:
            del account.retained[topic]
            account.retained_bytes -= message.size
            environment = environment_of(topic, self._before)
            account.environments[environment] -= 1
            if not account.environments[environment]:
                del account.environments[environment]

    # -- room --------------------------------------------------------------------------------------

    def _has_room(self, message: BrokerMessage, replaced: BrokerMessage | None, account: Account) -> bool:
        owner = self._owners.get(message.topic)
        more = 0 if replaced is not None else 1
        more_bytes = message.size - (replaced.size if replaced is not None else 0)
        if account.is_limited:
            # what another user had under this topic is not yet in this one's account
            own = (more, more_bytes) if owner is account else (1, message.size)
            if not self._has_own_room(message.topic, *own, account):
                return False
        while not self._fits(more, more_bytes):
            topic = self._victim(account, is_vital=self._is_vital(message.topic))
            if topic is None or topic == message.topic:
                return False
            self._give_way(topic)
        return True

    def _has_own_room(self, topic: str, more: int, more_bytes: int, account: Account) -> bool:
        limits = self._limits
        environment = environment_of(topic, self._before)
        if environment not in account.environments and (
            len(account.environments) >= limits.max_user_environments
        ):
            return False
        while (
            len(account.retained) + more > limits.max_user_retained_messages
            or account.retained_bytes + more_bytes > limits.max_user_retained_bytes
        ):
            oldest = self._oldest(account, plain_only=True) if self._is_vital(topic) else None
            if oldest is None or oldest == topic:
                return False
            self._give_way(oldest)
        return True

    def _fits(self, more: int, more_bytes: int) -> bool:
        return (
            len(self._owners) + more <= self._limits.max_retained_messages
            and self._stats.retained_bytes + more_bytes <= self._limits.max_retained_bytes
        )

    def _victim(self, account: Account, *, is_vital: bool) -> str | None:
        """Return the topic that gives way to one of ``account``; None = the new one is not taken."""
        others = [a for a in self._accounts() if a.retained and not a.in_charge]
        greediest = max(others, key=lambda a: (len(a.retained), a.retained_bytes), default=None)
        if greediest is None:
            return None
        if account.in_charge:
            return self._oldest(greediest, plain_only=False)
        has_more = greediest is not account and len(greediest.retained) > len(account.retained) + 1
        if not has_more and not is_vital:
            return None
        return self._oldest(greediest, plain_only=not (has_more and is_vital))

    def _oldest(self, account: Account, *, plain_only: bool) -> str | None:
        plain = next((topic for topic in account.retained if not self._is_vital(topic)), None)
        return plain if plain is not None or plain_only else next(iter(account.retained), None)

    def _give_way(self, topic: str) -> None:
        self._drop(topic)
        self._stats.unretained += 1


def environment_of(topic: str, before: str = "") -> str:
    """Return the level of a topic that names the environment (``heron/<env>/...``), or the whole topic.

    Args:
        topic: As the broker has it.
        before: What stands before every topic of ours, with its last ``/``.
    """
    levels = topic.removeprefix(before).split("/", 2)
    return levels[1] if len(levels) == 3 else topic

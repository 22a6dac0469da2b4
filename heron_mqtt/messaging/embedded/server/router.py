"""From a publisher to its subscribers: rights, retained messages, matching, delivery."""

from __future__ import annotations

from typing import TYPE_CHECKING

from heron_mqtt.messaging.embedded.protocol import packets
from heron_mqtt.messaging.embedded.protocol.topic_filters import FilterTree, filter_problem
from heron_mqtt.messaging.embedded.server.replay import Replays
from heron_mqtt.messaging.embedded.server.retained import RetainedStore
from heron_mqtt.messaging.embedded.server.session import BrokerMessage, ClientSession

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from heron_mqtt.messaging.embedded.event_log import EventLog
    from heron_mqtt.messaging.embedded.options import Limits
    from heron_mqtt.messaging.embedded.server.accounts import Account
    from heron_mqtt.messaging.embedded.stats import BrokerStats

MAX_DENIED_TOLD = 100
_MAX_CACHED_ROUTES = 4_096


class Router:
    """Subscriptions and retained messages, and the way of a message through them.

    A message is given to every subscriber within the call that brings it. So one publisher's order is every
    subscriber's order. A change of subscriptions happens before or after a message, never during it.

    Args:
        limits: Bounds on subscriptions and retained messages.
        stats: Counts.
        events: Log.
        is_vital: Whether a topic's retained message is given up after all others.
        accounts: Returns what every user takes up.
        before: What stands before every topic of ours, with its last ``/``.
    """

    def __init__(
        self,
        limits: Limits,
        stats: BrokerStats,
        events: EventLog,
        is_vital: Callable[[str], bool] = lambda _: False,
        accounts: Callable[[], Iterable[Account]] = tuple,
        before: str = "",
    ) -> None:
        self._limits = limits
        self._stats = stats
        self._events = events
        self._tree: FilterTree[ClientSession, int] = FilterTree()
        self._retained = RetainedStore(limits, stats, is_vital, accounts, before)
        self._replays = Replays(self._retained)
        self.denied: dict[str, int] = {}
        """Messages not taken for want of a right, by client; of the clients that tried last."""
        # Topic to subscribers, until a subscription or a right changes.
        self._routes: dict[str, tuple[tuple[ClientSession, int], ...]] = {}

    def accept(self, session: ClientSession, message: BrokerMessage, *, retain: bool) -> bool:
        """Take a message from a client: check its right, keep it if asked to, hand it on.

        Returns:
            False if it was not taken, for want of a right. MQTT 3.1.1 has only two answers then: to
            acknowledge it all the same, or to end the connection.
        """
        topic = message.topic
        if topic.startswith("$") or (session.grant is not None and not session.grant.may_publish(topic)):
            self._stats.denied += 1
            self._count_denied(session.client_id)
            self._events.warning(
                "publish_denied", client=session.client_id, user=session.owner or "", topic=topic
            )
            return False
        if retain and not self._retained.keep(message, session.account):
            self._stats.unretained += 1
            self._events.warning("not_retained", client=session.client_id, topic=topic)
        self.route(message)
        return True

    def _count_denied(self, client_id: str) -> None:
        count = self.denied.pop(client_id, 0)
        if len(self.denied) >= MAX_DENIED_TOLD:
            del self.denied[next(iter(self.denied))]
        self.denied[client_id] = count + 1

    def announce(self, topic: str, payload: bytes) -> None:
        """Publish a retained message of the broker itself."""
        message = BrokerMessage.of(topic, payload, 0)
        self._retained.keep(message)
        self.route(message)

    def route(self, message: BrokerMessage) -> None:
        """Deliver to each subscriber once, at the lower of the two QoS."""
        targets = self._routes.get(message.topic)
        if targets is None:
            targets = self._find_targets(message.topic)
        qos = message.qos
        for session, granted in targets:
            session.deliver(message, qos if qos < granted else granted)  # noqa: FURB136  min() is 5x slower

    def subscribe(self, session: ClientSession, packet_id: int, requests: list[tuple[str, int]]) -> None:
        """Answer SUBSCRIBE filter by filter, then send the retained messages of those granted."""
        return_codes: list[int] = []
        for topic_filter, qos in requests:
            problem = self._problem(session, topic_filter)
            if problem is None:
                self._tree.put(topic_filter, session, qos)
                if session.account is not None and topic_filter not in session.subscriptions:
                    session.account.subscriptions += 1
                session.subscriptions[topic_filter] = qos
                return_codes.append(qos)
                continue
            self._stats.refusals += 1
            who = {"client": session.client_id, "user": session.owner or ""}
            self._events.warning("subscription_refused", **who, filter=topic_filter, reason=problem)
            return_codes.append(packets.SUBSCRIBE_FAILURE)
        self.rights_changed()
        if session.connection is not None:
            session.connection.send(packets.suback(packet_id, return_codes))
        for (topic_filter, qos), return_code in zip(requests, return_codes, strict=True):
            if return_code == packets.SUBSCRIBE_FAILURE:
                continue
            self._replays.add(session, topic_filter, qos)

    def unsubscribe(self, session: ClientSession, packet_id: int, filters: list[str]) -> None:
        """Answer UNSUBSCRIBE; unknown filters are no error."""
        for topic_filter in filters:
            if session.subscriptions.pop(topic_filter, None) is not None:
                self._tree.discard(topic_filter, session)
                self._replays.unsubscribed(session, topic_filter)
                if session.account is not None:
                    session.account.subscriptions -= 1
        self.rights_changed()
        if session.connection is not None:
            session.connection.send(packets.ack(packets.UNSUBACK, packet_id))

    def forget(self, session: ClientSession) -> None:
        """Remove a session that has ended."""
        for topic_filter in session.subscriptions:
            self._tree.discard(topic_filter, session)
        if session.account is not None:
            session.account.subscriptions -= len(session.subscriptions)
        session.subscriptions.clear()
        self._replays.forget(session)
        session.forget()
        self.rights_changed()

    def rights_changed(self) -> None:
        """Find subscribers again from now on."""
        self._stats.subscriptions = len(self._tree)
        self._routes.clear()

    def _find_targets(self, topic: str) -> tuple[tuple[ClientSession, int], ...]:
        best: dict[ClientSession, int] = {}
        for session, qos in self._tree.match(topic):
            if qos >= best.get(session, 0):
                best[session] = qos
        targets = tuple(
            (session, qos)
            for session, qos in best.items()
            if session.grant is None or session.grant.may_receive(topic)
        )
        if len(self._routes) >= _MAX_CACHED_ROUTES:
            self._routes.clear()
        self._routes[topic] = targets
        return targets

    def _problem(self, session: ClientSession, topic_filter: str) -> str | None:
        limits, account = self._limits, session.account
        if topic_filter not in session.subscriptions:  # first what costs nothing to say
            if len(session.subscriptions) >= limits.max_subscriptions:
                return f"more than {limits.max_subscriptions} subscriptions"
            most = limits.max_user_subscriptions
            if account is not None and account.is_limited and account.subscriptions >= most:
                return f"more than {most} subscriptions of one user"
        problem = filter_problem(topic_filter)
        if problem is not None:
            return problem
        if session.grant is not None and not session.grant.may_subscribe(topic_filter):
            return "no right to this filter"
        return None

"""From a publisher to its subscribers: rights, retained messages, matching, delivery."""

from __future__ import annotations

from typing import TYPE_CHECKING

from heron_mqtt.messaging.embedded.protocol import packets
from heron_mqtt.messaging.embedded.protocol.topic_filters import FilterTree, filter_problem
from heron_mqtt.messaging.embedded.server.retained import RetainedStore
from heron_mqtt.messaging.embedded.server.session import BrokerMessage, ClientSession

if TYPE_CHECKING:
    from heron_mqtt.messaging.embedded.event_log import EventLog
    from heron_mqtt.messaging.embedded.options import Limits
    from heron_mqtt.messaging.embedded.stats import BrokerStats

_MAX_CACHED_ROUTES = 4_096


class Router:
    """Subscriptions and retained messages, and the way of a message through them.

    A message is handed to every subscriber within the call that brings it, so that one publisher's order
    is every subscriber's order, and a change of subscriptions happens before or after a message, never
    during it.

    Args:
        limits: Bounds on subscriptions and retained messages.
        stats: Counts.
        events: Log.
    """

    def __init__(self, limits: Limits, stats: BrokerStats, events: EventLog) -> None:
        self._limits = limits
        self._stats = stats
        self._events = events
        self._tree: FilterTree[ClientSession, int] = FilterTree()
        self._retained = RetainedStore(limits, stats)
        # Topic to subscribers, until a subscription or a right changes.
        self._routes: dict[str, tuple[tuple[ClientSession, int], ...]] = {}

    def accept(self, session: ClientSession, message: BrokerMessage, *, retain: bool) -> None:
        """Take a message from a client: check its right, keep it if asked to, hand it on.

        A message that is not taken is acknowledged all the same: MQTT 3.1.1 has no other answer than to
        end the connection. The log says so.
        """
        topic = message.topic
        if topic.startswith("$") or (session.grant is not None and not session.grant.may_publish(topic)):
            self._stats.denied += 1
            self._events.warning(
                "publish_denied", client=session.client_id, user=session.owner or "", topic=topic
            )
            return
        if retain and not self._retained.keep(message):
            self._stats.unretained += 1
            self._events.warning("not_retained", client=session.client_id, topic=topic)
        self.route(message)

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
                session.subscriptions[topic_filter] = qos
                return_codes.append(qos)
                continue
            self._stats.refusals += 1
            who = {"client": session.client_id, "user": session.owner or ""}
            self._events.warning("subscription_refused", **who, filter=topic_filter, reason=problem)
            return_codes.append(packets.SUBSCRIBE_FAILURE)
        self.rights_changed()
        if session.outlet is not None:
            session.outlet.send(packets.suback(packet_id, return_codes))
        for (topic_filter, qos), return_code in zip(requests, return_codes, strict=True):
            if return_code == packets.SUBSCRIBE_FAILURE:
                continue
            for message in self._retained.match(topic_filter):
                if session.grant is None or session.grant.may_receive(message.topic):
                    session.deliver(message, min(qos, message.qos), retain=True)

    def unsubscribe(self, session: ClientSession, packet_id: int, filters: list[str]) -> None:
        """Answer UNSUBSCRIBE; unknown filters are no error."""
        for topic_filter in filters:
            if session.subscriptions.pop(topic_filter, None) is not None:
                self._tree.discard(topic_filter, session)
        self.rights_changed()
        if session.outlet is not None:
            session.outlet.send(packets.ack(packets.UNSUBACK, packet_id))

    def forget(self, session: ClientSession) -> None:
        """Remove a session that has ended."""
        for topic_filter in session.subscriptions:
            self._tree.discard(topic_filter, session)
        session.subscriptions.clear()
        session.forget()
        self.rights_changed()

    def rights_changed(self) -> None:
        """Find subscribers anew from now on."""
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
        problem = filter_problem(topic_filter)
        if problem is not None:
            return problem
        if session.grant is not None and not session.grant.may_subscribe(topic_filter):
            return "no right to this filter"
        limit = self._limits.max_subscriptions
        if topic_filter not in session.subscriptions and len(session.subscriptions) >= limit:
            return f"more than {limit} subscriptions"
        return None

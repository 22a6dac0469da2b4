"""SUBSCRIBE and its answers, on one connection after another: in packets that the broker takes, and bounded.

A broker may end the connection at a SUBSCRIBE (too many filters or bytes in it, a filter that it cannot
have), or never answer. Then filters are requested one at a time, to find the one that causes it. After a few
attempts this filter fails with an error that names it. A refusal may be a matter of the moment (a cluster
that elects its leader): it is asked again a few times.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from heron_mqtt.errors import BrokerError, BrokerRefused
from heron_mqtt.messaging.core.stats import MessageStats
from heron_mqtt.messaging.mqtt.options import MqttOptions

FILTERS_A_PACKET = 50
ANSWER_S = 10.0  # NATS needs 5 s to say that it cannot just now
MAX_ATTEMPTS = 3  # that end without an answer
RETRY_DELAYS_S = (0.2, 0.5)  # after refusals that come at once: of missing rights, most likely
SLOW_S = 1.0  # a refusal that took longer is not about rights
SLOW_RETRIES_S = 20.0


class SubscribingConnection(Protocol):
    """What is needed of a connection."""

    def subscribe(self, filters: list[str]) -> int:
        """Subscribe; return the id that the answer will name."""

    def largest_subscribe(self, filters: list[str]) -> int:
        """Return how many of these filters fit into one packet."""

    def give_up(self, why: str) -> None:
        """End the connection."""


@dataclass(slots=True)
class _Packet:
    filters: list[str]
    sent_at_s: float
    deadline: asyncio.TimerHandle


class Subscriber:
    """Asks for filters, and tells what became of each.

    Args:
        options: Of the connection.
        stats: Where retries are reported.
        on_answer: Called with each filter, and None or why it is not had.
        answer_s: How long the broker may take to answer a SUBSCRIBE, since its last answer.
    """

    def __init__(
        self,
        options: MqttOptions,
        stats: MessageStats,
        on_answer: Callable[[str, BrokerError | None], None],
        answer_s: float = ANSWER_S,
    ) -> None:
        self._options = options
        self._stats = stats
        self._on_answer = on_answer
        self._answer_s = answer_s
        self._connection: SubscribingConnection | None = None
        self._asked: dict[str, None] = {}  # to go out with the next flush
        self._sent: dict[int, _Packet] = {}
        self._one_by_one = False
        self._attempts: dict[str, int] = {}  # that ended without an answer, by filter
        self._given_up: dict[str, BrokerError] = {}
        self._refused: dict[str, tuple[int, float]] = {}  # how often, and since when
        self._retries: dict[str, asyncio.TimerHandle] = {}

    def open(self, connection: SubscribingConnection) -> None:
        """There is a connection; nothing is subscribed to on it yet."""
        self._connection = connection

    def close(self) -> None:
        """The connection is gone. What was not answered may be the reason."""
        self._connection = None
        unanswered = list(self._sent.values())
        for packet in unanswered:
            packet.deadline.cancel()
        self._sent.clear()
        self._asked.clear()
        for timer in self._retries.values():
            timer.cancel()
        self._retries.clear()
        self._refused.clear()
        if not unanswered:
            return
        first = unanswered[0].filters
        if self._one_by_one:
            self._attempts[first[0]] = self._attempts.get(first[0], 0) + 1
        self._one_by_one = True  # for good: this broker is not to be trusted with more

    def forget(self, topic_filter: str) -> None:
        """A filter has no subscription any more: should it be asked for again, it gets new attempts."""
        self._attempts.pop(topic_filter, None)
        self._given_up.pop(topic_filter, None)
        self._refused.pop(topic_filter, None)
        timer = self._retries.pop(topic_filter, None)
        if timer is not None:
            timer.cancel()

    def ask(self, filters: list[str]) -> None:
        """Subscribe soon; those asked for together go together."""
        if filters and not self._asked:
            asyncio.get_running_loop().call_soon(self.flush)
        self._asked.update(dict.fromkeys(filters))

    def flush(self) -> None:
        """Subscribe now to what was asked for, as far as the broker may be asked at a time."""
        if not self._asked:
            return
        connection = self._connection
        if connection is None:
            self._asked.clear()
            return
        for topic_filter in [f for f in self._asked if f in self._given_up]:
            del self._asked[topic_filter]
            self._on_answer(topic_filter, self._given_up[topic_filter])
        while self._asked and self._connection is connection and not (self._one_by_one and self._sent):
            most = 1 if self._one_by_one else FILTERS_A_PACKET
            some = list(self._asked)[:most]
            some = some[: connection.largest_subscribe(some)]
            for topic_filter in some:
                del self._asked[topic_filter]
            self._send(connection, some)

    def _send(self, connection: SubscribingConnection, filters: list[str]) -> None:
        if self._attempts.get(filters[0], 0) >= MAX_ATTEMPTS:
            self._give_up(filters[0])
            return
        loop = asyncio.get_running_loop()
        packet_id = connection.subscribe(filters)
        deadline = loop.call_later(self._answer_s, self._on_silence, packet_id)
        self._sent[packet_id] = _Packet(filters, loop.time(), deadline)

    def _give_up(self, topic_filter: str) -> None:
        refusal = self._given_up[topic_filter] = BrokerRefused(
            f"{self._options.address} does not accept the subscription to {self._full(topic_filter)}: "
            f"{MAX_ATTEMPTS} times it ended the connection, or did not answer within {self._answer_s:g} s; "
            f"check its limits on packets and filters, and the access rights of {self._user}"
        )
        self._on_answer(topic_filter, refusal)

    def _full(self, topic_filter: str) -> str:
        """Return a filter as it is at the broker, for messages."""
        return repr(self._options.topic_prefix + topic_filter)

    @property
    def _user(self) -> str:
        return f"user {self._options.username!r}" if self._options.username else "clients without user name"

    # -- answers -----------------------------------------------------------------------------------

    def answered(self, packet_id: int, refusals: list[str | None]) -> None:
        """Take the answer to a packet, filter by filter."""
        packet = self._sent.pop(packet_id, None)
        if packet is None:
            return
        packet.deadline.cancel()
        loop = asyncio.get_running_loop()
        for waiting_id, waiting in self._sent.items():  # a cluster takes 0.1 s a filter, one after another
            waiting.deadline.cancel()
            waiting.deadline = loop.call_later(self._answer_s, self._on_silence, waiting_id)
        took_s = loop.time() - packet.sent_at_s
        for topic_filter, refusal in zip(packet.filters, refusals, strict=False):
            self._attempts.pop(topic_filter, None)
            if refusal is None:
                self._refused.pop(topic_filter, None)
                self._on_answer(topic_filter, None)
            elif not self._ask_again(topic_filter, refusal, took_s):
                self._refused.pop(topic_filter, None)
                self._on_answer(topic_filter, self._refusal(topic_filter, refusal))
        for topic_filter in packet.filters[len(refusals) :]:
            self._on_answer(topic_filter, self._refusal(topic_filter, "no answer in SUBACK"))
        self.flush()

    def _refusal(self, topic_filter: str, why: str) -> BrokerError:
        return BrokerRefused(
            f"{self._options.address} refuses the subscription to {self._full(topic_filter)} ({why}): "
            f"check the access rights of {self._user}, and how many subscriptions a connection may have there"
        )

    def _ask_again(self, topic_filter: str, why: str, took_s: float) -> bool:
        if why.startswith("Not authorized"):  # MQTT 5 says so; 3.1.1 has one code for everything
            return False
        loop = asyncio.get_running_loop()
        count, since_s = self._refused.get(topic_filter, (0, loop.time() - took_s))
        if took_s > SLOW_S:
            if loop.time() - since_s > SLOW_RETRIES_S:
                return False
            delay_s = RETRY_DELAYS_S[-1]
        elif count < len(RETRY_DELAYS_S):
            delay_s = RETRY_DELAYS_S[count]
        else:
            return False
        self._refused[topic_filter] = (count + 1, since_s)
        self._retries[topic_filter] = loop.call_later(delay_s, self._retry, topic_filter)
        return True

    def _retry(self, topic_filter: str) -> None:
        self._retries.pop(topic_filter, None)
        self.ask([topic_filter])

    def _on_silence(self, packet_id: int) -> None:
        packet = self._sent.get(packet_id)
        if packet is None or self._connection is None:
            return
        names = repr(packet.filters[0]) + (
            f" and {len(packet.filters) - 1} others" if packet.filters[1:] else ""
        )
        if self._one_by_one and self._attempts.get(packet.filters[0], 0) + 1 >= MAX_ATTEMPTS:
            del self._sent[packet_id]  # everything else may work: stay connected
            self._give_up(packet.filters[0])
            self.flush()
            return
        self._connection.give_up(
            f"the broker does not answer the subscription to {names} within {self._answer_s:g} s"
        )

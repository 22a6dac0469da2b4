"""Subscriber: what was asked on a lost connection has no effect on the next one."""

from __future__ import annotations

import asyncio

from heron_mqtt.errors import BrokerError
from heron_mqtt.messaging.core.stats import MessageStats
from heron_mqtt.messaging.mqtt.broker import MqttBroker
from heron_mqtt.messaging.mqtt.subscriber import FILTERS_A_PACKET, RETRY_DELAYS_S, Subscriber
from support.virtual import run_virtual

ANSWER_S = 10.0


class Wire:
    """One connection: numbers packets from 1, as every new one does."""

    def __init__(self) -> None:
        self.packets: list[list[str]] = []
        self.given_up: list[str] = []

    def subscribe(self, filters: list[str]) -> int:
        self.packets.append(filters)
        return len(self.packets)

    def largest_subscribe(self, filters: list[str]) -> int:
        return len(filters)

    def give_up(self, why: str) -> None:
        self.given_up.append(why)


class Site:
    """A subscriber and what it said of each filter."""

    def __init__(self) -> None:
        self.answers: list[tuple[str, BrokerError | None]] = []
        self.subscriber = Subscriber(
            MqttBroker("mqtt://127.0.0.1:1").options,
            MessageStats(),
            lambda topic_filter, refusal: self.answers.append((topic_filter, refusal)),
            answer_s=ANSWER_S,
        )

    def connect(self) -> Wire:
        wire = Wire()
        self.subscriber.open(wire)
        return wire

    def ask(self, *filters: str) -> None:
        self.subscriber.ask(list(filters))
        self.subscriber.flush()


def test_an_answer_on_the_new_connection_is_not_taken_for_one_to_a_packet_of_the_lost_one() -> None:
    async def main() -> None:
        site = Site()
        site.connect()
        site.ask("old")
        site.subscriber.close()
        site.connect()
        site.subscriber.answered(1, [None])
        assert site.answers == [], "nothing was asked on this connection"

    run_virtual(main())


def test_a_packet_without_answer_on_the_lost_connection_holds_up_none_of_the_new_one() -> None:
    async def main() -> None:
        site = Site()
        site.connect()
        site.ask("a", "b")
        site.subscriber.close()
        wire = site.connect()
        site.ask("a", "b")
        assert wire.packets == [["a"]], "from now on one by one"
        site.subscriber.answered(1, [None])
        site.subscriber.answered(2, [None])
        assert wire.packets == [["a"], ["b"]]
        assert site.answers == [("a", None), ("b", None)]

    run_virtual(main())


def test_the_time_for_an_answer_begins_anew_with_the_new_connection() -> None:
    async def main() -> None:
        site = Site()
        site.connect()
        site.ask("a")
        await asyncio.sleep(0.9 * ANSWER_S)
        site.subscriber.close()
        wire = site.connect()
        site.ask("a")  # its packet has the number that the lost one had
        await asyncio.sleep(0.5 * ANSWER_S)
        assert wire.given_up == [], "the deadline of the lost connection has passed, not that of this one"
        await asyncio.sleep(0.6 * ANSWER_S)
        assert len(wire.given_up) == 1
        assert "does not answer the subscription to 'a'" in wire.given_up[0]

    run_virtual(main())


def test_a_broker_that_answers_packet_after_packet_is_given_time_for_each() -> None:
    async def main() -> None:
        site = Site()
        wire = site.connect()
        filters = [f"f{i}" for i in range(3 * FILTERS_A_PACKET)]
        site.ask(*filters)
        for packet_id in (1, 2, 3):
            await asyncio.sleep(0.8 * ANSWER_S)
            site.subscriber.answered(packet_id, [None] * FILTERS_A_PACKET)
        assert wire.given_up == []
        assert [f for f, refusal in site.answers if refusal is None] == filters

    run_virtual(main())


def test_what_was_to_be_asked_when_the_connection_was_lost_does_not_go_out_on_the_next_one() -> None:
    async def main() -> None:
        site = Site()
        site.connect()
        site.subscriber.ask(["unwanted by now"])
        site.subscriber.close()
        wire = site.connect()
        site.subscriber.ask(["wanted"])
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert wire.packets == [["wanted"]], "by itself, without another flush"

    run_virtual(main())


def test_a_second_attempt_that_was_due_on_the_lost_connection_is_not_made_on_the_new_one() -> None:
    async def main() -> None:
        site = Site()
        site.connect()
        site.ask("a")
        site.subscriber.answered(1, ["refused"])
        assert site.answers == [], "it is asked again"
        site.subscriber.close()
        wire = site.connect()
        site.ask("a")
        site.subscriber.answered(1, [None])
        await asyncio.sleep(2 * sum(RETRY_DELAYS_S))
        assert wire.packets == [["a"]]
        assert site.answers == [("a", None)]

    run_virtual(main())


def test_a_filter_refused_on_the_lost_connection_gets_every_attempt_on_the_new_one() -> None:
    async def main() -> None:
        site = Site()
        for _ in range(2):
            wire = site.connect()
            site.ask("a")
            for n in range(len(RETRY_DELAYS_S)):
                site.subscriber.answered(n + 1, ["refused"])
                await asyncio.sleep(RETRY_DELAYS_S[n] + 0.01)
            assert wire.packets == [["a"]] * (1 + len(RETRY_DELAYS_S))
            assert site.answers == []
            site.subscriber.answered(len(wire.packets), [None])
            assert site.answers.pop() == ("a", None)
            site.subscriber.close()

    run_virtual(main())


def test_refusals_of_the_lost_connection_are_not_counted_on_the_new_one() -> None:
    async def main() -> None:
        site = Site()
        site.connect()
        site.ask("a")
        for n in range(len(RETRY_DELAYS_S)):
            site.subscriber.answered(n + 1, ["refused"])
            await asyncio.sleep(RETRY_DELAYS_S[n] + 0.01)
        site.subscriber.close()  # it had one attempt left
        wire = site.connect()
        site.ask("a")
        site.subscriber.answered(1, ["refused"])
        assert site.answers == []
        await asyncio.sleep(RETRY_DELAYS_S[0] + 0.01)
        assert wire.packets == [["a"], ["a"]]

    run_virtual(main())

"""A session of the embedded broker: order, bounds, QoS, and what a reconnect repeats."""

from __future__ import annotations

from typing import Any

import pytest

from heron_mqtt.messaging.embedded.options import Limits
from heron_mqtt.messaging.embedded.protocol import packets
from heron_mqtt.messaging.embedded.server.accounts import Account
from heron_mqtt.messaging.embedded.server.session import (
    MESSAGE_OVERHEAD_BYTES,
    BrokerMessage,
    ClientSession,
    InflightMessage,
)
from heron_mqtt.messaging.embedded.stats import BrokerStats

SIZE = 1 + 1 + MESSAGE_OVERHEAD_BYTES  # of a message on a topic of one letter with one byte


class Wire:
    """The connection of a client, as bytes and as what they say."""

    def __init__(self) -> None:
        self.writable = True
        self.sent: list[bytes] = []
        self.ended: list[str] = []

    def send(self, *parts: bytes) -> None:
        self.sent.append(b"".join(parts))

    def end_soon(self, detail: str) -> None:
        self.ended.append(detail)

    def published(self) -> list[tuple[str, str, int, bool, bool]]:
        """Return topic, payload, QoS, retain and dup of every PUBLISH."""
        found = []
        for packet in self.sent:
            if packet[0] >> 4 != 3:
                continue
            qos, body = packet[0] >> 1 & 3, packet[2:]
            length = int.from_bytes(body[:2], "big")
            rest = body[2 + length + (2 if qos else 0) :]
            topic = body[2 : 2 + length].decode()
            found.append((topic, rest.decode(), qos, bool(packet[0] & 1), bool(packet[0] & 8)))
        return found

    def ids(self) -> list[int]:
        """Return the packet identifiers of every PUBLISH with QoS."""
        found = []
        for packet in self.sent:
            if packet[0] >> 4 == 3 and packet[0] >> 1 & 3:
                at = 4 + int.from_bytes(packet[2:4], "big")
                found.append(int.from_bytes(packet[at : at + 2], "big"))
        return found


class Site:
    def __init__(self, *, clean: bool = False, connected: bool = True, **limits: Any) -> None:
        self.stats = BrokerStats()
        self.session = ClientSession("c", clean=clean, limits=Limits(**limits), stats=self.stats)
        self.wire = Wire()
        if connected:
            self.session.connection = self.wire

    def deliver(self, payload: str, qos: int = 1, *, retain: bool = False) -> None:
        self.session.deliver(BrokerMessage.of("t", payload.encode(), qos), qos, retain=retain)

    def payloads(self) -> list[str]:
        return [payload for _, payload, *_ in self.wire.published()]

    def counts(self) -> tuple[int, int, int]:
        """Return what is delivered, queued and dropped."""
        return self.stats.delivered, self.stats.queued, self.stats.dropped


@pytest.mark.parametrize("retain", [False, True])
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_a_message_is_sent_at_once_as_it_was_asked_for(qos: int, retain: bool) -> None:
    site = Site()
    for _ in range(2):  # the second one is made of what was kept of the first
        site.session.deliver(message := BrokerMessage.of("a/b", b"x", qos), qos, retain=retain)
        site.session.deliver(message, qos, retain=retain)
    assert site.wire.published() == [("a/b", "x", qos, retain, False)] * 4
    assert site.counts() == (4, 0, 0)
    assert len(site.session.inflight) == (4 if qos else 0)
    assert site.wire.ids() == ([1, 2, 3, 4] if qos else [])


@pytest.mark.parametrize("first", [0x32, 0x33, 0x3A, 0x3B], ids=["plain", "retain", "dup", "both"])
@pytest.mark.parametrize("topic", ["a/b", "a/" + 200 * "b"], ids=["short", "long"])
def test_a_message_goes_out_with_the_head_it_came_with_but_for_the_flags(first: int, topic: str) -> None:
    site, message = Site(), BrokerMessage.of(topic, b"x", 1)
    expected = message.head(1, retain=False, dup=False)
    came = BrokerMessage.of(topic, b"x", 1)
    came.came_as(bytes((first,)) + expected[1:])
    site.session.deliver(came, 1)
    site.session.deliver(came, 1, retain=True)
    assert [packet[0] for packet in site.wire.sent] == [0x32, 0x33]
    assert [packet[1:] for packet in site.wire.sent] == [
        expected[1:] + n.to_bytes(2, "big") + b"x" for n in (1, 2)
    ]


def test_a_length_with_more_bytes_than_it_needs_is_not_passed_on() -> None:
    message = BrokerMessage.of("a/b", b"x", 1)
    expected = message.head(1, retain=False, dup=False)
    came = BrokerMessage.of("a/b", b"x", 1)
    came.came_as(expected[:1] + bytes((expected[1] | 0x80, 0)) + expected[2:])
    assert came.head(1, retain=False, dup=False) == expected


@pytest.mark.parametrize(("topic_bytes", "is_kept"), [(251, True), (252, False), (60_000, False)])
def test_a_long_head_is_not_kept_beside_the_topic(topic_bytes: int, is_kept: bool) -> None:
    message = BrokerMessage.of(topic_bytes * "b", b"x", 1)
    expected = message.head(1, retain=False, dup=False)
    came = BrokerMessage.of(topic_bytes * "b", b"x", 1)
    came.came_as(expected)
    assert (came.head(1, retain=False, dup=False) is expected) is is_kept
    assert came.head(1, retain=False, dup=False) == expected


def test_the_size_of_a_message_is_payload_topic_and_overhead() -> None:
    assert BrokerMessage.of("a/ü", b"xyz", 1).size == 3 + 4 + MESSAGE_OVERHEAD_BYTES


@pytest.mark.parametrize(
    ("clean", "qos", "kept"), [(True, 1, 0), (False, 0, 0), (False, 1, 1), (False, 2, 1)]
)
def test_who_is_away_gets_what_was_meant_to_be_kept(clean: bool, qos: int, kept: int) -> None:
    site = Site(clean=clean, connected=False)
    site.deliver("x", qos)
    assert len(site.session.queue) == site.stats.queued == kept
    assert site.session.held_bytes == site.stats.queued_bytes == kept * SIZE
    site.session.resume(site.wire)
    assert site.payloads() == ["x"] * kept


def test_what_waits_comes_before_what_is_new() -> None:
    site = Site(max_inflight=1)
    for payload, qos in (("1", 1), ("2", 1), ("3", 0), ("4", 1)):
        site.deliver(payload, qos)
    assert (site.payloads(), site.stats.queued) == (["1"], 3)
    site.session.on_puback(1)
    assert (site.payloads(), site.stats.queued) == (["1", "2", "3"], 1), "QoS 0 waits for no acknowledgement"
    site.session.on_puback(2)
    assert (site.payloads(), site.stats.queued) == (["1", "2", "3", "4"], 0)
    site.session.on_puback(3)
    assert (site.session.held_bytes, site.stats.queued_bytes) == (0, 0)
    assert site.stats.delivered == 4


def test_a_connection_that_takes_nothing_is_written_nothing_and_then_all_in_order() -> None:
    site = Site()
    site.wire.writable = False
    for payload, qos in (("1", 0), ("2", 1), ("3", 0)):
        site.deliver(payload, qos)
    site.session.go_on()
    assert site.wire.sent == []
    assert not site.session.has_room()
    site.wire.writable = True
    site.session.go_on()
    assert site.payloads() == ["1", "2", "3"]
    assert site.counts() == (3, 0, 0)
    assert site.stats.queued_bytes == SIZE, "of the one that is not acknowledged"


def test_a_full_queue_drops_counts_and_ends_the_connection_of_who_does_not_read() -> None:
    site = Site(max_queued_messages=2)
    site.wire.writable = False
    for payload in "12345":
        site.deliver(payload)
    assert site.counts() == (0, 2, 3)
    assert site.wire.ended == ["2 messages wait for it"] * 3
    site.deliver("6", 0)
    assert (len(site.wire.ended), site.stats.dropped) == (3, 4), "QoS 0 may be lost"


def test_who_is_away_and_full_loses_and_nothing_ends() -> None:
    site = Site(connected=False, max_queued_messages=1)
    site.deliver("1")
    site.deliver("2")
    assert site.counts() == (0, 1, 1)


@pytest.fixture
def nothing_always_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take away what a client is sent whatever the others hold."""
    monkeypatch.setattr("heron_mqtt.messaging.embedded.server.session.ALWAYS_FITS_BYTES", 0)


@pytest.mark.parametrize("limit", ["max_queued_bytes", "max_total_queued_bytes"])
@pytest.mark.usefixtures("nothing_always_fits")
def test_bytes_are_bounded_to_the_last_one(limit: str) -> None:
    exact = Site(connected=False, **{limit: 2 * SIZE})
    short = Site(connected=False, **{limit: 2 * SIZE - 1})
    for site in (exact, short):
        site.deliver("1")
        site.deliver("2")
    assert (exact.stats.queued, short.stats.queued) == (2, 1)
    assert (exact.stats.dropped, short.stats.dropped) == (0, 1)


@pytest.mark.parametrize(("held_bytes", "fits"), [(2 * SIZE, True), (2 * SIZE - 1, False)])
def test_a_little_comes_through_whatever_others_have_used_up(
    held_bytes: int, fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("heron_mqtt.messaging.embedded.server.session.ALWAYS_FITS_BYTES", held_bytes)
    site = Site(max_total_queued_bytes=SIZE)
    site.stats.queued_bytes = SIZE  # another one's
    site.deliver("1")
    site.deliver("2")
    assert site.payloads() == ["1", "2"][: 1 + fits]


@pytest.mark.parametrize(("over", "sent"), [(0, 1), (1, 0)])
def test_what_always_comes_through_is_16_kib_to_the_last_byte(over: int, sent: int) -> None:
    site = Site(max_total_queued_bytes=SIZE)
    site.stats.queued_bytes = SIZE  # another one's
    site.deliver("x" * (16 * 1024 - SIZE + 1 + over))
    assert len(site.payloads()) == sent


@pytest.mark.parametrize(("user", "in_charge", "sent"), [("a", False, 2), ("a", True, 3), (None, False, 3)])
@pytest.mark.usefixtures("nothing_always_fits")
def test_all_sessions_of_one_user_hold_so_much_together(user: str | None, in_charge: bool, sent: int) -> None:
    limits = Limits(max_user_queued_bytes=2 * SIZE)
    account = Account(user, limits, in_charge=in_charge, is_paced=False)
    sites = [Site(max_user_queued_bytes=2 * SIZE) for _ in range(3)]
    for site in sites:
        site.session.belong_to(account)
        site.deliver("1")
    assert sum(len(site.payloads()) for site in sites) == sent
    assert account.queued_bytes == sent * SIZE
    sites[0].session.on_puback(1)
    sites[1].session.forget()
    assert account.queued_bytes == (sent - 2) * SIZE


def test_what_is_held_goes_with_its_session_to_another_user() -> None:
    one, other = (Account(user, Limits(), in_charge=False, is_paced=False) for user in "ab")
    site = Site(connected=False)
    site.deliver("1")
    site.session.belong_to(one)
    site.session.belong_to(other)
    assert (one.queued_bytes, other.queued_bytes) == (0, SIZE)


@pytest.mark.usefixtures("nothing_always_fits")
def test_the_bytes_of_all_sessions_count_together() -> None:
    site = Site(connected=False, max_total_queued_bytes=2 * SIZE)
    site.stats.queued_bytes = SIZE  # another one's
    site.deliver("1")
    site.deliver("2")
    assert site.counts() == (0, 1, 1)


def test_in_flight_bytes_count_until_they_are_acknowledged() -> None:
    site = Site(max_queued_bytes=SIZE)
    site.deliver("1")
    site.deliver("2")
    assert (site.payloads(), site.stats.dropped) == (["1"], 1)
    site.session.on_puback(1)
    site.deliver("3")
    assert site.payloads() == ["1", "3"]


def test_an_acknowledgement_of_another_kind_or_nothing_ends_no_delivery() -> None:
    site = Site()
    site.deliver("1", 1)
    site.deliver("2", 2)
    site.session.on_puback(2)
    site.session.on_puback(7)
    site.session.on_pubcomp(1)
    site.session.on_pubcomp(2)  # not received yet
    site.session.on_pubcomp(7)
    assert set(site.session.inflight) == {1, 2}
    site.session.on_pubrec(1)
    site.session.on_pubcomp(1)
    assert set(site.session.inflight) == {1, 2}, "QoS 1 knows no PUBREC"
    site.session.on_pubrec(2)
    site.session.on_pubcomp(2)
    site.session.on_puback(1)
    assert (site.session.inflight, site.session.held_bytes, site.stats.queued_bytes) == ({}, 0, 0)


def test_a_received_message_is_released_also_one_that_is_no_longer_known() -> None:
    site = Site()
    site.session.on_pubrec(9)
    assert site.wire.sent == [packets.ack(packets.PUBREL, 9)]
    site.session.connection = None
    site.session.on_pubrec(9)
    assert len(site.wire.sent) == 1


def test_a_reconnect_repeats_in_order_what_was_not_acknowledged_and_then_what_waits() -> None:
    site = Site(max_inflight=3)
    site.deliver("1", 1, retain=True)
    site.deliver("2", 2)
    site.deliver("3", 2)
    site.session.on_pubrec(2)
    site.session.connection = None
    site.deliver("4")
    again = site.wire = Wire()
    site.session.resume(again)
    assert again.published() == [("t", "1", 1, True, True), ("t", "3", 2, False, True)]
    assert again.ids() == [1, 3]
    assert again.sent[1] == packets.ack(packets.PUBREL, 2)
    assert (site.stats.redelivered, site.stats.delivered) == (2, 5)
    site.session.on_puback(1)
    assert again.published()[-1] == ("t", "4", 1, False, False)


def test_identifiers_go_round_and_none_is_used_twice() -> None:
    site = Site(max_inflight=10)
    site.session._last_packet_id = 65_534
    site.session.inflight[1] = InflightMessage(BrokerMessage.of("t", b"", 1), 1, retain=False)
    for payload in "abc":
        site.deliver(payload)
    assert site.wire.ids() == [65_535, 2, 3]


@pytest.mark.parametrize(
    ("inflight", "queued", "writable", "connected", "room"),
    [
        (0, 0, True, True, True),
        (1, 0, True, True, True),
        (2, 0, True, True, False),
        (0, 1, True, True, False),
        (0, 0, False, True, False),
        (0, 0, True, False, False),
    ],
)
def test_whether_a_message_would_be_sent_at_once(
    inflight: int, queued: int, writable: bool, connected: bool, room: bool
) -> None:
    site = Site(connected=connected, max_inflight=2)
    site.wire.writable = writable
    message = BrokerMessage.of("t", b"", 1)
    for number in range(inflight):
        site.session.inflight[number + 1] = InflightMessage(message, 1, retain=False)
    site.session.queue.extend([(message, 1, False)] * queued)
    assert site.session.has_room() is room
    assert site.session.is_connected is connected


def test_who_waits_for_room_is_told_when_there_is_some() -> None:
    site = Site(max_inflight=1)
    told: list[ClientSession] = []
    site.session.on_room = told.append
    site.deliver("1")
    site.session.go_on()
    assert told == []
    site.session.on_puback(1)
    assert told == [site.session]


def test_a_session_that_ends_holds_nothing() -> None:
    site = Site(max_inflight=1)
    site.deliver("1")
    site.deliver("2")
    site.session.incoming_qos2.add(4)
    site.session.replays["a"] = 1
    site.session.forget()
    held = site.session
    assert (held.queue, held.inflight, held.incoming_qos2, held.replays) == (
        type(held.queue)(),
        {},
        set(),
        {},
    )
    assert (held.held_bytes, site.stats.queued_bytes, site.stats.queued) == (0, 0, 0)

"""The router of the embedded broker: rights, one copy for each subscriber, bounds, counts."""

from __future__ import annotations

from typing import Any

import pytest

from heron_mqtt.messaging.embedded.auth.acl import AclRow, ClientGrant
from heron_mqtt.messaging.embedded.event_log import EventLog
from heron_mqtt.messaging.embedded.options import Limits
from heron_mqtt.messaging.embedded.server import router as module
from heron_mqtt.messaging.embedded.server.accounts import Account
from heron_mqtt.messaging.embedded.server.router import MAX_DENIED_TOLD, Router
from heron_mqtt.messaging.embedded.server.session import BrokerMessage, ClientSession
from heron_mqtt.messaging.embedded.stats import BrokerStats
from support.waiting import until

FAILURE = 0x80


class Wire:
    writable = True

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def send(self, *parts: bytes) -> None:
        self.sent.append(b"".join(parts))

    def end_soon(self, detail: str) -> None:
        raise AssertionError(detail)

    def published(self) -> list[tuple[str, str, int, bool]]:
        """Return topic, payload, QoS and retain of every PUBLISH."""
        found = []
        for packet in self.sent:
            if packet[0] >> 4 == 3:
                qos, length = packet[0] >> 1 & 3, int.from_bytes(packet[2:4], "big")
                rest = packet[4 + length + (2 if qos else 0) :]
                found.append((packet[4 : 4 + length].decode(), rest.decode(), qos, bool(packet[0] & 1)))
        return found


class Events(EventLog):
    def __init__(self) -> None:
        self.told: list[tuple[str, dict[str, Any]]] = []

    def warning(self, event: str, **fields: Any) -> None:
        self.told.append((event, fields))


class Site:
    def __init__(self, **limits: Any) -> None:
        self.limits, self.stats, self.events = Limits(**limits), BrokerStats(), Events()
        self.accounts: list[Account] = []
        self.router = Router(self.limits, self.stats, self.events, accounts=lambda: self.accounts)
        self.wires: dict[str, Wire] = {}

    def client(self, name: str, *rows: tuple[str, str], account: Account | None = None) -> ClientSession:
        session = ClientSession(name, clean=True, limits=self.limits, stats=self.stats)
        session.connection = self.wires[name] = Wire()
        session.owner, session.account = name, account
        if rows:
            session.grant = ClientGrant([AclRow(frozenset(r.split()), f) for r, f in rows])
        return session

    def account(self, *, in_charge: bool = False) -> Account:
        self.accounts.append(Account("u", self.limits, in_charge=in_charge, is_paced=False))
        return self.accounts[-1]

    def subscribe(self, session: ClientSession, *requests: tuple[str, int]) -> list[int]:
        """Return what the SUBACK says."""
        self.router.subscribe(session, 7, list(requests))
        (suback,) = [p for p in self.wires[session.client_id].sent if p[0] == 0x90][-1:]
        assert suback[2:4] == b"\x00\x07"
        return list(suback[4:])

    def publish(
        self, session: ClientSession, topic: str, payload: str = "x", *, qos: int = 1, **how: Any
    ) -> bool:
        message = BrokerMessage.of(topic, payload.encode(), qos)
        return self.router.accept(session, message, retain=how.get("retain", False))


async def test_a_message_goes_to_each_subscriber_once_at_the_lower_qos() -> None:
    site = Site()
    sender, one, two, other = (site.client(name) for name in ("s", "1", "2", "o"))
    assert site.subscribe(one, ("a/#", 0), ("a/b", 2), ("a/+", 1)) == [0, 2, 1]
    assert site.subscribe(two, ("a/b", 0)) == [0]
    assert site.subscribe(other, ("b/#", 1)) == [1]
    for qos in (0, 1, 2):
        assert site.publish(sender, "a/b", str(qos), qos=qos)
    assert site.wires["1"].published() == [("a/b", str(qos), qos, False) for qos in (0, 1, 2)]
    assert site.wires["2"].published() == [("a/b", str(qos), 0, False) for qos in (0, 1, 2)]
    assert site.wires["o"].published() == site.wires["s"].published() == []


async def test_a_subscription_that_is_made_anew_has_its_new_qos_and_counts_once() -> None:
    site = Site()
    account = site.account()
    sender, one = site.client("s"), site.client("1", account=account)
    site.subscribe(one, ("a", 0))
    site.publish(sender, "a")
    site.subscribe(one, ("a", 1))
    site.publish(sender, "a")
    assert [qos for _, _, qos, _ in site.wires["1"].published()] == [0, 1]
    assert (site.stats.subscriptions, account.subscriptions) == (1, 1)


async def test_a_subscription_that_comes_or_goes_is_in_force_with_the_next_message() -> None:
    site = Site()
    account = site.account()
    sender, one = site.client("s"), site.client("1", account=account)
    site.publish(sender, "a", "before")
    site.subscribe(one, ("a", 0), ("b", 0))
    site.publish(sender, "a", "while")
    site.router.unsubscribe(one, 9, ["a", "unknown"])
    site.publish(sender, "a", "after")
    assert [payload for _, payload, *_ in site.wires["1"].published()] == ["while"]
    assert site.wires["1"].sent[-1] == b"\xb0\x02\x00\x09"
    assert (site.stats.subscriptions, account.subscriptions, one.subscriptions) == (1, 1, {"b": 0})


async def test_a_session_that_ended_gets_nothing_and_counts_nowhere() -> None:
    site = Site()
    account = site.account()
    sender, one = site.client("s"), site.client("1", account=account)
    site.subscribe(one, ("a", 0), ("b", 0))
    site.publish(sender, "a", "before")
    site.router.forget(one)
    site.publish(sender, "a", "after")
    assert [payload for _, payload, *_ in site.wires["1"].published()] == ["before"]
    assert (site.stats.subscriptions, account.subscriptions, one.subscriptions) == (0, 0, {})


async def test_what_may_not_be_published_goes_nowhere_and_is_counted() -> None:
    site = Site()
    reader, thief = site.client("r"), site.client("t", ("publish", "mine/#"))
    site.subscribe(reader, ("#", 0), ("$x/#", 0))
    assert site.publish(thief, "mine/a")
    assert not site.publish(thief, "other", retain=True)
    assert not site.publish(reader, "$x/a")
    assert site.wires["r"].published() == [("mine/a", "x", 0, False)]
    assert (site.stats.denied, site.router.denied) == (2, {"t": 1, "r": 1})
    assert site.events.told[0] == ("publish_denied", {"client": "t", "user": "t", "topic": "other"})
    site.subscribe(reader, ("other", 0))
    assert len(site.wires["r"].published()) == 1, "it was not kept"


async def test_who_was_denied_is_counted_for_those_who_tried_last() -> None:
    site = Site()
    for number in range(MAX_DENIED_TOLD + 5):
        site.publish(site.client(f"c{number}", ("publish", "x")), "y")
    again = site.client("c10", ("publish", "x"))
    site.publish(again, "y")
    assert len(site.router.denied) == MAX_DENIED_TOLD
    assert (next(iter(site.router.denied)), list(site.router.denied)[-1]) == ("c5", "c10")
    assert site.router.denied["c10"] == 2
    assert site.stats.denied == MAX_DENIED_TOLD + 6


async def test_only_who_may_receive_a_topic_gets_it() -> None:
    site = Site()
    sender = site.client("s")
    one = site.client("1", ("subscribe receive", "a/#"), ("", "a/secret"))
    two = site.client("2", ("subscribe", "a/#"))
    for session in (one, two):
        assert site.subscribe(session, ("a/#", 0)) == [0]
    for topic in ("a/b", "a/secret"):
        site.publish(sender, topic)
    assert [topic for topic, *_ in site.wires["1"].published()] == ["a/b"]
    assert site.wires["2"].published() == []


async def test_a_subscription_is_refused_filter_by_filter_and_said() -> None:
    site = Site()
    one = site.client("1", ("subscribe receive", "a/#"))
    assert site.subscribe(one, ("a/b", 1), ("b", 1), ("a/#/b", 1), ("a/c", 0)) == [1, FAILURE, FAILURE, 0]
    assert (site.stats.refusals, one.subscriptions) == (2, {"a/b": 1, "a/c": 0})
    event, told = site.events.told[0]
    assert (event, told["client"], told["user"], told["filter"]) == ("subscription_refused", "1", "1", "b")
    reasons = [fields["reason"] for _, fields in site.events.told]
    assert reasons == ["no right to this filter", "# must be the whole last level"]


async def test_subscriptions_of_a_client_are_bounded_and_one_that_it_has_may_be_made_anew() -> None:
    site = Site(max_subscriptions=2)
    one = site.client("1")
    assert site.subscribe(one, ("a", 0), ("b", 0), ("c", 0), ("a", 1)) == [0, 0, FAILURE, 1]
    assert site.events.told[0][1]["reason"] == "more than 2 subscriptions"


@pytest.mark.parametrize(("in_charge", "answers"), [(False, [0, FAILURE]), (True, [0, 0])])
async def test_subscriptions_of_a_user_are_bounded_but_of_who_is_in_charge(
    in_charge: bool, answers: list[int]
) -> None:
    site = Site(max_user_subscriptions=2)
    account = site.account(in_charge=in_charge)
    assert site.subscribe(site.client("1", account=account), ("a", 0)) == [0]
    assert site.subscribe(site.client("2", account=account), ("a", 0), ("b", 0)) == answers


async def test_what_is_kept_comes_with_the_subscription_and_says_so() -> None:
    site = Site()
    sender, one = site.client("s"), site.client("1", ("subscribe receive", "a/#"))
    site.publish(sender, "a/b", "kept", retain=True)
    site.publish(sender, "c", "not asked", retain=True)
    site.router.announce("a/broker", b"up")
    site.subscribe(one, ("a/#", 1), ("c", 1))
    await until(lambda: len(site.wires["1"].published()) > 1, "what is kept, which comes in slices")
    assert sorted(site.wires["1"].published()) == [("a/b", "kept", 1, True), ("a/broker", "up", 0, True)]
    site.publish(sender, "a/b", "live", retain=True)
    site.router.announce("a/broker", b"down")
    assert site.wires["1"].published()[2:] == [("a/b", "live", 1, False), ("a/broker", "down", 0, False)]


async def test_what_cannot_be_kept_is_delivered_counted_and_said() -> None:
    site = Site(max_user_retained_messages=1)
    sender, one = site.client("s", account=site.account()), site.client("1")
    site.subscribe(one, ("#", 0))
    for topic in ("a", "b"):
        assert site.publish(sender, topic, retain=True)
    assert [topic for topic, *_ in site.wires["1"].published()] == ["a", "b"]
    assert site.stats.retained == 1
    assert site.stats.unretained == 1


async def test_remembered_routes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_CACHED_ROUTES", 2)
    site = Site()
    sender, one = site.client("s"), site.client("1")
    site.subscribe(one, ("#", 0))
    held = []
    for number in range(6):
        site.publish(sender, str(number))
        site.publish(sender, str(number))
        held.append(len(site.router._routes))
    assert held == [1, 2, 1, 2, 1, 2]
    assert len(site.wires["1"].published()) == 12


async def test_one_that_is_not_connected_is_subscribed_and_answered_nothing() -> None:
    site = Site()
    one = site.client("1")
    one.connection = None
    site.router.subscribe(one, 1, [("a", 1)])
    site.router.unsubscribe(one, 2, ["a"])
    assert (site.stats.subscriptions, site.wires["1"].sent) == (0, [])

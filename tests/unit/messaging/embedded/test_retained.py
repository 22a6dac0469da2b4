"""Whose retained message gives way when there is no room: the arithmetic, without a broker."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heron_mqtt.messaging.embedded.options import Limits
from heron_mqtt.messaging.embedded.server.accounts import Account
from heron_mqtt.messaging.embedded.server.retained import RetainedStore, environment_of
from heron_mqtt.messaging.embedded.server.session import MESSAGE_OVERHEAD_BYTES, BrokerMessage
from heron_mqtt.messaging.embedded.stats import BrokerStats


class Site:
    """A store, and users by name: ``op`` is in charge, ``anon`` has no login."""

    def __init__(self, **limits: int) -> None:
        self.limits = Limits(**limits)  # type: ignore[arg-type]
        self.accounts = {
            name: Account(
                None if name == "anon" else name, self.limits, in_charge=name == "op", is_paced=False
            )
            for name in ("op", "anon", "a", "b", "c")
        }
        self.stats = BrokerStats()
        self.store = RetainedStore(
            self.limits, self.stats, lambda topic: topic.endswith("!"), self.accounts.values
        )

    def keep(self, user: str, topic: str, size: int = 1) -> bool:
        return self.store.keep(BrokerMessage.of(topic, b"x" * size, 1), self.accounts[user])

    def drop(self, user: str, topic: str) -> bool:
        return self.store.keep(BrokerMessage.of(topic, b"", 1), self.accounts[user])

    def topics(self) -> set[str]:
        return {message.topic for message in self.store.match("#")}


def test_a_topic_is_replaced_and_deleted_and_the_sums_follow() -> None:
    site = Site()
    assert site.keep("a", "h/e/x", 10)
    assert site.keep("a", "h/e/x", 30)
    account = site.accounts["a"]
    assert account.retained_bytes == site.stats.retained_bytes == 30 + len("h/e/x") + MESSAGE_OVERHEAD_BYTES
    assert (site.stats.retained, dict(account.environments)) == (1, {"e": 1})
    assert site.drop("a", "h/e/x")
    assert (site.stats.retained, site.stats.retained_bytes, account.retained_bytes) == (0, 0, 0)
    assert (account.retained, dict(account.environments)) == ({}, {})


def test_a_topic_that_another_user_takes_over_counts_for_that_one() -> None:
    site = Site(max_user_retained_messages=1)
    assert site.keep("a", "h/e/x")
    assert site.keep("b", "h/e/x")
    assert (len(site.accounts["a"].retained), len(site.accounts["b"].retained)) == (0, 1)
    assert site.keep("a", "h/e/y")
    assert not site.keep("b", "h/e/z")
    assert not site.keep("b", "h/e/y"), "at its bound, it takes over no further one"


def test_at_its_bound_a_user_keeps_what_it_has_but_for_what_is_vital() -> None:
    site = Site(max_user_retained_messages=2)
    assert site.keep("a", "h/e/1")
    assert site.keep("a", "h/e/2")
    assert not site.keep("a", "h/e/3")
    assert site.keep("a", "h/e/2", 50), "an update takes no place"
    assert site.keep("a", "h/e/3!")
    assert site.topics() == {"h/e/2", "h/e/3!"}
    assert site.keep("a", "h/e/4!")
    assert not site.keep("a", "h/e/5!"), "nothing is left that could give way"
    assert site.topics() == {"h/e/3!", "h/e/4!"}


def test_a_user_has_so_many_environments() -> None:
    site = Site(max_user_environments=2)
    assert site.keep("a", "h/1/x")
    assert site.keep("a", "h/2/x!")
    assert not site.keep("a", "h/3/x!")
    assert site.keep("a", "h/1/y")
    assert site.keep("op", "h/3/x")
    assert site.drop("a", "h/2/x!")
    assert site.keep("a", "h/3/y")


def test_bytes_of_a_user_and_of_all_are_bounded() -> None:
    one = 1 + len("h/e/1") + MESSAGE_OVERHEAD_BYTES
    site = Site(max_user_retained_bytes=2 * one, max_retained_bytes=3 * one)
    assert site.keep("a", "h/e/1")
    assert site.keep("a", "h/e/2")
    assert not site.keep("a", "h/e/2", 2)
    assert site.keep("b", "h/e/3")
    assert not site.keep("b", "h/e/4"), "b has hardly fewer than a"
    assert site.keep("c", "h/e/4"), "c has none: the oldest of a gives way"
    assert site.topics() == {"h/e/2", "h/e/3", "h/e/4"}


@pytest.mark.parametrize("user", ["a", "op"])
def test_what_is_in_charge_gives_way_to_nobody(user: str) -> None:
    site = Site(max_retained_messages=2)
    assert site.keep("op", "h/e/1")
    assert site.keep("op", "h/e/2")
    assert not site.keep(user, "h/e/3!")
    assert site.topics() == {"h/e/1", "h/e/2"}


def test_what_is_in_charge_takes_any_place_plain_ones_first() -> None:
    site = Site(max_retained_messages=2)
    assert site.keep("a", "h/e/1!")
    assert site.keep("a", "h/e/2")
    assert site.keep("op", "h/e/3")
    assert site.topics() == {"h/e/1!", "h/e/3"}
    assert site.keep("op", "h/e/4")
    assert site.topics() == {"h/e/3", "h/e/4"}


def test_without_logins_what_is_vital_takes_a_plain_place() -> None:
    site = Site(max_retained_messages=2)
    assert site.keep("anon", "h/e/1")
    assert site.keep("anon", "h/e/2!")
    assert not site.keep("anon", "h/e/3")
    assert site.keep("anon", "h/e/3!")
    assert site.topics() == {"h/e/2!", "h/e/3!"}


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["op", "anon", "a", "b", "c"]),
        st.sampled_from([f"h/{e}/{i}{v}" for e in "123" for i in range(4) for v in ("", "!")]),
        st.sampled_from([0, 1, 1, 200]),
    ),
    max_size=80,
)


@given(STEPS)
def test_whatever_happens_the_bounds_hold_and_the_sums_are_right(steps: list[tuple[str, str, int]]) -> None:
    site = Site(
        max_retained_messages=6, max_user_retained_messages=3, max_user_environments=2,
        max_retained_bytes=4_000, max_user_retained_bytes=1_800,
    )  # fmt: skip
    operators: set[str] = set()
    for user, topic, size in steps:
        kept = site.keep(user, topic, size)
        if user == "op" and kept and size:
            operators.add(topic)
        elif size == 0 or (kept and user != "op"):
            operators.discard(topic)  # deleted, or another's now
        held = site.topics()
        assert operators <= held, "an operator's message gave way"
        assert kept == (topic in held) or size == 0 or not kept
        assert len(held) == site.stats.retained <= 6
        sizes = {message.topic: message.size for message in site.store.match("#")}
        assert sum(sizes.values()) == site.stats.retained_bytes <= 4_000
        assert sorted(t for a in site.accounts.values() for t in a.retained) == sorted(held)
        for name, account in site.accounts.items():
            assert account.retained == {topic: sizes[topic] for topic in account.retained}
            assert account.retained_bytes == sum(account.retained.values())
            assert account.environments == _counted(account.retained, environment_of)
            if name in "abc":
                assert len(account.retained) <= 3
                assert account.retained_bytes <= 1_800
                assert len(account.environments) <= 2


def _counted(topics: dict[str, int], of: Callable[[str], str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for topic in topics:
        counts[of(topic)] = counts.get(of(topic), 0) + 1
    return counts

"""Logins and sessions: bounded in number, in time and in attempts."""

from __future__ import annotations

from heron_mqtt.dashboard.control.sessions import (
    FREE_FAILURES,
    IDLE_S,
    LONGEST_S,
    LONGEST_WAIT_S,
    MAX_SESSIONS,
    TICKET_S,
    LoginLimit,
    Sessions,
    is_same,
)


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


def test_a_ticket_becomes_one_session_and_only_soon() -> None:
    clock = Clock()
    sessions = Sessions(clock)
    ticket, late = sessions.ticket("ann"), sessions.ticket("ann")
    begun = sessions.begin(ticket)
    assert begun is not None
    key, session = begun
    assert (session.who, sessions.of(key)) == ("ann", session)
    assert sessions.begin(ticket) is None
    assert sessions.begin("made up") is None
    clock.now_s += TICKET_S
    assert sessions.begin(late) is None


def test_a_session_ends_when_nobody_clicks_and_when_it_is_old() -> None:
    clock = Clock()
    sessions = Sessions(clock)
    key, _ = sessions.begin(sessions.ticket("ann")) or ("", None)
    clock.now_s += IDLE_S - 1
    assert sessions.of(key) is not None
    clock.now_s += IDLE_S
    assert sessions.of(key) is None
    key, _ = sessions.begin(sessions.ticket("ann")) or ("", None)
    for _ in range(int(LONGEST_S / 600)):
        clock.now_s += 600.0
        alive = sessions.of(key)
    assert alive is None
    key, _ = sessions.begin(sessions.ticket("ann")) or ("", None)
    sessions.end(key)
    assert sessions.of(key) is None
    assert sessions.of(None) is None


def test_sessions_are_bounded_and_the_one_unused_for_longest_goes_first() -> None:
    clock = Clock()
    sessions = Sessions(clock)
    keys = []
    for _ in range(MAX_SESSIONS + 1):
        clock.now_s += 1.0
        keys.append((sessions.begin(sessions.ticket("ann")) or ("", None))[0])
    assert [key for key in keys if sessions.of(key) is None] == keys[:1]


def test_wrong_passwords_make_the_next_one_wait_longer_and_longer() -> None:
    clock = Clock()
    limit = LoginLimit(clock)
    for _ in range(FREE_FAILURES - 1):
        limit.failed("name ann", "host a")
    assert limit.wait_s("name ann", "host a") == 0.0
    waits = []
    for _ in range(10):
        limit.failed("name ann", "host a")
        waits.append(limit.wait_s("name ann", "host b"))
    assert waits[:3] == [2.0, 4.0, 8.0]
    assert max(waits) == LONGEST_WAIT_S
    assert limit.wait_s("name bob", "host b") == 0.0
    limit.succeeded("name ann", "host a")
    assert limit.wait_s("name ann", "host a") == 0.0


def test_a_token_is_compared_as_a_whole() -> None:
    assert is_same("abc", "abc")
    for other in ("ab", "abcd", "", None, 3, "\udcff"):
        assert not is_same(other, "abc")

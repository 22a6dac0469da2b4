"""What one user takes up, and how fast it may publish."""

from __future__ import annotations

import pytest

from heron_mqtt.messaging.embedded.options import Limits
from heron_mqtt.messaging.embedded.server.accounts import BURST_S, Account, Accounts


class FakeSession:
    def __init__(self, client_id: str, *, connected: bool) -> None:
        self.client_id = client_id
        self.is_connected = connected


def account(
    user: str | None = "a", *, in_charge: bool = False, is_paced: bool = True, rate: int = 100
) -> Account:
    return Account(user, Limits(max_user_messages_per_s=rate), in_charge=in_charge, is_paced=is_paced)


def test_a_burst_passes_and_then_the_rate_holds() -> None:
    user = account()
    assert user.pause_s(round(BURST_S * 100), 0.0) == 0.0
    assert user.pause_s(50, 0.0) == pytest.approx(0.5)
    assert user.pause_s(0, 0.5) == pytest.approx(0.0)
    total, now_s = 0, 0.5
    while now_s < 100.0:
        pause_s = user.pause_s(7, now_s)
        total += 7
        now_s += max(pause_s, 0.001)
    assert total == pytest.approx(100 * 100, rel=0.02)


def test_what_is_not_used_is_saved_up_for_one_burst_only() -> None:
    user = account()
    user.pause_s(1, 0.0)
    assert user.pause_s(round(BURST_S * 100) + 10, 1_000.0) == pytest.approx(0.1)


@pytest.mark.parametrize(
    "free",
    [account(None), account(in_charge=True), account(is_paced=False), account(rate=0)],
    ids=["no login", "in charge", "no access file", "turned off"],
)
def test_some_have_no_rate(free: Account) -> None:
    assert free.pause_s(1_000_000, 0.0) == 0.0


def test_the_session_that_was_left_first_is_the_oldest_away() -> None:
    user = account()
    sessions = {name: FakeSession(name, connected=False) for name in "xyz"}
    for session in sessions.values():
        user.touch(session)
    sessions["x"].is_connected = True
    assert user.oldest_away() is sessions["y"]
    user.touch(sessions["y"])  # it was there again, and left
    assert user.oldest_away() is sessions["z"]
    assert user.connected() == 1


def test_an_account_is_remembered_as_long_as_it_holds_something_and_has_the_rights_of_now() -> None:
    accounts = Accounts(Limits())
    user = accounts.of("a", in_charge=False, is_paced=True)
    user.touch(FakeSession("x", connected=True))
    accounts.settle(user)
    assert accounts.of("a", in_charge=True, is_paced=False) is user
    assert user.in_charge
    assert not user.is_paced
    user.sessions.clear()
    accounts.settle(user)
    assert accounts.of("a", in_charge=False, is_paced=True) is not user


def test_most_sessions_are_counted_among_those_who_have_one_away_operators_last() -> None:
    accounts = Accounts(Limits())
    assert accounts.most_sessions() is None
    for name, n, connected in (("op", 9, False), ("a", 2, False), ("b", 3, False), ("c", 8, True)):
        made = accounts.of(name, in_charge=name == "op", is_paced=True)
        for i in range(n):
            made.touch(FakeSession(f"{name}{i}", connected=connected))
    found = accounts.most_sessions()
    assert found is not None
    assert found.user == "b"

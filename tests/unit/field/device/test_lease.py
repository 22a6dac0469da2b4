"""DeviceLease: who may set a device, until when, and how old a setpoint can be; with a clock of the test."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heron_mqtt.field.device.lease import DeviceLease, Holder
from heron_mqtt.messages import Setpoint

LONGEST_SILENCE_S = 2.0
REMEMBERED_SENDERS = 64
REMEMBERED_TELEMETRY = 20_000
SPOKEN_PER_LEASE = 4


class Clock:
    def __init__(self) -> None:
        self.now_s = 50.0

    def __call__(self) -> float:
        return self.now_s


def told(lease_s: float = 2.0, **fields: Any) -> Setpoint:
    return Setpoint(p_mw=0.01, lease_s=lease_s, **{"sender": "MG1", "boot": "g1", **fields})


def echo(seq: int, boot: str = "d1") -> dict[str, Any]:
    return {"heard_boot": boot, "heard_seq": seq}


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_lease_counts_from_the_telemetry_that_is_echoed(clock: Clock) -> None:
    lease = DeviceLease(clock)
    lease.published("d1", 7)
    clock.now_s += 1.5
    assert lease.refusal(told(**echo(7))) is None
    lease.hold(told(**echo(7)))
    assert lease.ends_at - clock.now_s == pytest.approx(0.5)
    clock.now_s += 0.5
    assert not lease.is_running


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        (echo(7), "older than its lease"),
        (echo(8), "does not remember"),
        (echo(7, "d0"), "another boot"),
        ({"heard_boot": "d1"}, "another boot"),
        ({"heard_seq": 7}, "another boot"),
    ],
)
def test_what_is_stale_replayed_or_of_an_earlier_life_is_refused(
    clock: Clock, fields: dict[str, Any], why: str
) -> None:
    lease = DeviceLease(clock)
    lease.published("d1", 7)
    clock.now_s += 2.0
    refused = lease.refusal(told(**fields))
    assert refused is not None
    assert why in refused


def test_a_new_boot_of_the_device_forgets_what_the_old_one_said(clock: Clock) -> None:
    lease = DeviceLease(clock)
    lease.published("d1", 7)
    lease.published("d2", 0)
    assert lease.refusal(told(**echo(7))) is not None
    assert lease.refusal(told(**echo(0, "d2"))) is None
    assert lease.refusal(told(**echo(7, "d2"))) is not None, "the new one has never said that"


def test_by_hand_it_counts_from_its_arrival_unless_proof_is_required(clock: Clock) -> None:
    lease = DeviceLease(clock)
    lease.hold(told())
    assert lease.ends_at - clock.now_s == pytest.approx(2.0)
    refused = DeviceLease(clock, require_proof=True).refusal(told())
    assert refused is not None
    assert "no proof" in refused


def test_another_sender_is_refused_while_it_holds_and_not_after(clock: Clock) -> None:
    lease = DeviceLease(clock)
    lease.hold(told())
    for other in ({"sender": "MG2"}, {"boot": "g2"}, {"sender": None, "boot": None}):
        refused = lease.refusal(told(**other))
        assert refused is not None
        assert "held by MG1 (boot g1) for another 2 s" in refused
    assert lease.refusal(told(boot="g2", take_over=True)) is None
    clock.now_s += 2.0
    assert lease.refusal(told(boot="g2")) is None


def test_a_renewal_never_shortens_and_a_new_setpoint_may(clock: Clock) -> None:
    lease = DeviceLease(clock)
    lease.hold(told(10.0))
    lease.hold(told(1.0, renewal=True))
    assert lease.ends_at - clock.now_s == pytest.approx(10.0)
    lease.hold(told(1.0))
    assert lease.ends_at - clock.now_s == pytest.approx(1.0)


def test_what_was_heard_before_is_known_by_sender_and_number(clock: Clock) -> None:
    lease = DeviceLease(clock)
    assert not lease.is_repeated(told(seq=3))
    assert lease.is_repeated(told(seq=3))
    assert lease.is_repeated(told(seq=2))
    assert not lease.is_repeated(told(seq=2, boot="g2"))
    assert not lease.is_repeated(told())
    assert not lease.is_repeated(told())
    lease.forget()
    assert not lease.is_repeated(told(seq=1))


def test_of_many_senders_the_one_that_was_silent_longest_is_forgotten(clock: Clock) -> None:
    lease = DeviceLease(clock)
    for number in range(REMEMBERED_SENDERS):
        assert not lease.is_repeated(told(sender=f"S{number}", seq=5))
    assert not lease.is_repeated(told(sender="S0", seq=6)), "it speaks again"
    assert not lease.is_repeated(told(sender="new", seq=1))
    assert lease.is_repeated(told(sender="S0", seq=6)), "it is remembered"
    assert not lease.is_repeated(told(sender="S1", seq=5)), "this one was silent longest"


def test_a_device_speaks_often_enough_for_its_lease(clock: Clock) -> None:
    lease = DeviceLease(clock)
    lease.hold(told(2.0))
    assert lease.telemetry_every_s == pytest.approx(2.0 / SPOKEN_PER_LEASE)
    assert lease.holder == Holder("MG1", "g1")
    lease.end()
    assert lease.holder is None
    assert lease.ends_at == math.inf


@given(
    ages=st.lists(st.floats(0.0, 5.0), min_size=1, max_size=20),
    lease_s=st.floats(0.01, 4.0),
    waits=st.lists(st.floats(0.0, 5.0), min_size=20, max_size=20),
)
def test_no_setpoint_holds_longer_than_its_lease_after_the_telemetry_that_it_echoes(
    ages: list[float], lease_s: float, waits: list[float]
) -> None:
    clock = Clock()
    lease = DeviceLease(clock)
    for seq, (age_s, wait_s) in enumerate(zip(ages, waits, strict=False)):
        lease.published("d1", seq)
        said_at = clock.now_s
        clock.now_s += age_s
        setpoint = told(lease_s, **echo(seq))
        if lease.refusal(setpoint) is None:
            lease.hold(setpoint)
            assert lease.ends_at <= said_at + lease_s + 1e-9
        else:
            assert age_s >= lease_s - 1e-9
        clock.now_s += wait_s


def test_as_many_senders_as_are_remembered_are_and_one_more_is_not(clock: Clock) -> None:
    lease = DeviceLease(clock)
    for number in range(REMEMBERED_SENDERS):
        lease.is_repeated(told(sender=f"S{number}", seq=5))
    assert lease.is_repeated(told(sender="S0", seq=5))
    lease.is_repeated(told(sender="new", seq=5))
    assert not lease.is_repeated(told(sender="S0", seq=5)), "hearing it again made it no newer"


def test_the_newest_telemetry_is_remembered_and_older_is_not(clock: Clock) -> None:
    lease = DeviceLease(clock)
    for seq in range(REMEMBERED_TELEMETRY):
        lease.published("d1", seq)
    assert lease.refusal(told(**echo(0))) is None
    lease.published("d1", REMEMBERED_TELEMETRY)
    refused = lease.refusal(told(**echo(0)))
    assert refused is not None
    assert "does not remember" in refused
    assert lease.refusal(told(**echo(1))) is None


@pytest.mark.parametrize(
    ("holder", "shown"),
    [
        (Holder(None, None), "a sender by hand"),
        (Holder("MG1", None), "MG1 (boot unknown)"),
        (Holder(None, "g1"), "an unnamed sender (boot g1)"),
        (Holder("MG1", "g1"), "MG1 (boot g1)"),
    ],
)
def test_a_holder_is_named_as_far_as_it_is_known(holder: Holder, shown: str) -> None:
    assert str(holder) == shown


def test_a_lease_is_of_its_sender_until_its_last_moment(clock: Clock) -> None:
    lease = DeviceLease(clock)
    assert not lease.is_of(told())
    assert not lease.is_running
    lease.hold(told(2.0))
    clock.now_s += 1.5
    assert lease.held_for_s == 1.5
    assert lease.is_of(told())
    assert not lease.is_of(told(boot="g2"))
    clock.now_s += 0.5
    assert not lease.is_running, "to the moment"
    assert not lease.is_of(told())
    assert lease.holder is not None, "its end is for the device to say"


def test_without_a_lease_the_device_speaks_as_often_as_a_gateway_needs_to_begin(clock: Clock) -> None:
    lease = DeviceLease(clock)
    assert lease.telemetry_every_s == LONGEST_SILENCE_S
    lease.hold(told(2.0))
    lease.end()
    lease.end()
    assert lease.telemetry_every_s == LONGEST_SILENCE_S
    assert lease.refusal(told(boot="g2")) is None


def test_a_renewal_of_another_sender_is_a_lease_of_its_own(clock: Clock) -> None:
    lease = DeviceLease(clock)
    lease.hold(told(10.0))
    lease.hold(told(1.0, boot="g2", renewal=True, take_over=True))
    assert lease.ends_at - clock.now_s == pytest.approx(1.0)


def test_a_renewal_after_the_end_counts_from_itself(clock: Clock) -> None:
    lease = DeviceLease(clock)
    lease.hold(told(1.0))
    clock.now_s += 5.0
    lease.hold(told(2.0, renewal=True))
    assert lease.ends_at - clock.now_s == pytest.approx(2.0)


def test_a_device_that_goes_on_in_one_boot_remembers_all_that_it_said(clock: Clock) -> None:
    lease = DeviceLease(clock)
    lease.published("d1", 0)
    lease.published("d1", 1)
    assert lease.refusal(told(**echo(0))) is None
    assert lease.refusal(told(**echo(1))) is None


def test_one_that_replaces_a_deferred_one_follows_on_what_was_done_before(clock: Clock) -> None:
    """The device never had what waited: its lease is nobody's once it is replaced."""
    lease = DeviceLease(clock)
    lease.hold(told(6.0))
    for _ in range(3):
        clock.now_s += 1.0
        lease.hold(told(40.0))
        lease.defer()
        assert not lease.lasts_before(6.0)
    lease.hold(told(40.0))
    assert lease.give_back_to_before()
    assert lease.ends_at == 56.0


def test_a_deferred_one_that_was_done_or_undone_is_what_the_next_one_follows_on(clock: Clock) -> None:
    done = DeviceLease(clock)
    done.hold(told(6.0))
    done.hold(told(40.0))
    done.defer()
    done.note_done()
    done.hold(told(60.0))
    assert done.give_back_to_before()
    assert done.ends_at == 90.0
    undone = DeviceLease(clock)
    undone.hold(told(6.0))
    undone.hold(told(40.0))
    undone.defer()
    assert undone.give_back_to_before()
    undone.hold(told(5.0, take_over=True, sender="ann"))
    assert undone.give_back_to_before()
    assert (undone.holder, undone.ends_at) == (Holder("MG1", "g1"), 55.0)


def test_what_was_deferred_in_a_lease_that_is_over_counts_no_more(clock: Clock) -> None:
    lease = DeviceLease(clock)
    lease.hold(told(6.0))
    lease.hold(told(40.0))
    lease.defer()
    lease.end()
    lease.hold(told(40.0))
    assert not lease.give_back_to_before(), "nothing was done before it"

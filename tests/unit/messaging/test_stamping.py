"""The metadata of a message: numbers that rise by channel, and the time in UTC."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heron_mqtt.messages import PriceSignal
from heron_mqtt.messaging.stamping import MAX_SAID, MessageStamper, utc_text

moments = st.datetimes(datetime(1971, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
ZONES = (UTC, timezone(timedelta(hours=5, minutes=45)), timezone(timedelta(hours=-3)))


@given(
    start=moments,
    waits_ms=st.lists(st.integers(-1_500, 1_500), max_size=12),
    zone=st.sampled_from(ZONES),
)
def test_each_stamp_tells_its_own_time_in_utc(start: datetime, waits_ms: list[int], zone: timezone) -> None:
    clock = [start]
    stamper = MessageStamper("operator", "lab", now=lambda: clock[0].astimezone(zone))
    for wait_ms in [0, *waits_ms]:
        clock[0] += timedelta(milliseconds=wait_ms)
        told = stamper.stamp("price", PriceSignal(value=1.0))["sent_at"]
        assert told == clock[0].isoformat(timespec="milliseconds").replace("+00:00", "Z")


@pytest.mark.parametrize("ms", [0, 1, 999, 1_000, 59_999, 1_767_225_599_999])
def test_the_systems_clock_is_told_to_the_millisecond(monkeypatch: pytest.MonkeyPatch, ms: int) -> None:
    stamper = MessageStamper("operator", "lab")
    for later_ms in (0, 0, 1, 1_500):  # the same second and the next
        now_ms = ms + later_ms
        monkeypatch.setattr(time, "time_ns", lambda now_ms=now_ms: now_ms * 1_000_000 + 999_999)
        expected = datetime.fromtimestamp(now_ms // 1_000, UTC) + timedelta(milliseconds=now_ms % 1_000)
        told = stamper.stamp("price", PriceSignal(value=1.0))["sent_at"]
        assert told == expected.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def test_a_time_in_utc_ends_in_z_and_one_of_another_zone_keeps_its_offset() -> None:
    moment = datetime(2026, 1, 1, 12, 30, 15, 250_000, UTC)
    assert utc_text(moment) == "2026-01-01T12:30:15.250000Z"
    assert utc_text(moment.replace(microsecond=0)) == "2026-01-01T12:30:15Z"
    assert utc_text(moment, "seconds") == "2026-01-01T12:30:15Z"
    assert utc_text(moment.astimezone(ZONES[1])) == "2026-01-01T18:15:15.250000+05:45"


def test_numbers_rise_by_channel() -> None:
    stamper = MessageStamper("operator", "lab")
    channels = ["price", "run/state", "price", "price"]
    assert [stamper.stamp(c, PriceSignal(value=1.0))["seq"] for c in channels] == [0, 0, 1, 2]
    assert stamper.next_seq("price") == 3


def test_what_is_said_again_is_stamped_as_it_was_said_whatever_was_said_meanwhile() -> None:
    stamper = MessageStamper("operator", "default")
    prices = [PriceSignal(value=float(n)) for n in range(3 * MAX_SAID)]
    for price in [*prices, *prices[:2], *prices]:
        assert stamper.stamp("a", price)["value"] == price.value
    for n in range(3 * MAX_SAID):  # none of these is held by anyone else
        assert stamper.stamp("a", PriceSignal(value=-1.0 * n))["value"] == -1.0 * n
    assert len(stamper._said) <= MAX_SAID

"""Plausibility: telemetry at the very edge of what a device can do is its own, a hair beyond is not."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Any

import pytest

from heron_mqtt.errors import MessageError
from heron_mqtt.field.gateway.plausibility import Plausibility
from heron_mqtt.field.gateway.settings import GatewayTable
from heron_mqtt.messages import Status, Telemetry
from support.field_rig import NOON

MAX_SKEW = timedelta(minutes=5)
TOLERANCE = 0.25  # exact in binary, as the powers below: the edges are where they are written


def checks(low_mw: float, high_mw: float, s_max_mva: float | None = None) -> Plausibility:
    return Plausibility(
        "MG1/ess",
        GatewayTable(tolerance=TOLERANCE),
        nameplate_mw=(low_mw, high_mw),
        s_max_mva=s_max_mva,
        tell=lambda what: None,
        monotonic=lambda: 0.0,
        now=lambda: NOON,
    )


# Nameplate, MW; lowest and highest power accepted, MW: a quarter of the larger side beyond each.
RANGES = [((-1.0, 2.0), (-1.5, 2.5)), ((-2.0, 1.0), (-2.5, 1.5)), ((0.0, 4.0), (-1.0, 5.0))]


@pytest.mark.parametrize(("nameplate", "edges"), RANGES)
def test_power_at_the_nameplate_and_a_tolerance_above_is_accepted(
    nameplate: tuple[float, float], edges: tuple[float, float]
) -> None:
    for p_mw in (*nameplate, *edges):
        checks(*nameplate).check_telemetry(Telemetry(p_mw=p_mw))


@pytest.mark.parametrize(("nameplate", "edges"), RANGES)
def test_power_just_beyond_the_tolerance_is_refused(
    nameplate: tuple[float, float], edges: tuple[float, float]
) -> None:
    for p_mw in (math.nextafter(edges[0], -math.inf), math.nextafter(edges[1], math.inf)):
        with pytest.raises(MessageError, match=r"outside the nameplate .* by more than 25%"):
            checks(*nameplate).check_telemetry(Telemetry(p_mw=p_mw))


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_reactive_power_up_to_a_tolerance_above_the_apparent_power_is_accepted(sign: float) -> None:
    for q_mvar in (4.0, 5.0):
        checks(-1.0, 1.0, s_max_mva=4.0).check_telemetry(Telemetry(p_mw=0.0, q_mvar=sign * q_mvar))


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_reactive_power_just_beyond_the_tolerance_is_refused(sign: float) -> None:
    q_mvar = sign * math.nextafter(5.0, math.inf)
    with pytest.raises(MessageError, match=r"beyond the apparent power of 4\.0 MVA by more than 25%"):
        checks(-1.0, 1.0, s_max_mva=4.0).check_telemetry(Telemetry(p_mw=0.0, q_mvar=q_mvar))


def test_reactive_power_of_a_device_without_a_known_apparent_power_is_not_judged() -> None:
    checks(-1.0, 1.0).check_telemetry(Telemetry(p_mw=0.0, q_mvar=1e3))


class Judged:
    """The checks of one device, with a clock of the test and what was told of it."""

    def __init__(self, nameplate_mw: tuple[float, float] | None = (-1.0, 2.0), **settings: Any) -> None:
        self.now_s = 100.0
        self.told: list[str] = []
        self.checks = Plausibility(
            "MG1/ess",
            GatewayTable(tolerance=TOLERANCE, **settings),
            nameplate_mw=nameplate_mw,
            s_max_mva=None,
            tell=self.told.append,
            monotonic=lambda: self.now_s,
            now=lambda: NOON,
        )


@pytest.mark.parametrize("sender", [None, "MG1/ess"])
def test_who_speaks_under_its_own_name_or_none_is_heard(sender: str | None) -> None:
    judged = Judged()
    judged.checks.check_telemetry(Telemetry(p_mw=0.0, sender=sender))
    judged.checks.check_birth(Status(state="online", sender=sender))
    assert judged.told == []


def test_who_speaks_in_the_name_of_another_is_refused_by_telemetry_and_by_birth() -> None:
    judged = Judged()
    why = "sender 'MG2/ess' publishes on the channel of MG1/ess"
    with pytest.raises(MessageError, match=why):
        judged.checks.check_telemetry(Telemetry(p_mw=0.0, sender="MG2/ess"))
    with pytest.raises(MessageError, match=why):
        judged.checks.check_birth(Status(state="online", sender="MG2/ess"))


def test_a_device_without_a_known_nameplate_is_not_judged_by_it() -> None:
    judged = Judged(nameplate_mw=None)
    judged.checks.check_telemetry(Telemetry(p_mw=1e3))
    judged.checks.check_birth(Status(state="online", p_min_mw=0.0, p_max_mw=0.0))
    assert judged.told == []


@pytest.mark.parametrize(
    ("says", "is_odd"),
    [
        ({}, False),
        ({"p_min_mw": -1.0, "p_max_mw": 2.0}, False),
        ({"p_min_mw": -9.0, "p_max_mw": 9.0}, False),  # more than is asked for
        ({"p_min_mw": -0.5, "p_max_mw": 1.5}, False),  # a quarter of the larger side less, to the hair
        ({"p_min_mw": -0.49}, True),
        ({"p_max_mw": 1.49}, True),
    ],
)
def test_a_birth_that_promises_less_than_the_scenario_is_named(says: dict[str, float], is_odd: bool) -> None:
    judged = Judged()
    for _ in range(2):
        judged.checks.check_birth(Status(state="online", **says))
    assert len(judged.told) == is_odd, "once"
    if is_odd:
        low, high = says.get("p_min_mw", -1.0), says.get("p_max_mw", 2.0)
        assert judged.told[0].startswith(f"its birth says {low} .. {high} MW, the scenario -1.0 .. 2.0 MW: ")


@pytest.mark.parametrize("direction", [-1, 1])
def test_a_clock_that_is_minutes_off_is_named_once_and_heard(direction: int) -> None:
    judged = Judged()
    judged.checks.check_telemetry(Telemetry(p_mw=0.0, sent_at=NOON + direction * MAX_SKEW))
    assert judged.told == []
    for _ in range(2):
        off = direction * (MAX_SKEW + timedelta(microseconds=1))
        judged.checks.check_telemetry(Telemetry(p_mw=0.0, sent_at=NOON + off))
    assert len(judged.told) == 1
    assert judged.told[0].startswith(f"its clock says {NOON + off:%Y-%m-%d %H:%M:%SZ}; ")


def test_more_than_the_agreed_messages_a_second_are_a_flood_and_answers_are_none() -> None:
    judged = Judged(max_rate_per_s=3)
    assert [judged.checks.is_flood(5.0 + 0.1 * k) for k in range(5)] == [False] * 3 + [True] * 2
    assert [judged.checks.is_flood(6.0) for _ in range(4)] == [False] * 3 + [True], "each second anew"
    judged.checks.is_flood(7.0)
    for _ in range(9):
        judged.checks.asked()
        assert not judged.checks.is_flood(7.5)
    assert [judged.checks.is_flood(7.9) for _ in range(3)] == [False, False, True], "one answer for each"
    assert judged.told == ["more than 3 telemetry a second; the rest is dropped"]


def test_after_one_late_message_of_an_earlier_boot_two_devices_speak_under_one_name() -> None:
    judged = Judged(stale_after_s=5.0)
    checks = judged.checks
    checks.begin_boot()
    checks.note_past()
    assert not checks.is_contested
    assert judged.told == []
    judged.now_s += 5.0
    checks.note_past()
    assert checks.is_contested
    checks.note_past()
    assert judged.told == [
        "two devices publish under this name: nothing is sent; end one, or give each its own"
    ]
    judged.now_s += 5.0
    assert checks.is_contested, "the last two count, to the moment"
    judged.now_s += 0.1
    assert not checks.is_contested
    checks.note_past()
    assert not checks.is_contested, "what is long ago does not count"


def test_a_device_that_starts_again_is_contested_no_more() -> None:
    judged = Judged()
    for _ in range(2):
        judged.checks.note_past()
    assert judged.checks.is_contested
    judged.checks.begin_boot()
    assert not judged.checks.is_contested

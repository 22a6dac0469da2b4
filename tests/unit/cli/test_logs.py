"""Warnings that are alike are held back and counted; a stop never is."""

from __future__ import annotations

import logging

from heron_mqtt.cli.logs import AGAIN_S, RepeatFilter
from heron_mqtt.field.emergency_stop import ALWAYS


class Now:
    """A clock that is set by hand."""

    s = 0.0

    def __call__(self) -> float:
        return self.s


def record(text: str, *args: object, level: int = logging.WARNING, **extra: object) -> logging.LogRecord:
    made = logging.LogRecord("heron_mqtt.gateway", level, "file", 1, text, args, None)
    made.__dict__.update(extra)
    return made


def test_an_equal_warning_is_shown_once_and_counted_at_the_end() -> None:
    filtered = RepeatFilter(Now())
    shown = [filtered.filter(record("%s is late", "MG1")) for _ in range(48)]
    assert shown.count(True) == 1
    assert filtered.held_back() == ["47 more like: heron_mqtt.gateway: MG1 is late"]
    assert filtered.held_back() == []


def test_warnings_that_differ_in_numbers_are_shown_three_times() -> None:
    filtered = RepeatFilter(Now())
    shown = [filtered.filter(record("MG1: no message from MG2 in step %d", step)) for step in range(10)]
    assert shown.count(True) == 3
    assert filtered.filter(record("MG1: no message from MG3 in step %d", 3))
    assert filtered.filter(record("MG2: no message from MG2 in step %d", 3))


def test_after_a_minute_it_is_said_again_with_how_many_there_were() -> None:
    now = Now()
    filtered = RepeatFilter(now)
    for _ in range(5):
        filtered.filter(record("late"))
    now.s = AGAIN_S
    again = record("late")
    assert filtered.filter(again)
    assert again.getMessage() == "late (and 4 like it since it was last logged)"


def test_stops_and_errors_are_always_shown() -> None:
    filtered = RepeatFilter(Now())
    assert all(filtered.filter(record("emergency stop pressed by ann", **ALWAYS)) for _ in range(5))
    assert all(filtered.filter(record("failed", level=logging.ERROR)) for _ in range(5))
    assert filtered.held_back() == []

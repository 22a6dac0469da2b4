"""Built-in names of messages: a counter, an identifier of each message, and the time."""

from __future__ import annotations

import itertools

import pytest

from heron_mqtt.field.vendor.built_ins import MAX_COUNTER, BuiltIns, problem
from support.rows import each_row

NOW_S = 1_767_225_600.25  # 2026-01-01T00:00:00.25Z


def built_ins(start: int = 0) -> BuiltIns:
    ids = (f"{n:032d}" for n in itertools.count(1))
    return BuiltIns(lambda: NOW_S, lambda: next(ids), start)


@pytest.mark.parametrize(
    ("form", "value"),
    [
        (None, 1_767_225_600),
        ("", 1_767_225_600),
        ("unix_s", 1_767_225_600),
        ("unix_ms", 1_767_225_600_250),
        ("iso8601", "2026-01-01T00:00:00Z"),
        ("%d.%m.%Y", "01.01.2026"),
    ],
)
def test_the_time_is_written_as_the_device_reads_it(form: str | None, value: int | str) -> None:
    assert built_ins().value("now", form) == value


def test_all_of_one_message_have_one_number_and_one_identifier() -> None:
    names = built_ins()
    names.begin_message()
    first = [names.value("counter", None), names.value("uid", None)]
    assert first == [names.value("counter", None), names.value("uid", None)] == [1, f"{1:032d}"]
    names.begin_message()
    assert [names.value("counter", None), names.value("uid", None)] == [2, f"{2:032d}"]
    assert names.new_uid() == f"{3:032d}"
    assert names.value("uid", None) == f"{2:032d}", "one that is used once is not the message's"
    assert names.value("uid", "8") == "0" * 8


def test_a_counter_begins_again_where_the_device_wants_it_to_and_at_its_end() -> None:
    names = built_ins(254)
    seen = []
    for _ in range(3):
        names.begin_message()
        seen.append(names.value("counter", "256"))
    assert seen == [255, 0, 1]
    names = built_ins(2_147_483_646)
    names.begin_message()
    assert names.value("counter", None) == 2_147_483_647
    names.begin_message()
    assert names.value("counter", None) == 0


@each_row(
    ("name", "form"),
    [
        ("counter", None),
        ("counter", "1"),
        ("counter", str(MAX_COUNTER)),
        ("uid", "1"),
        ("uid", "32"),
        ("now", "unix_s"),
        ("now", "unix_ms"),
        ("now", "iso8601"),
        ("now", "%H:%M"),
    ],
)
def test_nothing_is_wrong_with_a_form_that_can_be_written(name: str, form: str | None) -> None:
    assert problem(name, form) is None


@each_row(
    ("name", "form", "why"),
    [
        ("counter", "0", "{counter:0}: expected where to begin again, as {counter:256}"),
        ("counter", str(MAX_COUNTER + 1), "expected where to begin again"),
        ("counter", "x", "expected where to begin again"),
        ("counter", "-1", "expected where to begin again"),
        ("counter", "\u0663", "expected where to begin again"),
        ("uid", "0", "{uid:0}: expected how many characters, 1 to 32"),
        ("uid", "33", "expected how many characters, 1 to 32"),
        ("now", "utc", "{now:utc}: expected unix_s, unix_ms, iso8601 or a format of strftime"),
    ],
)
def test_a_form_that_cannot_be_written_is_named_with_what_was_expected(
    name: str, form: str, why: str
) -> None:
    said = problem(name, form)
    assert said is not None
    assert why in said

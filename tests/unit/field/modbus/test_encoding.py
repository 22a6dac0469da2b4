"""What registers hold, and which of them one request reads."""

from __future__ import annotations

import math
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heron_mqtt.field.modbus.blocks import RegisterSpan, read_blocks
from heron_mqtt.field.modbus.encoding import decode, encode, integer_range, register_count

INTEGERS: list[Any] = ["int16", "uint16", "int32", "uint32", "int64", "uint64"]


@pytest.mark.parametrize(
    ("words", "type_", "swaps", "value"),
    [
        ([0xFE0C], "int16", "", -500),
        ([0xFE0C], "uint16", "", 65036),
        ([0x0CFE], "int16", "bytes", -500),
        ([0x4248, 0x0000], "float32", "", 50.0),
        ([0x0000, 0x4248], "float32", "words", 50.0),
        ([0x4842, 0x0000], "float32", "bytes", 50.0),
        ([0x0000, 0x4842], "float32", "words bytes", 50.0),
        ([0x0001, 0x86A0], "uint32", "", 100_000),
        ([0x86A0, 0x0001], "uint32", "words", 100_000),
        ([0xFFFF, 0xFC18], "int32", "", -1000),
        ([0x4009, 0x21FB, 0x5444, 0x2D18], "float64", "", math.pi),
        ([0, 0, 0, 7], "uint64", "", 7),
        ([0x4865, 0x726F, 0x6E00], "string", "", "Heron"),
        ([1], "bool", "", True),
        ([0x1234], "bcd16", "", 1234),
        ([0x0099, 0x1234], "bcd32", "", 991234),
        ([0x1234, 0x0099], "bcd32", "words", 991234),
        ([0x3412], "bcd16", "bytes", 1234),
    ],
)
def test_registers_mean_what_their_type_and_order_say(
    words: list[int], type_: Any, swaps: str, value: Any
) -> None:
    how = {"swap_words": "words" in swaps, "swap_bytes": "bytes" in swaps}
    assert decode(words, type_, **how) == value
    assert encode(value, type_, length=len(words), **how) == words


@given(type_=st.sampled_from(INTEGERS), swaps=st.tuples(st.booleans(), st.booleans()), data=st.data())
def test_a_whole_number_is_read_as_it_was_written(
    type_: Any, swaps: tuple[bool, bool], data: st.DataObject
) -> None:
    value = data.draw(st.integers(*integer_range(type_)))
    how = {"swap_words": swaps[0], "swap_bytes": swaps[1]}
    words = encode(value, type_, **how)
    assert len(words) == register_count(type_)
    assert decode(words, type_, **how) == value


@given(value=st.integers(0, 99_999_999), swaps=st.tuples(st.booleans(), st.booleans()))
def test_a_decimal_is_read_as_it_was_written(value: int, swaps: tuple[bool, bool]) -> None:
    how = {"swap_words": swaps[0], "swap_bytes": swaps[1]}
    assert decode(encode(value, "bcd32", **how), "bcd32", **how) == value


def test_what_is_no_decimal_is_shown_as_it_is_and_what_does_not_fit_is_not_written() -> None:
    assert decode([0x12AF], "bcd16") == "0x12af"
    for value in (10_000, -1, 1.5, math.nan):
        with pytest.raises(ValueError, match="no bcd16, which holds whole numbers of up to 4 digits"):
            encode(value, "bcd16")


@given(value=st.floats(width=32), swap=st.booleans())
def test_a_float_is_read_as_it_was_written(value: float, swap: bool) -> None:
    got = decode(encode(value, "float32", swap_words=swap), "float32", swap_words=swap)
    assert got == value or (math.isnan(value) and isinstance(got, float) and math.isnan(got))


@given(type_=st.sampled_from(INTEGERS), value=st.floats() | st.integers())
def test_what_does_not_fit_is_refused_and_never_wrapped(type_: Any, value: float) -> None:
    low, high = integer_range(type_)
    try:
        words = encode(value, type_)
    except ValueError:
        assert not (math.isfinite(value) and low <= value <= high and value == int(value))
        return
    assert decode(words, type_) == value


@pytest.mark.parametrize(
    ("value", "type_", "why"),
    [
        (-1, "uint16", "is no uint16, which holds whole numbers from 0 to 65535"),
        (0.5, "int16", "is no int16"),
        (1e39, "float32", "is too large for float32"),
        ("on", "int16", "is not a number"),
        ("much too long", "string", "is longer than 4 characters"),
        (2, "bool", "is neither true nor false"),
    ],
)
def test_what_does_not_fit_is_named_with_what_does(value: Any, type_: Any, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        encode(value, type_, length=2)


# -- blocks ----------------------------------------------------------------------------------------


def spans(*places: tuple[int, int], area: Any = "holding") -> list[RegisterSpan]:
    return [RegisterSpan(f"r{address}", area, address, count) for address, count in places]


def requests(*places: tuple[int, int], area: Any = "holding", **how: Any) -> list[tuple[int, int]]:
    return [(b.address, b.count) for b in read_blocks(spans(*places, area=area), **how)]


def test_neighbours_are_read_together_and_gaps_only_where_they_are_allowed() -> None:
    assert requests((12, 2), (10, 2), (20, 1)) == [(10, 4), (20, 1)]
    assert requests((10, 2), (14, 2), max_gap=2) == [(10, 6)]
    assert requests((10, 2), (15, 2), max_gap=2) == [(10, 2), (15, 2)]


def test_no_request_is_longer_than_the_device_takes_or_crosses_a_boundary() -> None:
    assert requests(*[(i, 2) for i in range(0, 20, 2)], max_registers=8) == [(0, 8), (8, 8), (16, 4)]
    assert requests((0, 2), (2, 2), (4, 2), boundaries=[4]) == [(0, 4), (4, 2)]
    assert requests((0, 1), (199, 1), max_gap=125) == [(0, 1), (199, 1)]
    assert requests(*[(i, 1) for i in range(300)], area="coil") == [(0, 300)]


def test_areas_are_never_mixed() -> None:
    mixed = [*spans((0, 1)), *spans((1, 1), area="input")]
    assert [b.area for b in read_blocks(mixed)] == ["holding", "input"]


@given(
    starts=st.sets(st.integers(0, 400), min_size=1, max_size=40),
    gap=st.integers(0, 20),
    most=st.integers(4, 125),
    boundaries=st.lists(st.integers(0, 400).map(lambda n: 2 * n), max_size=4),
)
def test_every_value_is_read_once_and_whole_within_the_limits(
    starts: set[int], gap: int, most: int, boundaries: list[int]
) -> None:
    wanted = spans(*[(2 * s, 2) for s in starts])
    blocks = read_blocks(wanted, max_gap=gap, max_registers=most, boundaries=boundaries)
    assert sorted(s.address for b in blocks for s in b.spans) == sorted(s.address for s in wanted)
    for block in blocks:
        end = block.address + block.count
        assert block.count <= most
        assert all(block.address <= s.address and s.end <= end for s in block.spans)
        assert not any(block.address < b < end for b in boundaries)


def test_packed_words_are_those_of_struct() -> None:
    assert encode(-2.5, "float64") == list(struct.unpack(">4H", struct.pack(">d", -2.5)))

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
from support.rows import each_row

INTEGERS: list[Any] = ["int16", "uint16", "int32", "uint32", "int64", "uint64"]


@each_row(
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


def test_a_value_takes_as_many_registers_as_its_type_has_words_and_its_range_is_that_of_its_bits() -> None:
    sizes = {"int16": 1, "uint16": 1, "int32": 2, "uint32": 2, "int64": 4, "uint64": 4, "float32": 2}
    sizes |= {"float64": 4, "bcd16": 1, "bcd32": 2, "string": 1, "bool": 1}
    for type_, count in sizes.items():
        known: Any = type_
        assert register_count(known) == count, type_
        assert register_count(known, 7) == (7 if type_ == "string" else count), type_
        if known in INTEGERS:
            bits = 16 * count
            expected = (0, 2**bits - 1) if type_[0] == "u" else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
            assert integer_range(known) == expected


def test_without_swaps_the_word_and_byte_with_the_most_significant_bits_come_first() -> None:
    assert encode(0x0102_0304, "uint32") == [0x0102, 0x0304]
    assert decode([0x0102, 0x0304], "uint32") == 0x0102_0304
    assert encode("AB", "string") == [0x4142]
    assert decode([0x4142, 0x4300], "string") == "ABC"


@each_row(
    ("value", "type_", "length", "words"),
    [
        (0, "bcd16", 1, [0]),
        (9_999, "bcd16", 1, [0x9999]),
        (12.0, "bcd16", 1, [0x12]),
        (99_999_999, "bcd32", 1, [0x9999, 0x9999]),
        (True, "bool", 1, [1]),
        (False, "bool", 1, [0]),
        (0, "bool", 1, [0]),
        (1.0, "bool", 1, [1]),
        (7.0, "int16", 1, [7]),
        ("", "string", 2, [0, 0]),
        ("ABCD", "string", 2, [0x4142, 0x4344]),
        ("A\N{EURO SIGN}", "string", 1, [0x413F]),
        (1, "float32", 1, [0x3F80, 0]),
    ],
)
def test_what_just_fits_is_written(value: Any, type_: Any, length: int, words: list[int]) -> None:
    assert encode(value, type_, length=length) == words


@pytest.mark.parametrize(
    ("words", "type_", "value"),
    [
        ([2], "bool", True),
        ([0], "bool", False),
        ([0x000A], "bcd16", "0x000a"),
        ([0x2041, 0x0042], "string", "A"),
        ([0xE400], "string", "\xe4"),
    ],
)
def test_what_a_device_may_say_is_read(words: list[int], type_: Any, value: Any) -> None:
    assert decode(words, type_) == value
    assert type(decode(words, type_)) is type(value)


@each_row(
    ("value", "type_", "text"),
    [
        (-1, "uint16", "-1 is no uint16, which holds whole numbers from 0 to 65535"),
        (65_536, "uint16", "65536 is no uint16, which holds whole numbers from 0 to 65535"),
        (0.5, "int16", "0.5 is no int16, which holds whole numbers from -32768 to 32767"),
        (math.inf, "int16", "inf is no int16, which holds whole numbers from -32768 to 32767"),
        (100_000_000, "bcd32", "1e+08 is no bcd32, which holds whole numbers of up to 8 digits"),
        (-1, "bcd16", "-1 is no bcd16, which holds whole numbers of up to 4 digits"),
        (1e39, "float32", "1e+39 is too large for float32"),
        ("on", "bcd16", "'on' is not a number"),
        ("12345", "string", "'12345' is longer than 4 characters"),
        (-1, "bool", "-1 is neither true nor false"),
    ],
)
def test_what_does_not_fit_is_told_in_one_line(value: Any, type_: Any, text: str) -> None:
    with pytest.raises(ValueError) as caught:
        encode(value, type_, length=2)
    assert str(caught.value) == text


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


def test_a_request_asks_for_as_many_as_the_protocol_allows_and_for_no_gap_unless_it_is_told() -> None:
    assert requests(*[(i, 1) for i in range(125)]) == [(0, 125)]
    assert requests(*[(i, 1) for i in range(126)]) == [(0, 125), (125, 1)]
    for area in ("coil", "discrete"):
        assert requests((0, 1), (1999, 1), area=area, max_gap=2000, max_registers=8) == [(0, 2000)]
        assert requests((0, 1), (2000, 1), area=area, max_gap=2000) == [(0, 1), (2000, 1)]
    assert requests((0, 1), (2, 1)) == [(0, 1), (2, 1)]
    assert requests((0, 4), (1, 1), (4, 1)) == [(0, 5)], "one may be within another one"
    assert requests((10, 2), (12, 2), boundaries=[10, 14]) == [(10, 4)], "a boundary at an end parts nothing"
    assert requests((10, 2), (12, 2), max_gap=9, boundaries=[3, 11, 12]) == [(10, 2), (12, 2)]
    assert requests() == []
    [block] = read_blocks(spans((10, 2), (12, 2)))
    assert (block.area, block.spans) == ("holding", tuple(spans((10, 2), (12, 2))))


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

"""A model's registers as numbers: what is missing, signs, scales, groups, what is shown and written."""

from __future__ import annotations

import math
import struct
from importlib import resources
from typing import Any

import pytest

from heron_mqtt.field.sunspec.block import NOT_IMPLEMENTED, Block, SunSpecError
from heron_mqtt.field.sunspec.layouts import Point, PointGroup, layout
from support.rows import each_row
from support.sunspec_registers import block_of

SIZES = {"16": 1, "32": 2, "64": 4}


def alone(
    type_: str, *words: int, sf: str | int | None = None, size: int | None = None, **names: str
) -> Block:
    """Return a block of nothing but a point ``X`` of a type."""
    point = Point("X", 0, type_, sf, size or len(words), {int(k[1:]): v for k, v in names.items()})
    return Block(1, 100, words, PointGroup("g", 1, {"X": point}, ()))


def words_of(bits: int, size: int) -> list[int]:
    return [bits >> 16 * (size - 1 - i) & 0xFFFF for i in range(size)]


def test_a_point_of_each_type_says_by_one_number_alone_that_it_is_not_implemented() -> None:
    ones = ("uint16", "enum16", "bitfield16", "raw16", "count", "uint32", "enum32", "bitfield32")
    ones += ("uint64", "bitfield64")
    least = ("int16", "sunssf", "pad", "int32", "int64")
    nothing = ("acc16", "acc32", "acc64", "ipaddr")
    assert {*ones, *least, *nothing} == NOT_IMPLEMENTED.keys()
    for type_ in NOT_IMPLEMENTED:
        bits = int(type_[-2:]) if type_[-2:] in SIZES else 32 if type_ == "ipaddr" else 16
        none = 0 if type_ in nothing else (1 << bits - 1) if type_ in least else (1 << bits) - 1
        signed = type_ in least and type_ != "pad"
        for number in (none - 1, none, none + 1):
            if not 0 <= number < 1 << bits:
                continue
            expected = number - (1 << bits) if signed and number >= 1 << bits - 1 else number
            block = alone(type_, *words_of(number, bits // 16))
            assert block.raw("X") == (None if number == none else expected), (type_, hex(number))
            assert block.has("X") is (number != none)


def test_whether_it_has_points_is_whether_it_has_all_of_them() -> None:
    block = block_of(124, {"OutWRte": 0, "InWRte": 0})
    assert block.has("OutWRte", "InWRte")
    assert not block.has("OutWRte", "ChaState")
    assert not block.has("ChaState", "OutWRte")


def test_a_model_that_sunspec_does_not_define_is_refused() -> None:
    with pytest.raises(SunSpecError, match=r"^model 64999: SunSpec defines no model of that number$"):
        Block(64_999, 0, [64_999, 0])


@pytest.mark.parametrize(
    ("sf", "raw", "value"),
    [(10, 3, 3e10), (-10, 3, 3e-10), (-1, 3, 0.3), (0, -3, -3.0), (-2, 6667, 66.67), (1, -3, -30.0)],
)
def test_a_scale_factor_of_a_definition_or_of_a_point_counts_to_its_last_digit(
    sf: int, raw: int, value: float
) -> None:
    fixed = alone("int16", raw & 0xFFFF, sf=sf)
    assert fixed.value("X") == value
    assert isinstance(fixed.value("X"), float)
    assert fixed.step("X") == float(f"1e{sf}")
    told = block_of(124, {"OutWRte": raw, "InOutWRte_SF": sf})
    assert told.value("OutWRte") == value
    assert told.step("OutWRte") == float(f"1e{sf}")


def test_scale_factors_that_are_none_are_told_with_their_name_and_number() -> None:
    for sf in (-11, 11):
        block = block_of(124, {"OutWRte": 1, "InOutWRte_SF": sf})
        for asked in (lambda block: block.value("OutWRte"), lambda block: block.step("OutWRte")):
            with pytest.raises(SunSpecError) as caught:
                asked(block)
            assert str(caught.value) == f"model 124: scale factor InOutWRte_SF is {sf}, outside [-10, 10]"
    silent = block_of(124, {"OutWRte": 1})
    assert silent.value("OutWRte") is None
    assert silent.counts("OutWRte", 0.0) == 0, "zero is zero in any scale"
    for value in (-0.1, 0.1):
        with pytest.raises(SunSpecError) as caught:
            silent.counts("OutWRte", value)
        assert str(caught.value) == "model 124: the scale factor of OutWRte is not implemented"


def test_a_value_becomes_whole_steps_towards_zero_and_one_that_is_only_rounded_below_is_whole() -> None:
    for sf, value, counts in (
        (-2, 65.0, 6500),
        (-2, 66.679, 6667),
        (-2, -66.679, -6667),
        (-1, 0.3, 3),  # 0.3 / 0.1 is 2.9999999999999996
        (-1, -0.3, -3),
        (-1, 0.29, 2),
        (-1, 0.2999999999, 2),
        (-1, 0.3000000001, 3),
        (1, 39.9, 3),
        (1, 40.0, 4),
        (-2, 1e-20, 0),
        (-2, -1e-20, 0),
    ):
        block = block_of(124, {"OutWRte": 0, "InOutWRte_SF": sf})
        assert block.counts("OutWRte", value) == counts, (sf, value)


@pytest.mark.parametrize(
    ("type_", "size", "least", "most"),
    [
        ("uint16", 1, 0, 0xFFFE),
        ("uint32", 2, 0, 0xFFFF_FFFE),
        ("int16", 1, -0x7FFF, 0x7FFF),
        ("int32", 2, -0x7FFF_FFFF, 0x7FFF_FFFF),
        ("enum16", 1, 0, 0xFFFE),
        ("bitfield32", 2, 0, 0xFFFE),
    ],
)
def test_a_number_is_written_where_it_fits_and_never_as_not_implemented(
    type_: str, size: int, least: int, most: int
) -> None:
    block = alone(type_, *[0] * size)
    for raw in (least, -1 if least else 1, 0, most):
        written = block.words("X", raw)
        assert int.from_bytes(b"".join(word.to_bytes(2, "big") for word in written), "big") == raw % (
            1 << 16 * size
        )
        assert len(written) == size
    for raw in (least - 1, most + 1):
        with pytest.raises(SunSpecError) as caught:
            block.words("X", raw)
        assert str(caught.value) == f"model 1: X = {raw} does not fit into {type_}"


@pytest.mark.parametrize(("type_", "packed", "size"), [("float32", ">f", 2), ("float64", ">d", 4)])
def test_a_float_is_read_where_it_is_a_number(type_: str, packed: str, size: int) -> None:
    for number in (-20.25, 0.0, math.nan, math.inf, -math.inf):
        data = struct.pack(packed, number)
        block = alone(type_, *struct.unpack(f">{size}H", data))
        assert block.value("X") == (number if math.isfinite(number) else None)
    assert alone(type_, *[0] * (size - 1), size=size).value("X") is None, "an older revision is shorter"


def test_a_text_ends_at_its_first_nul_and_has_no_spaces_around() -> None:
    for data, text in (
        (b"Heron\0\0\0", "Heron"),
        (b" ab\0cd\0\0", "ab"),
        (b"\xffab \0\0\0\0", "\N{REPLACEMENT CHARACTER}ab"),
        (b"\0\0\0\0\0\0\0\0", ""),
    ):
        assert alone("string", *struct.unpack(">4H", data)).text("X") == text
    assert alone("string", 0x4142, size=4).text("X") == ""


# -- groups ----------------------------------------------------------------------------------------


def test_points_of_groups_stand_behind_each_other_and_use_the_scale_factors_around_them() -> None:
    ports = {"NPrt": 2, "DCW_SF": 1, "Prt[1].DCW": 5, "Prt[2].DCW": -7, "Prt[2].PrtTyp": 1}
    block = block_of(714, ports, address=40_100)
    first, second = block.parts()
    assert [part.group.name for part in (first, second)] == ["Prt", "Prt"]
    assert (first.value("DCW"), second.value("DCW")) == (50.0, -70.0)
    assert second.at("DCW") - first.at("DCW") == first.group.own_size
    assert block.at("DCW") == 40_100 + block.point("DCW").offset
    assert first.at("PrtTyp") == 40_100 + block.group.own_size
    assert (first.model, first.address) == (714, 40_100)


def test_groups_within_groups_use_what_is_around_the_outer_one() -> None:
    curve = {"NPt": 2, "NCrv": 2, "V_SF": -1, "DeptRef_SF": -1, "Crv[1].ActPt": 2}
    curve |= {f"Crv[{c}].Pt[{p}].V": 100 * c + p for c in (1, 2) for p in (1, 2)}
    curves = block_of(705, curve).parts()
    assert [[point.value("V") for point in curve.parts()] for curve in curves] == [[10.1, 10.2], [20.1, 20.2]]


def test_as_many_groups_are_read_as_fit_where_their_number_is_not_told_and_never_half_of_one() -> None:
    whole = layout(133)
    assert whole is not None
    [repeating] = whole.groups
    assert repeating.count == 0, "as often as fits"
    for registers, found in (
        (whole.own_size, 0),
        (whole.own_size + repeating.own_size - 1, 0),
        (whole.own_size + repeating.own_size, 1),
        (whole.own_size + 2 * repeating.own_size, 2),
        (whole.own_size + 3 * repeating.own_size - 1, 2),
    ):
        assert len(Block(133, 0, [0] * registers).parts()) == found
    short = block_of(714, {"NPrt": 2})
    words = [714, 0, *(0 for _ in range(short.group.own_size - 2))]
    words[short.point("NPrt").offset] = 2
    size = short.group.groups[0].own_size
    assert [len(Block(714, 0, [*words, *[0] * n]).parts()) for n in (size - 1, size, 2 * size, 3 * size)] == [
        0,
        1,
        2,
        2,
    ]
    words[short.point("NPrt").offset] = 0xFFFF
    assert Block(714, 0, [*words, *[0] * size]).parts() == [], "it does not say how many there are"


def test_every_group_of_every_model_has_points_so_that_reading_groups_comes_to_an_end() -> None:
    def without_points(group: PointGroup) -> list[str]:
        own = [] if group.own_size else [group.name]
        return own + [name for inner in group.groups for name in without_points(inner)]

    files = (resources.files("sunspec2") / "models" / "json").iterdir()
    models = [int(file.name[6:-5]) for file in files if file.name[6:-5].isdecimal()]
    assert len(models) > 90
    assert [model for model in models if (group := layout(model)) and without_points(group)] == []


# -- what people are shown -------------------------------------------------------------------------


@each_row(
    ("block", "shown"),
    [
        (alone("uint16", 7), "7"),
        (alone("uint16", 0xFFFF), None),
        (alone("int16", 12_345, sf=-4), "1.2345"),
        (alone("int32", 0x7FFF, 0xFFFF, sf=-9), "2.147483647"),
        (alone("enum16", 4, n4="MPPT"), "4 MPPT"),
        (alone("enum16", 5, n4="MPPT"), "5"),
        (alone("uint16", 4, n4="MPPT"), "4"),
        (alone("bitfield16", 0), "0x0"),
        (alone("bitfield16", 0b1010, n1="HOT"), "0xa HOT, 3"),
        (alone("bitfield64", 0x8000, 0, 0, 1, n0="LOW"), "0x8000000000000001 LOW, 63"),
        (alone("bitfield16", 0xFFFF), None),
        (alone("float32", *struct.unpack(">2H", struct.pack(">f", 0.1))), "0.1000000015"),
        (alone("float32", 0x7FC0, 0), None),
        (alone("string", 0x4142), "AB"),
        (alone("string", 0), None),
        (alone("sunssf", 1), None),
        (alone("pad", 1), None),
        (alone("uint16", 1, sf=11), "model 1: scale factor 11 is 11, outside [-10, 10]"),
    ],
)
def test_a_point_is_shown_as_its_type_says(block: Block, shown: str | None) -> None:
    assert list(block.shown()) == ([] if shown is None else [("X", shown)])


def test_the_points_of_groups_are_shown_by_their_number_also_of_several_kinds_of_groups() -> None:
    factors: dict[str, Any] = {"PF_SF": -2, "PFWInj[1].PF": 95, "PFWInj[1].Ext": 1, "PFWAbs[1].PF": 90}
    assert dict(block_of(704, factors).shown()) == {
        "PFWInj[1].PF": "0.95",
        "PFWInj[1].Ext": "1 UNDER_EXCITED",
        "PFWAbs[1].PF": "0.9",
    }
    ports = {"NPrt": 2, "DCW_SF": 0, "Prt[1].DCW": 5, "Prt[2].DCW": -7}
    assert dict(block_of(714, ports).shown()) == {"NPrt": "2", "Prt[1].DCW": "5", "Prt[2].DCW": "-7"}

"""MappingHint: a device that answers with the wrong sign or a factor of 1,000 is named, and no other."""

from __future__ import annotations

import pytest

from heron_mqtt.field.gateway.mapping_hint import MappingHint
from support.rows import each_row

AGREEMENT = 0.15
IN_A_ROW = 3

TOLD_MW = 0.5
LARGEST_MW = 1.0


def compared(
    hint: MappingHint, factor: float, times: int = IN_A_ROW, told_mw: float = TOLD_MW
) -> list[str | None]:
    return [hint.compare(told_mw, factor * told_mw) for _ in range(times)]


@each_row("told_mw", [TOLD_MW, -TOLD_MW])
@each_row(
    ("factor", "suspect"),
    [
        (-1.0, "is it the sign?"),
        (1e-3, "is it kW for W, a factor of 1,000?"),
        (1e3, "is it W for kW, a factor of 1,000?"),
        (-1e-3, "is it sign, and kW for W?"),
        (-1e3, "is it sign, and W for kW?"),
    ],
)
def test_what_fits_a_wrong_mapping_several_times_in_a_row_is_named(
    factor: float, suspect: str, told_mw: float
) -> None:
    hint = MappingHint(LARGEST_MW)
    *before, said = compared(hint, factor, told_mw=told_mw)
    assert before == [None] * (IN_A_ROW - 1)
    assert said is not None
    assert suspect in said
    assert said.startswith(f"setpoint {told_mw * 1e3:.4g} kW, measured {factor * told_mw * 1e3:.4g} kW, ")
    assert compared(hint, factor, IN_A_ROW - 1) == [None] * (IN_A_ROW - 1), "it is counted anew"
    assert compared(hint, factor, 1) != [None]


@pytest.mark.parametrize("factor", [1.0, 0.0, 0.5, 2.0, -0.5, -1.0 - 1.5 * AGREEMENT, -1.0 + 1.5 * AGREEMENT])
def test_what_fits_none_is_not_named(factor: float) -> None:
    assert set(compared(MappingHint(LARGEST_MW), factor, 3 * IN_A_ROW)) == {None}


@pytest.mark.parametrize("factor", [-1.0, 1e-3, 1e3, -1e-3, -1e3])
def test_a_device_need_not_hit_it_exactly(factor: float) -> None:
    for off, is_named in ((0.1499, True), (-0.1499, True), (0.1501, False), (-0.1501, False)):
        said = compared(MappingHint(LARGEST_MW), factor * (1.0 + off))[-1]
        assert (said is not None) is is_named, off
    told = MappingHint(1_000.0)
    assert [told.compare(20.0, -23.0) for _ in range(3)][-1] is not None, "15 %, to the hair"


def test_one_that_fits_between_begins_the_row_anew() -> None:
    hint = MappingHint(LARGEST_MW)
    compared(hint, -1.0, IN_A_ROW - 1)
    assert hint.compare(TOLD_MW, TOLD_MW) is None
    assert compared(hint, -1.0, IN_A_ROW - 1)[-1] is None
    assert hint.compare(TOLD_MW, -TOLD_MW) is not None
    compared(hint, -1.0, IN_A_ROW - 1)
    assert compared(hint, 1e-3, IN_A_ROW - 1)[-1] is None, "another suspicion is another row"
    assert hint.compare(TOLD_MW, 1e-3 * TOLD_MW) is not None


def test_setpoints_that_are_small_beside_the_device_tell_nothing() -> None:
    hint = MappingHint(LARGEST_MW)
    assert set(compared(hint, -1.0, 3 * IN_A_ROW, told_mw=0.0199)) == {None}
    assert compared(hint, -1.0, told_mw=0.02)[-1] is not None
    assert set(compared(hint, -1.0, 3 * IN_A_ROW, told_mw=0.0)) == {None}
    unknown = MappingHint(0.0)  # its nameplate is not known
    assert set(compared(unknown, -1.0, 3 * IN_A_ROW, told_mw=0.0)) == {None}
    assert compared(unknown, -1.0)[-1] is not None

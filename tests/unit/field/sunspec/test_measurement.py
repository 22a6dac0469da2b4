"""What an inverter measures: running, resting, faulty or blank; its battery's charge and power."""

from __future__ import annotations

from typing import Any

import pytest

from heron_mqtt.field.sunspec.block import SunSpecError
from heron_mqtt.field.sunspec.measurement import (
    AcMeasurement,
    battery_ports,
    read_ac,
    read_battery_ports,
    read_soc,
)
from support.sunspec_registers import block_of

OLDER = {"W": 4000, "W_SF": 1, "VAr": -200, "VAr_SF": 1, "PhVphA": 2310, "PhVphB": 2300, "PhVphC": 2275}
OLDER |= {"V_SF": -1, "St": 4, "Evt1": 0x82}
NEWER = {"W": -1500, "W_SF": 0, "Var": 300, "Var_SF": 0, "LNV": 2323, "VL1": 2100, "V_SF": -1, "InvSt": 3}
NEWER |= {"Alrm": 5}


def of(model: int, **changes: Any) -> AcMeasurement:
    """Return what is read of an inverter that runs, with points changed, or left out (None)."""
    points = {**(NEWER if model == 701 else OLDER), **changes}
    return read_ac(block_of(model, {name: value for name, value in points.items() if value is not None}))


def test_an_inverter_that_runs_says_all_of_it() -> None:
    running = {"is_faulty": False, "is_resting": False, "is_blank": False}
    assert of(103) == AcMeasurement(40_000.0, -2_000.0, pytest.approx(229.5), **running, events=0x82)
    assert of(701) == AcMeasurement(-1_500.0, 300.0, pytest.approx(232.3), **running, events=5)
    assert of(701, LNV=None).volts == 210.0, "one phase stands for all"
    assert of(103, PhVphB=None, PhVphC=0).volts == 231.0, "a phase without a voltage is none"
    assert of(103, V_SF=None).volts is None
    assert of(103, V_SF=11).volts is None
    assert of(103, Evt1=None).events == 0


@pytest.mark.parametrize(
    ("model", "faulty", "resting", "most"), [(701, 6, (0, 1, 7), 7), (103, 7, (1, 2, 8), 8)]
)
def test_each_state_is_a_fault_a_rest_or_none_of_both(
    model: int, faulty: int, resting: tuple[int, ...], most: int
) -> None:
    for state in (*range(most + 2), None):
        found = of(model, **{"InvSt" if model == 701 else "St": state})
        assert found.is_faulty is (state == faulty), state
        assert found.is_resting is (state in resting), state
        assert found.q_var == (0.0 if state in resting else 300.0 if model == 701 else -2_000.0)
        assert found.p_w == (-1_500.0 if model == 701 else 40_000.0), "what it says counts, resting or not"
        assert not found.is_blank


@pytest.mark.parametrize(("model", "state"), [(701, {"InvSt": 7}), (103, {"St": 2})])
def test_an_inverter_that_rests_has_no_power_where_it_says_none(model: int, state: dict[str, int]) -> None:
    for power in ({"W": -0x8000}, {"W": -1}, {"W_SF": 11}, {"W_SF": None}):
        assert of(model, **state, **power).p_w == 0.0, power
    assert of(model, **state, W=-2, W_SF=0).p_w == -2.0


@pytest.mark.parametrize(("model", "state", "q"), [(701, "InvSt", "Var"), (103, "St", "VAr")])
def test_registers_without_anything_are_blank_and_a_running_inverter_is_taken_at_its_word(
    model: int, state: str, q: str
) -> None:
    nothing = dict.fromkeys((state, "LNV", "VL1", "PhVphA", "PhVphB", "PhVphC"))
    for power in ({"W": None}, {"W": -1}, {"W_SF": 11}):
        found = of(model, **nothing, **power)
        assert (found.p_w, found.q_var, found.is_blank, found.is_resting) == (None, 0.0, True, False), power
    spoken = of(model, **nothing)
    assert spoken.p_w is not None
    assert not spoken.is_blank
    for said in ({state: 4}, {"LNV": 2300, "PhVphA": 2300}):
        assert of(model, **{**nothing, **said}, W=-1, W_SF=0).p_w == -1.0, "a watt that is consumed"
        found = of(model, **{**nothing, **said}, W=None)
        assert (found.p_w, found.is_blank) == (None, False)
        with pytest.raises(SunSpecError, match="scale factor W_SF is 11"):
            of(model, **{**nothing, **said}, W_SF=11)
    assert of(model, **{q: None}).q_var == 0.0
    assert of(model, W=None).q_var == 0.0


def test_a_float_of_minus_one_is_a_power_also_at_rest() -> None:
    points = {"W": -1.0, "VAr": 0.0, "PhVphA": 230.0, "St": 2}
    assert read_ac(block_of(113, points)).p_w == -1.0


@pytest.mark.parametrize(
    ("percent", "soc"),
    [(0.0, 0.0), (-0.1, 0.0), (-5.0, 0.0), (64.0, 0.64), (100.0, 1.0), (100.1, 1.0), (105.0, 1.0)],
)
def test_a_state_of_charge_is_a_fraction_and_a_little_beyond_is_full_or_empty(
    percent: float, soc: float
) -> None:
    points = {"OutWRte": round(percent * 10.0), "InOutWRte_SF": -1}
    assert read_soc(block_of(124, points), "OutWRte") == soc


@pytest.mark.parametrize(("tenths", "shown"), [(-51, "-5.1"), (1051, "105.1"), (1200, "120")])
def test_a_state_of_charge_that_cannot_be_is_told(tenths: int, shown: str) -> None:
    with pytest.raises(SunSpecError) as caught:
        read_soc(block_of(124, {"OutWRte": tenths, "InOutWRte_SF": -1}), "OutWRte")
    assert str(caught.value) == f"model 124 OutWRte is {shown} %"
    assert read_soc(block_of(124, {}), "ChaState") is None


@pytest.mark.parametrize(
    ("powers", "expected"),
    [
        ([(1, -12), (1, 2)], -100.0),
        ([(1, -12), (0, 40)], -120.0),
        ([(1, 0), (0, 40)], 0.0),
        ([(1, -12), (1, None)], None),
        ([(1, None)], None),
        ([(0, 40), (2, 7)], None),
        ([(1, -12), (0, None)], -120.0),
    ],
)
def test_the_power_of_a_battery_is_that_of_all_its_ports_or_not_known(
    powers: list[tuple[int, int | None]], expected: float | None
) -> None:
    points: dict[str, int] = {"NPrt": len(powers), "DCW_SF": 1}
    for n, (kind, power) in enumerate(powers, start=1):
        points[f"Prt[{n}].PrtTyp"] = kind
        if power is not None:
            points[f"Prt[{n}].DCW"] = power
    block = block_of(714, points)
    assert read_battery_ports(block) == expected
    assert len(battery_ports(block)) == sum(kind == 1 for kind, _ in powers)
    assert battery_ports(block_of(704, {})) == [], "no other group is a port"

"""What model 124 writes, in order and by request; what it takes for the storage's own."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heron_mqtt.field.sunspec.block import Block, SunSpecError
from heron_mqtt.field.sunspec.ramp import IncreaseRamp
from heron_mqtt.field.sunspec.storage_rates import StorageRates, _window
from support.sunspec_controls import RATES, Rig, rates
from support.sunspec_registers import block_of


async def test_both_rates_go_in_one_request_with_the_timer_before_a_power_and_after_it() -> None:
    rig = rates()
    on = ["StorCtl_Mod=3"]
    assert await rig.set(4_000.0) == [["InOutWRte_RvrtTms=20"], ["OutWRte=5000", "InWRte=-5000"], on]
    assert await rig.set(-2_000.0) == [["InOutWRte_RvrtTms=20"], ["OutWRte=-2500", "InWRte=2500"], on]
    assert await rig.set(0.0) == [["InOutWRte_RvrtTms=20"], ["OutWRte=0", "InWRte=0"], on]
    assert (await rig.set(-0.8))[1] == ["OutWRte=-1", "InWRte=1"]
    assert (await rig.set(0.8))[1] == ["OutWRte=1", "InWRte=-1"]
    assert (await rig.set(0.79))[1] == ["OutWRte=0", "InWRte=0"]
    assert await rig.hold_zero() == [["OutWRte=0", "InWRte=0"], ["InOutWRte_RvrtTms=0"], on]
    assert await rig.release(known=False) == [["StorCtl_Mod=0"], ["OutWRte=10000", "InWRte=10000"]]


async def test_a_rate_of_discharging_is_of_its_own_reference_and_the_other_side_is_never_beyond_it() -> None:
    rig = rates(9_000.0)
    assert (await rig.set(4_500.0))[1] == ["OutWRte=5000", "InWRte=-5625"]
    assert (await rig.set(-4_500.0))[1] == ["OutWRte=-5000", "InWRte=5625"]
    assert (await rig.set(1e9))[1] == ["OutWRte=10000", "InWRte=-10000"]
    assert (await rig.set(-1e9))[1] == ["OutWRte=-8888", "InWRte=10000"]
    rig["InOutWRte_SF"] = 0
    assert (await rig.set(1_234.0))[1] == ["OutWRte=13", "InWRte=-14"], "of the 1170 W that 13 percent are"


@pytest.mark.parametrize("charge_w", [0, 0xFFFF])
async def test_zero_power_needs_no_reference_and_another_one_does(charge_w: int) -> None:
    rig = rates()
    await rig.control.has_timer()
    rig["WChaMax"] = charge_w
    if charge_w:
        with pytest.raises(SunSpecError, match="model 124 lacks WChaMax: the inverter cannot"):
            await rig.set(1.0)
    else:
        with pytest.raises(SunSpecError, match=r"^box unit 1: model 124 WChaMax is 0\.0: what is 100 %\?$"):
            await rig.set(1.0)
        assert (await rig.set(0.0))[1] == ["OutWRte=0", "InWRte=0"]
    assert rig.registers.take_written() == []
    assert (await rig.hold_zero())[0] == ["OutWRte=0", "InWRte=0"]


@pytest.mark.parametrize(
    ("mode", "out_rate", "in_rate", "timer", "found", "is_own"),
    [
        (0, 5000, -5000, 30, None, False),
        (3, 0, 0, 0, "zero", False),
        (3, 0, 0, 30, "zero", False),
        (1, 0, 0, 0, "setpoint", False),
        (2, 0, 0, 0, "setpoint", False),
        (3, 5000, -5000, 0, "setpoint", False),
        (3, 5000, -4999, 0, None, True),
        (3, 5000, -5001, 0, None, True),
        (3, 5000, -4999, 30, "setpoint", False),
        (1, 5000, 5000, 0, None, True),
        (2, 0, 5000, 0, None, True),
        (3, 5000, 0, 0, None, True),
    ],
)
async def test_a_window_that_was_found_is_a_setpoint_zero_or_the_storages_own(
    mode: int, out_rate: int, in_rate: int, timer: int, found: str | None, is_own: bool
) -> None:
    rig = rates(StorCtl_Mod=mode, OutWRte=out_rate, InWRte=in_rate, InOutWRte_RvrtTms=timer)
    await rig.control.has_timer()
    assert rig.control.found() == found
    assert await rig.control.holds_zero() is (found == "zero")
    own = [[f"OutWRte={out_rate}", f"InWRte={in_rate}"], ["InOutWRte_RvrtTms=0"], [f"StorCtl_Mod={mode}"]]
    off = [["StorCtl_Mod=0"], ["OutWRte=10000", "InWRte=10000"]]
    assert await rig.release() == (own if is_own else off)


@pytest.mark.parametrize("gone", ["OutWRte", "InWRte"])
async def test_a_storage_whose_rates_cannot_be_read_is_armed_while_its_timer_runs_and_given_back_whole(
    gone: str,
) -> None:
    rig = rates(StorCtl_Mod=3, OutWRte=0, InWRte=0)
    points = {**RATES, "StorCtl_Mod": 3, gone: -0x8000}
    for timer in (0, 30):
        block = block_of(124, {**points, "InOutWRte_RvrtTms": timer})
        assert rig.control._is_armed(block) is (timer == 30)
        assert rig.control._is_zero(block) is False
        assert rig.control._lasting(block) == {"StorCtl_Mod": 0, "OutWRte": 10_000, "InWRte": 10_000}


async def test_storage_rises_from_the_power_that_it_holds_charging_is_less_than_none() -> None:
    ramp = IncreaseRamp(10, lambda: 0.0)
    rig = Rig(StorageRates, {**RATES, "InOutWRte_RmpTms": 3}, None, ramp=ramp)
    assert (await rig.control.lasting(fresh=True)).raw["InOutWRte_RmpTms"] == 3
    for mode in (0, 1, 2):  # not held, or not both ways: it may be anywhere above
        rig["StorCtl_Mod"], rig["OutWRte"] = mode, 1000
        assert (await rig.set(4_000.0))[0] == ["InOutWRte_RmpTms=0"]
    assert (await rig.set(-4_000.0))[0] == ["InOutWRte_RmpTms=0"]
    assert (await rig.set(-2_400.0))[0] == ["InOutWRte_RmpTms=2"]
    assert (await rig.set(0.0))[0] == ["InOutWRte_RmpTms=0"], "out of charging: at once"
    assert (await rig.set(3_200.0))[0] == ["InOutWRte_RmpTms=4"]


@given(
    p_w=st.floats(-20_000.0, 20_000.0),
    discharge_w=st.floats(100.0, 20_000.0),
    charge_w=st.floats(100.0, 20_000.0),
    sf=st.integers(-3, 0),
)
def test_a_window_is_never_empty_nor_beyond_what_was_asked(
    p_w: float, discharge_w: float, charge_w: float, sf: int
) -> None:
    words = [0] * 26
    words[25] = sf & 0xFFFF
    out_rate, in_rate = _window(Block(124, 0, words), p_w, discharge_w, charge_w)
    highest_w = out_rate * 10.0**sf / 100.0 * discharge_w
    lowest_w = -in_rate * 10.0**sf / 100.0 * charge_w
    slack = 1e-9 * max(abs(p_w), 1.0)
    assert lowest_w <= highest_w + slack
    assert min(p_w, 0.0) - slack <= lowest_w
    assert highest_w <= max(p_w, 0.0) + slack
    assert abs(out_rate) * 10.0**sf <= 100.0 * (1 + 1e-12)
    assert abs(in_rate) * 10.0**sf <= 100.0 * (1 + 1e-12)

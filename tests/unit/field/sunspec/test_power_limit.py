"""What model 123 writes, in order and by request; what it takes for the inverter's own."""

from __future__ import annotations

import pytest

from heron_mqtt.field.sunspec.block import SunSpecError
from heron_mqtt.field.sunspec.power_limit import PowerLimit
from heron_mqtt.field.sunspec.ramp import IncreaseRamp
from support.sunspec_controls import LIMIT, Rig, limit


async def test_a_limit_is_there_only_with_its_timer_and_is_switched_on_last() -> None:
    rig = limit()
    assert await rig.set(32_500.0) == [["WMaxLimPct_RvrtTms=20"], ["WMaxLimPct=6500"], ["WMaxLim_Ena=1"]]
    assert await rig.set(0.0) == [["WMaxLimPct_RvrtTms=20"], ["WMaxLimPct=0"], ["WMaxLim_Ena=1"]]
    assert await rig.hold_zero() == [["WMaxLimPct=0"], ["WMaxLimPct_RvrtTms=0"], ["WMaxLim_Ena=1"]]
    assert await rig.release(known=False) == [["WMaxLim_Ena=0"]]


@pytest.mark.parametrize(
    ("enabled", "limit_pct", "timer", "found", "own"),
    [
        (0, 3000, 20, None, ["WMaxLim_Ena=0"]),
        (0, 0, 0, None, ["WMaxLim_Ena=0"]),
        (1, 0, 0, "zero", ["WMaxLim_Ena=0"]),
        (1, 0, 20, "zero", ["WMaxLim_Ena=0"]),
        (1, 3000, 20, "setpoint", ["WMaxLim_Ena=0"]),
        (1, 3000, 0, None, ["WMaxLimPct=3000", "WMaxLimPct_RvrtTms=0", "WMaxLim_Ena=1"]),
        (1, 1, 0, None, ["WMaxLimPct=1", "WMaxLimPct_RvrtTms=0", "WMaxLim_Ena=1"]),
    ],
)
async def test_a_limit_that_was_found_is_a_setpoint_zero_or_the_inverters_own(
    enabled: int, limit_pct: int, timer: int, found: str | None, own: list[str]
) -> None:
    rig = limit(WMaxLim_Ena=enabled, WMaxLimPct=limit_pct, WMaxLimPct_RvrtTms=timer)
    assert rig.control.found() is None, "it was not read"
    assert await rig.control.has_timer()
    assert rig.control.found() == found
    assert await rig.control.holds_zero() is (found == "zero")
    assert await rig.release() == [[each] for each in own]


async def test_a_limit_rises_by_a_ramp_from_what_is_held_and_its_own_time_is_put_back() -> None:
    ramp = IncreaseRamp(5, lambda: 0.0)
    rig = Rig(PowerLimit, {**LIMIT, "WMaxLimPct_RmpTms": 7}, 50_000.0, ramp=ramp)
    await rig.control.check_ramp()
    own = await rig.control.lasting(fresh=True)
    assert own.raw == {"WMaxLimPct_RmpTms": 7, "WMaxLim_Ena": 0}
    # A limit that is not in force is no place to rise from.
    assert (await rig.set(10_000.0))[0] == ["WMaxLimPct_RmpTms=0"]
    # The time of the ramp stands between those of the timer and what enables it.
    assert await rig.set(30_000.0) == [
        ["WMaxLimPct_RmpTms=8"],
        ["WMaxLimPct_RvrtTms=20"],
        ["WMaxLimPct=6000"],
        ["WMaxLim_Ena=1"],
    ]
    assert await rig.set(30_000.0) == [["WMaxLimPct_RvrtTms=20"], ["WMaxLimPct=6000"], ["WMaxLim_Ena=1"]]
    assert (await rig.hold_zero())[0] == ["WMaxLimPct_RmpTms=0"]


@pytest.mark.parametrize("name", ["WMaxLimPct", "WMaxLim_Ena", "WMaxLimPct_SF"])
async def test_a_model_that_lacks_what_a_limit_needs_is_named_with_all_of_it(name: str) -> None:
    rig = Rig(PowerLimit, {n: v for n, v in LIMIT.items() if n != name}, 50_000.0)
    with pytest.raises(SunSpecError) as caught:
        await rig.control.has_timer()
    expected = f"box unit 1: model 123 lacks {name}: the inverter cannot be controlled this way"
    assert str(caught.value) == expected
    with pytest.raises(SunSpecError, match=f"lacks {name}"):
        await rig.control.hold_zero()
    both = Rig(PowerLimit, {"WMaxLimPct_SF": 0}, 50_000.0)
    with pytest.raises(SunSpecError, match="model 123 lacks WMaxLimPct, WMaxLim_Ena: the"):
        await both.set(1.0)

"""What each way to control an inverter writes, in order and by request; what it takes for its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from heron_mqtt.field.sunspec.block import SunSpecError
from heron_mqtt.field.sunspec.controls import (
    Control,
    DerLimit,
    DerOptions,
    DerPower,
    DerShare,
    PowerLimit,
    StorageRates,
    in_safe_order,
    percent,
    place_of,
    seconds,
    signed_percent,
)
from heron_mqtt.field.sunspec.discovery import Place
from heron_mqtt.field.sunspec.ramp import IncreaseRamp
from support.sunspec_registers import ImageRegisters, block_of

LIMIT = {"WMaxLimPct": 10_000, "WMaxLimPct_SF": -2, "WMaxLimPct_RvrtTms": 0, "WMaxLim_Ena": 0}
RATES = {"WChaMax": 8000, "WChaMax_SF": 0, "StorCtl_Mod": 0, "OutWRte": 10_000, "InWRte": 10_000}
RATES |= {"InOutWRte_SF": -2, "InOutWRte_RvrtTms": 0}
VARS = {"VarSetEna": 0, "VarSetMod": 0, "VarSet": 0, "VarSetRvrt": 9, "VarSetEnaRvrt": 9}
VARS |= {"VarSetRvrtTms": 9, "VarSet_SF": 0}
DER = {"WSetEna": 0, "WSetMod": 0, "WSet": 0, "WSetRvrt": 9, "WSetEnaRvrt": 9, "WSetRvrtTms": 9, "WSet_SF": 0}
SHARE = {"WSetEna": 0, "WSetMod": 1, "WSetPct": 0, "WSetPctRvrt": 9, "WSetEnaRvrt": 9, "WSetRvrtTms": 9}
SHARE |= {"WSetPct_SF": -1}
LIMIT_704 = {"WMaxLimPctEna": 0, "WMaxLimPct": 100, "WMaxLimPctRvrt": 9, "WMaxLimPctEnaRvrt": 9}
LIMIT_704 |= {"WMaxLimPctRvrtTms": 9, "WMaxLimPct_SF": 0}
FACTOR = {"PF_SF": -2}
for _way in ("PFWInj", "PFWAbs"):
    FACTOR |= {
        f"{_way}Ena": 0,
        f"{_way}EnaRvrt": 9,
        f"{_way}RvrtTms": 9,
        f"{_way}[1].PF": 100,
        f"{_way}[1].Ext": 0,
    }


class Rig:
    """A control of a model with these points."""

    def __init__(self, way: type[Any], points: dict[str, int], *args: Any, **options: Any) -> None:
        self.registers = ImageRegisters({way.model: points})
        size = len(self.registers.box.image) - 4
        self.control: Control = way(self.registers, Place(40_002, size), *args, **options)

    def __setitem__(self, name: str, value: int) -> None:
        self.registers.box[self.control.model, name] = value

    async def set(self, p_w: float, q_var: float = 0.0, revert_s: float = 20.0) -> list[list[str]]:
        await self.control.set(p_w, q_var, revert_s)
        return self.registers.take_written()

    async def hold_zero(self) -> list[list[str]]:
        await self.control.hold_zero()
        return self.registers.take_written()

    async def release(self, *, known: bool = True) -> list[list[str]]:
        own = await self.control.lasting(fresh=True) if known else None
        await self.control.release(own)
        return self.registers.take_written()


def limit(w_max: float = 50_000.0, **points: int) -> Rig:
    return Rig(PowerLimit, {**LIMIT, **points}, w_max)


def rates(discharge_w: float | None = None, **points: int) -> Rig:
    return Rig(StorageRates, {**RATES, **points}, discharge_w)


def der(
    way: type[Any],
    points: dict[str, int],
    *,
    w_max: float | None = 10_000.0,
    var_max: float | None = 5_000.0,
    zero_after: bool = True,
    **options: Any,
) -> Rig:
    return Rig(way, points, w_max, var_max, zero_after=zero_after, options=DerOptions(**options))


# -- model 123 -------------------------------------------------------------------------------------


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
    assert own == {"WMaxLimPct_RmpTms": 7, "WMaxLim_Ena": 0}
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


async def test_a_ramp_that_is_not_wanted_is_not_touched() -> None:
    for rig in (limit(WMaxLimPct_RmpTms=7), rates(InOutWRte_RmpTms=7)):
        await rig.control.check_ramp()
        assert not [each for each in await rig.set(4_000.0) if "Rmp" in str(each)]
        assert not [name for name in await rig.control.lasting(fresh=True) if "Rmp" in name]


@pytest.mark.parametrize(
    ("way", "points", "missing"),
    [
        (PowerLimit, LIMIT, "model 123 lacks WMaxLimPct_RmpTms"),
        (StorageRates, RATES, "model 124 lacks InOutWRte_RmpTms"),
    ],
)
async def test_a_ramp_that_the_inverter_lacks_is_refused(
    way: type[Any], points: dict[str, int], missing: str
) -> None:
    rig = Rig(way, points, 8_000.0, ramp=IncreaseRamp(5, lambda: 0.0))
    with pytest.raises(SunSpecError) as caught:
        await rig.control.check_ramp()
    assert str(caught.value) == f"box unit 1: {missing}: no ramp can be set"
    assert await rig.control.lasting(fresh=False) == (
        {"WMaxLim_Ena": 0} if way is PowerLimit else {"StorCtl_Mod": 0, "OutWRte": 10_000, "InWRte": 10_000}
    )


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


@pytest.mark.parametrize(
    ("rig", "timer"),
    [
        (limit(), "WMaxLimPct_RvrtTms"),
        (rates(), "InOutWRte_RvrtTms"),
        (der(DerPower, {**DER, **VARS}), "WSetRvrtTms"),
        (der(DerShare, SHARE), "WSetRvrtTms"),
        (der(DerLimit, LIMIT_704), "WMaxLimPctRvrtTms"),
    ],
)
async def test_a_control_without_its_timer_says_so_and_writes_the_rest(rig: Rig, timer: str) -> None:
    assert await rig.control.has_timer() is True
    rig[timer] = 0xFFFF_FFFF if rig.control.model == 704 else 0xFFFF
    assert await rig.control.has_timer() is False
    assert not [each for each in await rig.set(1_000.0) if timer in str(each)]


# -- what is read ----------------------------------------------------------------------------------


async def test_zero_is_written_by_what_was_read_before_and_a_setpoint_by_what_is_there_now() -> None:
    rig = limit()
    await rig.control.has_timer()
    rig.registers.requests.clear()
    await rig.hold_zero()
    await rig.release(known=False)
    await rig.control.lasting(fresh=False)
    assert rig.registers.requests == [], "nothing was read"
    for ask in (lambda: rig.control.lasting(fresh=True), rig.control.holds_zero, lambda: rig.set(1.0)):
        await ask()
        assert rig.registers.requests == [(40_002, 26)]
        rig.registers.requests.clear()


async def test_a_model_that_says_nothing_for_a_while_keeps_the_layout_that_was_read_before() -> None:
    rig = limit()
    await rig.control.has_timer()
    rig["WMaxLimPct_SF"] = -0x8000
    assert await rig.control.holds_zero() is False
    with pytest.raises(SunSpecError, match="lacks WMaxLimPct_SF"):
        await rig.set(5_000.0)
    assert await rig.hold_zero() == [["WMaxLimPct=0"], ["WMaxLimPct_RvrtTms=0"], ["WMaxLim_Ena=1"]]


# -- model 124 -------------------------------------------------------------------------------------


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
    assert (await rig.control.lasting(fresh=True))["InOutWRte_RmpTms"] == 3
    for mode in (0, 1, 2):  # not held, or not both ways: it may be anywhere above
        rig["StorCtl_Mod"], rig["OutWRte"] = mode, 1000
        assert (await rig.set(4_000.0))[0] == ["InOutWRte_RmpTms=0"]
    assert (await rig.set(-4_000.0))[0] == ["InOutWRte_RmpTms=0"]
    assert (await rig.set(-2_400.0))[0] == ["InOutWRte_RmpTms=2"]
    assert (await rig.set(0.0))[0] == ["InOutWRte_RmpTms=0"], "out of charging: at once"
    assert (await rig.set(3_200.0))[0] == ["InOutWRte_RmpTms=4"]


# -- model 704 -------------------------------------------------------------------------------------


def armed(name: str, function: str, value: int, revert_s: int = 20, after: int = 1) -> list[str]:
    """Return what arms a function, in order, without its mode."""
    timer = [f"{name}Rvrt=0", f"{function}EnaRvrt={after}", f"{function}RvrtTms={revert_s}"]
    return [*timer, f"{name}={value}", f"{function}Ena=1"]


def points_of(requests: list[list[str]]) -> list[str]:
    return [point for request in requests for point in request]


async def test_der_storage_is_told_watts_and_vars_each_behind_its_timer() -> None:
    rig = der(DerPower, {**DER, **VARS})
    assert rig.control.takes_q
    assert await rig.set(-3_500.0, 1_200.0) == [
        ["WSetRvrt=0"],
        ["WSetEnaRvrt=1", "WSetRvrtTms=20"],
        ["WSetMod=1", "WSet=-3500"],
        ["WSetEna=1"],
        ["VarSetRvrt=0"],
        ["VarSetEnaRvrt=1", "VarSetRvrtTms=20"],
        ["VarSetMod=4"],
        ["VarSet=1200"],
        ["VarSetEna=1"],
    ]
    assert points_of(await rig.hold_zero())[:6] == [
        *("WSetMod=1", "WSet=0", "WSetRvrt=0", "WSetEnaRvrt=1", "WSetRvrtTms=0", "WSetEna=1")
    ]
    assert await rig.control.holds_zero()
    assert await rig.release(known=False) == [["WSetEna=0"], ["VarSetEna=0"]]


async def test_der_storage_whose_safe_state_is_its_own_control_is_switched_off_by_its_timer() -> None:
    rig = der(DerPower, {**DER, **VARS}, zero_after=False)
    written = points_of(await rig.set(1_000.0, 1.0))
    assert {"WSetEnaRvrt=0", "VarSetEnaRvrt=0"} <= set(written)


async def test_der_storage_that_knows_percent_only_is_told_percent_of_its_maximum() -> None:
    share = {"VarSetEna": 0, "VarSetMod": 0, "VarSetPct": 0, "VarSetPctRvrt": 9, "VarSetPct_SF": 0}
    rig = der(DerShare, {**SHARE, **share})
    written = points_of(await rig.set(-3_500.0, 1_000.0))
    assert [p for p in written if p.startswith("WSet")] == [
        *("WSetPctRvrt=0", "WSetEnaRvrt=1", "WSetRvrtTms=20", "WSetMod=0", "WSetPct=-350", "WSetEna=1")
    ]
    assert [p for p in written if p.startswith("Var")] == [
        *("VarSetPctRvrt=0", "VarSetMod=1", "VarSetPct=20", "VarSetEna=1")
    ]
    assert "WSetPct=1000" in points_of(await rig.set(2e9))
    assert "WSetPct=-1000" in points_of(await rig.set(-2e9))
    assert "VarSetPct=-100" in points_of(await rig.set(0.0, -9e9))
    await rig.hold_zero()
    assert await rig.control.holds_zero()
    for name, other in (("WSetEna", 0), ("WSetMod", 1), ("WSetPct", 1)):
        before = rig.registers.box[704, name]
        rig[name] = other
        assert not await rig.control.holds_zero(), name
        rig[name] = before


@pytest.mark.parametrize("w_max", [None, 0.0])
async def test_a_share_or_limit_of_a_maximum_that_is_not_said_is_refused(w_max: float | None) -> None:
    with pytest.raises(SunSpecError) as caught:
        await der(DerShare, SHARE, w_max=w_max).set(1.0)
    assert str(caught.value) == "box unit 1: it does not say what 100 % of WSetPct is (WMax)"
    with pytest.raises(SunSpecError) as caught:
        await der(DerLimit, LIMIT_704, w_max=w_max).set(1.0)
    assert str(caught.value) == "box unit 1: it does not say what 100 % of a limit is (WMax)"


@pytest.mark.parametrize(
    ("points", "var_max", "written"),
    [
        ({}, 5_000.0, []),
        ({**VARS, "VarSetEna": None}, 5_000.0, []),
        ({**VARS, "VarSetMod": None}, 5_000.0, []),
        (VARS, None, ["VarSetMod=4", "VarSet=1000"]),
        ({**VARS, "VarSet_SF": None}, 5_000.0, []),
        (
            {**VARS, "VarSet": None, "VarSetPct": 0, "VarSetPct_SF": 0},
            5_000.0,
            ["VarSetMod=1", "VarSetPct=20"],
        ),
        ({**VARS, "VarSet": None, "VarSetPct": 0, "VarSetPct_SF": 0}, None, []),
        ({**VARS, "VarSet": None, "VarSetPct": 0, "VarSetPct_SF": 0}, 0.0, []),
        ({**VARS, "VarSet": None, "VarSetPct": 0}, 5_000.0, []),
    ],
)
async def test_reactive_power_is_set_in_var_where_the_inverter_knows_that_else_in_percent_if_it_can(
    points: dict[str, Any], var_max: float | None, written: list[str]
) -> None:
    known = {name: value for name, value in points.items() if value is not None}
    rig = der(DerPower, {**DER, **known}, var_max=var_max)
    told = [p for p in points_of(await rig.set(1.0, 1_000.0)) if p.startswith("Var")]
    assert [p for p in told if p.partition("=")[0] in {"VarSetMod", "VarSet", "VarSetPct"}] == written
    assert ("VarSetEna=1" in told) is bool(written)


async def test_der_pv_is_limited_in_whole_steps_between_nothing_and_its_maximum() -> None:
    rig = der(DerLimit, {**LIMIT_704, **VARS})
    assert rig.control.takes_q
    assert points_of(await rig.set(4_799.0, -300.0)) == [
        *armed("WMaxLimPct", "WMaxLimPct", 47),
        *("VarSetRvrt=0", "VarSetEnaRvrt=1", "VarSetRvrtTms=20", "VarSetMod=4", "VarSet=-300", "VarSetEna=1"),
    ]
    assert "WMaxLimPct=0" in points_of(await rig.set(-4_700.0))
    assert "WMaxLimPct=100" in points_of(await rig.set(10_001.0))
    written = points_of(await rig.hold_zero())
    assert written[:5] == [
        *("WMaxLimPct=0", "WMaxLimPctRvrt=0", "WMaxLimPctEnaRvrt=1", "WMaxLimPctRvrtTms=0", "WMaxLimPctEna=1")
    ]
    assert await rig.control.holds_zero()
    assert points_of(await rig.release(known=False)) == ["WMaxLimPctEna=0", "VarSetEna=0"]


@pytest.mark.parametrize(
    ("enabled", "value", "timer", "found", "is_own"),
    [
        (0, 50, 20, None, False),
        (1, 0, 0, "zero", False),
        (1, 0, 20, "zero", False),
        (1, 50, 20, "setpoint", False),
        (1, 50, 0, None, True),
        (2, 50, 20, None, False),
    ],
)
async def test_what_was_found_in_a_function_of_a_der_is_a_setpoint_zero_or_its_own(
    enabled: int, value: int, timer: int, found: str | None, is_own: bool
) -> None:
    points = {**LIMIT_704, "WMaxLimPctEna": enabled, "WMaxLimPct": value, "WMaxLimPctRvrtTms": timer}
    rig = der(DerLimit, points)
    await rig.control.has_timer()
    assert rig.control.found() == found
    own = [f"WMaxLimPct={value}", "WMaxLimPctRvrtTms=0", "WMaxLimPctEna=1"]
    assert points_of(await rig.release()) == (own if is_own else ["WMaxLimPctEna=0"])
    points = {**DER, "WSetMod": 1, "WSetEna": enabled, "WSet": value, "WSetRvrtTms": timer}
    rig = der(DerPower, points)
    await rig.control.has_timer()
    assert rig.control.found() == found
    own = ["WSetMod=1", f"WSet={value}", "WSetRvrtTms=0", "WSetEna=1"]
    assert points_of(await rig.release()) == (own if is_own else ["WSetEna=0"])


async def test_der_storage_in_another_mode_does_not_hold_zero_watts() -> None:
    rig = der(DerPower, {**DER, "WSetEna": 1, "WSetMod": 0, "WSetRvrtTms": 0})
    await rig.control.has_timer()
    assert rig.control.found() is None
    assert points_of(await rig.release()) == ["WSetEna=0"], "a mode alone, without a power, says nothing"


async def test_reactive_power_of_its_own_is_put_back_also_where_active_power_was_free() -> None:
    own = {"VarSetEna": 1, "VarSetMod": 4, "VarSet": -300, "VarSetRvrtTms": 0}
    for rig, off in (
        (der(DerPower, {**DER, **VARS, **own}), "WSetEna=0"),
        (der(DerLimit, {**LIMIT_704, **VARS, **own}), "WMaxLimPctEna=0"),
    ):
        assert points_of(await rig.release()) == [
            *(off, "VarSetMod=4", "VarSet=-300", "VarSetRvrtTms=0", "VarSetEna=1")
        ]


# -- power factor and ramp of model 704 ------------------------------------------------------------


@pytest.mark.parametrize(("over_excited", "ext"), [(True, 0), (False, 1)])
async def test_a_power_factor_takes_the_place_of_reactive_power_both_ways(
    over_excited: bool, ext: int
) -> None:
    rig = der(
        DerPower,
        {**DER, **VARS, **FACTOR, "WRmp": 20},
        power_factor=0.957,
        over_excited=over_excited,
        ramp_percent_s=5,
    )
    assert await rig.control.has_timer()
    written = points_of(await rig.set(1_000.0, 500.0))
    assert written[6:] == [
        *("WRmp=5", "VarSetEna=0"),
        *("PFWInj[1].PF=95", f"PFWInj[1].Ext={ext}", "PFWInjEnaRvrt=0", "PFWInjRvrtTms=20", "PFWInjEna=1"),
        *("PFWAbs[1].PF=95", f"PFWAbs[1].Ext={ext}", "PFWAbsEnaRvrt=0", "PFWAbsRvrtTms=20", "PFWAbsEna=1"),
    ]
    assert points_of(await rig.release(known=False)) == [
        "WSetEna=0",
        "VarSetEna=0",
        "PFWInjEna=0",
        "PFWAbsEna=0",
    ]


async def test_ramp_and_power_factor_of_its_own_are_put_back() -> None:
    own = {"PFWInjEna": 1, "PFWInj[1].PF": 98, "PFWInj[1].Ext": 1, "PFWInjRvrtTms": 0, "WRmp": 20}
    for way, points, off in ((DerPower, DER, "WSetEna=0"), (DerLimit, LIMIT_704, "WMaxLimPctEna=0")):
        rig = der(way, {**points, **FACTOR, **own}, power_factor=0.95, ramp_percent_s=5)
        assert points_of(await rig.release()) == [
            *(off, "WRmp=20"),
            *("PFWInj[1].PF=98", "PFWInj[1].Ext=1", "PFWInjRvrtTms=0", "PFWInjEna=1", "PFWAbsEna=0"),
        ]
        assert points_of(await rig.release(known=False)) == [off, "PFWInjEna=0", "PFWAbsEna=0"]
        unasked = der(way, {**points, **FACTOR, **own})
        assert points_of(await unasked.release()) == [off], "what was not changed is left alone"
        assert points_of(await unasked.release(known=False)) == [off]
        assert not [p for p in points_of(await unasked.set(1.0)) if p.startswith(("PF", "WRmp"))]


async def test_an_inverter_with_one_power_factor_alone_is_told_that_one() -> None:
    rig = der(DerPower, {**DER, **{n: v for n, v in FACTOR.items() if "Abs" not in n}}, power_factor=0.9)
    written = points_of(await rig.set(1.0))
    assert "PFWInj[1].PF=90" in written
    assert not [p for p in written if "Abs" in p]


@pytest.mark.parametrize(
    ("lacks", "options", "what"),
    [
        ("WRmp", {"ramp_percent_s": 5}, "WRmp: no ramp can be set"),
        ("PFWInjEna", {"power_factor": 0.9}, "PFWInjEna: no power factor can be set"),
        ("PF_SF", {"power_factor": 0.9}, "PF_SF: no power factor can be set"),
        ("PFWInj[1].PF", {"power_factor": 0.9}, "PFWInj.PF: no power factor can be set"),
        ("PFWInj[1].Ext", {"power_factor": 0.9}, "PFWInj.Ext: no power factor can be set"),
    ],
)
async def test_what_is_wanted_beside_setpoints_and_is_not_there_is_refused_by_its_name(
    lacks: str, options: dict[str, Any], what: str
) -> None:
    points = {**DER, **FACTOR, "WRmp": 20}
    assert await der(DerPower, points, **options).control.has_timer()
    del points[lacks]
    with pytest.raises(SunSpecError) as caught:
        await der(DerPower, points, **options).control.has_timer()
    assert str(caught.value) == f"box unit 1: model 704 lacks {what}"


# -- what they share -------------------------------------------------------------------------------


def test_a_group_that_is_not_there_has_no_point() -> None:
    block = block_of(704, FACTOR)
    assert place_of(block, "WSet") == (block, "WSet")
    part, name = place_of(block, "PFWAbs.Ext")
    assert (part is not None and part.group.name, name) == ("PFWAbs", "Ext")
    assert place_of(block, "PFWOther.PF") == (None, "PF")


@pytest.mark.parametrize(
    ("revert_s", "timer"), [(0.0, 0), (0.1, 1), (29.2, 30), (65_534.0, 65_534), (1e9, 65_534)]
)
def test_a_reversion_time_is_never_shorter_than_the_lease(revert_s: float, timer: int) -> None:
    assert seconds(revert_s) == timer


def test_a_timer_goes_before_its_power_and_after_what_stays() -> None:
    value, timer = {"a": 1}, {"b": 2}
    assert list(in_safe_order(value, timer, 0.0)) == ["a", "b"]
    assert list(in_safe_order(value, timer, 0.5)) == ["b", "a"]
    assert list(in_safe_order(value, timer, 1.0)) == ["b", "a"]


def test_percent_is_of_the_maximum_and_within_it() -> None:
    for value, whole, signed in (
        (-300.0, 0.0, -100.0),
        (-50.0, 0.0, -25.0),
        (0.0, 0.0, 0.0),
        (50.0, 25.0, 25.0),
        (200.0, 100.0, 100.0),
        (201.0, 100.0, 100.0),
    ):
        assert percent(value, 200.0) == whole
        assert signed_percent(value, 200.0) == signed


@pytest.mark.parametrize(
    ("way", "scale", "zero"),
    [
        (limit, "WMaxLimPct_SF", {"WMaxLimPct=0", "WMaxLim_Ena=1"}),
        (rates, "InOutWRte_SF", {"OutWRte=0", "InWRte=0", "StorCtl_Mod=3"}),
        (lambda: der(DerPower, DER), "WSet_SF", {"WSet=0", "WSetEna=1"}),
        (lambda: der(DerShare, SHARE), "WSetPct_SF", {"WSetPct=0", "WSetEna=1"}),
        (lambda: der(DerLimit, LIMIT_704), "WMaxLimPct_SF", {"WMaxLimPct=0", "WMaxLimPctEna=1"}),
    ],
)
async def test_a_zero_is_written_whatever_the_scale_says(
    way: Callable[[], Rig], scale: str, zero: set[str]
) -> None:
    rig = way()
    rig[scale] = 100  # as an inverter may say that is just starting: no factor is beyond 10
    await rig.control.holds_zero()  # reads it
    for written in (await rig.hold_zero(), await rig.set(0.0)):
        assert zero <= {point for request in written for point in request}

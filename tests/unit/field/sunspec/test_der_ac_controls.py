"""What model 704 writes, in order and by request; what it takes for the inverter's own."""

from __future__ import annotations

from typing import Any

import pytest

from heron_mqtt.field.sunspec.block import SunSpecError
from heron_mqtt.field.sunspec.der_ac_controls import DerLimit, DerPower, DerShare
from support.sunspec_controls import DER, FACTOR, LIMIT_704, SHARE, VARS, der


def armed(name: str, function: str, value: int, revert_s: int = 20, after: int = 1) -> list[str]:
    """Return what arms a function, in order, without its mode."""
    timer = [f"{name}Rvrt=0", f"{function}EnaRvrt={after}", f"{function}RvrtTms={revert_s}"]
    return [*timer, f"{name}={value}", f"{function}Ena=1"]


def reverting(name: str, function: str, revert_s: int | None = 9) -> list[str]:
    """Return what puts back what a function reverted to before, and after what time if it was off."""
    value = [f"{name}Rvrt=9"] if name else []
    return [*value, f"{function}EnaRvrt=9", *([] if revert_s is None else [f"{function}RvrtTms={revert_s}"])]


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
    revert_s = None if enabled == 1 else timer
    assert points_of(await rig.release()) == [
        *(own if is_own else ["WMaxLimPctEna=0"]),
        *reverting("WMaxLimPct", "WMaxLimPct", revert_s),
    ]
    points = {**DER, "WSetMod": 1, "WSetEna": enabled, "WSet": value, "WSetRvrtTms": timer}
    rig = der(DerPower, points)
    await rig.control.has_timer()
    assert rig.control.found() == found
    own = ["WSetMod=1", f"WSet={value}", "WSetRvrtTms=0", "WSetEna=1"]
    assert points_of(await rig.release()) == [
        *(own if is_own else ["WSetEna=0"]),
        *reverting("WSet", "WSet", revert_s),
    ]


async def test_der_storage_in_another_mode_does_not_hold_zero_watts() -> None:
    rig = der(DerPower, {**DER, "WSetEna": 1, "WSetMod": 0, "WSetRvrtTms": 0})
    await rig.control.has_timer()
    assert rig.control.found() is None
    released = points_of(await rig.release())
    assert released[:1] == ["WSetEna=0"], "a mode alone, without a power, says nothing"
    assert released[1:] == reverting("WSet", "WSet", None)


async def test_reactive_power_of_its_own_is_put_back_also_where_active_power_was_free() -> None:
    own = {"VarSetEna": 1, "VarSetMod": 4, "VarSet": -300, "VarSetRvrtTms": 0}
    for rig, off in (
        (der(DerPower, {**DER, **VARS, **own}), "WSetEna=0"),
        (der(DerLimit, {**LIMIT_704, **VARS, **own}), "WMaxLimPctEna=0"),
    ):
        assert points_of(await rig.release()) == [
            *(off, "VarSetMod=4", "VarSet=-300", "VarSetRvrtTms=0", "VarSetEna=1"),
            *reverting(function := off.removesuffix("Ena=0"), function),
            *reverting("VarSet", "VarSet", None),
        ]


@pytest.mark.parametrize("is_on", [False, True])
@pytest.mark.parametrize(
    ("way", "points", "function"), [(DerPower, DER, "WSet"), (DerLimit, LIMIT_704, "WMaxLimPct")]
)
async def test_what_the_owner_has_a_function_revert_to_stands_there_again_after_the_release(
    way: Any, points: dict[str, int], function: str, is_on: bool
) -> None:
    """A controller of the owner's may write a power and a time, and rely on the rest."""
    own = {f"{function}Ena": 1, function: 70, f"{function}RvrtTms": 0} if is_on else {}
    rig = der(way, {**points, **VARS, **FACTOR, **own}, power_factor=0.9)
    box = rig.registers.box
    names = [f"{function}Rvrt", *(f"{f}{n}" for f in (function, "VarSet") for n in ("EnaRvrt", "RvrtTms"))]
    names += ["VarSetRvrt", *(f"{f}{n}" for f in ("PFWInj", "PFWAbs") for n in ("EnaRvrt", "RvrtTms"))]
    before = {name: box[704, name] for name in names}
    lasting = await rig.control.lasting(fresh=True)
    await rig.set(1_000.0, 100.0)
    assert {name: box[704, name] for name in names} != before
    await rig.control.release(lasting)
    assert {name: box[704, name] for name in names} == before
    assert await rig.control.not_released(lasting) is None


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
        function = off.removesuffix("Ena=0")
        assert points_of(await rig.release()) == [
            *(off, "WRmp=20"),
            *("PFWInj[1].PF=98", "PFWInj[1].Ext=1", "PFWInjRvrtTms=0", "PFWInjEna=1", "PFWAbsEna=0"),
            *reverting(function, function),
            *(*reverting("", "PFWInj", None), *reverting("", "PFWAbs")),
        ]
        assert points_of(await rig.release(known=False)) == [off, "PFWInjEna=0", "PFWAbsEna=0"]
        unasked = der(way, {**points, **FACTOR, **own})
        left_alone = [off, *reverting(function, function)]
        assert points_of(await unasked.release()) == left_alone, "what was not changed is left alone"
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

"""What all ways to control an inverter share: what is read when, ramps and timers, and the zero."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from heron_mqtt.field.sunspec.block import SunSpecError
from heron_mqtt.field.sunspec.controls import in_safe_order, percent, place_of, seconds, signed_percent
from heron_mqtt.field.sunspec.der_ac_controls import DerLimit, DerPower, DerShare
from heron_mqtt.field.sunspec.power_limit import PowerLimit
from heron_mqtt.field.sunspec.ramp import IncreaseRamp
from heron_mqtt.field.sunspec.storage_rates import StorageRates
from support.sunspec_controls import DER, FACTOR, LIMIT, LIMIT_704, RATES, SHARE, VARS, Rig, der, limit, rates
from support.sunspec_registers import block_of


async def test_a_ramp_that_is_not_wanted_is_not_touched() -> None:
    for rig in (limit(WMaxLimPct_RmpTms=7), rates(InOutWRte_RmpTms=7)):
        await rig.control.check_ramp()
        assert not [each for each in await rig.set(4_000.0) if "Rmp" in str(each)]
        assert not [name for name in (await rig.control.lasting(fresh=True)).raw if "Rmp" in name]


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
    assert (await rig.control.lasting(fresh=False)).raw == (
        {"WMaxLim_Ena": 0} if way is PowerLimit else {"StorCtl_Mod": 0, "OutWRte": 10_000, "InWRte": 10_000}
    )


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


WAYS: list[tuple[Callable[..., Rig], str, dict[str, int]]] = [
    (limit, "WMaxLim_Ena", {"WMaxLim_Ena": 1, "WMaxLimPct": 6000}),
    (rates, "StorCtl_Mod", {"StorCtl_Mod": 3, "OutWRte": 8000, "InWRte": 5000}),
    (lambda **own: der(DerPower, {**DER, **own}), "WSetEna", {"WSetEna": 1, "WSetMod": 1, "WSet": 70}),
    (lambda **own: der(DerShare, {**SHARE, **own}), "WSetEna", {"WSetEna": 1, "WSetMod": 0, "WSetPct": 70}),
    (lambda **own: der(DerLimit, {**LIMIT_704, **own}), "WMaxLimPctEna", {"WMaxLimPctEna": 1}),
]


@pytest.mark.parametrize(("way", "switch", "own"), WAYS)
async def test_a_release_that_was_acknowledged_and_not_taken_is_named_by_its_switch(
    way: Callable[..., Rig], switch: str, own: dict[str, int]
) -> None:
    rig = way()
    on = 3 if switch == "StorCtl_Mod" else 1
    for tell in (lambda: rig.set(4_000.0), rig.hold_zero):
        lasting = await rig.control.lasting(fresh=True)
        await tell()
        for known in (lasting, None):
            assert await rig.control.not_released(known) == (
                f"model {rig.control.model} {switch} is {on}, and 0 was written"
            )
        await rig.control.release(lasting)
        assert await rig.control.not_released(lasting) is None
        assert await rig.control.not_released() is None


@pytest.mark.parametrize(("way", "switch", "own"), WAYS)
async def test_a_release_to_settings_of_the_inverters_own_is_one_only_where_they_are_in_force_again(
    way: Callable[..., Rig], switch: str, own: dict[str, int]
) -> None:
    timers = {"WSetRvrtTms": 0} if "WSet" in switch else {"WMaxLimPctRvrtTms": 0} if "Pct" in switch else {}
    rig = way(**own, **timers)
    lasting = await rig.control.lasting(fresh=True)
    assert lasting.raw[switch] == own[switch]
    for tell, what in ((lambda: rig.set(4_000.0), "a setpoint"), (rig.hold_zero, "zero power")):
        await tell()
        still = f"model {rig.control.model} {switch} still switches {what} on"
        assert await rig.control.not_released(lasting) == still
        await rig.control.release(lasting)
        assert await rig.control.not_released(lasting) is None
    rig[switch] = 0
    assert await rig.control.not_released(lasting) == (
        f"model {rig.control.model} {switch} is 0, and {own[switch]} was written"
    )


async def test_of_a_release_what_is_no_switch_may_be_rounded_and_one_that_says_nothing_is_taken() -> None:
    rig = rates()
    lasting = await rig.control.lasting(fresh=True)
    await rig.set(4_000.0)
    await rig.control.release(lasting)
    rig["OutWRte"], rig["InWRte"] = 9_900, 0
    assert await rig.control.not_released(lasting) is None
    rig["StorCtl_Mod"] = 0xFFFF
    assert await rig.control.not_released(lasting) is None


@pytest.mark.parametrize(("exponent", "stands"), [(-2, 6_000), (-1, 600), (0, 60), (-3, 60_000), (1, 6)])
async def test_its_own_limit_means_the_same_after_a_change_of_its_scale(exponent: int, stands: int) -> None:
    rig = limit(WMaxLimPct=6_000, WMaxLim_Ena=1)
    own = await rig.control.lasting(fresh=True)
    await rig.set(4_000.0)
    rig["WMaxLimPct_SF"] = exponent & 0xFFFF
    await rig.set(4_000.0)  # reads the model
    await rig.control.release(own)
    assert rig.registers.box[123, "WMaxLimPct"] == stands
    assert await rig.control.not_released(own) is None


@pytest.mark.parametrize("rig", [limit(WMaxLimPct=6_000, WMaxLim_Ena=1), rates()])
async def test_a_scale_that_changes_unseen_before_a_release_is_seen_after_it(rig: Rig) -> None:
    own = await rig.control.lasting(fresh=True)
    await rig.set(4_000.0)
    rig["WMaxLimPct_SF" if rig.control.model == 123 else "InOutWRte_SF"] = 0
    for known in (own, None):
        rig.control._known = block_of(rig.control.model, LIMIT if rig.control.model == 123 else RATES)
        await rig.control.release(known)
        changed = await rig.control.not_released(known)
        if rig.control.model == 123 and known is None:  # it only switches off
            continue
        assert changed is not None
        assert "scaled otherwise" in changed
        await rig.control.release(known)
        assert await rig.control.not_released(known) is None


async def test_what_goes_with_an_active_power_is_released_with_it() -> None:
    rig = der(DerPower, {**DER, **VARS, **FACTOR}, power_factor=0.9)
    lasting = await rig.control.lasting(fresh=True)
    await rig.set(4_000.0)
    await rig.control.release(lasting)
    for name in ("VarSetEna", "PFWInjEna", "PFWAbsEna"):
        assert await rig.control.not_released(lasting) is None
        rig[name] = 1
        assert await rig.control.not_released(lasting) == f"model 704 {name} is 1, and 0 was written"
        rig[name] = 0


async def test_zero_power_that_model_704_was_found_with_is_no_setting_of_the_inverters_own() -> None:
    rig = der(DerPower, {**DER, "WSetEna": 1, "WSetMod": 1, "WSet": 0, "WSetPct": 500, "WSetRvrtTms": 0})
    assert (await rig.control.lasting(fresh=True)).raw["WSetEna"] == 0

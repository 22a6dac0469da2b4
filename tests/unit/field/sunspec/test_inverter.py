"""What the bridge makes of an inverter's registers: texts, bounds, what is asked again and what is not."""

from __future__ import annotations

import asyncio
import copy
import logging
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from heron_mqtt.errors import ConfigError
from heron_mqtt.field.modbus.registers import ModbusFault
from heron_mqtt.field.sunspec.block import SunSpecError
from heron_mqtt.field.sunspec.der_ac_controls import DerOptions, DerShare
from heron_mqtt.field.sunspec.inverter import Inverter, InverterFault, NotControllable, Settings
from heron_mqtt.field.sunspec.kept_settings import KeptSettings
from heron_mqtt.field.sunspec.power_limit import PowerLimit
from heron_mqtt.field.sunspec.storage_rates import StorageRates
from support.sunspec_registers import ImageRegisters
from support.sunspec_server import BATTERY, DER, FLOAT, PV, EmulatedInverter

SILENCE = ModbusFault("box unit 1: no answer")
REFUSED = ModbusFault("box unit 1: Modbus exception 4 (device failure)", 4)
Models = dict[int, dict[str, Any]]


def models_of(models: Models, changes: dict[int, dict[str, Any] | None] | None = None) -> Models:
    """Return models with points changed or left out (None), or whole models left out (None)."""
    changed = copy.deepcopy(models)
    for model, points in (changes or {}).items():
        if points is None:
            del changed[model]
            continue
        given = {**changed.get(model, {}), **points}
        changed[model] = {name: value for name, value in given.items() if value is not None}
    return changed


class Site:
    """An inverter's registers, and what the bridge has found in them."""

    def __init__(self, registers: Any, inverter: Inverter) -> None:
        self.registers: ImageRegisters = registers
        self.box = self.registers.box
        self.inverter = inverter

    def reconnect(self, models: Models | None = None) -> None:
        """Have a new connection at the next request, to the same inverter or another one."""
        self.registers.connected = False
        if models is not None:
            self.box = self.registers.box = EmulatedInverter(models)

    def points(self) -> list[str]:
        """Return the points that were written since the last call."""
        return [point for request in self.registers.take_written() for point in request]


async def connected(
    models: Models, changes: dict[int, dict[str, Any] | None] | None = None, **settings: Any
) -> Site:
    registers: Any = ImageRegisters(models_of(models, changes))
    return Site(registers, await Inverter.connect(registers, Settings(**settings)))


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the warnings since the last call."""
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    caplog.clear()
    return warnings


# -- what it is ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("models", "changes", "settings", "complaint"),
    [
        (
            PV,
            {103: None},
            {},
            "no inverter: of models 701, 103, 102, 101, 113, 112, 111 it has none, but 1, 120, 121, 123",
        ),
        (
            PV,
            {123: None},
            {},
            "no way to control it as pv: that takes model 704, or 123; it has 1, 103, 120, 121; to read it "
            "only, add --read-only",
        ),
        (
            PV,
            {},
            {"kind": "battery"},
            "no way to control it as battery: that takes model 704, or 124 for storage; it has 1, 103, 120, "
            "121, 123; to read it only, add --read-only",
        ),
        (
            PV,
            {120: None, 121: None},
            {},
            "neither 702, 121 nor 120 says what 100 % of a limit is; to read it only, add --read-only",
        ),
        (
            PV,
            {},
            {"der": DerOptions(power_factor=0.9)},
            "--power-factor needs model 704, which it cannot be controlled by",
        ),
        (
            BATTERY,
            {},
            {"der": DerOptions(power_factor=0.9)},
            "--power-factor needs model 704, which it cannot be controlled by",
        ),
        (
            PV,
            {},
            {"der": DerOptions(ramp_percent_s=5)},
            "model 123 lacks WMaxLimPct_RmpTms: no ramp can be set",
        ),
        (
            BATTERY,
            {},
            {"der": DerOptions(ramp_percent_s=5)},
            "model 124 lacks InOutWRte_RmpTms: no ramp can be set",
        ),
        (
            DER,
            {},
            {"dc_battery": "charging"},
            "no DC port of a battery (model 714, port type ESS); leave out --dc-battery",
        ),
        (
            DER,
            {714: {"NPrt": 1, "Prt[1].PrtTyp": 0}},
            {"dc_battery": "charging"},
            "no DC port of a battery (model 714, port type ESS); leave out --dc-battery",
        ),
        (
            DER,
            {704: {"WSetRvrtTms": None}},
            {},
            "the inverter has no reversion timer (model 704 WSetRvrtTms): if this bridge dies, it keeps its "
            "last setpoint; to accept this, add --without-reversion",
        ),
    ],
)
async def test_an_inverter_that_cannot_be_served_is_refused_in_one_line(
    models: Models, changes: Any, settings: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        await connected(models, changes, **settings)
    assert str(caught.value) == f"box unit 1: {complaint}"


@pytest.mark.parametrize(
    ("models", "changes", "settings", "way", "names"),
    [
        (PV, {}, {}, PowerLimit, {"WMaxLimPct_RvrtTms"}),
        (BATTERY, {}, {}, StorageRates, {"InOutWRte_RvrtTms"}),
        (DER, {}, {"kind": "pv"}, None, {"WMaxLimPctRvrtTms"}),
        (DER, {}, {}, None, {"WSetRvrtTms"}),
        (DER, {704: {"WSet": None, "WSetPct": 0, "WSetPct_SF": 0}}, {}, DerShare, {"WSetPct", "WSetRvrtTms"}),
        (DER, {704: {"WSetPct": 0, "WSetPct_SF": 0}}, {}, None, {"WSet", "WSetRvrtTms"}),
        (BATTERY, {704: {"WMaxLimPctEna": 0}}, {}, StorageRates, {"InOutWRte_RvrtTms"}),
        (PV, {704: {"WSetEna": 0}}, {}, PowerLimit, {"WMaxLimPct_RvrtTms"}),
    ],
)
async def test_the_newer_model_is_taken_where_it_has_what_it_takes_and_the_older_one_else(
    models: Models, changes: Any, settings: dict[str, Any], way: type[Any] | None, names: set[str]
) -> None:
    site = await connected(models, changes, **settings)
    await site.inverter.set(0.001, 0.0, 20.0)
    written = {point.partition("=")[0] for point in site.points()}
    assert names <= written
    if way is None:
        assert not {"WSetPct", "WMaxLimPct_RvrtTms"} & written


async def test_a_der_is_given_what_it_needs_to_know(caplog: pytest.LogCaptureFixture) -> None:
    share = {
        704: {"WSet": None, "WSetPct": 0, "WSetPct_SF": 0, "VarSet": None, "VarSetPct": 0, "VarSetPct_SF": 0}
    }
    share |= {702: {"VarMaxInj": 500, "Var_SF": 1}}
    site = await connected(DER, share, safe_zero=False, der=DerOptions(ramp_percent_s=None))
    await site.inverter.set(-0.0035, 0.001, 20.0)
    assert {"WSetPct=-35", "VarSetPct=20", "WSetEnaRvrt=0"} <= set(site.points())
    assert said(caplog) == []


async def test_an_inverter_without_a_timer_is_taken_where_the_user_says_so_and_that_is_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    site = await connected(
        PV, {123: {"WMaxLimPct_RvrtTms": None, "WMaxLim_Ena": 1, "WMaxLimPct": 0}}, timer_needed=False
    )
    assert said(caplog) == [
        "box unit 1: the inverter has no reversion timer (model 123 WMaxLimPct_RvrtTms): if this bridge "
        "dies, it keeps its last setpoint"
    ]
    assert site.inverter.found == "zero"
    assert (await connected(PV, timer_needed=False)).inverter.found is None
    assert said(caplog) == []


async def test_an_inverter_that_is_only_read_has_left_nothing_and_takes_nothing() -> None:
    site = await connected(PV, {123: {"WMaxLim_Ena": 1, "WMaxLimPct": 0}}, read_only=True)
    inverter = site.inverter
    assert (inverter.found, inverter.is_controlled, inverter.safe_is_zero) == (None, False, True)
    asks = (
        inverter.hold_zero,
        inverter.release,
        inverter.go_safe,
        inverter.holds_zero,
        inverter.what_was_left,
    )
    for ask in (lambda: inverter.set(0.0, 0.0, 1.0), *asks):
        with pytest.raises(NotControllable) as caught:
            await ask()
        assert str(caught.value) == "box unit 1: it is only read, it takes no setpoints"
    assert site.points() == []
    assert (await connected(PV, {123: None}, read_only=True)).inverter.nameplate.kind == "pv"


@pytest.mark.parametrize(
    ("charge", "discharge", "given", "warned"),
    [
        (8000, 900, None, True),
        (9000, 900, None, False),
        (8000, None, None, False),
        (0, 900, None, False),
        (8000, 900, 9_000.0, False),
    ],
)
async def test_an_unclear_reference_of_discharging_is_told(
    charge: int, discharge: int | None, given: float | None, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    changes = {124: {"WChaMax": charge}, 120: {"MaxDisChaRte": discharge}}
    await connected(BATTERY, changes, discharge_w=given)
    text = (
        "box unit 1: 100 % of OutWRte is taken to be WChaMax, 8000 W, but the largest discharge is 9000 W; "
        "give --discharge-reference-w"
    )
    assert said(caplog) == ([text] if warned else [])


async def test_a_reference_of_discharging_that_is_given_counts() -> None:
    site = await connected(BATTERY, discharge_w=9_000.0)
    await site.inverter.set(0.0045, 0.0, 15.0)
    assert {"OutWRte=5000", "InWRte=-5625"} <= set(site.points())


@pytest.mark.parametrize(("means", "p_mw"), [("discharging", -0.001), ("charging", 0.001)])
async def test_a_battery_is_measured_at_its_dc_ports_where_the_user_says_what_is_positive(
    means: str, p_mw: float
) -> None:
    ports = {714: {"NPrt": 1, "DCW_SF": 1, "Prt[1].PrtTyp": 1, "Prt[1].DCW": -100}}
    assert (await (await connected(DER, ports, dc_battery=means)).inverter.measure()).p_mw == p_mw


async def test_what_may_stand_between_a_setpoint_and_the_power_is_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    changes = {703: {"ES": 0}, 705: {"Ena": 1}}
    site = await connected(DER, changes)
    line = "it may not enter service (model 703 ES is disabled): it follows no setpoint until it is enabled"
    assert "box unit 1: active beside setpoints: 705 VoltVar" in caplog.text
    assert said(caplog) == [f"box unit 1: {line}"]
    site.reconnect()
    await site.inverter.measure()
    assert said(caplog) == []
    site.reconnect()  # a measurement in between: it is told again
    await site.inverter.measure()
    assert said(caplog) == [f"box unit 1: {line}"]
    await connected(DER, {**changes, 714: {"NPrt": 0}}, read_only=True)
    assert said(caplog) == []
    assert "active" not in caplog.text


# -- what it measures ------------------------------------------------------------------------------


async def test_a_measurement_is_in_mw_mvar_fraction_and_pu() -> None:
    site = await connected(DER, nominal_v=230.0)
    told = await site.inverter.measure()
    assert (told.p_mw, told.q_mvar, told.soc) == (-0.0015, 0.0003, 0.805)
    assert told.vm_pu == pytest.approx(1.01)
    assert (await (await connected(DER)).inverter.measure()).vm_pu is None
    silent = await connected(DER, {701: {"LNV": None}}, nominal_v=230.0)
    assert (await silent.inverter.measure()).vm_pu is None


async def test_of_a_measuring_model_no_more_is_read_than_it_takes() -> None:
    site = await connected(DER)
    site.registers.requests.clear()
    await site.inverter.measure()
    start, _ = site.box.places()[701, "ID"]
    assert site.registers.requests[0] == (site.box.base + start, 125)


async def test_the_newer_of_two_measuring_models_and_integers_before_floats_are_read() -> None:
    both = await connected(DER, {103: {"W": 7, "W_SF": 0, "St": 4}})
    assert (await both.inverter.measure()).p_mw == -0.0015
    both = await connected(FLOAT, {103: {"W": 7, "W_SF": 0, "St": 4}})
    assert (await both.inverter.measure()).p_mw == 7e-6


@pytest.mark.parametrize(
    ("models", "changes", "settings", "error", "text"),
    [
        (
            PV,
            {103: {"St": 7, "Evt1": 0x82}},
            {},
            InverterFault,
            "the inverter is in a fault, events 0x82",
        ),
        (
            PV,
            {103: {"W": None}},
            {"dark_is_zero": True},
            SunSpecError,
            "model 103 W is not available, and its state is not off, sleeping or standby",
        ),
        (
            PV,
            {103: dict.fromkeys(("W", "St", "PhVphA", "PhVphB", "PhVphC"))},
            {},
            SunSpecError,
            "model 103 W is not available, and its state is not off, sleeping or standby; if that means 0 "
            "W (PV "
            "at night), add --dark-is-zero",
        ),
        (
            DER,
            {714: {"NPrt": 1, "Prt[1].PrtTyp": 1}},
            {"dc_battery": "charging"},
            SunSpecError,
            "model 714 DCW of its battery is not available",
        ),
    ],
)
async def test_what_cannot_be_measured_is_told_with_why(
    models: Models, changes: Any, settings: dict[str, Any], error: type[Exception], text: str
) -> None:
    site = await connected(models, changes, **settings)
    with pytest.raises(error) as caught:
        await site.inverter.measure()
    assert type(caught.value) is error
    assert str(caught.value) == f"box unit 1: {text}"


async def test_a_blank_inverter_has_no_power_only_where_the_user_says_so() -> None:
    blank = {103: dict.fromkeys(("W", "St", "PhVphA", "PhVphB", "PhVphC"))}
    site = await connected(PV, blank, dark_is_zero=True)
    assert (await site.inverter.measure()).p_mw == 0.0


async def test_a_silent_inverter_has_no_power_only_where_the_user_says_so_and_that_is_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    site = await connected(PV, dark_is_zero=True)
    site.registers.fault = SILENCE
    for _ in range(2):
        told = await site.inverter.measure()
        assert (told.p_mw, told.q_mvar, told.soc, told.vm_pu) == (0.0, 0.0, None, None)
    assert said(caplog) == ["box unit 1: no answer; taken as 0 W until it answers"]
    with pytest.raises(NotControllable) as caught:
        await site.inverter.set(0.01, 0.0, 5.0)
    assert str(caught.value) == "box unit 1: no answer; taken as 0 W until it answers"
    site.registers.fault = None
    assert (await site.inverter.measure()).p_mw == 0.04
    site.registers.fault = SILENCE
    await site.inverter.measure()
    assert said(caplog) == ["box unit 1: no answer; taken as 0 W until it answers"], "each time anew"
    site.registers.fault = REFUSED  # it answers: it is not dark
    for ask in (site.inverter.measure, lambda: site.inverter.set(0.01, 0.0, 5.0)):
        with pytest.raises(ModbusFault):
            await ask()
    bright = await connected(PV)
    bright.registers.fault = SILENCE
    for ask in (bright.inverter.measure, lambda: bright.inverter.set(0.01, 0.0, 5.0)):
        with pytest.raises(ModbusFault):
            await ask()


async def test_a_state_of_charge_is_that_of_the_first_model_that_says_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    older = {124: {"ChaState": 4200, "ChaState_SF": -2}}
    for newer, soc in (({"SoC": 805}, 0.805), ({"SoC": None}, 0.42), ({"SoC": 2000}, 0.42)):
        site = await connected(DER, {**older, 713: newer})
        caplog.clear()
        for _ in range(2):
            assert (await site.inverter.measure()).soc == soc
        # The measurement itself was read: what was told before is told anew.
        assert set(said(caplog)) == (
            {"box unit 1: model 713 SoC is 200 %; it is left out"} if soc == 0.42 and newer["SoC"] else set()
        )
    assert (await (await connected(PV)).inverter.measure()).soc is None


async def test_a_reading_that_cannot_be_is_left_out_and_told_when_it_changes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    site = await connected(FLOAT, nominal_v=230.0)

    async def voltages(volts: float) -> list[str]:
        for name in ("PhVphA", "PhVphB", "PhVphC"):
            site.box[113, name] = volts  # type: ignore[assignment]
        await site.inverter.measure()
        return said(caplog)

    assert await voltages(230.0) == []
    [line] = await voltages(-230.0)
    assert line.startswith("box unit 1: left out what cannot be read")
    assert "vm_pu" in line
    assert await voltages(-230.0) == []
    assert await voltages(230.0) == []
    assert await voltages(-230.0) == [line]


# -- what it is told -------------------------------------------------------------------------------


async def test_a_setpoint_beyond_the_nameplate_is_clipped_and_the_first_of_several_is_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    site = await connected(PV)
    first = "box unit 1: 60000 W, 0 var: clipped to what its nameplate allows, 50000 W, 0 var"
    await site.inverter.set(0.06, 0.0, 20.0)
    assert said(caplog) == [first]
    for p_mw, warned in ((0.04, []), (0.06, [first]), (0.07, []), (0.05, []), (0.06, [first])):
        await site.inverter.set(p_mw, 0.0, 20.0)
        assert said(caplog) == warned, p_mw


async def test_too_much_for_an_inverter_that_gives_no_bound_is_refused() -> None:
    silent = {702: {"WMaxRtg": None, "WMax": None, "WChaRteMaxRtg": None, "WDisChaRteMaxRtg": None}}
    site = await connected(DER, silent)
    for p_mw, q_mvar, shown in (
        (1e306, 0.0, "inf W, 0 var"),
        (-1e306, 0.0, "-inf W, 0 var"),
        (0.0, 1e306, "0 W, inf var"),
    ):
        with pytest.raises(NotControllable) as caught:
            await site.inverter.set(p_mw, q_mvar, 20.0)
        assert (
            str(caught.value) == f"box unit 1: {shown}: it does not report its limits, and this is too much"
        )
    assert site.points() == []
    await site.inverter.set(0.02, 0.0, 20.0)
    assert "WSet=20000" in site.points()


async def test_reactive_power_that_it_is_not_told_is_told_to_people(caplog: pytest.LogCaptureFixture) -> None:
    site = await connected(PV)
    for q_mvar in (0.0, 0.001, -0.001):
        await site.inverter.set(0.01, q_mvar, 5.0)
        assert said(caplog) == (
            ["box unit 1: it gets no reactive power setpoint, that would need model 704"] if q_mvar else []
        )
    der = await connected(DER)
    await der.inverter.set(0.001, 0.001, 5.0)
    assert said(caplog) == []
    factor = {"PF_SF": -2, "PFWInjEna": 0, "PFWInjRvrtTms": 0, "PFWInj[1].PF": 100, "PFWInj[1].Ext": 0}
    held = await connected(DER, {704: factor}, der=DerOptions(power_factor=0.9))
    line = "box unit 1: it holds a power factor, and accepts no reactive power"
    for q_mvar, lines in ((0.0, []), (0.001, [line]), (0.001, [])):
        await held.inverter.set(0.001, q_mvar, 5.0)
        assert said(caplog) == lines


async def test_local_control_is_told_with_how_to_end_it() -> None:
    site = await connected(DER, {715: {"LocRemCtl": 1}})
    with pytest.raises(NotControllable) as caught:
        await site.inverter.set(0.001, 0.0, 5.0)
    assert str(caught.value) == (
        "box unit 1: it is under local control (model 715 LocRemCtl): it takes no setpoints until that is "
        "switched to remote at the inverter"
    )
    assert site.points() == []
    await site.inverter.hold_zero()
    assert "WSet=0" in site.points(), "a stop is tried all the same"


async def test_heartbeats_that_are_not_taken_are_a_fault_at_the_third_on_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    never = await connected(DER, {715: {"LocRemCtl": 0, "ControllerHb": 0}})
    never.registers.fault = REFUSED
    for _ in range(2):
        await never.inverter.heartbeat()
    with pytest.raises(ModbusFault):
        await never.inverter.heartbeat()
    caplog.clear()
    site = await connected(DER, {715: {"LocRemCtl": 0, "ControllerHb": 0}})
    for _ in range(2):
        site.registers.fault = REFUSED
        for _ in range(2):
            await site.inverter.heartbeat()
            assert said(caplog) == [f"box unit 1: a heartbeat was not taken: {REFUSED}"]
        site.registers.fault = None
        await site.inverter.heartbeat()
        site.inverter._operation._beats = 0  # type: ignore[union-attr]
    site.registers.fault = REFUSED
    for _ in range(2):
        await site.inverter.heartbeat()
    for _ in range(2):
        with pytest.raises(ModbusFault):
            await site.inverter.heartbeat()
    without = await connected(DER)
    without.registers.fault = REFUSED
    await without.inverter.heartbeat()


async def test_its_safe_state_is_zero_or_its_own_control(caplog: pytest.LogCaptureFixture) -> None:
    for safe_zero, points in (
        (True, ["WMaxLimPct=0", "WMaxLimPct_RvrtTms=0", "WMaxLim_Ena=1"]),
        (False, ["WMaxLim_Ena=0"]),
    ):
        site = await connected(PV, safe_zero=safe_zero)
        assert site.inverter.safe_is_zero is safe_zero
        await site.inverter.go_safe()
        assert site.points() == points


async def test_its_own_settings_are_remembered_once_before_the_first_of_ours_and_put_back() -> None:
    own = {123: {"WMaxLimPct": 7000, "WMaxLim_Ena": 1}}
    for first in ("set", "hold_zero"):
        site = await connected(PV, own)
        await (site.inverter.set(0.01, 0.0, 5.0) if first == "set" else site.inverter.hold_zero())
        await site.inverter.set(0.02, 0.0, 5.0)
        site.points()
        await site.inverter.release()
        assert site.points() == ["WMaxLimPct=7000", "WMaxLimPct_RvrtTms=0", "WMaxLim_Ena=1"], first
    untold = await connected(PV, own)
    await untold.inverter.release()
    assert untold.points() == ["WMaxLim_Ena=0"], "what they were is not known"


async def test_settings_that_another_control_read_are_not_put_back() -> None:
    own = {123: {"WMaxLimPct": 7000, "WMaxLim_Ena": 1}}
    site = await connected(PV, own)
    await site.inverter.set(0.01, 0.0, 5.0)
    newer = {704: {"WMaxLimPctEna": 1, "WMaxLimPct": 20, "WMaxLimPct_SF": 0, "WMaxLimPctRvrtTms": 9}}
    site.reconnect(models_of(PV, newer))
    await site.inverter.measure()
    site.points()
    await site.inverter.release()
    assert site.points() == ["WMaxLimPctEna=0"]


async def test_zero_is_fresh_where_the_settings_are_and_by_what_is_known_where_it_cannot_wait() -> None:
    site = await connected(PV)
    site.registers.requests.clear()
    site.registers.read_fault = SILENCE
    await site.inverter.hold_zero()
    assert site.points() == ["WMaxLimPct=0", "WMaxLimPct_RvrtTms=0", "WMaxLim_Ena=1"]
    site.registers.read_fault = None
    site = await connected(PV)
    site.box[123, "WMaxLimPct"], site.box[123, "WMaxLim_Ena"] = 6000, 1  # since it was looked at
    await site.inverter.set(0.01, 0.0, 5.0)
    site.points()
    await site.inverter.release()
    assert site.points()[0] == "WMaxLimPct=6000"


async def test_what_an_earlier_controller_left_is_read_anew_also_over_a_new_connection() -> None:
    site = await connected(PV)
    assert (site.inverter.found, await site.inverter.what_was_left()) == (None, None)
    left = {123: {"WMaxLimPct": 3000, "WMaxLim_Ena": 1, "WMaxLimPct_RvrtTms": 20}}
    site.box[123, "WMaxLim_Ena"], site.box[123, "WMaxLimPct"] = 1, 0
    assert await site.inverter.what_was_left() == "zero"
    site.reconnect(models_of(PV, left))
    assert await site.inverter.what_was_left() == "setpoint"
    assert (await connected(PV, left)).inverter.found == "setpoint"


# -- a new connection ------------------------------------------------------------------------------


OTHER = models_of(PV, {1: {"SN": "0816"}})
ANOTHER = "box unit 1: another inverter answers: Heron Works PV-50 0816 instead of Heron Works PV-50 0815"


@pytest.mark.parametrize(
    ("models", "point", "held"), [(PV, (121, "WMax"), (123, "WMaxLimPct")), (DER, (702, "WMax"), None)]
)
async def test_what_a_setpoint_is_a_share_of_is_read_with_each(
    models: Models, point: tuple[int, str], held: tuple[int, str] | None, caplog: pytest.LogCaptureFixture
) -> None:
    """An installer sets it while the inverter runs: 2 kW became 4 kW."""
    site = await connected(models)
    whole_w = site.inverter.nameplate.w_max
    assert whole_w is not None
    asked_mw = 0.25 * whole_w / 1e6
    await site.inverter.set(asked_mw, 0.0, 5.0)
    before = None if held is None else site.box[held]
    site.box[point] *= 2
    caplog.clear()
    await site.inverter.set(asked_mw, 0.0, 5.0)
    assert site.inverter.nameplate.w_max == 2 * whole_w
    if held is not None and before is not None:
        assert site.box[held] == before // 2
    assert said(caplog) == [
        f"box unit 1: its settings were changed: 100 % of its power was {whole_w} W, and is {2 * whole_w} W"
    ]
    await site.inverter.set(asked_mw, 0.0, 5.0)
    assert said(caplog) == []


@pytest.mark.parametrize(
    ("models", "point"),
    [(PV, (121, "WMax")), (BATTERY, (124, "WChaMax")), (DER, None)],
    ids=["pv", "bat", "704"],
)
async def test_what_100_percent_is_costs_one_register_to_look_at(
    models: Models, point: tuple[int, str] | None
) -> None:
    site = await connected(models)
    assert not await site.inverter.is_set_anew(), "nothing was set"
    await site.inverter.set(0.002, 0.0, 5.0)
    site.registers.requests.clear()
    assert not await site.inverter.is_set_anew()
    assert len(site.registers.requests) == (point is not None), "model 704 WSet is told W"
    if point is not None:
        site.box[point] += 1
        assert await site.inverter.is_set_anew()
        site.registers.read_fault = ModbusFault("box unit 1: no answer")
        assert not await site.inverter.is_set_anew(), "the next setpoint finds it"
        site.registers.read_fault = None
        await site.inverter.set(0.002, 0.0, 5.0)
        assert not await site.inverter.is_set_anew()


async def test_settings_are_read_again_on_a_new_connection() -> None:
    site = await connected(PV)
    assert site.inverter.connections == 1
    site.registers.requests.clear()
    await site.inverter.set(0.0125, 0.0, 5.0)
    assert len(site.registers.requests) == 3, "121, and 123 for its own settings and with the setpoint"
    site.reconnect()
    await site.inverter.set(0.0125, 0.0, 5.0)
    assert site.inverter.connections == 2
    assert len(site.registers.requests) > 10
    site.registers.requests.clear()
    await site.inverter.measure()
    assert len(site.registers.requests) == 1, "only what is measured"


async def test_another_inverter_is_told_nothing_and_asked_again_until_the_right_one_answers() -> None:
    site = await connected(PV)
    site.reconnect(OTHER)
    site.registers.silent_s = 60.0
    asks = (site.inverter.measure, site.inverter.holds_zero, site.inverter.what_was_left)
    stops = (site.inverter.hold_zero, site.inverter.release, lambda: site.inverter.set(0.01, 0.0, 5.0))
    for ask in (*stops, *asks, *stops):
        with pytest.raises(SunSpecError) as caught:
            await ask()
        assert str(caught.value) == ANOTHER
    assert site.points() == []
    site.box = site.registers.box = EmulatedInverter(PV)  # over the same connection
    await site.inverter.hold_zero()
    assert "WMaxLimPct=0" in site.points()
    assert (await site.inverter.measure()).p_mw == 0.0


async def test_another_inverter_without_a_name_is_told_nothing_either() -> None:
    site = await connected(PV)
    site.reconnect(models_of(PV, {1: None}))
    for ask in (site.inverter.measure, site.inverter.hold_zero, site.inverter.release):
        with pytest.raises(SunSpecError, match="another inverter answers"):
            await ask()
    assert site.points() == []


@pytest.mark.parametrize(("silent_s", "is_asked"), [(4.9, False), (5.0, True), (60.0, True)])
async def test_before_a_stop_it_is_made_sure_who_answers_where_it_was_not_heard_for_some_time(
    silent_s: float, is_asked: bool
) -> None:
    for ask in ("hold_zero", "release"):
        site = await connected(PV)
        site.registers.silent_s = silent_s
        site.registers.requests.clear()
        await getattr(site.inverter, ask)()
        assert site.registers.requests == [], "on the same connection it is the same"
        site.reconnect(OTHER)
        if is_asked:
            with pytest.raises(SunSpecError, match="another inverter answers"):
                await getattr(site.inverter, ask)()
        else:
            await getattr(site.inverter, ask)()
            assert len(site.registers.requests) == 1, "whether the model is where it was"
        site = await connected(PV)
        site.registers.silent_s = silent_s
        site.registers.requests.clear()
        site.reconnect()
        await getattr(site.inverter, ask)()
        assert len(site.registers.requests) == 1 + is_asked, "that, its name, and nothing else"
        assert site.points()


async def test_an_inverter_without_a_name_is_not_asked_for_it_before_a_stop() -> None:
    site = await connected(PV, {1: None})
    site.registers.silent_s = 60.0
    site.reconnect()
    site.registers.requests.clear()
    await site.inverter.hold_zero()
    assert len(site.registers.requests) == 1, "whether the model is where it was"


async def test_a_stop_is_written_where_nobody_answers_who_it_is_but_not_once_it_was_another(
    caplog: pytest.LogCaptureFixture,
) -> None:
    site = await connected(PV)
    site.registers.silent_s = 60.0
    site.reconnect()
    site.registers.read_fault = SILENCE
    await site.inverter.hold_zero()
    assert said(caplog) == ["box unit 1: no answer; its safe state is still written"]
    assert "WMaxLimPct=0" in site.points()
    site.reconnect(OTHER)
    site.registers.read_fault = None
    with pytest.raises(SunSpecError, match="another inverter answers"):
        await site.inverter.measure()
    site.registers.read_fault = SILENCE
    site.registers.silent_s = 0.0  # also where it was heard just now
    with pytest.raises(ModbusFault):
        await site.inverter.hold_zero()
    assert site.points() == []


async def test_an_inverter_that_is_built_otherwise_is_looked_at_before_a_stop() -> None:
    site = await connected(PV)
    site.registers.silent_s = 60.0
    site.reconnect({103: PV[103], 123: PV[123], 1: PV[1], 120: PV[120], 121: PV[121]})
    await site.inverter.hold_zero()
    assert "WMaxLimPct=0" in site.points()
    assert site.box[123, "WMaxLim_Ena"] == 1


@pytest.mark.parametrize("ask", ["hold_zero", "release"])
@pytest.mark.parametrize("is_noticed_by", ["holds_zero", "measure", "set", "illegal address"])
async def test_models_that_have_moved_are_looked_for_before_anything_is_told(
    ask: str, is_noticed_by: str
) -> None:
    """A restart within seconds, with another firmware: the stop went into foreign registers for ever."""
    moved = {1: PV[1], 101: {}, **{model: PV[model] for model in PV if model != 1}}
    site = await connected(PV)
    await site.inverter.set(0.01, 0.0, 5.0)
    site.box = site.registers.box = EmulatedInverter(moved)  # over the same connection, or one found again
    if is_noticed_by == "illegal address":
        site.registers.read_fault = ModbusFault("box unit 1: Modbus exception 2", 2)
        with pytest.raises(SunSpecError):
            await site.inverter.measure()
        site.registers.read_fault = None
    else:
        tell = {"set": lambda: site.inverter.set(0.01, 0.0, 5.0)}
        with pytest.raises(SunSpecError, match=r"where 1[02][13] was found"):
            await tell.get(is_noticed_by, getattr(site.inverter, is_noticed_by))()
    site.points()
    await getattr(site.inverter, ask)()
    assert ("WMaxLimPct=0" if ask == "hold_zero" else "WMaxLim_Ena=0") in site.points()
    assert await site.inverter.holds_zero() == (ask == "hold_zero")


@pytest.mark.parametrize("ask", ["hold_zero", "release"])
@pytest.mark.parametrize("silent_s", [0.5, 60.0])
async def test_after_a_restart_with_moved_models_nothing_is_written_where_they_were(
    ask: str, silent_s: float
) -> None:
    moved = {1: PV[1], 101: {}, **{model: PV[model] for model in PV if model != 1}}
    site = await connected(PV)
    await site.inverter.set(0.01, 0.0, 5.0)
    site.points()
    site.registers.silent_s = silent_s
    site.reconnect(moved)
    await getattr(site.inverter, ask)()
    told = ["WMaxLimPct=0", "WMaxLimPct_RvrtTms=0", "WMaxLim_Ena=1"]
    assert site.points() == (told if ask == "hold_zero" else ["WMaxLim_Ena=0"]), "and nothing else"


@pytest.mark.parametrize("broken_off_at", ["read_nameplate", "choose_control", "active_functions"])
async def test_a_look_that_a_stop_breaks_off_leaves_no_half_of_what_it_found(
    monkeypatch: pytest.MonkeyPatch, broken_off_at: str
) -> None:
    """New places beside the old control: the new ones were looked at, and the old ones written."""
    moved = {1: PV[1], 101: {}, **{model: PV[model] for model in PV if model != 1}}
    site = await connected(PV)
    await site.inverter.set(0.01, 0.0, 5.0)
    site.points()
    site.registers.silent_s = 0.5
    site.reconnect(moved)
    with monkeypatch.context() as patched:
        broken_off = Mock(side_effect=asyncio.CancelledError)
        patched.setattr(f"heron_mqtt.field.sunspec.inverter.{broken_off_at}", broken_off)
        with pytest.raises(asyncio.CancelledError):
            await site.inverter.measure()
    await site.inverter.hold_zero()
    assert site.points() == ["WMaxLimPct=0", "WMaxLimPct_RvrtTms=0", "WMaxLim_Ena=1"], "and nothing else"


async def test_what_answered_a_look_that_was_broken_off_does_not_count_as_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    site = await connected(PV)
    site.registers.silent_s = 60.0
    site.reconnect(OTHER)
    with monkeypatch.context() as patched:
        broken_off = Mock(side_effect=asyncio.CancelledError)
        patched.setattr("heron_mqtt.field.sunspec.inverter.read_nameplate", broken_off)
        with pytest.raises(asyncio.CancelledError):
            await site.inverter.measure()
    site.registers.silent_s = 0.1  # since the other one answered
    with pytest.raises(SunSpecError, match="another inverter answers"):
        await site.inverter.hold_zero()
    assert site.points() == []


async def test_one_that_closes_each_connection_once_it_has_answered_is_told_of_a_stop() -> None:
    """Where its model stands was read, and the write found the connection closed, each time anew."""
    site = await connected(PV)
    site.reconnect()
    await site.inverter._make_sure_it_is_the_same()
    site.registers.requests.clear()
    site.reconnect()
    await site.inverter.hold_zero()
    assert site.registers.requests == []
    assert "WMaxLimPct=0" in site.points()


async def test_whether_zero_is_held_is_not_looked_at_anew_where_it_was_just_told() -> None:
    site = await connected(PV)
    await site.inverter.hold_zero()
    site.reconnect()
    site.registers.requests.clear()
    assert await site.inverter.holds_zero(just_told=True)
    assert len(site.registers.requests) == 1
    site.reconnect()
    assert await site.inverter.holds_zero()
    assert len(site.registers.requests) > 5


# -- the installation's own settings -----------------------------------------------------------------


LIMITED = {123: {"WMaxLimPct": 6000, "WMaxLim_Ena": 1}}
DER_LIMITED = {704: {"WMaxLimPct": 60, "WMaxLimPctEna": 1}}
TIMED = {123: {"WMaxLimPct": 2000, "WMaxLim_Ena": 1, "WMaxLimPct_RvrtTms": 20}}


async def test_a_limit_of_the_installation_bounds_setpoints_and_is_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    for models, own, settings, limit_w, written in (
        (PV, LIMITED, {}, 30_000, "WMaxLimPct=6000"),
        (DER, DER_LIMITED, {"kind": "pv"}, 6_000, "WMaxLimPct=60"),
    ):
        site = await connected(models, own, **settings)
        assert site.inverter.power_range_w == (0.0, limit_w), "before the first setpoint, too"
        said(caplog)
        for _ in range(2):
            await site.inverter.set(0.045, 0.0, 5.0)
            assert written in site.points()
        assert said(caplog) == [
            f"box unit 1: 45000 W, 0 var: clipped to what the limit of its installation allows, {limit_w} W, "
            "0 var"
        ]
        assert site.inverter.power_range_w == (0.0, limit_w), "while it holds a setpoint, too"


async def test_a_limit_of_the_installation_counts_in_the_scale_and_of_the_maximum_of_now() -> None:
    site = await connected(PV, LIMITED)
    await site.inverter.set(0.01, 0.0, 5.0)
    site.box[123, "WMaxLimPct_SF"], site.box[123, "WMaxLimPct"] = 0, 20
    site.box[121, "WMax"] = 1000  # 100 kW
    site.points()
    await site.inverter.set(0.09, 0.0, 5.0)
    assert "WMaxLimPct=60" in site.points()
    assert site.inverter.power_range_w == (0.0, 60_000.0)


@pytest.mark.parametrize("left", [{"WMaxLimPct_RvrtTms": 9}, {"WMaxLimPct": 0}, {"WMaxLim_Ena": 0}])
async def test_what_is_no_setting_of_the_installation_is_no_limit(left: dict[str, int]) -> None:
    site = await connected(PV, {123: {**LIMITED[123], **left}})
    assert site.inverter.power_range_w == (0.0, 50_000.0)


@pytest.mark.parametrize(
    ("mode", "out_rate", "in_rate", "range_w"),
    [
        (3, 5000, 2500, (-2000.0, 4000.0)),
        (1, 5000, 2500, (-2000.0, 9000.0)),  # charging only is limited
        (2, 5000, 2500, (-8000.0, 4000.0)),
        (3, 5000, 0, (0.0, 4000.0)),
        (3, -1000, 5000, (-4000.0, 0.0)),  # it demands to charge: no discharging, and 0 stays allowed
        (3, 5000, -1000, (0.0, 4000.0)),
        (0, 5000, 2500, (-8000.0, 9000.0)),
    ],
)
async def test_a_window_of_the_installation_bounds_the_sides_that_it_limits(
    mode: int, out_rate: int, in_rate: int, range_w: tuple[float, float]
) -> None:
    site = await connected(BATTERY, {124: {"StorCtl_Mod": mode, "OutWRte": out_rate, "InWRte": in_rate}})
    assert site.inverter.power_range_w == range_w
    for p_mw, bound_w in ((-0.02, range_w[0]), (0.02, range_w[1])):
        site.points()
        await site.inverter.set(p_mw, 0.0, 5.0)
        rate = round(min(abs(bound_w), 8_000.0) / 8_000.0 * 10_000) * (-1 if p_mw < 0.0 else 1)
        assert f"OutWRte={rate}" in site.points()
    await site.inverter.hold_zero()
    assert "OutWRte=0" in site.points()


async def test_after_a_release_that_shows_a_limit_that_is_set_anew_counts() -> None:
    site = await connected(PV, LIMITED)
    await site.inverter.set(0.01, 0.0, 5.0)
    await site.inverter.release()
    assert await site.inverter.not_released() is None
    site.box[123, "WMaxLimPct"] = 4000
    await site.inverter.set(0.05, 0.0, 5.0)
    assert "WMaxLimPct=4000" in site.points()


async def restarted(models: Models, changes: dict[int, Any], folder: Path, **settings: Any) -> Site:
    """Return an inverter at which another bridge begins."""
    registers: Any = ImageRegisters(models_of(models, changes))
    kept = KeptSettings(folder, "box unit 1")
    return Site(registers, await Inverter.connect(registers, Settings(**settings), kept=kept))


async def killed(folder: Path, first: str = "set") -> None:
    """Have a bridge drive an inverter with a limit of its own, and end without a word."""
    site = await restarted(PV, LIMITED, folder)
    await (site.inverter.set(0.01, 0.0, 5.0) if first == "set" else site.inverter.hold_zero())


@pytest.mark.parametrize("first", ["set", "hold_zero"])
async def test_after_a_kill_the_next_bridge_puts_the_limit_of_the_installation_back(
    tmp_path: Path, first: str
) -> None:
    await killed(tmp_path, first)
    left = TIMED if first == "set" else {123: {"WMaxLimPct": 0, "WMaxLim_Ena": 1}}
    site = await restarted(PV, left, tmp_path)
    assert site.inverter.found == ("setpoint" if first == "set" else "zero")
    assert site.inverter.power_range_w == (0.0, 30_000.0)
    await site.inverter.hold_zero()
    site.points()
    await site.inverter.release()
    assert site.points() == ["WMaxLimPct=6000", "WMaxLimPct_RvrtTms=0", "WMaxLim_Ena=1"]
    assert not site.inverter.lacks_own_settings
    assert await site.inverter.not_released() is None
    assert list(tmp_path.iterdir()) == [], "it has them back"


async def test_an_inverter_that_has_reverted_without_its_limit_after_a_kill_lacks_it(tmp_path: Path) -> None:
    await killed(tmp_path)
    assert (await restarted(PV, {}, tmp_path)).inverter.found == "settings"
    for changes in (LIMITED, {123: {"WMaxLimPct": 4000, "WMaxLim_Ena": 1}}):  # back, or set anew since
        await killed(tmp_path)
        site = await restarted(PV, changes, tmp_path)
        assert site.inverter.found is None
        assert site.inverter.may_owe_settings, "until its name is ours"
        assert await site.inverter.what_was_left() is None
        assert not site.inverter.may_owe_settings
        assert list(tmp_path.iterdir()) == []


async def test_without_a_timer_what_stands_after_a_kill_is_the_setpoint(tmp_path: Path) -> None:
    no_timer: dict[int, Any] = {123: {**LIMITED[123], "WMaxLimPct_RvrtTms": None}}
    site = await restarted(PV, no_timer, tmp_path, timer_needed=False)
    await site.inverter.set(0.01, 0.0, 5.0)
    no_timer[123]["WMaxLimPct"] = 2000
    site = await restarted(PV, no_timer, tmp_path, timer_needed=False)
    assert site.inverter.found == "setpoint"
    await site.inverter.release()
    assert "WMaxLimPct=6000" in site.points()


async def test_settings_are_those_of_one_inverter_at_one_place(tmp_path: Path) -> None:
    await killed(tmp_path)
    for changes in ({**TIMED, 1: {"SN": "0816"}}, {**TIMED, 1: {"SN": None}}):
        site = await restarted(PV, changes, tmp_path)
        assert site.inverter.lacks_own_settings
        await site.inverter.release()
        assert site.points() == ["WMaxLim_Ena=0"]
    assert KeptSettings(tmp_path, "box unit 2").load(("Heron Works", "PV-50", "0815"), a_limit()) is None
    assert KeptSettings(tmp_path, "box unit 1").load(("Heron Works", "PV-50", "0815"), a_limit()) is not None


def a_limit() -> PowerLimit:
    return PowerLimit(Mock(), Mock(), 1.0)


async def test_settings_that_cannot_be_kept_or_read_are_told_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    await killed(tmp_path / "file")
    [line] = said(caplog)
    assert "the settings of an inverter cannot be kept, a kill loses them: " in line
    await killed(tmp_path / "folder")
    [file] = (tmp_path / "folder").iterdir()
    for text in ("{", "[]", '{"control": "123 WMaxLim_Ena", "raw": {"WMaxLimPct": "x"}, "exponents": {}}'):
        file.write_text(text)
        site = await restarted(PV, TIMED, tmp_path / "folder")
        assert site.inverter.lacks_own_settings
        [line] = said(caplog)
        assert line.startswith(f"{file}: the settings of an inverter cannot be read, and are not known: ")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "Expecting"),
        ("[]", "expected an object with control, raw and exponents"),
        ('{"raw": {}, "exponents": {}}', "'control' is missing"),
        ('{"control": "124 StorCtl_Mod", "raw": {}, "exponents": {}}', "they are of 124 StorCtl_Mod"),
        (
            '{"control": "123 WMaxLim_Ena", "raw": {"WMaxLimPct": 4294967296}, "exponents": {}}',
            "raw: a number that no register holds",
        ),
        (
            '{"control": "123 WMaxLim_Ena", "raw": {"WMaxLimPct": 1}, "exponents": {"WMaxLimPct": -300}}',
            "exponents: a number that no scale factor has",
        ),
    ],
)
async def test_with_a_damaged_file_settings_are_lost_also_where_the_timer_has_ended_the_setpoint(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str, why: str
) -> None:
    for changes, is_lost in (({}, True), (LIMITED, False)):  # off, or on at the inverter itself
        await killed(tmp_path)
        [file] = tmp_path.iterdir()
        file.write_text(text)
        caplog.clear()
        site = await restarted(PV, changes, tmp_path)
        assert why in said(caplog)[0]
        await site.inverter.set(0.01, 0.0, 5.0)
        await site.inverter.release()
        assert await site.inverter.not_released() is None
        assert site.inverter.lacks_own_settings is is_lost

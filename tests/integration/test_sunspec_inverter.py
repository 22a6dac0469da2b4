"""A SunSpec inverter over Modbus TCP is measured and controlled as its models say, and reverts by itself."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import itertools
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from pymodbus.constants import ExcCodes

from heron_mqtt.errors import ConfigError
from heron_mqtt.field.modbus.place import TcpAddress
from heron_mqtt.field.modbus.registers import ModbusConnection, ModbusFault, Registers
from heron_mqtt.field.sunspec.block import SunSpecError
from heron_mqtt.field.sunspec.der_ac_controls import DerOptions
from heron_mqtt.field.sunspec.inverter import Inverter, NotControllable, Settings
from support.modbus_front import ModbusFront, nonsense, twice, whole
from support.sunspec_server import BATTERY, DER, FLOAT, PV, EmulatedInverter
from support.waiting import until


class Pair:
    """An emulated inverter and how the bridge sees it."""

    def __init__(self, box: EmulatedInverter, registers: Registers, inverter: Inverter) -> None:
        self.box, self.registers, self.inverter = box, registers, inverter


def changed(models: dict[int, dict[str, Any]], changes: dict[int, Any]) -> dict[int, dict[str, Any]]:
    """Return models with points changed, or left out (None), or whole models left out (None)."""
    result = copy.deepcopy(models)
    for model, points in changes.items():
        if points is None:
            del result[model]
            continue
        for name, value in points.items():
            if value is None:
                result[model].pop(name, None)
            else:
                result.setdefault(model, {})[name] = value
    return result


@pytest.fixture
async def make() -> AsyncIterator[Any]:
    """Start an emulated inverter and connect to it as the bridge does."""
    boxes: list[EmulatedInverter] = []
    clients: list[Registers] = []

    async def start(
        models: dict[int, dict[str, Any]],
        changes: dict[int, Any] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        **settings: Any,
    ) -> Pair:
        boxes.append(await EmulatedInverter(changed(models, changes or {})).start())
        clients.append(Registers(ModbusConnection(TcpAddress("127.0.0.1", boxes[-1].port), timeout_s=0.5), 1))
        inverter = await Inverter.connect(clients[-1], Settings(**settings), monotonic)
        assert boxes[-1].writes() == []  # looking changes nothing
        return Pair(boxes[-1], clients[-1], inverter)

    yield start
    for client in clients:
        client.close()
    for box in boxes:
        await box.stop()


# -- what it is ------------------------------------------------------------------------------------


async def test_the_nameplate_is_gathered_from_the_older_models(make: Any) -> None:
    plate = (await make(BATTERY)).inverter.nameplate
    assert (plate.kind, plate.identity) == ("battery", ("Heron Works", "ESS-10", "4711"))
    assert plate.power_range_w == (-8_000.0, 9_000.0)
    assert plate.energy_wh == 20_000.0


async def test_the_nameplate_is_gathered_from_the_der_models(make: Any) -> None:
    plate = (await make(DER)).inverter.nameplate
    assert (plate.kind, plate.power_range_w, plate.energy_wh) == ("battery", (-7_000.0, 6_000.0), 10_000.0)


async def test_an_inverter_without_storage_is_pv_and_its_setting_counts_not_its_rating(make: Any) -> None:
    plate = (await make(PV, {121: {"WMax": 400}})).inverter.nameplate
    assert (plate.kind, plate.power_range_w) == ("pv", (0.0, 40_000.0))


async def test_without_a_setting_the_rating_counts(make: Any) -> None:
    assert (await make(PV, {121: None})).inverter.nameplate.w_max == 50_000.0


# -- what it measures ------------------------------------------------------------------------------


async def test_measurements_of_the_older_models_have_our_units_and_signs(make: Any) -> None:
    telemetry = await (await make(PV, nominal_v=230.0)).inverter.measure()
    assert (telemetry.p_mw, telemetry.q_mvar, telemetry.soc) == (0.04, -0.002, None)
    assert telemetry.vm_pu == pytest.approx(1.0)


async def test_measurements_of_the_der_models_have_our_units_and_signs(make: Any) -> None:
    telemetry = await (await make(DER, nominal_v=230.0)).inverter.measure()
    assert (telemetry.p_mw, telemetry.q_mvar, telemetry.soc) == (-0.0015, 0.0003, 0.805)
    assert telemetry.vm_pu == pytest.approx(1.01)


@pytest.mark.parametrize("model", [101, 102])
async def test_one_and_split_phase_inverters_are_measured_too(make: Any, model: int) -> None:
    pair = await make(PV, {103: None, model: {"W": 5, "W_SF": 3, "St": 4}}, nominal_v=230.0)
    telemetry = await pair.inverter.measure()
    assert (telemetry.p_mw, telemetry.vm_pu) == (0.005, None)


async def test_a_changing_scale_factor_is_followed(make: Any) -> None:
    pair = await make(PV)
    pair.box[103, "W"], pair.box[103, "W_SF"] = 1234, -1
    assert (await pair.inverter.measure()).p_mw == pytest.approx(123.4e-6)


# -- control: model 123 ----------------------------------------------------------------------------


async def test_a_limit_is_set_in_percent_with_the_lease_as_reversion_time(make: Any) -> None:
    pair = await make(PV)
    await pair.inverter.set(0.0325, 0.0, 29.2)
    box = pair.box
    assert [box[123, n] for n in ("WMaxLimPct", "WMaxLimPct_RvrtTms", "WMaxLim_Ena")] == [6500, 30, 1]


@pytest.mark.parametrize(("p_mw", "counts"), [(0.08, 10_000), (-0.01, 0), (0.0333334, 6666)])
async def test_a_limit_stays_within_its_range_and_is_never_rounded_up(
    make: Any, p_mw: float, counts: int
) -> None:
    pair = await make(PV)
    await pair.inverter.set(p_mw, 0.0, 10.0)
    assert pair.box[123, "WMaxLimPct"] == counts


async def test_the_inverter_drops_the_limit_when_we_fall_silent_and_not_while_we_renew(make: Any) -> None:
    pair = await make(PV)
    for _ in range(3):
        await pair.inverter.set(0.01, 0.0, 10.0)
        pair.box.now_s += 9.0
        pair.box.run_timers()
        assert pair.box[123, "WMaxLim_Ena"] == 1
    pair.box.now_s += 1.0
    pair.box.run_timers()
    assert pair.box[123, "WMaxLim_Ena"] == 0


async def test_pv_is_safe_at_zero_or_on_its_own(make: Any) -> None:
    pair = await make(PV)
    await pair.inverter.set(0.01, 0.0, 10.0)
    await pair.inverter.go_safe()
    pair.box.now_s += 1e6
    pair.box.run_timers()
    assert [pair.box[123, n] for n in ("WMaxLimPct", "WMaxLim_Ena")] == [0, 1]  # and it stays
    released = await make(PV, safe_zero=False)
    await released.inverter.set(0.01, 0.0, 10.0)
    await released.inverter.go_safe()
    assert released.box[123, "WMaxLim_Ena"] == 0


# -- control: model 124 ----------------------------------------------------------------------------


async def test_both_rates_are_written_in_one_request(make: Any) -> None:
    pair = await make(BATTERY)
    await pair.inverter.set(0.004, 0.0, 15.0)
    assert [5000, 0x1_0000 - 5000] in [words for _, words in pair.box.writes()]


async def test_storage_reverts_by_itself_and_is_released_with_full_rates(make: Any) -> None:
    pair = await make(BATTERY, safe_zero=False)
    await pair.inverter.set(0.004, 0.0, 15.0)
    pair.box.now_s += 15.0
    pair.box.run_timers()
    assert pair.box[124, "StorCtl_Mod"] == 0
    await pair.inverter.set(0.004, 0.0, 15.0)
    await pair.inverter.go_safe()
    assert [pair.box[124, n] for n in ("StorCtl_Mod", "OutWRte", "InWRte")] == [0, 10_000, 10_000]


# -- control: bounds -------------------------------------------------------------------------------

VA = {702: {"VAMax": 1000, "VA_SF": 1, "VarMaxInj": 400, "VarMaxAbs": 300, "Var_SF": 1}}


@pytest.mark.parametrize(
    ("asked", "p_w", "q_var"),
    [
        ((0.4, 0.0), 6_000, 0),
        ((-0.4, 0.0), -7_000, 0),
        ((1e6, 0.0), 6_000, 0),
        ((1e300, -1e300), 6_000, -3_000),
        ((0.003, 0.1), 3_000, 4_000),
        ((0.003, 0.004), 3_000, 4_000),
    ],
)
async def test_der_storage_is_never_told_more_than_its_nameplate_says(
    make: Any, asked: tuple[float, float], p_w: int, q_var: int
) -> None:
    pair = await make(DER, VA)
    await pair.inverter.set(*asked, 20.0)
    assert [pair.box[704, n] for n in ("WSet", "VarSet")] == [p_w, q_var]


async def test_reactive_power_is_what_the_apparent_power_leaves(make: Any) -> None:
    pair = await make(DER, {702: {"VAMax": 750, "VA_SF": 1}})
    await pair.inverter.set(0.0045, 0.1, 20.0)
    assert [pair.box[704, n] for n in ("WSet", "VarSet")] == [4_500, 6_000]


async def test_a_share_of_the_maximum_is_clipped_to_the_ratings_of_charging_and_discharging(
    make: Any,
) -> None:
    points = {"WSet": None, "WSet_SF": None, "WSetPct": 0, "WSetPctRvrt": 0, "WSetPct_SF": 0}
    pair = await make(DER, {704: points})
    for asked_mw, share in ((0.4, 60), (-0.4, -70)):
        await pair.inverter.set(asked_mw, 0.0, 20.0)
        assert pair.box[704, "WSetPct"] == share


WAYS = [(BATTERY, {}), (DER, {}), (PV, {}), (DER, {713: None, 702: {"WChaRteMaxRtg": None}})]


def power_stands(box: EmulatedInverter) -> bool:
    """Whether a setpoint other than zero is in force."""
    for enabled, value in (
        ((123, "WMaxLim_Ena"), (123, "WMaxLimPct")),
        ((124, "StorCtl_Mod"), (124, "OutWRte")),
        ((704, "WSetEna"), (704, "WSet")),
        ((704, "WMaxLimPctEna"), (704, "WMaxLimPct")),
    ):
        if enabled in box and box[enabled] and box[value]:
            return True
    return False


@pytest.mark.parametrize("rises", [True, False])
@pytest.mark.parametrize(("models", "changes"), WAYS)
async def test_a_setpoint_that_is_broken_off_between_two_writes_leaves_no_power_without_a_timer(
    make: Any, models: Any, changes: Any, rises: bool
) -> None:
    pair = await make(models, changes)
    for writes in range(8):
        if rises:
            await pair.inverter.hold_zero()
        else:
            await pair.inverter.set(0.003, 0.0, 20.0)
        pair.box.writes_left = writes
        with contextlib.suppress(ModbusFault):
            await (pair.inverter.set(0.003, 0.0, 20.0) if rises else pair.inverter.hold_zero())
        pair.box.writes_left = None
        pair.box.now_s += 20.0
        pair.box.run_timers()
        assert not power_stands(pair.box), writes


# -- control: model 704 ----------------------------------------------------------------------------


async def test_der_storage_is_told_watts_and_vars_and_what_to_revert_to(make: Any) -> None:
    pair = await make(DER)
    await pair.inverter.set(-0.0035, 0.0012, 20.0)
    box = pair.box
    power = ("WSetMod", "WSet", "WSetRvrt", "WSetEnaRvrt", "WSetRvrtTms", "WSetEna")
    assert [box[704, n] for n in power] == [1, -3500, 0, 1, 20, 1]
    reactive = ("VarSetMod", "VarSet", "VarSetRvrt", "VarSetEnaRvrt", "VarSetRvrtTms", "VarSetEna")
    assert [box[704, n] for n in reactive] == [4, 1200, 0, 1, 20, 1]
    box.now_s += 20.0
    box.run_timers()
    assert [box[704, n] for n in ("WSet", "WSetEna", "VarSet")] == [0, 1, 0]  # holds zero


async def test_der_storage_without_zero_as_safe_state_reverts_to_its_own_control(make: Any) -> None:
    pair = await make(DER, safe_zero=False)
    await pair.inverter.set(-0.0035, 0.0, 20.0)
    pair.box.now_s += 20.0
    pair.box.run_timers()
    assert [pair.box[704, n] for n in ("WSetEna", "VarSetEna")] == [0, 0]


async def test_der_pv_is_limited_in_percent(make: Any) -> None:
    pair = await make(DER, {713: None}, kind="pv")
    await pair.inverter.set(0.0047, 0.0, 20.0)
    names = (
        "WMaxLimPct",
        "WMaxLimPctRvrt",
        "WMaxLimPctEnaRvrt",
        "WMaxLimPctRvrtTms",
        "WMaxLimPctEna",
        "WSetEna",
    )
    assert [pair.box[704, n] for n in names] == [47, 0, 1, 20, 1, 0]
    await pair.inverter.release()
    assert pair.box[704, "WMaxLimPctEna"] == 0


async def test_points_that_the_inverter_does_not_have_are_not_written(make: Any) -> None:
    without = dict.fromkeys(("VarSetEna", "VarSet", "WSetRvrt", "WSetEnaRvrt"))
    pair = await make(DER, {704: without})
    await pair.inverter.set(0.001, 0.001, 5.0)
    assert pair.box[704, "WSet"] == 1000
    for name in without:
        assert pair.box[704, name] in {0xFFFF, -0x8000_0000}


async def test_without_a_way_to_set_watts_storage_falls_back_to_the_older_model(make: Any) -> None:
    pair = await make(BATTERY, {704: {"WMaxLimPctEna": 0}})
    await pair.inverter.set(0.004, 0.0, 15.0)
    assert pair.box[124, "OutWRte"] == 5000


# -- the connection --------------------------------------------------------------------------------


async def test_after_a_reconnection_settings_are_read_again(make: Any) -> None:
    pair = await make(PV)
    await pair.box.stop()
    with pytest.raises(ModbusFault):
        await pair.inverter.measure()
    pair.box[121, "WMax"] = 250
    await pair.box.start()
    await pair.inverter.set(0.0125, 0.0, 5.0)
    assert pair.box[123, "WMaxLimPct"] == 5000


async def test_another_inverter_at_the_same_address_is_not_controlled(make: Any) -> None:
    pair = await make(PV)
    await pair.box.stop()
    other = EmulatedInverter(changed(PV, {1: {"SN": "0816"}}))
    other.port = pair.box.port
    await other.start()
    try:
        for _ in range(2):
            with pytest.raises(
                SunSpecError, match="another inverter answers: Heron Works PV-50 0816 instead of"
            ):
                await pair.inverter.set(0.01, 0.0, 5.0)
        assert other.writes() == []
    finally:
        await other.stop()


async def test_zero_that_another_inverter_holds_says_nothing_of_ours(make: Any) -> None:
    pair = await make(PV)
    await pair.inverter.hold_zero()
    assert await pair.inverter.holds_zero()
    zero = {name: pair.box[123, name] for name in ("WMaxLimPct", "WMaxLim_Ena")}
    await pair.box.stop()
    other = EmulatedInverter(changed(PV, {1: {"SN": "0816"}, 123: zero}))
    other.port = pair.box.port
    await other.start()
    try:
        with pytest.raises(SunSpecError, match="another inverter answers"):
            await pair.inverter.holds_zero()
    finally:
        await other.stop()


async def test_zero_is_written_before_any_setpoint_to_an_inverter_that_answers_no_question(make: Any) -> None:
    pair = await make(DER)
    pair.box.answers_reads.clear()
    try:
        await asyncio.wait_for(pair.inverter.hold_zero(), 2.0)
    finally:
        pair.box.answers_reads.set()
    assert [pair.box[704, name] for name in ("WSet", "WSetEna")] == [0, 1]


async def test_a_write_that_is_refused_is_told(make: Any) -> None:
    pair = await make(PV)
    pair.box.refuse = ExcCodes.ILLEGAL_VALUE
    with pytest.raises(ModbusFault, match="Modbus exception 3"):
        await pair.inverter.set(0.01, 0.0, 5.0)


# -- what it measures, and when it does not --------------------------------------------------------


async def test_the_float_models_are_measured(make: Any) -> None:
    pair = await make(FLOAT, nominal_v=230.0)
    told = await pair.inverter.measure()
    assert (told.p_mw, told.q_mvar, told.vm_pu) == (4321.5e-6, -20.25e-6, 1.0)
    await pair.inverter.set(0.0025, 0.0, 5.0)
    assert [pair.box[123, n] for n in ("WMaxLimPct", "WMaxLim_Ena")] == [50, 1]


async def test_a_float_that_is_none_is_not_available(make: Any) -> None:
    pair = await make(FLOAT)
    pair.box[113, "W"] = 0x7FC0_0000
    with pytest.raises(SunSpecError, match="model 113 W is not available"):
        await pair.inverter.measure()


@pytest.mark.parametrize("filler", [0xFFFF, 0x8000])
async def test_registers_without_anything_are_zero_only_where_the_user_says_so(
    make: Any, filler: int
) -> None:
    for dark_is_zero in (False, True):
        pair = await make(PV, dark_is_zero=dark_is_zero)
        for name in ("W", "W_SF", "VAr", "VAr_SF", "PhVphA", "PhVphB", "PhVphC", "V_SF"):
            pair.box[103, name] = filler
        pair.box[103, "St"] = 0xFFFF
        if dark_is_zero:
            assert (await pair.inverter.measure()).p_mw == 0.0
        else:
            with pytest.raises(SunSpecError, match="add --dark-is-zero"):
                await pair.inverter.measure()


async def test_an_inverter_that_is_gone_at_night_is_zero_where_the_user_says_so(make: Any) -> None:
    pair = await make(PV, dark_is_zero=True)
    await pair.box.stop()
    assert (await pair.inverter.measure()).p_mw == 0.0
    with pytest.raises(NotControllable, match="taken as 0 W until it answers"):
        await pair.inverter.set(0.01, 0.0, 5.0)
    await pair.box.start()
    assert (await pair.inverter.measure()).p_mw == 0.04


async def test_an_impossible_state_of_charge_is_left_out_and_harms_nothing_else(
    make: Any, caplog: pytest.LogCaptureFixture
) -> None:
    pair = await make(BATTERY)
    pair.box[124, "ChaState"] = 12_000
    told = await pair.inverter.measure()
    assert (told.p_mw, told.soc) == (0.0, None)
    assert "ChaState is 120 %; it is left out" in caplog.text


# -- an inverter that is only read, or does not follow ---------------------------------------------


async def test_an_inverter_without_controls_can_be_read(make: Any) -> None:
    pair = await make(PV, {123: None}, read_only=True)
    assert not pair.inverter.is_controlled
    assert (await pair.inverter.measure()).p_mw == 0.04
    with pytest.raises(NotControllable, match="it is only read"):
        await pair.inverter.set(0.01, 0.0, 5.0)


async def test_an_inverter_that_could_be_told_something_is_not_where_it_is_only_read(make: Any) -> None:
    pair = await make(BATTERY, read_only=True)
    with pytest.raises(NotControllable):
        await pair.inverter.hold_zero()
    assert pair.box.writes() == []


async def test_a_der_under_local_control_takes_no_setpoint(make: Any) -> None:
    pair = await make(DER, {715: {"LocRemCtl": 1, "ControllerHb": 0}})
    with pytest.raises(NotControllable, match="under local control"):
        await pair.inverter.set(0.001, 0.0, 5.0)
    assert pair.box.writes() == []
    pair.box[715, "LocRemCtl"] = 0
    await pair.inverter.set(0.001, 0.0, 5.0)
    assert pair.box[704, "WSet"] == 1000


async def test_a_der_that_knows_percent_only_is_told_percent(make: Any) -> None:
    without = {"WSet": None, "VarSet": None, "WSet_SF": None}
    percent = {"WSetPct": 0, "WSetPctRvrt": 0, "WSetPct_SF": -1}
    percent |= {"VarSetPct": 0, "VarSetPctRvrt": 0, "VarSetPct_SF": 0}
    pair = await make(DER, {704: {**without, **percent}, 702: {"VarMaxInj": 500, "Var_SF": 1}})
    await pair.inverter.set(-0.0035, 0.001, 20.0)
    names = ("WSetMod", "WSetPct", "WSetEna", "VarSetMod", "VarSetPct", "VarSetEna")
    assert [pair.box[704, n] for n in names] == [0, -350, 1, 1, 20, 1]


async def test_the_setting_counts_before_the_rating_of_a_der(make: Any) -> None:
    pair = await make(DER, {702: {"WChaRteMax": 500, "WDisChaRteMax": 400}})
    assert pair.inverter.nameplate.power_range_w == (-5_000.0, 4_000.0)


# -- dongles and gateways --------------------------------------------------------------------------


async def test_a_busy_device_is_asked_again_while_it_is_looked_at(make: Any) -> None:
    box = await EmulatedInverter(PV).start()
    box.busy = 3
    connection = ModbusConnection(TcpAddress("127.0.0.1", box.port), timeout_s=0.5)
    try:
        inverter = await Inverter.connect(Registers(connection, 1), Settings())
        assert inverter.nameplate.identity[2] == "0815"
        assert box.busy == 0
    finally:
        connection.close()
        await box.stop()


async def test_with_a_connect_delay_the_connection_is_held_through_unanswered_requests() -> None:
    box = await EmulatedInverter(PV).start()
    connection = ModbusConnection(TcpAddress("127.0.0.1", box.port), timeout_s=0.2, connect_delay_s=0.05)
    try:
        inverter = await Inverter.connect(Registers(connection, 1), Settings())
        box.swallows = 2
        for _ in range(2):
            with pytest.raises(ModbusFault, match="no answer"):
                await inverter.measure()
        assert (await inverter.measure()).p_mw == 0.04
        assert connection.connections == 1
        box.swallows = 3
        for _ in range(3):
            with pytest.raises(ModbusFault):
                await inverter.measure()
        assert not connection.connected  # it is dead after all
        assert (await inverter.measure()).p_mw == 0.04
        assert connection.connections == 2
    finally:
        connection.close()
        await box.stop()


async def test_nothing_is_asked_before_the_connect_delay_is_over() -> None:
    box = await EmulatedInverter(PV).start()
    connection = ModbusConnection(TcpAddress("127.0.0.1", box.port), timeout_s=0.5, connect_delay_s=0.3)
    try:
        asking = asyncio.create_task(Registers(connection, 1).read(40_000, 2))
        await until(lambda: connection.connected, "the connection")
        assert box.requests == []
        started = asyncio.get_running_loop().time()
        await asking
        assert asyncio.get_running_loop().time() - started > 0.2
    finally:
        connection.close()
        await box.stop()


async def test_a_box_that_answers_everything_twice_is_read_and_set() -> None:
    box = await EmulatedInverter(DER).start()
    async with ModbusFront(box.port, twice) as front:
        connection = ModbusConnection(TcpAddress("127.0.0.1", front.port), timeout_s=0.5)
        try:
            registers = Registers(connection, 1)
            assert await registers.read(box.base, 250) == box.image[:250]
            inverter = await Inverter.connect(registers, Settings())
            assert (await inverter.measure()).p_mw == -0.0015
            await inverter.set(0.003, 0.0, 5.0)
            assert box[704, "WSet"] == 3000
            assert connection.connections == 1
        finally:
            connection.close()
            await box.stop()


async def test_an_answer_that_cannot_be_decoded_is_a_fault_at_once_and_harms_nothing_else(
    caplog: pytest.LogCaptureFixture,
) -> None:
    box = await EmulatedInverter(PV).start()
    async with ModbusFront(box.port, nonsense) as front:
        connection = ModbusConnection(TcpAddress("127.0.0.1", front.port), timeout_s=30.0)
        try:
            registers = Registers(connection, 1)
            what = r"unit 1: reading 2 registers at 40000: no answer \(what it sent cannot be decoded\)$"
            with pytest.raises(ModbusFault, match=what):
                await registers.read(box.base, 2)
            front.answers = whole
            assert await registers.read(box.base, 2) == box.image[:2]
        finally:
            connection.close()
            await box.stop()
    assert [record.getMessage() for record in caplog.records if record.name == "asyncio"] == []


async def test_rtu_frames_over_tcp_and_units_behind_one_connection() -> None:
    box = EmulatedInverter(BATTERY, framing="rtu", unit=3)
    box.beside.append(EmulatedInverter(PV, unit=7))
    await box.start()
    connection = ModbusConnection(TcpAddress("127.0.0.1", box.port), timeout_s=0.5, framing="rtu")
    try:
        both = [await Inverter.connect(Registers(connection, unit), Settings()) for unit in (3, 7)]
        assert [each.nameplate.kind for each in both] == ["battery", "pv"]
        told = await asyncio.gather(*(each.measure() for each in both))
        assert [t.p_mw for t in told] == [0.0, 0.04]
        await asyncio.gather(both[0].set(0.004, 0.0, 5.0), both[1].set(0.025, 0.0, 5.0))
        assert (box[124, "OutWRte"], box.beside[0][123, "WMaxLimPct"]) == (5000, 5000)
        assert connection.connections == 1
    finally:
        connection.close()
        await box.stop()


@pytest.mark.parametrize("has_zeros", [False, True])
async def test_a_list_of_models_without_an_end_ends_where_the_registers_do(has_zeros: bool) -> None:
    box = EmulatedInverter(PV, has_end=False)
    box.image += [0] * (10 if has_zeros else 0)
    await box.start()
    connection = ModbusConnection(TcpAddress("127.0.0.1", box.port), timeout_s=0.5)
    try:
        inverter = await Inverter.connect(Registers(connection, 1), Settings())
        assert (await inverter.measure()).p_mw == 0.04
    finally:
        connection.close()
        await box.stop()


# -- its own settings ------------------------------------------------------------------------------


async def test_a_limit_of_the_installation_is_in_force_again_after_the_release(make: Any) -> None:
    pair = await make(PV, {123: {"WMaxLimPct": 7000, "WMaxLim_Ena": 1, "WMaxLimPct_RvrtTms": 0}})
    await pair.inverter.set(0.01, 0.0, 10.0)
    await pair.inverter.set(0.02, 0.0, 10.0)
    assert pair.box[123, "WMaxLimPct"] == 4000
    await pair.inverter.release()
    names = ("WMaxLimPct", "WMaxLimPct_RvrtTms", "WMaxLim_Ena")
    assert [pair.box[123, n] for n in names] == [7000, 0, 1]


@pytest.mark.parametrize(
    "left", [{"WMaxLimPct": 3000, "WMaxLimPct_RvrtTms": 20}, {"WMaxLimPct": 0, "WMaxLimPct_RvrtTms": 0}]
)
async def test_what_an_earlier_controller_left_behind_is_no_setting_of_the_inverter(
    make: Any, left: dict[str, int]
) -> None:
    pair = await make(PV, {123: {**left, "WMaxLim_Ena": 1}})
    await pair.inverter.set(0.01, 0.0, 10.0)
    await pair.inverter.release()
    assert pair.box[123, "WMaxLim_Ena"] == 0


async def test_the_settings_of_a_der_are_in_force_again_also_over_a_reconnection(make: Any) -> None:
    own = {"WMaxLimPct": 70, "WMaxLimPctEna": 1, "VarSetMod": 4, "VarSet": -300, "VarSetEna": 1}
    pair = await make(DER, {713: None, 704: own}, kind="pv")
    await pair.inverter.set(0.0047, 0.0001, 20.0)
    assert [pair.box[704, n] for n in ("WMaxLimPct", "VarSet")] == [47, 100]
    await pair.box.stop()
    await pair.box.start()
    with contextlib.suppress(ModbusFault):
        await pair.inverter.measure()
    await pair.inverter.release()
    names = ("WMaxLimPct", "WMaxLimPctRvrtTms", "WMaxLimPctEna", "VarSet", "VarSetRvrtTms", "VarSetEna")
    assert [pair.box[704, n] for n in names] == [70, 0, 1, -300, 0, 1]


# -- DC ports --------------------------------------------------------------------------------------


PORTS = {"NPrt": 3, "DCW_SF": 1, "DCW": 500} | {
    f"Prt[{n}].{name}": value
    for n, (kind, power) in enumerate([(0, 400), (1, -120), (1, 20)], start=1)
    for name, value in (("PrtTyp", kind), ("DCW", power))
}


@pytest.mark.parametrize(("means", "p_mw"), [("discharging", -0.001), ("charging", 0.001)])
async def test_the_battery_of_a_hybrid_is_measured_at_its_dc_ports(
    make: Any, means: str, p_mw: float
) -> None:
    pair = await make(DER, {714: PORTS}, dc_battery=means)
    measured = await pair.inverter.measure()
    assert measured.p_mw == pytest.approx(p_mw)
    assert measured.soc == 0.805
    assert (await (await make(DER, {714: PORTS})).inverter.measure()).p_mw == -0.0015


async def test_without_a_dc_port_of_a_battery_that_is_refused(make: Any) -> None:
    with pytest.raises(ConfigError, match="no DC port of a battery"):
        await make(DER, dc_battery="charging")
    with pytest.raises(ConfigError, match="no DC port of a battery"):
        await make(DER, {714: {**PORTS, "Prt[2].PrtTyp": 0, "Prt[3].PrtTyp": 0}}, dc_battery="charging")


# -- power factor and ramp -------------------------------------------------------------------------

FACTOR = {
    "PF_SF": -2,
    "PFWInjEna": 0,
    "PFWInjEnaRvrt": 0,
    "PFWInjRvrtTms": 0,
    "PFWInj[1].PF": 100,
    "PFWInj[1].Ext": 0,
}
FACTOR |= {
    "PFWAbsEna": 0,
    "PFWAbsEnaRvrt": 0,
    "PFWAbsRvrtTms": 0,
    "PFWAbs[1].PF": 100,
    "PFWAbs[1].Ext": 0,
    "WRmp": 20,
}


async def test_a_power_factor_is_held_in_place_of_reactive_power_and_put_back(
    make: Any, caplog: pytest.LogCaptureFixture
) -> None:
    wanted = DerOptions(power_factor=0.95, over_excited=False, ramp_percent_s=5)
    own = {"PFWInjEna": 1, "PFWInj[1].PF": 98, "VarSetEna": 1, "VarSetMod": 4, "VarSet": 200}
    pair = await make(DER, {704: {**FACTOR, **own}}, der=wanted)
    await pair.inverter.set(-0.001, 0.0005, 20.0)
    names = (
        "PFWInj[1].PF",
        "PFWInj[1].Ext",
        "PFWInjRvrtTms",
        "PFWInjEna",
        "PFWAbs[1].PF",
        "PFWAbsEna",
        "WRmp",
        "VarSetEna",
    )
    assert [pair.box[704, n] for n in names] == [95, 1, 20, 1, 95, 1, 5, 0]
    assert pair.box[704, "WSet"] == -1000
    assert "it holds a power factor" in caplog.text
    await pair.inverter.release()
    assert [pair.box[704, n] for n in names] == [98, 0, 0, 1, 95, 0, 20, 1]
    assert pair.box[704, "VarSet"] == 200


async def test_a_limit_rises_over_the_time_of_its_ramp_and_falls_at_once(make: Any) -> None:
    point = "WMaxLimPct_RmpTms"
    minutes = itertools.count(step=60)  # each ramp is over when the clock is looked at next
    pair = await make(
        PV, {123: {point: 7}}, der=DerOptions(ramp_percent_s=5), monotonic=lambda: float(next(minutes))
    )
    w_max = pair.inverter.nameplate.w_max
    for share, ramp_s in (0.2, 0), (0.6, 8), (0.6, 8), (0.3, 0), (0.0, 0):  # the second 0.6 is a renewal
        await pair.inverter.set(share * w_max / 1e6, 0.0, 20.0)
        assert pair.box[123, point] == ramp_s, share
    await pair.inverter.release()
    assert pair.box[123, point] == 7


@pytest.mark.parametrize(
    ("models", "point"), [(PV, (123, "WMaxLimPct_RmpTms")), (BATTERY, (124, "InOutWRte_RmpTms"))]
)
async def test_a_setpoint_in_mid_ramp_rises_from_where_the_inverter_is_by_then(
    make: Any, models: Any, point: tuple[int, str]
) -> None:
    now_s = 0.0
    pair = await make(
        models, {point[0]: {point[1]: 7}}, der=DerOptions(ramp_percent_s=5), monotonic=lambda: now_s
    )
    plate = pair.inverter.nameplate
    full_w = plate.w_max if models is PV else plate.charge_w
    for at_s, share, ramp_s in (
        (0.0, 0.2, 0),
        (0.0, 0.6, 8),
        (4.0, 0.6, 8),  # the same again: the ramp goes on, and is at 40 %
        (4.0, 0.5, 2),  # less than it was going to, more than it has
        (5.0, 0.8, 7),  # from 45 %
        (5.0, 0.4, 0),
        (60.0, 0.5, 2),
        (60.0, 0.0, 0),
    ):
        now_s = at_s
        await pair.inverter.set(share * full_w / 1e6, 0.0, 20.0)
        assert pair.box[point] == ramp_s, (at_s, share)


@pytest.mark.parametrize(
    ("models", "point"), [(PV, (123, "WMaxLimPct_RmpTms")), (BATTERY, (124, "InOutWRte_RmpTms"))]
)
async def test_a_stop_after_a_rise_is_not_delayed_by_the_ramp_of_the_rise(
    make: Any, models: Any, point: tuple[int, str]
) -> None:
    pair = await make(models, {point[0]: {point[1]: 7}}, der=DerOptions(ramp_percent_s=5))
    await pair.inverter.set(0.0, 0.0, 20.0)
    await pair.inverter.set(0.001, 0.0, 20.0)
    assert pair.box[point] > 0
    await pair.inverter.hold_zero()  # reads nothing, so it knows of no more than the first zero
    assert await pair.inverter.holds_zero()
    assert pair.box[point] == 0


async def test_storage_rises_over_the_time_of_its_ramp_and_goes_to_zero_at_once(make: Any) -> None:
    point = "InOutWRte_RmpTms"
    minutes = itertools.count(step=60)
    pair = await make(
        BATTERY, {124: {point: 3}}, der=DerOptions(ramp_percent_s=10), monotonic=lambda: float(next(minutes))
    )
    charge_w = pair.inverter.nameplate.charge_w
    for share, ramp_s in (0.5, 0), (-0.5, 0), (-0.2, 3), (-0.2, 3), (0.0, 0), (0.4, 4):
        await pair.inverter.set(share * charge_w / 1e6, 0.0, 20.0)
        assert pair.box[124, point] == ramp_s, share
    await pair.inverter.hold_zero()
    assert pair.box[124, point] == 0
    await pair.inverter.release()
    assert pair.box[124, point] == 3

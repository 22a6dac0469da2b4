"""A SunSpec inverter as a field device: what it is told, when it is safe, what it owes, and its end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from pathlib import Path
from typing import Any

import pytest

from heron_mqtt.errors import NotHandedBack
from heron_mqtt.field.device import SetpointRejected
from heron_mqtt.field.device.earlier_program import EARLIER
from heron_mqtt.field.modbus.registers import ModbusFault
from heron_mqtt.field.sunspec import device
from heron_mqtt.field.sunspec.block import SunSpecError
from heron_mqtt.field.sunspec.device import SunSpecBattery, SunSpecDevice, SunSpecPv, make_device
from heron_mqtt.field.sunspec.inverter import Inverter, Settings
from heron_mqtt.field.sunspec.kept_settings import KeptSettings
from heron_mqtt.messages import EmergencyStop, Setpoint, Telemetry
from heron_mqtt.messaging.memory import InMemoryBroker
from heron_mqtt.messaging.ownership import NameOwnership
from support.field_rig import OpenMemoryBroker
from support.sunspec_registers import ImageRegisters
from support.sunspec_server import BATTERY, DER, PV, EmulatedInverter
from support.waiting import until

SILENCE = ModbusFault("box unit 1: no answer")
REFUSED = ModbusFault("box unit 1: Modbus exception 4 (device failure)", 4)
ZERO = ["WMaxLimPct=0", "WMaxLimPct_RvrtTms=0", "WMaxLim_Ena=1"]
OFF = ["WMaxLim_Ena=0"]
LEFT = {"WMaxLim_Ena": 1, "WMaxLimPct": 3000, "WMaxLimPct_RvrtTms": 20}
LEFT_ZERO = {"WMaxLim_Ena": 1, "WMaxLimPct": 0}


class Bridged:
    """A device on its own: a test does with it what its program would."""

    def __init__(self, registers: Any, device: SunSpecDevice) -> None:
        self.registers: ImageRegisters = registers
        self.box = self.registers.box
        self.device = device
        self.noted: list[str] = []
        device.rest_lost = lambda: self.noted.append("lost")  # type: ignore[method-assign]
        device.rest_reached = lambda: self.noted.append("reached")  # type: ignore[method-assign]

    def stop(self, active: bool = True) -> None:
        self.device._stop.stop = EmergencyStop(active=True, who="tests") if active else None

    def points(self) -> list[str]:
        return [point for request in self.registers.take_written() for point in request]

    def take_noted(self) -> list[str]:
        noted, self.noted = self.noted, []
        return noted

    def restart(self, **points: int) -> None:
        """Have the inverter forget what it was told, over a new connection."""
        self.registers.connected = False
        self.box = self.registers.box = EmulatedInverter({**PV, 123: {**PV[123], **points}})


async def bridged(models: dict[int, dict[str, Any]] = PV, found: Any = None, **settings: Any) -> Bridged:
    if found:
        models = {**models, 123: {**models[123], **found}}
    registers: Any = ImageRegisters(models)
    inverter = await Inverter.connect(registers, Settings(**settings))
    return Bridged(registers, make_device(inverter, "MG1", "ess", InMemoryBroker()))


def told(p_mw: float, q_mvar: float = 0.0, lease_s: float = 20.0) -> Setpoint:
    return Setpoint(p_mw=p_mw, q_mvar=q_mvar, lease_s=lease_s)


async def test_an_inverter_is_the_kind_of_device_that_its_nameplate_says() -> None:
    battery, pv = (await bridged(BATTERY)).device, (await bridged(PV)).device
    assert (type(battery), battery.kind) == (SunSpecBattery, "battery")
    assert (type(pv), pv.kind) == (SunSpecPv, "pv")
    assert battery.nameplate() == {"p_min_mw": -0.008, "p_max_mw": 0.009, "max_e_mwh": 0.02}
    assert pv.nameplate() == {"p_min_mw": 0.0, "p_max_mw": 0.05, "max_e_mwh": None}
    silent = {**DER, 702: {}, 713: {}}
    assert (await bridged(silent)).device.nameplate() == {
        "p_min_mw": None,
        "p_max_mw": None,
        "max_e_mwh": None,
    }
    assert (battery.is_settable, (await bridged(PV, read_only=True)).device.is_settable) == (True, False)


async def test_setpoints_and_renewals_are_told_with_their_lease_as_reversion_time() -> None:
    site = await bridged(DER)
    await site.device.apply(told(-0.001, 0.0002, 12.0))
    points = site.points()
    assert {"WSet=-1000", "WSetRvrtTms=12", "VarSet=200"} <= set(points)
    await site.device.renew(told(-0.001, 0.0002, 15.0))
    assert {"WSet=-1000", "WSetRvrtTms=15", "VarSet=200"} <= set(site.points())


async def test_what_it_does_not_take_is_rejected_and_a_renewal_of_it_only_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    site = await bridged({**DER, 715: {"LocRemCtl": 1}})
    with pytest.raises(SetpointRejected, match=r"^box unit 1: it is under local control"):
        await site.device.apply(told(0.001))
    await site.device.renew(told(0.001))
    [line] = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert line.startswith("MG1/ess: a renewal was not sent: box unit 1: it is under local control")
    assert site.points() == []


async def test_an_inverter_that_is_only_read_is_told_nothing_and_safe_in_a_stop_without_power() -> None:
    site = await bridged(read_only=True)
    await site.device.apply(told(0.01))
    await site.device.renew(told(0.01))
    site.stop()
    await site.device.go_safe("stop")
    assert site.device.owes_safe_state, "nobody knows its power"
    for p_w, owes in ((40_000, True), (0, False), (40_000, True)):
        site.box.p_w = p_w
        await site.device.measure()
        assert (site.take_noted(), site.device.owes_safe_state) == (["lost" if owes else "reached"], owes)
    site.stop(False)
    await site.device.go_safe("lease")
    assert (await site.device.measure()).p_mw == 0.04
    assert not site.device.owes_safe_state
    assert list(site.device._broker.stats.reports) == [], "there is nothing to tell it again"
    await site.device.hand_back()
    assert site.points() == []


async def test_the_safe_state_is_zero_or_release_and_at_a_stop_zero_in_any_case() -> None:
    for safe_zero, stopped, points in (
        (True, False, ZERO),
        (True, True, ZERO),
        (False, True, ZERO),
        (False, False, OFF),
    ):
        site = await bridged(safe_zero=safe_zero)
        site.stop(stopped)
        await site.device.go_safe("lease")
        assert site.points() == points
        if stopped:  # having taken it is not being at 0
            assert (site.take_noted(), site.device.owes_safe_state) == ([], True)
            await site.device.measure()
        assert site.take_noted() == ["reached"]
        assert not site.device.owes_safe_state
        await site.device.measure()
        await site.device.measure()
        assert site.points() == [], "it is there, and is told nothing more"
        assert set(site.take_noted()) == ({"reached"} if stopped else set())


async def test_before_the_first_setpoint_nothing_is_written_nor_handed_back() -> None:
    site = await bridged({**DER, 715: {"LocRemCtl": 0, "ControllerHb": 0}})
    await site.device.measure()
    await site.device.hand_back()
    assert site.points() == []
    await site.device.apply(told(0.001))
    site.points()
    await site.device.measure()
    assert site.points() == ["ControllerHb=1"]
    await site.device.hand_back()
    off = ["WSetEna=0", "VarSetEna=0"]
    reverting = ("Rvrt=0", "EnaRvrt=0", "RvrtTms=0")
    assert site.points() == [*off, *(f"{f}{point}" for f in ("WSet", "VarSet") for point in reverting)]


async def test_an_inverter_that_went_safe_only_is_handed_back_too() -> None:
    site = await bridged()
    await site.device.go_safe("lease")
    site.points()
    await site.device.hand_back()
    assert site.points() == OFF


async def test_no_heartbeat_is_beaten_while_the_safe_state_is_owed_and_one_in_the_dark_is_no_fault() -> None:
    models = {**DER, 715: {"LocRemCtl": 0, "ControllerHb": 0}}
    for dark_is_zero in (False, True):
        site = await bridged(models, dark_is_zero=dark_is_zero)
        await site.device.apply(told(0.001))
        site.points()
        beats: list[ModbusFault] = [SILENCE, REFUSED]

        async def heartbeat(beats: list[ModbusFault] = beats) -> None:
            raise beats.pop(0)

        site.device._inverter.heartbeat = heartbeat  # type: ignore[method-assign]
        if dark_is_zero:
            await site.device.measure()
        else:
            with pytest.raises(ModbusFault):
                await site.device.measure()
        with pytest.raises(ModbusFault, match="device failure"):
            await site.device.measure()
        site.registers.fault = SILENCE
        if dark_is_zero:
            await site.device.go_safe("lease")
            assert (await site.device.measure()).p_mw == 0.0
            assert site.device.owes_safe_state
        else:
            with pytest.raises(ModbusFault):
                await site.device.go_safe("lease")
            with pytest.raises(ModbusFault):
                await site.device.measure()
        assert set(site.take_noted()) == {"lost"}


# -- what was left -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "safe_zero", "owes", "says"),
    [
        ({}, True, False, ""),
        (LEFT, True, True, "a setpoint"),
        (LEFT, False, True, "a setpoint"),
        (LEFT_ZERO, True, False, ""),
        (LEFT_ZERO, False, True, "zero power"),
    ],
)
async def test_what_an_earlier_controller_left_is_ended_once_the_name_is_ours(
    found: dict[str, int], safe_zero: bool, owes: bool, says: str, caplog: pytest.LogCaptureFixture
) -> None:
    site = await bridged(found=found, safe_zero=safe_zero)
    assert site.device.owes_safe_state is owes
    assert site.points() == []
    await site.device.measure()
    assert site.points() == ([] if not owes else ZERO if safe_zero else OFF)
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    expected = f"MG1/ess: {says} of an earlier controller is in force, and is ended"
    assert warnings == ([expected] if owes else [])
    assert not site.device.owes_safe_state
    await site.device.measure()
    assert site.points() == []
    await site.device.hand_back()
    assert bool(site.points()) is bool(found), "what was found is handed back, and nothing else"


async def test_what_was_left_and_is_gone_by_the_time_that_it_is_looked_at_is_nobodys() -> None:
    site = await bridged(found=LEFT)
    site.box[123, "WMaxLim_Ena"] = 0
    await site.device.measure()
    assert not site.device.owes_safe_state
    await site.device.hand_back()
    assert site.points() == []


async def test_what_was_left_does_not_matter_any_more_after_a_setpoint_or_a_stop_of_ours() -> None:
    for ours in ("apply", "go_safe"):
        site = await bridged(found=LEFT)
        await (site.device.apply(told(0.01)) if ours == "apply" else site.device.go_safe("stop"))
        assert not site.device.owes_safe_state
        site.points()
        await site.device.measure()
        assert site.points() == [], ours


# -- staying safe ------------------------------------------------------------------------------------


async def test_zero_that_is_left_is_noticed_told_and_written_again(caplog: pytest.LogCaptureFixture) -> None:
    site = await bridged()
    await site.device.go_safe("lease")
    site.points(), site.take_noted()
    site.box[123, "WMaxLimPct"] = 5000
    await site.device.measure()
    assert site.points() == ZERO
    assert site.take_noted() == ["lost", "reached"]
    assert (
        "MG1/ess: it does not hold zero power any more, as after a restart; zero is written again"
        in caplog.text
    )
    released = await bridged(safe_zero=False)
    await released.device.go_safe("lease")
    released.points()
    released.restart(**LEFT)
    await released.device.measure()
    assert released.points() == [], "a restart leads to its own control, too"


async def test_after_a_release_of_the_stop_the_safe_state_is_the_one_of_the_settings() -> None:
    site = await bridged(safe_zero=False)
    site.stop()
    await site.device.go_safe("stop")
    assert site.points() == ZERO
    site.stop(False)
    await site.device.measure()
    assert site.points() == OFF
    await site.device.apply(told(0.01))
    site.points()
    await site.device.measure()
    assert site.points() == [], "a setpoint is no safe state"


async def test_zero_that_cannot_be_read_is_taken_as_held_unless_it_may_have_restarted() -> None:
    site = await bridged()
    await site.device.go_safe("lease")
    site.points(), site.take_noted()
    site.registers.read_fault = REFUSED
    with pytest.raises(ModbusFault):
        await site.device.measure()
    assert (site.points(), site.take_noted()) == ([], [])
    site.registers.connected = False  # a new connection: it may have restarted
    with pytest.raises(ModbusFault):
        await site.device.measure()
    assert site.points() == ZERO
    assert site.take_noted() == ["reached"]


async def test_another_inverter_is_never_taken_to_be_safe() -> None:
    site = await bridged()
    await site.device.go_safe("lease")
    site.points(), site.take_noted()
    site.registers.connected = False
    site.registers.box = EmulatedInverter({**PV, 1: {**PV[1], "SN": "0816"}})
    with pytest.raises(SunSpecError, match="another inverter answers"):
        await site.device.measure()
    assert site.device.owes_safe_state
    assert site.take_noted() == ["lost"]
    assert site.points() == []


async def test_zero_that_is_acknowledged_and_not_held_is_owed_and_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    site = await bridged()

    async def forgets(address: int, words: Any) -> None:
        await site.registers.connect()

    site.registers.write = forgets  # type: ignore[method-assign]
    line = "MG1/ess: it acknowledged zero power, but does not hold it"

    def warned() -> int:
        count = [r.getMessage() for r in caplog.records].count(line)
        caplog.clear()
        return count

    await site.device.go_safe("lease")
    assert (warned(), site.take_noted(), site.device.owes_safe_state) == (1, ["lost"], True)
    await site.device.measure()
    assert (warned(), site.take_noted(), site.device.owes_safe_state) == (0, ["lost"], True)
    del site.registers.write  # type: ignore[method-assign]
    await site.device.measure()
    assert (warned(), site.take_noted(), site.device.owes_safe_state) == (0, ["reached"], False)
    site.registers.write = forgets  # type: ignore[method-assign]
    site.box[123, "WMaxLimPct"] = 5000
    await site.device.measure()
    assert (warned(), site.device.owes_safe_state) == (1, True), "told anew"


async def test_a_safe_state_that_could_not_be_told_is_owed_and_caught_up() -> None:
    site = await bridged()
    await site.device.apply(told(0.01))
    site.points()
    site.registers.fault = SILENCE
    with pytest.raises(ModbusFault):
        await site.device.go_safe("lease")
    assert site.device.owes_safe_state
    assert site.take_noted() == ["lost"]
    site.registers.fault = None
    await site.device.measure()
    assert site.points() == ZERO
    assert site.take_noted() == ["reached"]
    assert not site.device.owes_safe_state
    await site.device.go_safe("lease")
    site.registers.fault = SILENCE
    with pytest.raises(ModbusFault):
        await site.device.go_safe("lease")
    site.registers.fault = None
    await site.device.apply(told(0.01))
    assert not site.device.owes_safe_state, "a setpoint takes its place"


@pytest.mark.parametrize("ends", ["caught up", "handed back"])
async def test_its_lease_is_held_until_the_inverter_has_taken_its_end(ends: str) -> None:
    """A stop knows by it, once this bridge is gone, that the inverter may have its power."""
    site = await bridged()
    said: list[dict[str, Any]] = []
    async with site.device._broker as broker:
        broker.subscribe("devices/MG1/ess/lease", said.append)
        await site.device._follow(told(0.01).model_copy(update={"sender": "MG1", "boot": "g1"}))
        await until(lambda: said, "it is held")
        site.registers.fault = SILENCE
        site.device._lease.end()
        await site.device._make_safe("its lease is over")
        site.device._notice.tell_at_the_end(site.device._holder_to_tell(), None)
        site.registers.fault = None
        await asyncio.sleep(0)
        assert [(s["state"], s.get("holder")) for s in said] == [("held", "MG1")]
        await (site.device.measure() if ends == "caught up" else site.device.hand_back())
        await until(lambda: len(said) > 1, "it is free")
    assert [s["state"] for s in said] == ["held", "free"]


async def test_a_stop_that_comes_while_the_release_is_written_is_owed() -> None:
    site = await bridged(safe_zero=False)
    write = site.registers.write

    async def stopped_meanwhile(address: int, words: Any) -> None:
        site.stop()
        await write(address, words)

    site.registers.write = stopped_meanwhile  # type: ignore[method-assign]
    await site.device.go_safe("lease")
    assert site.points() == OFF
    assert site.device.owes_safe_state
    assert site.take_noted() == []
    await site.device.measure()
    assert site.points() == ZERO
    assert not site.device.owes_safe_state


# -- its end -----------------------------------------------------------------------------------------


async def test_a_stopped_inverter_is_not_handed_back_but_told_of_the_stop_if_it_was_not(
    caplog: pytest.LogCaptureFixture,
) -> None:
    site = await bridged()
    await site.device.apply(told(0.01))
    site.stop()
    await site.device.go_safe("stop")
    site.points()
    await site.device.hand_back()
    assert site.points() == []
    assert (
        "MG1/ess: an emergency stop is in force: the device stays at 0 and is not handed back (0 kW"
        in caplog.text
    )
    site.registers.fault = SILENCE
    with pytest.raises(ModbusFault):
        await site.device.go_safe("stop")
    with pytest.raises(ModbusFault):
        await site.device.hand_back()
    site.registers.fault = None
    await site.device.hand_back()
    assert site.points() == ZERO


async def test_a_stop_that_was_not_brought_to_the_inverter_is_no_good_end() -> None:
    site = await bridged(dark_is_zero=True)
    await site.device.apply(told(0.01))
    site.stop()
    site.registers.fault = SILENCE
    await site.device.go_safe("stop")
    with pytest.raises(SunSpecError) as caught:
        await site.device.hand_back()
    power = "it gave 0 kW when it was measured last"  # in the dark, as the user says
    assert str(caught.value) == f"an emergency stop is in force that it has not accepted, and {power}"


async def test_an_inverter_that_still_gives_power_in_a_stop_is_no_good_end() -> None:
    site = await bridged()
    site.box.follows = False
    site.stop()
    await site.device.go_safe("stop")
    with pytest.raises(SunSpecError) as caught:
        await site.device.hand_back()
    gave = "it gave 40 kW when it was measured last"
    assert str(caught.value) == f"an emergency stop is in force, and {gave}"
    site.box.follows = True
    site.box.follow()
    await site.device.hand_back()
    site.registers.read_fault = REFUSED  # it was at 0 a moment ago
    with pytest.raises(ModbusFault):
        await site.device.hand_back()


def ignoring(site: Bridged, shows_after: float = math.inf) -> list[Any]:
    """Have the inverter acknowledge what is written, and change nothing before it was read so often.

    Returns what it acknowledged and has not done.
    """
    waiting: list[tuple[int, Any]] = []
    write, read = site.registers.write, site.registers.read
    reads = 0

    async def acknowledges(address: int, words: Any) -> None:
        waiting.append((address, words))

    async def shows_late(address: int, count: int) -> list[int]:
        nonlocal reads
        reads += 1
        if reads > shows_after:
            for each in waiting:
                await write(*each)
            waiting.clear()
        return await read(address, count)

    site.registers.write = acknowledges  # type: ignore[method-assign]
    site.registers.read = shows_late  # type: ignore[method-assign]
    return waiting


NOT_SHOWN = "it acknowledged its release, but model 123 WMaxLim_Ena is 1, and 0 was written"


async def test_an_inverter_that_acknowledges_its_hand_back_and_holds_its_setpoint_was_not_handed_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(device, "SHOWN_WITHIN_S", 0.02)
    monkeypatch.setattr(device, "LOOK_AGAIN_S", 0.001)
    for power in (0.01, None):
        site = await bridged()
        await (site.device.go_safe("lease") if power is None else site.device.apply(told(power)))
        ignoring(site)
        with pytest.raises(SunSpecError) as caught:
            await site.device.hand_back()
        assert str(caught.value) == NOT_SHOWN


async def test_a_hand_back_may_show_a_moment_later_and_one_that_cannot_be_read_counts_as_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(device, "LOOK_AGAIN_S", 0.001)
    site = await bridged()
    await site.device.apply(told(0.01))
    ignoring(site, shows_after=5)
    await site.device.hand_back()
    assert site.box[123, "WMaxLim_Ena"] == 0
    site = await bridged()
    await site.device.apply(told(0.01))
    site.registers.read_fault = REFUSED
    await site.device.hand_back()
    site.registers.read_fault = None

    async def silent(address: int, count: int) -> list[int]:
        await asyncio.Event().wait()
        return []

    site.registers.read = silent  # type: ignore[method-assign]
    await site.device.hand_back(by=asyncio.get_running_loop().time() + 0.02)


async def test_what_was_read_before_the_connection_was_lost_counts_at_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(device, "LOOK_AGAIN_S", 0.001)
    site = await bridged()
    await site.device.apply(told(0.01))
    ignoring(site)
    read = site.registers.read

    async def once(address: int, count: int) -> list[int]:
        site.registers.read_fault, words = SILENCE, await read(address, count)
        return words

    site.registers.read = once  # type: ignore[method-assign]
    with pytest.raises(SunSpecError) as caught:
        await site.device.hand_back()
    assert str(caught.value) == NOT_SHOWN


async def test_a_release_as_safe_state_is_owed_and_told_again_until_the_inverter_shows_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(device, "SHOWN_WITHIN_S", 0.02)
    monkeypatch.setattr(device, "LOOK_AGAIN_S", 0.001)
    site = await bridged(safe_zero=False)
    await site.device.apply(told(0.01))
    write, read = site.registers.write, site.registers.read
    acknowledged = ignoring(site)
    await site.device.go_safe("lease")
    assert (site.device.owes_safe_state, site.take_noted()) == (True, ["lost"])
    writes = len(acknowledged)
    await site.device.measure()
    assert (site.device.owes_safe_state, site.take_noted()) == (True, [])
    assert len(acknowledged) == writes, "it is looked at, and written again after a while"
    site.device._again_at = 0.0
    await site.device.measure()
    assert (site.device.owes_safe_state, site.take_noted()) == (True, ["lost"])
    assert len(acknowledged) > writes
    site.device._again_at = 0.0
    assert [r.getMessage() for r in caplog.records].count(f"MG1/ess: {NOT_SHOWN}") == 1
    site.registers.write, site.registers.read = write, read  # type: ignore[method-assign]
    site.points()
    await site.device.measure()
    assert site.points() == OFF
    assert (site.device.owes_safe_state, site.take_noted()) == (False, ["reached"])
    await site.device.measure()
    assert site.points() == [], "it is there, and is told nothing more"


async def test_a_stop_waits_for_no_release_to_show(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "SHOWN_WITHIN_S", 60.0)
    site = await bridged(safe_zero=False)
    await site.device.apply(told(0.01))
    ignoring(site)
    async with asyncio.timeout(5.0):
        releasing = asyncio.create_task(site.device.go_safe("lease"))
        await asyncio.sleep(0)
        site.stop()
        await releasing
    assert site.device.owes_safe_state


# -- at rest in a stop ---------------------------------------------------------------------------------


async def test_in_a_stop_it_is_safe_only_while_its_measured_power_is_next_to_0() -> None:
    site = await bridged()  # 50 kW
    site.box.follows = False
    site.stop()
    await site.device.go_safe("stop")
    await site.device.measure()
    assert (site.take_noted(), site.device.owes_safe_state) == (["lost"], True)
    for p_w, owes in ((2_500, False), (2_510, True), (-2_500, False), (-2_510, True), (0, False)):
        site.box.p_w = p_w
        await site.device.measure()
        assert (site.take_noted(), site.device.owes_safe_state) == (["lost" if owes else "reached"], owes), (
            p_w
        )
    site.registers.read_fault = REFUSED
    with pytest.raises(ModbusFault):
        await site.device.measure()
    assert (site.take_noted(), site.device.owes_safe_state) == (["lost"], True), "its power is not known"
    site.stop(False)
    assert not site.device.owes_safe_state


async def test_power_that_was_measured_before_the_stop_says_nothing_of_it() -> None:
    site = await bridged()
    site.box.p_w = 0
    await site.device.measure()
    site.stop()
    assert site.device.owes_safe_state, "it was not told yet"
    await site.device.measure()
    assert (site.take_noted(), site.device.owes_safe_state) == (["lost"], True), "it was not told yet"
    await site.device.go_safe("stop")
    assert (site.take_noted(), site.device.owes_safe_state) == ([], True), "it was not measured since"
    await site.device.measure()
    assert (site.take_noted(), site.device.owes_safe_state) == (["reached"], False)


async def test_after_a_lease_its_power_has_to_show_the_zero_that_it_holds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its registers held zero and it gave 50 kW: safe, with a free lease, and told nothing more."""
    site = await bridged()
    now_s = 0.0
    for clocked in (site.device, site.device._rest):
        monkeypatch.setattr(clocked, "_monotonic", lambda: now_s)
    site.box.follows = False
    await site.device.go_safe("lease")
    assert not site.device.owes_safe_state
    site.points()
    told_at = []
    for second in range(80):
        now_s = float(second)
        await site.device.measure()
        assert site.device.owes_safe_state
        assert site.device._holder_to_tell() is not None
        if site.points():
            told_at.append(second)
    assert told_at == [6, 17, 38, 79], "5 s after it was told, then after 10, 20, 40 s; with the next look"
    assert [report.what for report in site.device._broker.stats.reports] == [
        "it holds no setpoint, and its power is not 0: it is told again"
    ]
    site.registers.read_fault = REFUSED
    with pytest.raises(ModbusFault):
        await site.device.measure()
    assert site.device.owes_safe_state, "it had power when it was measured last"
    site.registers.read_fault = None
    site.box.p_w = 0
    await site.device.measure()
    assert (site.device.owes_safe_state, site.device._holder_to_tell()) == (False, None)


async def test_its_own_control_has_any_power() -> None:
    site = await bridged(safe_zero=False)
    await site.device.go_safe("lease")
    for _ in range(3):
        await site.device.measure()
        assert not site.device.owes_safe_state


async def test_an_inverter_that_holds_zero_and_gives_power_is_reported_once_and_told_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    site = await bridged()
    now_s = 0.0
    for clocked in (site.device, site.device._rest):
        monkeypatch.setattr(clocked, "_monotonic", lambda: now_s)
    site.box.follows = False
    site.stop()
    await site.device.go_safe("stop")
    site.points()
    told_at = []
    for second in range(80):
        now_s = float(second)
        await site.device.measure()
        if site.points():
            told_at.append(second)
    assert told_at == [6, 17, 38, 79], "5 s after it was told, then after 10, 20, 40 s; with the next look"
    assert [report.what for report in site.device._broker.stats.reports] == [
        "an emergency stop is in force, and its power is not 0: the stop is sent again"
    ]
    assert site.device.owes_safe_state


async def test_a_stop_that_came_and_went_while_it_was_away_writes_nothing_to_one_never_driven() -> None:
    for was_heard in (False, True):
        it = await bridged(safe_zero=False)
        it.stop()
        it.registers.fault = SILENCE
        with pytest.raises(ModbusFault):
            await it.device.go_safe("emergency stop")
        it.registers.fault = None
        it.registers.take_written()
        if was_heard:  # and its answer was lost
            await it.device._inverter.hold_zero()
            it.registers.take_written()
        it.stop(False)
        await it.device.measure()
        assert it.points() == (OFF if was_heard else [])
        assert not it.device.owes_safe_state


async def test_in_a_stop_reactive_power_is_not_at_rest() -> None:
    it = await bridged()
    it.stop()
    await it.device.go_safe("emergency stop")
    for q_mvar, rests in ((0.0, True), (0.009, True), (0.011, False), (-0.011, False)):
        it.device._watch_rest(Telemetry(p_mw=0.0, q_mvar=q_mvar))  # of 50 kW
        assert it.device.owes_safe_state is not rests


async def test_the_birth_has_the_limit_of_the_installation_and_comes_again_when_it_is_another() -> None:
    site = await bridged(found={"WMaxLim_Ena": 1, "WMaxLimPct": 6000})
    assert site.device.nameplate()["p_max_mw"] == 0.03
    births: list[Any] = []
    site.device._say = births.append  # type: ignore[method-assign, assignment]
    site.box[123, "WMaxLimPct"] = 4000  # since it was looked at
    await site.device.apply(told(0.03))
    assert site.device.nameplate()["p_max_mw"] == 0.02
    assert [birth["p_max_mw"] for birth in births] == [0.02]


async def test_a_limit_that_may_be_lost_is_told_of_where_it_is_handed_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    for found, is_told in ((LEFT, True), (LEFT_ZERO, True), ({}, False)):
        caplog.clear()
        site = await bridged(found=found)
        await site.device.measure()
        await site.device.apply(told(0.01))
        await site.device.hand_back()
        assert (f"MG1/ess: {device.LOST}" in [r.getMessage() for r in caplog.records]) is is_told


async def test_a_limit_that_a_bridge_owed_is_put_back_before_any_setpoint(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    limited = {**PV, 123: {**PV[123], "WMaxLim_Ena": 1, "WMaxLimPct": 6000}}
    kept = KeptSettings(tmp_path, "box unit 1")
    for models, points in ((limited, []), (PV, ["WMaxLimPct=6000", "WMaxLimPct_RvrtTms=0", "WMaxLim_Ena=1"])):
        registers: Any = ImageRegisters(models)
        inverter = await Inverter.connect(registers, Settings(), kept=kept)
        site = Bridged(registers, make_device(inverter, "MG1", "ess", InMemoryBroker()))
        await site.device.measure()
        assert site.points() == points
        if not points:
            await site.device.apply(told(0.01))  # and it is killed; its timer ends the setpoint
    assert "MG1/ess: its own settings were off after an earlier bridge, and are put back" in caplog.text
    assert not site.device.owes_safe_state
    assert list(tmp_path.iterdir()) == []


async def test_settings_that_cannot_be_put_back_are_owed_hold_the_lease_and_fail_the_end(
    tmp_path: Path,
) -> None:
    limited = {**PV, 123: {**PV[123], "WMaxLim_Ena": 1, "WMaxLimPct": 6000}}
    kept = KeptSettings(tmp_path, "box unit 1")
    first: Any = ImageRegisters(limited)
    killed = make_device(await Inverter.connect(first, Settings(), kept=kept), "MG1", "ess", InMemoryBroker())
    await killed.measure()
    await killed.apply(told(0.01))
    registers: Any = ImageRegisters(PV)  # its timer has ended the setpoint
    async with InMemoryBroker() as broker:
        leases: list[str] = []
        broker.subscribe("devices/MG1/ess/lease", lambda message: leases.append(message["state"]))
        inverter = await Inverter.connect(registers, Settings(), kept=kept)
        site = Bridged(registers, make_device(inverter, "MG1", "ess", broker, period_s=0.02))
        await site.device.hand_back()
        assert site.points() == [], "before it has the name, another bridge may drive it"
        registers.write_fault = REFUSED
        running = asyncio.create_task(site.device.run())
        await until(lambda: site.device._fault, "the refusal")
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        with pytest.raises(ModbusFault, match="exception 4"):
            await site.device.hand_back()
        assert leases == ["held"]
        registers.write_fault = None
        await site.device.hand_back()
        assert site.points() == ["WMaxLimPct=6000", "WMaxLimPct_RvrtTms=0", "WMaxLim_Ena=1"]
        await until(lambda: leases == ["held", "free"], "the free lease")
    assert list(tmp_path.iterdir()) == []


async def test_a_bridge_that_ends_before_the_name_is_its_own_says_what_a_killed_one_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def asks_on(ownership: NameOwnership) -> None:
        await asyncio.sleep(30.0)

    monkeypatch.setattr(NameOwnership, "acquire", asks_on)
    held = {"type": "lease", "state": "held", "holder": "MG1", "holder_boot": "g0", "boot": "killed"}
    for found, lease, is_left in ((LEFT, held, True), (LEFT, None, False), ({}, held, False)):
        registers: Any = ImageRegisters({**PV, 123: {**PV[123], **found}})
        inverter = await Inverter.connect(registers, Settings())
        async with OpenMemoryBroker() as broker:
            if lease is not None:
                await broker.publish("devices/MG1/ess/lease", lease, retain=True)
            bridge = make_device(inverter, "MG1", "ess", broker)
            running = asyncio.create_task(bridge.run())
            await asyncio.sleep(0.05)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            with pytest.raises(NotHandedBack, match=EARLIER) if is_left else contextlib.nullcontext():
                await bridge.hand_back()
        assert registers.written == [], "it may be another one's"

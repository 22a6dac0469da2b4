"""A SunSpec inverter behaves on the wire as any field device: leases, safe states, faults, its end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pymodbus.constants import ExcCodes

from heron_mqtt.field.modbus.place import TcpAddress
from heron_mqtt.field.modbus.registers import ModbusConnection, Registers
from heron_mqtt.field.sunspec.bridge import SunSpecDevice, make_device
from heron_mqtt.field.sunspec.inverter import Inverter, Settings
from heron_mqtt.messaging import topics
from heron_mqtt.messaging.memory import InMemoryBroker
from heron_mqtt.messaging.mqtt import MqttBroker
from powergrid.emulators import sunspec_bridge as bridge
from support.heron_command import Ended, Program, run_heron, script
from support.modbus_front import Answers, ModbusFront, half, nonsense, refusal, silence
from support.mosquitto_server import Mosquitto
from support.sunspec_gateway import Gateway
from support.sunspec_server import BATTERY, DER, PV, EmulatedInverter
from support.waiting import until

ROOT = Path(__file__).parents[2]


class Site:
    """Inverter, bridge and gateway."""

    def __init__(self, box: EmulatedInverter, device: SunSpecDevice, gateway: Gateway) -> None:
        self.box, self.device, self.gateway = box, device, gateway


@pytest.fixture
async def make() -> AsyncIterator[Any]:
    """Run a bridge in this process, between an emulated inverter and a broker in memory."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(
            models: dict[int, dict[str, Any]],
            period_s: float = 0.05,
            timeout_s: float = 10.0,
            writes_refused: bool = False,
            **settings: Any,
        ) -> Site:
            box = await EmulatedInverter(models).start()
            box.refuse_writes = ExcCodes.DEVICE_FAILURE if writes_refused else None
            stack.push_async_callback(box.stop)
            registers = Registers(ModbusConnection(TcpAddress("127.0.0.1", box.port), timeout_s=timeout_s), 1)
            stack.callback(registers.close)
            inverter = await Inverter.connect(registers, Settings(**settings))
            broker = await stack.enter_async_context(InMemoryBroker())
            gateway = Gateway(broker)
            device = make_device(inverter, "MG1", "ess", broker, period_s=period_s)
            running = asyncio.create_task(device.run())

            async def end() -> None:
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)

            stack.push_async_callback(end)
            await until(lambda: gateway.status, "the birth")
            return Site(box, device, gateway)

        yield start


async def test_the_birth_tells_the_nameplate_and_looking_writes_nothing(make: Any) -> None:
    site = await make(BATTERY)
    birth = site.gateway.status[0]
    assert (birth["state"], birth["kind"]) == ("online", "battery")
    assert (birth["p_min_mw"], birth["p_max_mw"], birth["max_e_mwh"]) == (-0.008, 0.009, 0.02)
    await until(lambda: len(site.gateway.telemetry) > 2, "telemetry without a setpoint")
    assert site.box.writes() == []
    assert site.gateway.telemetry[0]["soc"] == 0.64


async def test_a_setpoint_reaches_the_inverter_before_it_is_acknowledged(make: Any) -> None:
    site = await make(BATTERY, period_s=0.0)
    telemetry = await site.gateway.ask(0.004, 12.0)
    assert [site.box[124, n] for n in ("OutWRte", "StorCtl_Mod", "InOutWRte_RvrtTms")] == [5000, 3, 12]
    assert telemetry["safe"] is False


@pytest.mark.parametrize(
    ("models", "point", "held"),
    [(PV, (121, "WMax"), (123, "WMaxLimPct")), (BATTERY, (124, "WChaMax"), (124, "OutWRte"))],
    ids=["pv", "battery"],
)
async def test_what_100_percent_is_set_to_anew_is_noticed_while_it_is_driven(
    make: Any, models: Any, point: tuple[int, str], held: tuple[int, str]
) -> None:
    """It gave twice the power until the next setpoint or renewal."""
    site = await make(models)
    await site.gateway.ask(0.002, 30.0)
    share = site.box[held]
    site.box[point] *= 2
    await until(lambda: site.box[held] in {share // 2, share // 2 + 1}, "half the share of twice the power")
    await until(lambda: len(site.box.writes()) % 3 == 0, "three writes each time: timer, share, switch")
    written, measured = len(site.box.writes()), len(site.gateway.telemetry)
    await until(lambda: len(site.gateway.telemetry) >= measured + 3, "telemetry")
    assert len(site.box.writes()) == written, "it was told once"
    assert not any("rejected" in telemetry for telemetry in site.gateway.telemetry)


async def test_when_the_lease_runs_out_the_inverter_holds_zero(make: Any) -> None:
    site = await make(BATTERY)
    await site.gateway.ask(0.004, 0.2)
    await until(lambda: any(t["safe"] for t in site.gateway.telemetry if t.get("ack_seq") == 0), "safe")
    assert [site.box[124, n] for n in ("OutWRte", "InWRte", "StorCtl_Mod")] == [0, 0, 3]
    assert site.box[124, "InOutWRte_RvrtTms"] == 0


async def test_an_inverter_that_was_handed_back_is_measured_and_told_nothing_more(make: Any) -> None:
    site = await make(BATTERY, period_s=0.02, safe_zero=False)
    await site.gateway.ask(0.004, 0.2)
    await until(lambda: site.box[124, "StorCtl_Mod"] == 0, "it is handed back")
    await until(lambda: any(t["safe"] for t in site.gateway.telemetry if t.get("ack_seq") == 0), "safe")
    written, measured = len(site.box.writes()), len(site.gateway.telemetry)
    await until(lambda: len(site.gateway.telemetry) >= measured + 3, "telemetry")
    assert len(site.box.writes()) == written


async def test_a_renewal_starts_the_inverters_own_timer_anew(make: Any) -> None:
    site = await make(BATTERY, period_s=0.0)
    await site.gateway.ask(0.004, 10.0)
    for _ in range(3):
        site.box.now_s += 8.0
        before = len(site.box.writes())
        site.gateway.send(0.004, 10.0, renewal=True)
        await until(lambda before=before: len(site.box.writes()) >= before + 3, "the renewal")
    site.box.run_timers()
    assert [site.box[124, n] for n in ("OutWRte", "StorCtl_Mod")] == [5000, 3]


async def test_a_renewal_after_the_lease_ran_out_does_not_bring_the_setpoint_back(make: Any) -> None:
    site = await make(BATTERY)
    await site.gateway.ask(0.004, 0.15)
    await until(lambda: site.device.is_safe, "the safe state")
    site.gateway.send(0.004, 10.0, renewal=True)
    seen = len(site.gateway.telemetry)
    await until(lambda: len(site.gateway.telemetry) > seen + 2, "some telemetry")
    assert site.box[124, "OutWRte"] == 0


async def test_an_emergency_stop_holds_zero_whatever_the_safe_state_is_and_until_released(make: Any) -> None:
    site = await make(BATTERY, safe_zero=False)
    await site.gateway.ask(0.004, 30.0)
    site.gateway.stop(True)
    await until(lambda: site.box[124, "OutWRte"] == 0, "zero power")
    assert site.box[124, "StorCtl_Mod"] == 3
    assert (await site.gateway.ask(0.004, 30.0))["rejected"] == "emergency stop"
    assert site.box[124, "OutWRte"] == 0
    site.gateway.stop(False)
    await until(lambda: not site.device.stopped, "the release")
    await site.gateway.ask(0.002, 30.0)
    assert site.box[124, "OutWRte"] == 2500


async def test_an_inverter_in_a_fault_is_told_as_a_fault_and_its_recovery_too(make: Any) -> None:
    site = await make(PV)
    site.box[103, "St"] = 7
    await until(lambda: site.gateway.states() == ["online", "fault"], "the fault")
    assert "the inverter is in a fault" in site.gateway.status[-1]["reason"]
    site.box[103, "St"] = 4
    await until(lambda: site.gateway.states() == ["online", "fault", "online"], "the recovery")


async def test_registers_that_cannot_be_read_are_a_fault(make: Any) -> None:
    site = await make(PV)
    site.box.refuse = ExcCodes.DEVICE_BUSY
    await until(lambda: "fault" in site.gateway.states(), "the fault")
    assert "Modbus exception 6" in site.gateway.status[-1]["reason"]


async def test_after_a_lost_connection_the_safe_state_is_caught_up_before_anything_is_measured(
    make: Any,
) -> None:
    site = await make(DER)
    await site.gateway.ask(0.003, 0.3)
    await site.box.stop()
    await until(lambda: "fault" in site.gateway.states(), "the fault")
    await until(lambda: site.device.is_safe, "the end of the lease")
    assert site.box[704, "WSet"] == 3000  # it could not be told; its own timer does not run here
    await site.box.start()
    await until(lambda: site.gateway.states()[-1] == "online", "the recovery")
    assert [site.box[704, n] for n in ("WSet", "WSetEna")] == [0, 1]


async def test_a_stop_that_did_not_reach_the_inverter_is_confirmed_once_it_did(make: Any) -> None:
    site = await make(DER, timeout_s=1.0)
    confirmed: list[dict[str, Any]] = []
    site.gateway.broker.subscribe(topics.stop_confirm("MG1", "ess"), confirmed.append)
    await site.gateway.ask(0.003, 30.0)
    await site.box.stop()
    site.gateway.stop(True)
    await until(lambda: confirmed, "what it says of the stop")
    assert (confirmed[-1]["active"], confirmed[-1]["safe"]) == (True, False)
    await site.box.start()
    await until(lambda: confirmed[-1]["safe"], "its confirmation")
    assert [site.box[704, n] for n in ("WSet", "WSetEna")] == [0, 1]


def confirmations(site: Site) -> list[dict[str, Any]]:
    """Return what the device will have said of stops."""
    confirmed: list[dict[str, Any]] = []
    site.gateway.broker.subscribe(topics.stop_confirm("MG1", "ess"), confirmed.append)
    return confirmed


@pytest.mark.parametrize("models", [DER, BATTERY, PV])
async def test_a_stop_reaches_an_inverter_that_answers_no_question(make: Any, models: Any) -> None:
    site = await make(models)
    confirmed = confirmations(site)
    await site.gateway.ask(0.003, 30.0)
    site.box.refuse_reads = ExcCodes.DEVICE_FAILURE
    site.gateway.stop(True)
    await until(lambda: zero_is_held(site.box), "zero")
    await until(lambda: confirmed, "what it says of the stop")
    assert not any(each["safe"] for each in confirmed), "nobody knows its power"
    site.box.refuse_reads = None
    await until(lambda: confirmed[-1]["safe"], "its confirmation")


async def test_a_stop_is_confirmed_as_safe_once_the_power_is_0_and_no_earlier(make: Any) -> None:
    site = await make(BATTERY)
    confirmed = confirmations(site)
    await site.gateway.ask(0.003, 30.0)
    site.box.follows = False
    site.gateway.stop(True)
    await until(lambda: confirmed, "what it says of the stop")
    assert zero_is_held(site.box)
    assert not any(each["safe"] for each in confirmed)
    assert [site.gateway.telemetry[-1][name] for name in ("p_mw", "safe", "stopped")] == [0.003, False, True]
    site.box.follows = True
    await until(lambda: confirmed[-1]["safe"], "its confirmation")
    await until(lambda: site.gateway.telemetry[-1]["safe"], "the telemetry that follows it")
    assert site.gateway.telemetry[-1]["p_mw"] == 0.0


def zero_is_held(box: EmulatedInverter) -> bool:
    """Whether its registers hold zero power."""
    for place, wanted in (((704, "WSet"), 0), ((124, "OutWRte"), 0), ((123, "WMaxLimPct"), 0)):
        if place in box:
            enabled = {704: "WSetEna", 124: "StorCtl_Mod", 123: "WMaxLim_Ena"}[place[0]]
            return box[place] == wanted and box[place[0], enabled] in {1, 3}
    raise AssertionError("no control")


async def test_a_stop_that_the_inverter_refuses_is_not_confirmed_as_safe(make: Any) -> None:
    site = await make(DER)
    confirmed = confirmations(site)
    await site.gateway.ask(0.003, 30.0)
    site.box.refuse_writes = ExcCodes.DEVICE_BUSY
    site.gateway.stop(True)
    await until(lambda: confirmed, "what it says of the stop")
    assert not confirmed[-1]["safe"]
    site.box.refuse_writes = None
    await until(lambda: confirmed[-1]["safe"], "its confirmation")
    assert zero_is_held(site.box)


async def test_a_stop_in_the_dark_is_not_confirmed_as_safe_before_the_inverter_was_told(make: Any) -> None:
    site = await make(PV, timeout_s=1.0, dark_is_zero=True)
    confirmed = confirmations(site)
    await site.gateway.ask(0.01, 30.0)
    await site.box.stop()
    site.gateway.stop(True)
    await until(lambda: confirmed, "what it says of the stop")
    assert not confirmed[-1]["safe"]
    seen = len(site.gateway.telemetry)
    await until(lambda: len(site.gateway.telemetry) > seen + 1, "telemetry in the dark")
    assert site.gateway.telemetry[-1]["safe"] is False
    await site.box.start()
    await until(lambda: confirmed[-1]["safe"], "its confirmation")
    assert zero_is_held(site.box)


async def test_another_inverter_at_the_address_is_told_no_stop_and_the_stop_is_not_confirmed(
    make: Any,
) -> None:
    site = await make(DER)
    confirmed = confirmations(site)
    await site.gateway.ask(0.003, 30.0)
    await site.box.stop()
    other = EmulatedInverter({**DER, 1: {**DER[1], "SN": "4712"}})
    other.port = site.box.port
    await other.start()
    try:
        await until(lambda: "another inverter" in str(site.gateway.status[-1].get("reason")), "the fault")
        site.gateway.stop(True)
        await until(lambda: confirmed, "what it says of the stop")
        assert not confirmed[-1]["safe"]
        assert other.writes() == []
    finally:
        await other.stop()


LEFT = {124: {"StorCtl_Mod": 3, "OutWRte": 5000, "InWRte": -5000, "InOutWRte_RvrtTms": 30}}


@pytest.mark.parametrize(
    "models",
    [
        {**BATTERY, 124: {**BATTERY[124], **LEFT[124]}},
        {**DER, 704: {**DER[704], "WSetEna": 1, "WSetMod": 1, "WSet": 3000, "WSetRvrtTms": 30}},
        {**PV, 123: {**PV[123], "WMaxLim_Ena": 1, "WMaxLimPct": 5000, "WMaxLimPct_RvrtTms": 30}},
    ],
)
async def test_a_setpoint_that_a_killed_bridge_left_in_force_is_ended_by_the_next_and_handed_back(
    make: Any, models: Any
) -> None:
    site = await make(models)
    await until(lambda: site.gateway.telemetry, "its telemetry")
    assert zero_is_held(site.box)
    assert site.gateway.telemetry[0]["safe"] is True
    await site.device.hand_back()
    assert not zero_is_held(site.box)


@pytest.mark.parametrize(("read_only", "settable"), [(True, False), (False, None)])
async def test_a_stop_is_confirmed_with_whether_the_bridge_can_set_the_inverter(
    make: Any, read_only: bool, settable: bool | None
) -> None:
    site = await make(BATTERY, read_only=read_only)
    confirmed = confirmations(site)
    site.gateway.stop(True)
    await until(lambda: confirmed, "what it says of the stop")
    assert confirmed[-1].get("settable") is settable


async def test_zero_that_an_earlier_bridge_left_is_handed_back_where_zero_is_not_the_safe_state(
    make: Any,
) -> None:
    models = {**BATTERY, 124: {**BATTERY[124], "OutWRte": 0, "InWRte": 0, "StorCtl_Mod": 3}}
    site = await make(models, safe_zero=False)
    await until(lambda: site.box[124, "StorCtl_Mod"] == 0, "its own control")
    await until(lambda: site.gateway.telemetry and site.gateway.telemetry[-1]["safe"], "told as safe")


async def test_zero_that_an_earlier_bridge_left_stays_where_it_is_the_safe_state(make: Any) -> None:
    models = {**BATTERY, 124: {**BATTERY[124], "OutWRte": 0, "InWRte": 0, "StorCtl_Mod": 3}}
    site = await make(models)
    await until(lambda: len(site.gateway.telemetry) > 2, "some telemetry")
    assert zero_is_held(site.box)
    assert site.box.writes() == []


async def test_a_bridge_that_is_refused_the_name_does_not_end_what_the_other_one_holds(
    make: Any,
) -> None:
    site = await make(BATTERY)
    await site.gateway.ask(0.004, 30.0)
    registers = Registers(ModbusConnection(TcpAddress("127.0.0.1", site.box.port), timeout_s=0.3), 1)
    inverter = await Inverter.connect(registers, Settings())
    second = make_device(inverter, "MG1", "ess", site.gateway.broker)
    before = len(site.box.writes())
    await second.hand_back()  # it never ran
    registers.close()
    assert len(site.box.writes()) == before
    assert site.box[124, "OutWRte"] == 5000


async def test_it_never_says_that_it_is_safe_while_a_setpoint_that_was_left_cannot_be_ended(
    make: Any,
) -> None:
    models = {**DER, 704: {**DER[704], "WSetEna": 1, "WSetMod": 1, "WSet": 3000, "WSetRvrtTms": 30}}
    site = await make(models, period_s=0.0, writes_refused=True)
    confirmed = confirmations(site)
    site.gateway.stop(True)
    await until(lambda: confirmed, "what it says of a stop")
    assert not confirmed[-1]["safe"]
    assert not any(t["safe"] for t in site.gateway.telemetry)


@pytest.mark.parametrize("stopped", [False, True])
async def test_neither_a_stop_nor_the_end_of_a_lease_waits_for_a_measurement(
    make: Any, stopped: bool
) -> None:
    site = await make(DER, timeout_s=30.0)  # a measurement that is waited for would take that long
    await site.gateway.ask(0.003, 30.0 if stopped else 0.3)
    site.box.answers_reads.clear()
    seen = len(site.box.requests)
    await until(lambda: len(site.box.requests) > seen, "a measurement that hangs")
    if stopped:
        site.gateway.stop(True)
    await until(lambda: zero_is_held(site.box), "zero power")


@pytest.mark.parametrize("stopped", [False, True])
@pytest.mark.parametrize("connection_lost", [False, True])
@pytest.mark.parametrize("models", [DER, BATTERY, PV])
async def test_an_inverter_that_restarts_is_brought_back_into_the_stop_or_the_safe_state(
    make: Any, models: Any, connection_lost: bool, stopped: bool
) -> None:
    site = await make(models)
    confirmed = confirmations(site)
    await site.gateway.ask(0.003, 30.0 if stopped else 0.2)
    if stopped:
        site.gateway.stop(True)
    await until(lambda: zero_is_held(site.box), "zero power")
    await until(lambda: site.gateway.telemetry[-1]["safe"], "its telemetry")
    if connection_lost:
        await site.box.stop()
    site.box.image = list(EmulatedInverter(models).image)
    if connection_lost:
        await site.box.start()
    await until(lambda: zero_is_held(site.box), "zero power again")
    if stopped:
        await until(lambda: [c["safe"] for c in confirmed][-2:] == [False, True], "what it says of it")
    await until(lambda: site.gateway.telemetry[-1]["safe"], "its telemetry")


async def test_zero_power_that_is_acknowledged_and_not_held_is_never_said_to_be_safe(make: Any) -> None:
    site = await make(DER)
    confirmed = confirmations(site)
    await site.gateway.ask(0.003, 30.0)
    site.box.forgets = True
    site.gateway.stop(True)
    await until(lambda: confirmed, "what it says of the stop")
    seen = len(site.gateway.telemetry)
    await until(lambda: len(site.gateway.telemetry) > seen + 2, "telemetry of now")
    assert not any(c["safe"] for c in confirmed)
    assert site.gateway.telemetry[-1]["safe"] is False
    site.box.forgets = False
    await until(lambda: confirmed[-1]["safe"], "its confirmation")


@pytest.mark.parametrize(
    "text", ["roof", "@2", "roof@300", "roof@2:wind", "roof@2,period=3", "roof@2,nominal-v="]
)
def test_a_further_unit_that_is_none_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        bridge.run(["--modbus", "127.0.0.1", "--also", text])
    assert f"{text!r}: expected NAME@UNIT[:KIND][,nominal-v=...][,safe-state=...]" in capsys.readouterr().err


async def test_a_new_setpoint_after_a_lost_connection_wins_over_the_safe_state_that_was_owed(
    make: Any,
) -> None:
    site = await make(DER, period_s=0.0)
    await site.gateway.ask(0.003, 0.1)
    await site.box.stop()
    await until(lambda: site.device.is_safe, "the end of the lease")
    await site.box.start()
    await site.gateway.ask(0.002, 30.0)
    assert [site.box[704, n] for n in ("WSet", "WSetEna")] == [2000, 1]


async def test_at_its_end_the_bridge_hands_the_inverter_back_if_it_ever_told_it_anything(make: Any) -> None:
    site = await make(BATTERY)
    await site.device.hand_back()
    assert site.box.writes() == []
    await site.gateway.ask(0.004, 30.0)
    await site.device.hand_back()
    assert site.box[124, "StorCtl_Mod"] == 0


async def test_at_its_end_the_bridge_does_not_undo_an_emergency_stop(make: Any) -> None:
    site = await make(BATTERY)
    site.gateway.stop(True)
    await until(lambda: site.box[124, "StorCtl_Mod"] == 3, "zero power")
    await site.device.hand_back()
    assert site.box[124, "StorCtl_Mod"] == 3


# -- as a program ----------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def bridged(box: EmulatedInverter, *arguments: str) -> AsyncIterator[Program]:
    """Run ``devices/sunspec_bridge.py`` beside an inverter that is served here; both are ended."""
    with script(ROOT / "devices/sunspec_bridge.py", *arguments) as program:
        try:
            yield program
        finally:
            await box.stop()


@contextlib.asynccontextmanager
async def online(
    box: EmulatedInverter, url: str, env_id: str, *more: str, modbus_port: int | None = None
) -> AsyncIterator[tuple[Program, Gateway]]:
    """Run the bridge of ``box`` as MG1/ess until it is born, with a gateway beside it."""
    async with (
        bridged(
            box,
            *("--agent", "MG1", "--name", "ess", "--broker", url, "--env-id", env_id),
            *("--modbus", f"127.0.0.1:{modbus_port or box.port}", "--unit", "1", "--period", "0.1"),
            *more,
        ) as program,
        MqttBroker(url, env_id=env_id) as broker,
    ):
        gateway = Gateway(broker, env_id)
        await until(lambda: gateway.states() == ["online"], "the birth", within_s=20.0)
        yield program, gateway


async def ended(program: Program) -> Ended:
    """Wait for the end of a program whose inverter is served here meanwhile."""
    return await asyncio.to_thread(program.wait, 15.0)


async def test_the_program_serves_an_inverter_on_mosquitto_and_hands_it_back_when_terminated(
    mosquitto: Mosquitto, env_id: str
) -> None:
    box = await EmulatedInverter(BATTERY).start()
    async with bridged(
        box,
        *("--agent", "MG1", "--name", "ess", "--broker", mosquitto.url, "--env-id", env_id),
        *("--modbus", f"127.0.0.1:{box.port}", "--unit", "1", "--period", "0.1", "--nominal-v", "230"),
    ) as program:
        async with MqttBroker(mosquitto.url, env_id=env_id) as broker:
            gateway = Gateway(broker, env_id)
            await until(lambda: gateway.states() == ["online"], "the birth", within_s=20.0)
            telemetry = await gateway.ask(-0.002, 30.0)
            assert (telemetry["vm_pu"], telemetry["soc"]) == (1.0, 0.64)
            assert [box[124, n] for n in ("InWRte", "StorCtl_Mod")] == [2500, 3]
            os.kill(program.pid, signal.SIGTERM)
            assert (await ended(program)).code == 0
            await until(lambda: gateway.states()[-1] == "offline", "the last word")
        assert box[124, "StorCtl_Mod"] == 0


@pytest.mark.parametrize("recovers", [False, True])
async def test_the_program_that_could_not_hand_its_inverter_back_does_not_end_as_if_it_had(
    mosquitto: Mosquitto, env_id: str, recovers: bool
) -> None:
    box = await EmulatedInverter(BATTERY).start()
    async with bridged(
        box,
        *("--agent", "MG1", "--name", "ess", "--broker", mosquitto.url, "--env-id", env_id),
        *("--modbus", f"127.0.0.1:{box.port}", "--unit", "1", "--period", "0.1"),
    ) as program:
        async with MqttBroker(mosquitto.url, env_id=env_id) as broker:
            gateway = Gateway(broker, env_id)
            await until(lambda: gateway.states() == ["online"], "the birth", within_s=20.0)
            await gateway.ask(-0.002, 30.0)
            box.refuse_writes = ExcCodes.DEVICE_FAILURE
            seen = len(box.requests)
            os.kill(program.pid, signal.SIGTERM)
            if recovers:  # busy for a moment only: it is tried again
                await until(lambda: any(f == 16 for f, _, _ in box.requests[seen:]), "a first try")
                box.refuse_writes = None
            done = await ended(program)
        assert done.code == (0 if recovers else 1)
        assert (box[124, "StorCtl_Mod"] == 0) is recovers
        assert recovers or "MG1/ess: it could not be handed back" in done.err.splitlines()[-1]


@pytest.mark.slow_but("late")
@pytest.mark.parametrize("shown", ["late", "never"])
async def test_the_program_whose_inverter_acknowledges_the_hand_back_and_ignores_it_does_not_end_well(
    mosquitto: Mosquitto, env_id: str, shown: str
) -> None:
    box = await EmulatedInverter(BATTERY).start()
    async with online(box, mosquitto.url, env_id) as (program, gateway):
        await gateway.ask(-0.002, 30.0)
        box.forgets = True
        seen = len(box.requests)
        os.kill(program.pid, signal.SIGTERM)
        if shown == "late":
            release = (16, box.base + box.places()[124, "StorCtl_Mod"][0], [0])
            await until(lambda: release in box.requests[seen:], "its release")
            box[124, "StorCtl_Mod"] = 0
        done = await ended(program)
    assert done.code == (0 if shown == "late" else 1)
    assert (box[124, "StorCtl_Mod"] == 0) is (shown == "late")
    why = "it acknowledged its release, but model 124 StorCtl_Mod is 3, and 0 was written"
    assert shown == "late" or done.err.splitlines()[-1].endswith(
        f"MG1/ess: it could not be handed back: {why}"
    )


@pytest.mark.slow_but("nonsense")
@pytest.mark.parametrize("answers", [silence, refusal, half, nonsense], ids=lambda each: each.__name__)
async def test_the_program_ends_in_time_and_says_so_where_a_box_does_not_answer_as_it_should(
    mosquitto: Mosquitto, env_id: str, answers: Answers
) -> None:
    box = await EmulatedInverter(BATTERY).start()
    async with (
        ModbusFront(box.port) as front,
        online(box, mosquitto.url, env_id, "--timeout", "0.3", modbus_port=front.port) as (program, gateway),
    ):
        await gateway.ask(-0.002, 30.0)
        front.answers = answers
        await until(lambda: gateway.states()[-1] == "fault", "the fault")
        os.kill(program.pid, signal.SIGTERM)
        begun_s = asyncio.get_running_loop().time()
        done = await ended(program)
        assert asyncio.get_running_loop().time() - begun_s < 10.0  # 1 s for the safe state, 2 s to hand back
        await until(lambda: gateway.states()[-1] == "offline", "the last word")
    assert done.code == 1
    assert "Traceback" not in done.err
    last = done.err.splitlines()[-1]
    assert last.startswith(
        "heron-mqtt device sunspec_bridge: MG1/ess: it could not be handed back: 127.0.0.1"
    )


@pytest.mark.slow_but("True")
@pytest.mark.parametrize("rests", [False, True])
async def test_the_program_says_at_its_end_whether_its_inverter_is_at_0_in_a_stop(
    mosquitto: Mosquitto, env_id: str, rests: bool
) -> None:
    """With power, quickly: ``test_an_inverter_that_still_gives_power_in_a_stop_is_no_good_end``."""
    box = await EmulatedInverter(BATTERY).start()
    async with online(box, mosquitto.url, env_id) as (program, gateway):
        await gateway.ask(0.003, 30.0)
        box.follows = rests
        asked = ("--broker", mosquitto.url, "--env-id", env_id, "--wait", "1")
        pressed = await asyncio.to_thread(run_heron, "estop", "on", *asked)
        assert pressed.code == (0 if rests else 1)
        assert zero_is_held(box)
        assert ("NOT CONFIRMED" in pressed.err) is not rests
        await asyncio.to_thread(run_heron, "estop", "off", *asked)
        await asyncio.to_thread(run_heron, "estop", "on", *asked)
        os.kill(program.pid, signal.SIGTERM)
        done = await ended(program)
    assert done.code == (0 if rests else 1)
    gave = "an emergency stop is in force, and it gave 3 kW when it was measured last"
    said = "WARNING heron_mqtt.sunspec: MG1/ess: an emergency stop is in force: the device stays at 0"
    left = (
        f"heron-mqtt device sunspec_bridge: MG1/ess: it is not known to be at 0 in the emergency stop: {gave}"
    )
    assert done.err.splitlines()[-1].startswith(said if rests else left)
    assert zero_is_held(box)


async def test_an_inverter_that_is_dark_when_its_lease_ends_is_no_fault_and_is_told_when_it_answers(
    make: Any,
) -> None:
    site = await make(PV, dark_is_zero=True)
    await site.gateway.ask(0.01, 0.4)
    await site.box.stop()
    await until(lambda: site.device.is_safe, "the end of the lease")
    seen = len(site.gateway.telemetry)
    await until(lambda: len(site.gateway.telemetry) > seen + 1, "telemetry in the dark")
    assert site.gateway.telemetry[-1]["p_mw"] == 0.0
    assert site.gateway.states() == ["online"]
    assert site.box[123, "WMaxLimPct"] == 2000
    await site.box.start()
    await until(lambda: site.box[123, "WMaxLimPct"] == 0, "the safe state that was owed")


async def test_an_inverter_that_is_only_read_says_of_a_stop_that_it_is_not_safe_while_it_has_power(
    make: Any,
) -> None:
    site = await make(PV, read_only=True)
    confirmed: list[dict[str, Any]] = []
    site.gateway.broker.subscribe(topics.stop_confirm("MG1", "ess"), confirmed.append)
    told = await site.gateway.ask(0.01, 30.0)
    assert (told["p_mw"], told.get("rejected")) == (0.04, None)  # what it measures is the answer
    site.gateway.stop(True)
    await until(lambda: confirmed, "the confirmation")
    assert (confirmed[-1]["active"], confirmed[-1]["safe"]) == (True, False)
    site.box.p_w = 0
    await until(lambda: confirmed[-1]["safe"], "its own rest")
    await until(lambda: site.gateway.telemetry[-1]["safe"], "the same in telemetry")
    assert site.box.writes() == []


@pytest.mark.slow
async def test_the_program_serves_several_units_behind_one_connection(
    mosquitto: Mosquitto, env_id: str
) -> None:
    box = EmulatedInverter(BATTERY)
    box.beside.append(EmulatedInverter(PV, unit=2))
    await box.start()
    async with bridged(
        box,
        *("--agent", "MG1", "--name", "ess", "--broker", mosquitto.url, "--env-id", env_id),
        *("--modbus", f"127.0.0.1:{box.port}", "--also", "roof@2:pv,nominal-v=460", "--period", "0.1"),
    ) as program:
        async with MqttBroker(mosquitto.url, env_id=env_id) as broker:
            gateway, roof = Gateway(broker, env_id), []
            broker.subscribe(topics.device("MG1", "roof", "telemetry"), roof.append)
            await until(lambda: gateway.telemetry and roof, "both devices", within_s=20.0)
            assert roof[-1]["p_mw"] == 0.04
            assert roof[-1]["vm_pu"] == 0.5  # what was said of it alone
            assert "vm_pu" not in gateway.telemetry[-1]
            await gateway.ask(-0.002, 30.0)
            os.kill(program.pid, signal.SIGTERM)
            assert (await ended(program)).code == 0
        assert box[124, "StorCtl_Mod"] == 0
        assert box.beside[0].writes() == []


async def test_a_stop_reaches_the_inverter_beside_a_dead_one(mosquitto: Mosquitto, env_id: str) -> None:
    box, dead = EmulatedInverter(BATTERY), EmulatedInverter(PV, unit=2)
    box.beside.append(dead)
    await box.start()
    async with (
        bridged(
            box,
            *("--agent", "MG1", "--name", "ess", "--broker", mosquitto.url, "--env-id", env_id),
            *(
                "--modbus",
                f"127.0.0.1:{box.port}",
                "--also",
                "roof@2:pv",
                "--period",
                "0.1",
                "--timeout",
                "0.5",
            ),
        ),
        MqttBroker(mosquitto.url, env_id=env_id) as broker,
    ):
        gateway, confirmed = Gateway(broker, env_id), []
        broker.subscribe(topics.stop_confirm("MG1", "ess"), confirmed.append)
        await until(gateway.states, "the devices", within_s=20.0)
        await gateway.ask(-0.002, 30.0)
        dead.silent = True
        asked = len(dead.requests)
        await until(lambda: len(dead.requests) >= asked + 3, "the silence", within_s=20.0)
        told, asked = len(box.requests), len(dead.requests)
        broker.publish(topics.ESTOP, {"active": True})
        await until(lambda: any(c["safe"] for c in confirmed), "the stop", within_s=20.0)
        assert box[124, "StorCtl_Mod"] == 3
        assert (box[124, "OutWRte"], box[124, "InWRte"]) == (0, 0)
        assert 40_000 not in {address for _, address, _ in box.requests[told:]}, "looked for its models"
        assert len(dead.requests) <= asked + 2, "waited for the dead one again and again"
        assert box.accepted == 1


async def test_the_program_shows_every_model_with_its_curves() -> None:
    curves = {"NPt": 2, "NCrv": 1, "Ena": 1, "V_SF": 0, "DeptRef_SF": 0}
    points = {"Crv[1].ActPt": 2, "Crv[1].Pt[1].V": 95, "Crv[1].Pt[2].Var": -44}
    box = await EmulatedInverter({**DER, 705: {**curves, **points}}).start()
    async with bridged(box, "--modbus", f"127.0.0.1:{box.port}", "--show") as program:
        done = await ended(program)
    lines = [line.strip() for line in done.out.splitlines()]
    assert done.code == 0
    assert {"Mn = Heron Works", "InvSt = 3 RUNNING", "W = -1500", "SoC = 80.5"} <= set(lines)
    assert {"Ena = 1 ENABLED", "Crv[1].Pt[1].V = 95", "Crv[1].Pt[2].Var = -44"} <= set(lines)
    assert box.writes() == []


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        (["--modbus", "127.0.0.1:1", "--timeout", "0.5"], 1, "127.0.0.1:1 unit 1: no answer"),
        (["--modbus", "127.0.0.1:1", "--scenario", "nothing"], 2, "no such scenario file"),
        (
            ["--modbus", "127.0.0.1:1", "--also", "roof@2,safe-state=off"],
            2,
            "--also roof: safe-state: 'off': expected zero or release",
        ),
        (
            ["--modbus", "127.0.0.1:1", "--also", "roof@2,nominal-v=-1"],
            2,
            "--also roof: nominal-v: '-1': expected a number above 0",
        ),
    ],
)
def test_what_is_not_there_is_told_in_one_line(
    arguments: list[str], code: int, complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--agent", "MG1", "--name", "ess", "--broker", "mqtt://127.0.0.1:1"]
    assert bridge.run([*common, *arguments]) == code
    err = capsys.readouterr().err
    assert complaint in err
    assert err.count("\n") == 1


def test_the_command_line_knows_the_bridge() -> None:
    common = ["--agent", "MG1", "--name", "ess", "--broker", "mqtt://127.0.0.1:1"]
    ended = run_heron("device", "sunspec_bridge", *common, "--modbus", "127.0.0.1:1", "--timeout", "0.5")
    assert ended.code == 1
    (line,) = ended.err.splitlines()
    assert "127.0.0.1:1 unit 1: no answer" in line


@pytest.mark.slow
def test_emulators_do_not_load_the_bridge() -> None:
    program = "import sys, powergrid.emulators.__main__, powergrid.emulators.script; "
    program += "print([m for m in sys.modules if 'sunspec' in m or 'pymodbus' in m])"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--modbus", "host:0"], "expected HOST or HOST:PORT"),
        (["--modbus", ":502"], "expected HOST or HOST:PORT"),
        (["--modbus", "host", "--unit", "300"], "argument --unit"),
        (["--modbus", "host", "--nominal-v", "-1"], "expected a number above 0"),
        (["--modbus", "host", "--kind", "load"], "argument --kind"),
        (["--modbus", "host", "--also", "pv"], "expected NAME@UNIT[:KIND]"),
        (["--modbus", "host", "--also", "ess@2"], "every device needs a name of its own, got ess, ess"),
        (["--modbus", "host", "--connect-delay", "-1"], "expected seconds, at least 0"),
        (["--modbus", "host", "--framing", "ascii"], "argument --framing"),
        (
            ["--modbus", "host", "--power-factor", "0.9"],
            "expected over:0.95 (injects reactive power) or under:",
        ),
        (["--modbus", "host", "--power-factor", "over:1.1"], "up to 1"),
        (["--modbus", "host", "--ramp", "0"], "expected whole percent a second, at least 1"),
    ],
)
def test_wrong_arguments_are_refused(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        bridge.run(["--agent", "MG1", "--name", "ess", "--broker", "mqtt://127.0.0.1:1", *arguments])
    assert caught.value.code == 2
    assert complaint in capsys.readouterr().err

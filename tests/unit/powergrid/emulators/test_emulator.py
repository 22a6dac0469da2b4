"""Emulators: the exact model when ideal, and each fault as it is described."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from heron_mqtt.messages import Fault, RunState, Setpoint
from heron_mqtt.messaging import topics
from heron_mqtt.messaging.memory import InMemoryBroker
from heron_mqtt.messaging.stamping import MessageStamper
from powergrid.devices import BatterySpec, DeviceSpec, GeneratorSpec, LoadSpec, make_device
from powergrid.emulators.emulator import Emulator
from powergrid.emulators.faults import FaultState
from powergrid.scenario import EmulatorTable, RandomisationTable
from support.waiting import until

BATTERY = BatterySpec(max_e_mwh=0.03, max_p_charge_mw=0.008, max_p_discharge_mw=0.01, standby_loss_mw=1e-5)


class Site:
    """An emulator, and a run that drives it step by step."""

    def __init__(self, device: Emulator, broker: InMemoryBroker) -> None:
        self.device, self.broker = device, broker
        self.stamper = MessageStamper("MG1", "default")
        self.telemetry: list[dict[str, Any]] = []
        self.status: list[dict[str, Any]] = []
        broker.subscribe(topics.device("MG1", "ess", "telemetry"), self.telemetry.append)
        broker.subscribe(topics.device("MG1", "ess", "status"), self.status.append)
        self.step = -1

    def send(self, p_mw: float, lease_s: float = 30.0, **fields: Any) -> int:
        """Publish the setpoint of the next step."""
        self.step += 1
        channel = topics.device("MG1", "ess", "setpoint")
        setpoint = Setpoint(p_mw=p_mw, lease_s=lease_s, dt_s=900.0, **fields)
        message = self.stamper.stamp(channel, setpoint, episode=0, step=self.step)
        self.broker.publish(channel, message)
        return int(message["seq"])

    async def ask(self, p_mw: float, **fields: Any) -> dict[str, Any]:
        seq = self.send(p_mw, **fields)
        await until(lambda: any(t.get("ack_seq") == seq for t in self.telemetry), "the answer")
        return next(t for t in self.telemetry if t.get("ack_seq") == seq)

    async def fault(self, kind: Any, **fields: Any) -> None:
        channel = topics.device("MG1", "ess", "fault")
        await self.broker.publish(channel, self.stamper.stamp(channel, Fault(kind=kind, **fields)))
        await until(lambda: self.device._faults.active is not None, "the fault")

    async def new_episode(self, episode: int, seed: int | None = None) -> None:
        births = len(self.status)
        begins = RunState(state="reset", scenario="t", seed=seed)
        state = self.stamper.stamp(topics.RUN_STATE, begins, episode=episode)
        self.broker.publish(topics.RUN_STATE, state)
        await until(lambda: len(self.status) > births, "the birth")
        self.step = -1


@pytest.fixture
async def make() -> AsyncIterator[Any]:
    async with contextlib.AsyncExitStack() as stack:

        async def start(
            kind: type[Emulator] = Emulator,
            spec: DeviceSpec = BATTERY,
            planned: dict[int, Fault] | None = None,
            **table: Any,
        ) -> Site:
            broker = await stack.enter_async_context(InMemoryBroker())
            faults = FaultState(planned or {})
            device = kind(spec, EmulatorTable(**table), faults, "MG1", "ess", broker, period_s=0.0)
            site = Site(device, broker)
            running = asyncio.create_task(device.run())

            async def end() -> None:
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)

            stack.push_async_callback(end)
            await until(lambda: site.status, "the birth")
            return site

        yield start


# -- ideal ---------------------------------------------------------------------------------------------


async def test_an_ideal_emulator_is_the_model_to_the_last_bit(make: Any) -> None:
    site, model = await make(), make_device(BATTERY)
    for p_mw in (0.004, -0.02, 0.01, 0.0, -0.003, 9.0):
        telemetry = await site.ask(p_mw)
        done = model.step(p_mw, 0.0, 900.0)
        assert (telemetry["p_mw"], telemetry["soc"]) == (done.p_mw, done.soc)


@pytest.mark.parametrize("is_stopped", [False, True])
async def test_a_generator_that_runs_at_first_gives_nothing_before_its_first_setpoint(
    make: Any, is_stopped: bool
) -> None:
    spec = GeneratorSpec(
        max_p_mw=0.1, min_p_mw=0.02, ramp_mw_per_s=1e-5, initial_running=True, initial_p_mw=0.08
    )
    site = await make(Emulator, spec)
    if is_stopped:
        site.broker.publish(topics.ESTOP, {"active": True})
    await site.new_episode(1)
    await until(lambda: len(site.telemetry) > 1, "where it is")
    assert {(t["p_mw"], t["safe"]) for t in site.telemetry} == {(0.0, True)}
    if not is_stopped:  # its model ramps as where devices are simulated
        assert (await site.ask(0.1))["p_mw"] == make_device(spec).step(0.1, 0.0, 900.0).p_mw


async def test_a_load_meter_shows_its_demand_sheds_what_may_be_shed_and_no_safe_state_sheds(
    make: Any,
) -> None:
    site = await make(Emulator, LoadSpec(max_p_mw=0.02, max_shed_fraction=0.5))
    assert site.status[0]["kind"] == "load"
    assert (await site.ask(-0.02, p_available_mw=-0.008))["p_mw"] == -0.008
    assert (await site.ask(0.0, p_available_mw=-0.008))["p_mw"] == -0.004
    assert (await site.ask(-0.02, p_available_mw=-0.012, lease_s=0.05))["p_mw"] == -0.012
    await until(lambda: site.telemetry[-1].get("safe"), "the safe state")
    assert site.telemetry[-1]["p_mw"] == -0.012


async def test_a_load_that_gives_power_is_rejected(make: Any) -> None:
    site = await make(Emulator, LoadSpec(max_p_mw=0.02))
    assert "must be <= 0" in (await site.ask(-0.02, p_available_mw=0.01))["rejected"]


async def test_an_episode_begins_where_the_first_one_did_and_repeats_its_randomness(make: Any) -> None:
    site = await make(noise_mw=0.001, lag_s=100.0)
    other = await make(noise_mw=0.001, lag_s=100.0)
    runs = []
    for which, episode in ((site, 0), (site, 1), (other, 0), (other, 1)):
        await which.new_episode(episode)
        runs.append([(await which.ask(0.004))["p_mw"] for _ in range(4)])
    assert runs[0] == runs[2]
    assert runs[1] == runs[3]
    assert runs[0] != runs[1]  # not the same noise again


# -- faults --------------------------------------------------------------------------------------------


async def test_in_silence_nothing_is_heard_or_said_and_the_lease_runs_out(make: Any) -> None:
    site = await make(planned={1: Fault(kind="silence", steps=2)})
    await site.ask(0.004, lease_s=0.1)
    said = len(site.telemetry)
    site.send(0.006)
    site.send(0.007)
    await until(lambda: site.device.is_safe, "the safe state")
    assert len(site.telemetry) == said
    telemetry = await site.ask(0.002)
    assert telemetry["p_mw"] == 0.002
    assert telemetry["safe_after_s"] >= 0.1


async def test_a_stuck_output_stays(make: Any) -> None:
    site = await make(planned={1: Fault(kind="stuck", steps=2)})
    assert [(await site.ask(p))["p_mw"] for p in (0.004, 0.001, -0.005, 0.002)] == [
        0.004,
        0.004,
        0.004,
        0.002,
    ]


async def test_a_frozen_measurement_hides_what_the_device_does(make: Any) -> None:
    site = await make(planned={1: Fault(kind="frozen", steps=1)})
    before = await site.ask(0.004)
    frozen = await site.ask(-0.005)
    assert (frozen["p_mw"], frozen["soc"]) == (before["p_mw"], before["soc"])
    model = make_device(BATTERY)
    for p_mw in (0.004, -0.005, 0.0):
        done = model.step(p_mw, 0.0, 900.0)
    assert (await site.ask(0.0))["soc"] == done.soc


async def test_an_offset_is_in_the_telemetry_alone(make: Any) -> None:
    site = await make(planned={0: Fault(kind="offset", steps=1, value=0.003)})
    telemetry = await site.ask(0.004)
    assert telemetry["p_mw"] == pytest.approx(0.007)
    assert telemetry["soc"] == make_device(BATTERY).step(0.004, 0.0, 900.0).soc


async def test_ignored_setpoints_are_not_answered_and_the_power_stays(make: Any) -> None:
    site = await make(planned={1: Fault(kind="ignore_setpoints", steps=1)})
    await site.ask(0.004)
    ignored = site.send(-0.005)
    assert (await site.ask(0.004))["p_mw"] == 0.004
    assert not any(t.get("ack_seq") == ignored for t in site.telemetry)


async def test_rejected_setpoints_are_answered_with_a_reason(make: Any) -> None:
    site = await make(planned={1: Fault(kind="reject_setpoints", steps=1)})
    await site.ask(0.004)
    telemetry = await site.ask(-0.005)
    assert telemetry["p_mw"] == 0.004
    assert "rejects setpoints" in telemetry["rejected"]


async def test_garbage_is_no_telemetry(make: Any) -> None:
    site = await make(planned={0: Fault(kind="garbage", steps=1)})
    await until(lambda: site.telemetry, "the telemetry that follows the birth")
    assert site.telemetry[0]["p_mw"] == 0.0
    site.send(0.004)
    await until(lambda: len(site.telemetry) > 1, "the garbage")
    assert site.telemetry[1]["p_mw"] == "?"


async def test_after_a_reboot_it_is_another_start_in_the_safe_state_with_its_charge(make: Any) -> None:
    site = await make()
    before = await site.ask(0.004)
    await site.fault("reboot", steps=2)
    await until(lambda: site.status[-1]["state"] == "offline", "the reboot")
    site.send(0.006)
    site.send(0.006)
    after = await site.ask(0.0)
    await until(lambda: site.status[-1]["state"] == "online", "the birth")
    assert after["boot"] != before["boot"]
    model = make_device(BATTERY)
    for p_mw in (0.004, 0.0):
        done = model.step(p_mw, 0.0, 900.0)
    assert after["soc"] == done.soc


async def test_after_a_reboot_the_lease_of_its_earlier_life_is_free(make: Any) -> None:
    site = await make()
    leases: list[dict[str, Any]] = []
    site.broker.subscribe(topics.device("MG1", "ess", "lease"), leases.append)
    await site.ask(0.004)
    await until(lambda: leases[-1:] and leases[-1]["state"] == "held", "the lease")
    await site.fault("reboot", steps=1)
    site.send(0.006)
    site.send(0.006, heard_boot="another-boot", heard_seq=0)  # it is back, and refuses this
    await until(lambda: leases[-1]["state"] == "free", "the lease is free", within_s=5.0)
    assert site.device.refused == 1


async def test_a_fault_that_is_none_is_counted_and_changes_nothing(make: Any) -> None:
    site = await make()
    site.broker.publish(topics.device("MG1", "ess", "fault"), {"type": "fault", "kind": "sulking"})
    assert (await site.ask(0.004))["p_mw"] == 0.004
    assert site.broker.stats.rejected == 1


async def test_each_episode_draws_its_delays_and_the_same_seed_the_same(make: Any) -> None:
    """With a dead time of a third to two thirds of a step, the mean power of the first step says which."""
    site = await make(response_delay_s=90.0)
    site.device._randomisation = RandomisationTable(response_delay_s=(210.0, 510.0))
    shown = []
    for episode, seed in enumerate((7, 8, 7)):
        await site.new_episode(episode, seed)
        shown.append((await site.ask(0.009))["p_mw"])
    assert shown[0] == shown[2] != shown[1]
    for mean_mw in shown:
        assert 0.009 * (900.0 - 600.0) / 900.0 <= mean_mw <= 0.009 * (900.0 - 300.0) / 900.0

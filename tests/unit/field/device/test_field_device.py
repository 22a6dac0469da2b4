"""FieldDevice: what a device promises on the wire, whatever hardware is behind it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from heron_mqtt.field.device import FieldDevice, SetpointRejected, moving_deadline
from heron_mqtt.messages import EmergencyStop, Setpoint, Telemetry
from heron_mqtt.messaging import topics
from heron_mqtt.messaging.memory import InMemoryBroker
from heron_mqtt.messaging.stamping import MessageStamper
from support.waiting import until


class Hardware(FieldDevice):
    """Does what it is told, and keeps what that was."""

    kind = "battery"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.told: list[tuple[str, float, float]] = []
        self.p_mw = 0.0
        self.apply_error: Exception | None = None
        self.measure_error: Exception | None = None
        self.at_once = 0
        self.most_at_once = 0

    async def apply(self, setpoint: Setpoint) -> None:
        await self._one_at_a_time()
        if self.apply_error is not None:
            raise self.apply_error
        self.told.append(("apply", setpoint.p_mw, setpoint.lease_s))
        self.p_mw = setpoint.p_mw

    async def renew(self, setpoint: Setpoint) -> None:
        await self._one_at_a_time()
        self.told.append(("renew", setpoint.p_mw, setpoint.lease_s))

    async def measure(self) -> Telemetry:
        await self._one_at_a_time()
        if self.measure_error is not None:
            raise self.measure_error
        return Telemetry(p_mw=self.p_mw)

    async def _one_at_a_time(self) -> None:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(0)
        self.at_once -= 1


class Site:
    """A device, and a gateway that talks to it."""

    def __init__(self, device: Hardware, broker: InMemoryBroker) -> None:
        self.device, self.broker = device, broker
        self.stamper = MessageStamper("MG1", "default", boot="g1")
        self.telemetry: list[dict[str, Any]] = []
        self.status: list[dict[str, Any]] = []
        broker.subscribe(topics.device("MG1", "ess", "telemetry"), self.telemetry.append)
        broker.subscribe(topics.device("MG1", "ess", "status"), self.status.append)

    def send(self, p_mw: float, lease_s: float = 30.0, **fields: Any) -> int:
        channel = topics.device("MG1", "ess", "setpoint")
        message = self.stamper.stamp(channel, Setpoint(p_mw=p_mw, lease_s=lease_s, **fields))
        self.broker.publish(channel, message)
        return int(message["seq"])

    async def ask(self, p_mw: float, lease_s: float = 30.0) -> dict[str, Any]:
        seq = self.send(p_mw, lease_s)
        await until(lambda: self.acked() == seq, "the answer")
        return self.telemetry[-1]

    def acked(self) -> int | None:
        return self.telemetry[-1].get("ack_seq") if self.telemetry else None

    def stop(self, active: bool) -> None:
        message = EmergencyStop(active=active, who="tests")
        self.broker.publish(topics.ESTOP, self.stamper.stamp(topics.ESTOP, message))


@pytest.fixture
async def make() -> AsyncIterator[Any]:
    async with contextlib.AsyncExitStack() as stack:

        async def start(period_s: float = 0.0, **options: Any) -> Site:
            broker = await stack.enter_async_context(InMemoryBroker())
            site = Site(Hardware("MG1", "ess", broker, period_s=period_s, **options), broker)
            running = asyncio.create_task(site.device.run())

            async def end() -> None:
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)

            stack.push_async_callback(end)
            await until(lambda: site.status, "the birth")
            return site

        yield start


async def test_a_renewal_reaches_the_hardware_with_the_setpoint_that_is_held_and_the_new_lease(
    make: Any,
) -> None:
    site = await make()
    await site.ask(0.01, 10.0)
    site.send(0.07, 20.0, renewal=True)  # its power counts for nothing
    await until(lambda: len(site.device.told) == 2, "the renewal")
    assert site.device.told == [("apply", 0.01, 10.0), ("renew", 0.01, 20.0)]


async def test_a_device_that_breaks_off_measuring_for_a_stop_measures_again_after_it(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Hardware, "breaks_off_measuring", True)
    site = await make(period_s=0.02)
    await site.ask(0.01)
    for active in (True, False):
        site.stop(active)
        count = len(site.telemetry)
        await until(lambda count=count: len(site.telemetry) > count + 2, "telemetry goes on")
    assert (await site.ask(0.02))["p_mw"] == 0.02


async def test_a_renewal_extends_the_lease(make: Any) -> None:
    site = await make(period_s=0.02)
    await site.ask(0.01, 0.2)
    site.send(0.01, 60.0, renewal=True)
    await asyncio.sleep(0.3)  # past the first lease
    assert not site.device.is_safe
    assert site.telemetry[-1]["p_mw"] == 0.01


async def test_a_renewal_brings_nothing_back_after_the_lease(make: Any) -> None:
    site = await make()
    await site.ask(0.01, 0.05)
    await until(lambda: site.device.is_safe, "the safe state")
    site.send(0.01, 60.0, renewal=True)
    await site.ask(0.0)
    assert "renew" not in {what for what, *_ in site.device.told}


async def test_a_renewal_does_not_acknowledge_a_setpoint_that_never_came(make: Any) -> None:
    site = await make(period_s=0.02)
    await site.ask(0.01)
    lost = site.stamper.stamp(topics.device("MG1", "ess", "setpoint"), Setpoint(p_mw=0.02, lease_s=30.0))
    site.send(0.02, renewal=True)
    seen = len(site.telemetry)
    await until(lambda: len(site.telemetry) > seen + 2, "telemetry")
    assert site.acked() < lost["seq"]
    assert site.telemetry[-1]["p_mw"] == 0.01


async def test_a_setpoint_that_failed_is_never_acknowledged_and_the_device_is_faulty(make: Any) -> None:
    site = await make(period_s=0.02)
    await site.ask(0.01)
    site.device.apply_error = OSError("bus error")
    failed = site.send(0.02)
    await until(lambda: site.status[-1]["state"] == "fault", "the fault")
    assert "bus error" in site.status[-1]["reason"]
    seen = len(site.telemetry)
    await until(lambda: len(site.telemetry) > seen + 2, "telemetry")
    assert site.acked() < failed
    site.device.apply_error = None
    assert (await site.ask(0.03))["p_mw"] == 0.03
    await until(lambda: site.status[-1]["state"] == "online", "the recovery")


async def test_a_rejected_setpoint_is_answered_with_why_and_renewed_no_more(make: Any) -> None:
    site = await make()
    await site.ask(0.01)
    site.device.apply_error = SetpointRejected("too hot")
    telemetry = await site.ask(0.02)
    assert telemetry["rejected"] == "too hot"
    assert telemetry["p_mw"] == 0.01
    site.send(0.02, renewal=True)
    site.device.apply_error = None
    await site.ask(0.03)
    assert [what for what, *_ in site.device.told] == ["apply", "apply"]


async def test_a_measurement_that_fails_is_a_fault_until_it_works_again(make: Any) -> None:
    site = await make(period_s=0.02)
    site.device.measure_error = OSError("no answer")
    await until(lambda: site.status[-1]["state"] == "fault", "the fault")
    seen = len(site.telemetry)
    site.device.measure_error = None
    await until(lambda: site.status[-1]["state"] == "online", "the recovery")
    assert len(site.telemetry) > seen
    assert [s["state"] for s in site.status] == ["online", "fault", "online"]


async def test_a_stopped_device_rejects_setpoints_and_is_not_renewed(make: Any) -> None:
    site = await make()
    await site.ask(0.01)
    site.stop(True)
    await until(lambda: site.device.is_safe, "the safe state")
    assert (await site.ask(0.02))["rejected"] == "emergency stop"
    site.send(0.02, renewal=True)
    site.stop(False)
    await until(lambda: not site.device.stopped, "the release")
    assert (await site.ask(0.03))["p_mw"] == 0.03
    assert [(what, p) for what, p, _ in site.device.told] == [
        ("apply", 0.01),
        ("apply", 0.0),
        ("apply", 0.03),
    ]


async def test_hardware_is_never_asked_two_things_at_once(make: Any) -> None:
    site = await make(period_s=0.001)
    for i in range(50):
        site.send(0.001 * i, 30.0, renewal=i % 3 == 1)
        if i % 10 == 5:
            site.stop(True)
            site.stop(False)
    await site.ask(0.0)
    assert site.device.most_at_once == 1


async def test_an_overlong_reason_of_a_rejection_is_cut_and_the_rejection_told(make: Any) -> None:
    site = await make()
    site.device.apply_error = SetpointRejected("too hot " * 200)
    assert (await site.ask(0.02))["rejected"] == ("too hot " * 200)[:500]


async def test_an_overlong_reason_of_a_fault_is_cut_and_the_fault_told(make: Any) -> None:
    site = await make()
    site.device.apply_error = OSError("wire " * 200)
    site.send(0.02)
    await until(lambda: site.status[-1]["state"] == "fault", "the fault")
    reason = site.status[-1]["reason"]
    assert reason.startswith("apply failed: OSError: wire wire ")
    assert len(reason) == 500


class SlowToRest(Hardware):
    """Needs a moment to go to its safe state."""

    rested = False

    async def go_safe(self, reason: str) -> None:
        await asyncio.sleep(0.01)
        self.rested = True


async def test_the_safe_state_is_reached_before_the_program_ends() -> None:
    async with InMemoryBroker() as broker:
        site = Site(SlowToRest("MG1", "ess", broker), broker)
        running = asyncio.create_task(site.device.run())
        await until(lambda: site.status, "the birth")
        await site.ask(0.01)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert isinstance(site.device, SlowToRest)
        assert site.device.rested


async def test_before_anything_was_said_nothing_counts_as_ignored_or_refused(make: Any) -> None:
    site = await make()
    assert (site.device.ignored, site.device.refused) == (0, 0)


async def test_after_a_reconnection_it_says_again_whose_lease_it_follows(make: Any) -> None:
    site = await make()
    told: list[dict[str, Any]] = []
    site.broker.subscribe(topics.device("MG1", "ess", "lease"), told.append)
    await site.ask(0.01)
    await until(lambda: told and told[-1]["state"] == "held", "the lease")
    before = len(told)
    site.device._on_reconnect()
    await until(lambda: len(told) > before, "the lease again")
    assert told[-1]["holder"] == "MG1"


async def test_a_lease_that_ran_out_while_the_machine_slept_is_over_soon_after(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept_s = [0.0]
    monkeypatch.setattr(moving_deadline, "LOOK_S", 0.05)
    site: Site = await make(0.0, monotonic=lambda: time.monotonic() + slept_s[0])
    await site.ask(0.02, 3600.0)
    slept_s[0] = 7200.0
    await until(lambda: site.telemetry[-1].get("safe"), "the safe state")
    assert site.device.p_mw == 0.0
    assert site.telemetry[-1]["safe_after_s"] >= 7200.0, "it says after how long"
    assert [t["safe"] for t in site.telemetry].count(False) == 1, "the answer: nothing since says otherwise"


async def test_a_stop_that_the_hardware_did_not_take_is_not_confirmed_as_safe(make: Any) -> None:
    site: Site = await make()
    confirmed: list[dict[str, Any]] = []
    site.broker.subscribe(topics.stop_confirm("MG1", "ess"), confirmed.append)
    await site.ask(0.02)
    site.device.apply_error = RuntimeError("the bus is dead")
    site.stop(True)
    await until(lambda: confirmed, "what it says of the stop")
    assert [m["safe"] for m in confirmed] == [False] * len(confirmed)
    site.device.apply_error = None
    site.device.rest_reached()
    await until(lambda: confirmed[-1]["safe"], "it was taken after all")


async def test_whose_lease_it_follows_is_said_before_the_hardware_is_told(make: Any) -> None:
    site: Site = await make()
    leases: list[dict[str, Any]] = []
    site.broker.subscribe(topics.device("MG1", "ess", "lease"), leases.append)
    said_when_told: list[str] = []

    async def apply(setpoint: Setpoint) -> None:
        await asyncio.sleep(0.01)
        said_when_told.extend(lease["state"] for lease in leases[-1:])

    site.device.apply = apply  # type: ignore[method-assign]
    await site.ask(0.02)
    assert said_when_told == ["held"]


async def test_a_lease_is_not_called_free_before_the_hardware_is_told_that_it_is_over(make: Any) -> None:
    site: Site = await make()
    leases: list[dict[str, Any]] = []
    site.broker.subscribe(topics.device("MG1", "ess", "lease"), leases.append)
    said_when_told: list[str] = []

    async def apply(setpoint: Setpoint) -> None:
        await asyncio.sleep(60.0)  # longer than the lease: its end breaks this off

    async def go_safe(reason: str) -> None:
        await asyncio.sleep(0.01)
        said_when_told.append(leases[-1]["state"])

    site.device.apply = apply  # type: ignore[method-assign]
    site.device.go_safe = go_safe  # type: ignore[method-assign]
    site.send(0.02, lease_s=0.1)
    await until(lambda: leases[-1:] and leases[-1]["state"] == "held", "the lease")
    await until(lambda: leases[-1]["state"] == "free", "the end of the lease")
    assert said_when_told == ["held"]


async def test_a_setpoint_that_the_broker_kept_moves_nothing_and_is_told() -> None:
    async with InMemoryBroker() as broker:
        channel = topics.device("MG1", "ess", "setpoint")
        kept = MessageStamper("MG1", "default").stamp(channel, Setpoint(p_mw=0.02, lease_s=30.0))
        broker.publish(channel, kept, retain=True)
        device = Hardware("MG1", "ess", broker)
        running = asyncio.create_task(device.run())
        await until(lambda: device.ignored, "it is looked at")
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert all(p_mw == 0.0 for _, p_mw, _ in device.told)
        assert broker.stats.rejected == 1


async def test_a_device_without_a_period_speaks_when_asked_and_as_often_as_a_lease_needs(make: Any) -> None:
    site: Site = await make(0.0)
    await asyncio.sleep(0.1)
    assert len(site.telemetry) == 1, "after its birth"
    await site.ask(0.01, 0.2)
    count = len(site.telemetry)
    await until(lambda: len(site.telemetry) >= count + 2, "what the lease needs")


async def test_a_device_with_a_period_speaks_that_often(make: Any) -> None:
    site: Site = await make(0.02)
    await until(lambda: len(site.telemetry) >= 3, "its telemetry")


async def test_setpoints_of_before_the_newest_and_of_another_environment_are_counted_and_move_nothing(
    make: Any,
) -> None:
    site: Site = await make()
    channel = topics.device("MG1", "ess", "setpoint")
    told = {"type": "setpoint", "p_mw": 0.03, "lease_s": 30.0, "sender": "MG1", "boot": "g1"}
    site.broker.publish(channel, {**told, "env_id": "default", "seq": 8})
    await until(lambda: site.device.p_mw == 0.03, "it is done")
    site.broker.publish(channel, {**told, "p_mw": 0.02, "env_id": "default", "seq": 7})
    site.broker.publish(channel, {**told, "p_mw": 0.01, "env_id": "another", "seq": 9})
    await until(lambda: site.device.ignored == 2, "both are counted")
    assert [p_mw for _, p_mw, _ in site.device.told] == [0.03]
    assert site.device.refused == 0


async def test_another_sender_is_answered_with_why_and_moves_nothing_while_the_lease_is_held(
    make: Any,
) -> None:
    site: Site = await make()
    await site.ask(0.02)
    other = MessageStamper("MG9", "default", boot="x1")
    channel = topics.device("MG1", "ess", "setpoint")
    for fields in ({}, {"renewal": True}, {"release": True}):
        message = other.stamp(channel, Setpoint(p_mw=0.03, lease_s=30.0, **fields))
        count = site.device.refused
        site.broker.publish(channel, message)
        await until(lambda count=count: site.device.refused == count + 1, "it is refused")
    rejections = [m for m in site.telemetry if m.get("rejected")]
    assert [m["rejected"].partition(" for")[0] for m in rejections] == [
        "the lease is held by MG1 (boot g1)",
        "not the lease's owner",
    ]
    assert [(m["ack_boot"], m["ack_seq"]) for m in rejections] == [("x1", 0), ("x1", 2)]
    assert [p_mw for _, p_mw, _ in site.device.told] == [0.02]
    message = other.stamp(channel, Setpoint(p_mw=0.03, lease_s=30.0, take_over=True))
    site.broker.publish(channel, message)
    await until(lambda: site.device.p_mw == 0.03, "it is taken over")


async def test_a_release_frees_the_device_and_sends_it_to_its_safe_state_once(make: Any) -> None:
    site: Site = await make()
    leases: list[dict[str, Any]] = []
    site.broker.subscribe(topics.device("MG1", "ess", "lease"), leases.append)
    await site.ask(0.02)
    for _ in range(2):
        seq = site.send(0.0, release=True)
        await until(lambda seq=seq: site.acked() == seq, "it is answered")
        assert site.telemetry[-1]["safe"] is True
        await until(lambda: leases[-1]["state"] == "free", "nobody's")
    assert [p_mw for _, p_mw, _ in site.device.told] == [0.02, 0.0], "it was told once"
    assert [lease["state"] for lease in leases].count("held") == 1


async def test_a_release_frees_a_device_that_has_gone_to_its_safe_state_by_itself(make: Any) -> None:
    site: Site = await make()
    leases: list[dict[str, Any]] = []
    site.broker.subscribe(topics.device("MG1", "ess", "lease"), leases.append)
    await site.ask(0.02)
    site.device.is_safe = True
    site.send(0.0, release=True)
    await until(lambda: leases[-1]["state"] == "free", "the lease is free")


async def test_a_device_that_serves_once_ends_after_its_first_answer() -> None:
    async with InMemoryBroker() as broker:
        device = Hardware("MG1", "ess", broker, period_s=0.0)
        online: list[bool] = []
        running = asyncio.create_task(device.run(once=True, on_online=lambda: online.append(True)))
        site = Site(device, broker)
        await until(lambda: online, "it is online")
        assert not running.done()
        await site.ask(0.01)
        async with asyncio.timeout(5.0):
            await running
        assert device.is_safe


async def test_a_device_that_serves_for_a_while_ends_after_it_in_its_safe_state() -> None:
    async with InMemoryBroker() as broker:
        device = Hardware("MG1", "ess", broker)
        async with asyncio.timeout(5.0):
            await device.run(duration_s=0.02)
        assert device.is_safe
        assert device.told == [], "it had nothing to be told"


async def test_a_device_whose_program_has_ended_hears_nothing_and_leaves_its_lease_free() -> None:
    async with InMemoryBroker() as broker:
        site = Site(Hardware("MG1", "ess", broker, period_s=0.0), broker)
        running = asyncio.create_task(site.device.run())
        await until(lambda: site.status, "the birth")
        leases: list[dict[str, Any]] = []
        broker.subscribe(topics.device("MG1", "ess", "lease"), leases.append)
        await site.ask(0.02)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await until(lambda: leases[-1]["state"] == "free", "the lease is free")
        assert site.device.p_mw == 0.0
        told, said = list(site.device.told), len(site.telemetry)
        site.send(0.03)
        site.stop(True)
        await asyncio.sleep(0.05)
        assert site.device.told == told
        assert len(site.telemetry) == said
        assert not site.device.stopped


async def test_telemetry_says_whether_the_device_is_stopped_and_safe(make: Any) -> None:
    site: Site = await make()
    assert (site.telemetry[-1].get("stopped"), site.telemetry[-1]["safe"]) == (None, True)
    await site.ask(0.02)
    assert (site.telemetry[-1].get("stopped"), site.telemetry[-1]["safe"]) == (None, False)
    site.stop(True)
    await until(lambda: site.telemetry[-1].get("stopped"), "it says so")
    assert site.telemetry[-1]["safe"] is True
    site.stop(False)
    await until(lambda: site.telemetry[-1].get("stopped") is None, "it is released")
    assert site.telemetry[-1]["safe"] is True

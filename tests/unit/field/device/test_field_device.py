"""FieldDevice: what a device promises on the wire, whatever hardware is behind it."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, ClassVar

import pytest

from heron_mqtt.errors import Displaced, HeronError, NameTaken
from heron_mqtt.field import moving_deadline
from heron_mqtt.field.device import FieldDevice, SetpointRejected, program_end
from heron_mqtt.field.device.presence import MOST_UNSAID, leaving_others_alone
from heron_mqtt.field.state_directory import state_directory
from heron_mqtt.messages import EmergencyStop, RunState, Setpoint, Telemetry
from heron_mqtt.messaging import topics
from heron_mqtt.messaging.memory import InMemoryBroker
from heron_mqtt.messaging.stamping import MessageStamper
from support.clocked_device import ESS, Clocked, ClockedSite, serve
from support.field_rig import OpenMemoryBroker
from support.virtual import run_virtual, virtual_now
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
            await until(lambda: site.status and site.telemetry, "the birth, and what it measures")
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


class AtOnce(Hardware):
    """Does a setpoint as soon as it is asked to, which a coroutine is in the next turn of the event loop."""

    async def apply(self, setpoint: Setpoint) -> None:
        self.p_mw = setpoint.p_mw

    def measure(self) -> Telemetry:  # type: ignore[override]
        return Telemetry(p_mw=self.p_mw)


@pytest.mark.parametrize("ends_first", [True, False])
@pytest.mark.parametrize("kind", [Hardware, AtOnce])
async def test_no_setpoint_reaches_the_hardware_after_the_safe_state_of_the_end(
    kind: type[Hardware], ends_first: bool
) -> None:
    for turns in range(8):
        async with InMemoryBroker() as broker:
            site = Site(kind("MG1", "ess", broker, period_s=0.0), broker)
            running = asyncio.create_task(site.device.run())
            await until(lambda site=site: site.status, "the birth")
            await site.ask(0.01)
            for do in (running.cancel, lambda site=site: site.send(0.02))[:: 1 if ends_first else -1]:
                do()
                for _ in range(turns):
                    await asyncio.sleep(0)
            await asyncio.gather(running, return_exceptions=True)
            for _ in range(5):
                await asyncio.sleep(0)
            assert site.device.p_mw == 0.0, f"{turns} turns of the event loop between the two"


async def test_a_program_that_is_ended_twice_leaves_its_hardware_in_the_safe_state_all_the_same() -> None:
    async with InMemoryBroker() as broker:
        site = Site(AtOnce("MG1", "ess", broker, period_s=0.0), broker)
        running = asyncio.create_task(site.device.run())
        await until(lambda: site.status, "the birth")
        await site.ask(0.01)
        async with site.device._busy:  # something does not let itself be broken off
            running.cancel()
            for _ in range(5):
                await asyncio.sleep(0)
            assert site.device.p_mw == 0.01, "it waits for what is being done"
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            assert site.device.is_safe


async def test_what_cannot_be_broken_off_holds_up_the_safe_state_of_the_end_for_a_moment_only(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(program_end, "BREAK_OFF_S", 0.02)
    async with InMemoryBroker() as broker:
        site = Site(SlowToRest("MG1", "ess", broker, period_s=0.0), broker)
        running = asyncio.create_task(site.device.run())
        await until(lambda: site.status, "the birth")
        await site.ask(0.01)
        async with site.device._busy:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        assert site.device.rested
        assert "has not ended within 0.02 s" in caplog.text


class TellsSlowly(Hardware):
    """Is told of the safe state, which takes a while, or fails at first."""

    failures = 0
    rested = 0

    async def go_safe(self, reason: str) -> None:
        await asyncio.sleep(0.002)
        if self.failures:
            self.failures -= 1
            raise OSError("the bus is busy")
        self.p_mw = 0.0
        self.rested += 1


@pytest.mark.parametrize("failures", [0, 1])
async def test_a_safe_state_of_which_the_hardware_was_not_told_is_told_at_the_end(failures: int) -> None:
    async with InMemoryBroker() as broker:
        device = TellsSlowly("MG1", "ess", broker, period_s=0.0)
        device.failures = failures
        site = Site(device, broker)
        running = asyncio.create_task(device.run())
        await until(lambda: site.status, "the birth")
        await site.ask(0.01)
        site.stop(True)
        if failures:
            await until(lambda: "fault" in [s["state"] for s in site.status], "it could not be told")
        else:
            await until(lambda: device.is_safe, "it is being told")
        assert device.rested == 0
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert device.rested == 1


async def test_a_device_that_rests_is_not_told_again_at_the_end() -> None:
    async with InMemoryBroker() as broker:
        device = TellsSlowly("MG1", "ess", broker, period_s=0.0)
        site = Site(device, broker)
        running = asyncio.create_task(device.run())
        await until(lambda: site.status, "the birth")
        await site.ask(0.01)
        site.stop(True)
        await until(lambda: device.rested == 1, "it was told")
        await until(lambda: site.telemetry[-1].get("stopped"), "it says so")
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert device.rested == 1


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


OWNER = topics.device("MG1", "ess", "owner")


class Succeeded(OpenMemoryBroker):
    """Keeps what a successor of a device has published while that was away; questions may be late."""

    successor: ClassVar[Mapping[str, Any]] = {"type": "owner", "state": "holds", "boot": "d2", "term": 9}
    has_successor = False
    questions: list[dict[str, Any]] | None = None

    def publish(self, channel: str, message: Any, **options: Any) -> Any:
        if channel == OWNER and message["state"] == "asks" and message["boot"] == "d1":
            if self.has_successor:
                super().publish(channel, dict(self.successor), retain=True)
            if self.questions is not None:
                self.questions.append(message)
                return super().publish("nowhere", {})
        return super().publish(channel, message, **options)


def test_a_device_whose_name_was_taken_while_it_was_away_leaves_the_lease_to_its_successor() -> None:
    async def succeeded(site: ClockedSite) -> None:
        assert isinstance(site.broker, Succeeded)
        site.send(0.5)
        await asyncio.sleep(0.1)
        assert site.said["lease"][-1]["state"] == "held"
        site.broker.has_successor = True
        told = {"type": "lease", "state": "free", "boot": "d2"}
        site.broker.publish(f"{ESS}/lease", told, retain=True)
        site.broker.come_back()
        assert site.running is not None
        with pytest.raises(Displaced):
            await site.running
        assert site.said["lease"][-1]["boot"] == "d2"

    serve(succeeded, broker_kind=Succeeded)


def test_a_lease_that_changes_before_a_device_knows_that_it_has_its_name_is_told_once_it_does() -> None:
    async def doubted(site: ClockedSite) -> None:
        broker = site.broker
        assert isinstance(broker, Succeeded)
        broker.questions = []
        broker.come_back()
        told = len(site.said["lease"])
        site.send(0.5)
        await asyncio.sleep(0.1)
        assert site.device.done == [("apply", 0.5)]
        assert len(site.said["lease"]) == told
        kept = json.loads(next((state_directory() / "leases").iterdir()).read_text())
        assert kept["left"][""]["boot"], "the next program has to know it"
        [question], broker.questions = broker.questions, None
        broker.publish(OWNER, question)
        await asyncio.sleep(0.1)
        assert [m["state"] for m in site.said["lease"][told:]] == ["held"]

    serve(doubted, broker_kind=Succeeded)


async def test_a_lease_that_expired_during_a_suspend_is_over_soon_after(
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
        assert device.ignored == 1
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


# -- when it speaks ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("period_s", "lease_s", "times"),
    [
        (1.0, None, [0.0, 1.0, 2.0, 3.0]),
        (0.0, None, [0.0, 2.0, 4.0]),  # so that a gateway can begin
        (5.0, None, [0.0, 2.0, 4.0]),
        (5.0, 4.0, [0.0, 0.0, 1.0, 2.0, 3.0]),  # four times a lease, the answer first
        (0.5, 4.0, [0.0, 0.0, 0.5, 1.0, 1.5]),
        (0.0, 4.0, [0.0, 0.0, 1.0, 2.0, 3.0]),
    ],
)
def test_it_speaks_at_its_period_and_as_often_as_a_lease_needs(
    period_s: float, lease_s: float | None, times: list[float]
) -> None:
    async def listened(site: ClockedSite) -> None:
        if lease_s is not None:
            site.send(0.5, lease_s)
        await asyncio.sleep(max(times) + 0.1)
        assert site.times["telemetry"][: len(times)] == pytest.approx(times)

    serve(listened, period_s=period_s)


def test_what_was_measured_waits_two_seconds_for_a_connection_unless_the_broker_keeps_it() -> None:
    class Keeping(OpenMemoryBroker):
        kept: ClassVar[bool] = False
        limits: ClassVar[list[float | None]] = []

        def keeps(self, channel: str) -> bool:
            return self.kept and channel.endswith("/telemetry")

        def publish(self, channel: str, message: Any, **options: Any) -> Any:
            if channel.endswith("/telemetry"):
                limit = options.get("not_after")
                self.limits.append(None if limit is None else limit - virtual_now())
            return super().publish(channel, message, **options)

    async def listened(site: ClockedSite) -> None:
        assert Keeping.limits == pytest.approx([2.0])
        Keeping.kept = True
        site.send(0.5)
        await asyncio.sleep(0.1)
        assert Keeping.limits[1:] == [None]

    serve(listened, broker_kind=Keeping, period_s=0.0)


def test_a_device_that_stood_still_goes_safe_before_it_speaks() -> None:
    async def slept(site: ClockedSite) -> None:
        site.send(0.5, 60.0)
        await asyncio.sleep(1.05)  # it has just spoken
        assert site.last["safe"] is False
        count = len(site.said["telemetry"])
        site.device.slept_s = 100.0
        await asyncio.sleep(1.0)
        news = site.said["telemetry"][count:]
        assert [m["safe"] for m in news] == [True] * len(news)
        assert news
        assert site.device.done[-1][0] == "safe"

    serve(slept, period_s=1.0)


# -- the end of a lease --------------------------------------------------------------------------------


def test_when_its_lease_is_over_it_goes_safe_once_and_says_after_how_long_until_it_was_heard(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def ran_out(site: ClockedSite) -> None:
        site.send(0.5, 3.0)
        await asyncio.sleep(2.9)
        assert site.device.done == [("apply", 0.5)]
        await asyncio.sleep(0.2)
        assert site.device.done[1:] == [("safe", "no setpoint for 3 s")]
        assert (site.last["safe"], site.last["safe_after_s"]) == (True, 3.0)
        assert [m["state"] for m in site.said["lease"]] == ["free", "held", "free"]
        assert (site.said["lease"][1]["holder"], site.said["lease"][1]["holder_boot"]) == ("MG1", "g1")
        assert site.said["lease"][1]["lease_s"] == 3.0
        await asyncio.sleep(2.0)
        assert site.last["safe_after_s"] == 3.0, "nobody has asked"
        site.send(0.25, 30.0)
        await asyncio.sleep(0.1)
        assert site.last["safe_after_s"] == 3.0, "told to who asks"
        await asyncio.sleep(8.0)
        assert "safe_after_s" not in site.last
        assert len(site.device.done) == 3

    with caplog.at_level(logging.INFO, "heron_mqtt.device"):
        serve(ran_out, period_s=1.0)
    assert [(r.levelname, r.getMessage()) for r in caplog.records][:1] == [
        ("WARNING", "MG1/ess: no setpoint for 3 s, going to the safe state")
    ]


def test_a_lease_that_is_given_back_is_over_at_once_and_that_is_no_alarm(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def given_back(site: ClockedSite) -> None:
        site.send(0.5)
        await asyncio.sleep(0.1)
        seq = site.send(0.0, release=True)
        await asyncio.sleep(0.1)
        assert site.device.done[1:] == [("safe", "released by MG1")]
        assert (site.last["safe"], site.last["ack_seq"], site.last["ack_boot"]) == (True, seq, "g1")
        site.send(0.0, release=True, sender=None, boot=None, seq=None)
        await asyncio.sleep(0.1)
        assert len(site.device.done) == 2
        assert site.last["ack_seq"] == seq, "one without a number is not acknowledged"
        assert site.device.refused == 0

    with caplog.at_level(logging.INFO, "heron_mqtt.device"):
        serve(given_back, period_s=0.0)
    assert [(r.levelname, r.getMessage()) for r in caplog.records] == [
        ("INFO", "MG1/ess: released by MG1, going to the safe state")
    ]


def test_a_renewal_reaches_the_hardware_with_what_it_holds_and_a_failed_one_is_a_fault() -> None:
    async def renewed(site: ClockedSite) -> None:
        site.send(0.5, 10.0)
        await asyncio.sleep(1.0)
        seq = site.send(0.7, 20.0, renewal=True)
        await asyncio.sleep(0.1)
        assert site.device.done[1:] == [("renew", (0.5, 20.0, seq, "g1", True))]
        site.device.fails["renew"] = OSError("bus")
        site.send(0.5, 20.0, renewal=True)
        await asyncio.sleep(0.1)
        told = site.said["status"][-1]
        assert (told["state"], told["reason"], told["kind"]) == (
            "fault",
            "renew failed: OSError: bus",
            "battery",
        )
        assert site.device.refused == 0
        await asyncio.sleep(5.0)
        assert site.said["status"][-1]["state"] == "online", "it measures"

    serve(renewed, period_s=0.0)


def test_a_setpoint_that_is_refused_is_answered_and_counted_and_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def refused(site: ClockedSite) -> None:
        for fields in ({}, {"renewal": True}, {"release": True}):
            site.send(0.5, heard_boot="d0", heard_seq=0, **fields)
            await asyncio.sleep(0.1)
        assert site.device.done == []
        assert site.device.refused == 2, "a release of nothing is nothing"
        answers = [m for m in site.said["telemetry"] if "rejected" in m]
        assert [(m["ack_seq"], m["rejected"]) for m in answers] == [
            (0, "stale: it echoes telemetry of another boot of this device")
        ]

    serve(refused, period_s=0.0)
    assert caplog.records[0].getMessage() == (
        "MG1/ess: setpoint refused: stale: it echoes telemetry of another boot of this device"
    )


def test_a_rejection_that_could_not_be_told_is_told_with_the_next_measurement() -> None:
    async def rejected(site: ClockedSite) -> None:
        site.device.measured = None
        site.device.fails["apply"] = SetpointRejected("too hot")
        seq = site.send(0.5)
        await asyncio.sleep(0.1)
        assert len(site.said["telemetry"]) == 1, "nothing is known"
        site.device.measured = Telemetry(p_mw=0.125)
        await asyncio.sleep(8.0)
        told = site.said["telemetry"][1]
        assert (told["ack_seq"], told["rejected"], told["p_mw"]) == (seq, "too hot", 0.125)
        assert all("rejected" not in m for m in site.said["telemetry"][2:]), "once"
        site.device.fails.clear()
        site.send(0.25)
        await asyncio.sleep(0.1)
        assert "rejected" not in site.last

    serve(rejected, period_s=0.0)


def test_a_setpoint_that_is_not_heeded_counts_as_never_heard() -> None:
    async def unheeded(site: ClockedSite) -> None:
        site.device.is_heeding = False
        site.send(0.5)
        await asyncio.sleep(0.1)
        assert (site.device.done, len(site.said["telemetry"])) == ([], 1)
        assert site.device.is_safe

    serve(unheeded, period_s=0.0)


def test_a_device_shows_what_it_likes_of_its_telemetry() -> None:
    class Shy(Clocked):
        showing: Any = None

        def shown(self, telemetry: Telemetry) -> Any:
            return self.showing

    async def shown(site: ClockedSite) -> None:
        assert site.said["telemetry"] == []
        Shy.showing = {"type": "telemetry", "p_mw": 0.75}
        site.send(0.5)
        await asyncio.sleep(0.1)
        assert site.said["telemetry"] == [{"type": "telemetry", "p_mw": 0.75}], "as it is"

    serve(shown, Shy, period_s=0.0)


# -- a stop --------------------------------------------------------------------------------------------


def test_a_stop_does_not_wait_for_what_is_being_done_and_says_what_came_of_it() -> None:
    async def stopped(site: ClockedSite) -> None:
        site.device.takes_s = 10.0
        seq = site.send(0.5)
        await asyncio.sleep(1.0)
        site.device.takes_s = 0.5
        site.stop(boot="o1", seq=4)
        await asyncio.sleep(0.1)
        assert site.said["confirm"] == [], "it is not there yet"
        await asyncio.sleep(0.5)
        assert site.device.done == [("safe", "emergency stop by ann: no reason given")], "it was broken off"
        (told,) = site.said["confirm"]
        assert (told["active"], told["safe"], told["stop_boot"], told["stop_seq"]) == (True, True, "o1", 4)
        assert "settable" not in told
        rejections = [(m["ack_seq"], m["rejected"]) for m in site.said["telemetry"] if "rejected" in m]
        assert rejections == [(seq, "emergency stop")]
        site.device.takes_s = 0.0
        site.send(0.5)
        await asyncio.sleep(0.1)
        assert site.last["rejected"] == "emergency stop"
        assert len(site.device.done) == 1
        site.stop(False, who=None)
        await asyncio.sleep(0.1)
        assert site.said["confirm"][-1]["active"] is False
        site.send(0.25)
        await asyncio.sleep(0.1)
        assert site.device.done[-1] == ("apply", 0.25)

    serve(stopped, period_s=0.0)


def test_who_stops_without_a_name_is_unknown_and_who_releases_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def stopped(site: ClockedSite) -> None:
        site.send(0.5)
        await asyncio.sleep(0.1)
        site.stop(who=None)
        await asyncio.sleep(0.1)
        assert site.device.done[-1] == ("safe", "emergency stop by unknown: no reason given")
        site.stop(False, who="bob", why="out")
        site.stop()
        site.stop(False, who=None)
        await asyncio.sleep(0.1)

    serve(stopped, period_s=0.0)
    released = [r.getMessage() for r in caplog.records if "released" in r.getMessage()]
    assert released == [
        f"MG1/ess: emergency stop released by {by}" for by in ("bob: out", "unknown: no reason given")
    ]


def test_a_safe_state_that_is_still_owed_is_not_said_to_be_reached() -> None:
    async def owed(site: ClockedSite) -> None:
        site.send(0.5)
        await asyncio.sleep(0.1)
        site.device.is_owing = True
        site.stop()
        await asyncio.sleep(0.1)
        assert (site.said["confirm"][-1]["safe"], site.last["safe"]) == (False, False)
        site.device.is_owing = False
        count = len(site.said["confirm"])
        for _ in range(2):
            site.device.rest_reached()
        assert [m["safe"] for m in site.said["confirm"][count:]] == [True], "once"
        for _ in range(2):
            site.device.rest_lost()
        assert [m["safe"] for m in site.said["confirm"][count + 1 :]] == [False]
        site.device.rest_reached()
        site.stop(False)
        await asyncio.sleep(0.1)
        count = len(site.said["confirm"])
        site.device.rest_lost()
        site.device.rest_reached()
        assert len(site.said["confirm"]) == count, "without a stop there is nothing to confirm"

    serve(owed, period_s=0.0)


def test_of_what_can_only_be_read_a_stop_is_confirmed_as_not_settable() -> None:
    async def stopped(site: ClockedSite) -> None:
        site.device.settable = False
        await asyncio.sleep(2.1)
        assert "settable" not in site.last, "only in a stop"
        site.stop()
        await asyncio.sleep(0.1)
        assert site.said["confirm"][-1]["settable"] is False
        assert site.said["telemetry"][-1]["settable"] is False

    serve(stopped, period_s=0.0)


def test_a_confirmation_names_the_last_telemetry_of_before_the_stop() -> None:
    """What shows the power since then can be told from a recording by its number."""

    async def stopped(site: ClockedSite) -> None:
        await asyncio.sleep(2.1)
        site.stop()
        await asyncio.sleep(0.1)
        before = site.said["confirm"][-1]["telemetry_seq"]
        since = [m for m in site.said["telemetry"] if m["seq"] > before]
        assert before > 0
        assert [m.get("stopped") for m in since] == [True]
        site.device.rest_lost()
        assert site.said["confirm"][-1]["telemetry_seq"] == before, "of the same stop"
        site.stop(False)
        await asyncio.sleep(0.1)
        assert "telemetry_seq" not in site.said["confirm"][-1]

    serve(stopped, period_s=1.0)


def test_hardware_that_cannot_be_brought_to_rest_is_faulty_and_not_safe() -> None:
    async def failed(site: ClockedSite) -> None:
        site.send(0.5)
        await asyncio.sleep(0.1)
        site.device.fails["safe"] = OSError("bus")
        site.stop()
        await asyncio.sleep(0.1)
        assert site.said["confirm"][-1]["safe"] is False
        faults = [m["reason"] for m in site.said["status"] if m["state"] == "fault"]
        assert faults == ["go_safe failed: OSError: bus"]

    serve(failed, period_s=0.0)


# -- birth, episodes, end --------------------------------------------------------------------------------


class Follower(Clocked):
    """Begins afresh with each episode."""

    follows_episodes = True

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.heard: list[str] = []

    def begin_episode(self, run_state: RunState) -> None:
        self.done.append(("episode", run_state.episode))

    async def on_run_state(self, run_state: RunState) -> None:
        self.heard.append(run_state.state)


def test_a_device_that_follows_episodes_is_born_for_each_and_speaks() -> None:
    async def followed(site: ClockedSite) -> None:
        def state(state: str, **fields: Any) -> None:
            told = {"type": "run_state", "state": state, "boot": "e1", "episode": 3, **fields}
            site.broker.publish("run/state", told)

        (birth,) = site.said["status"]
        assert (birth["state"], birth["run"], birth.get("episode")) == ("online", "none", None)
        seq = site.send(0.5, sender=None)  # of one that names no sender the broker drops no repetition
        site.send(0.75, sender=None, seq=seq)
        await asyncio.sleep(0.1)
        assert (site.device.done, site.device.ignored) == ([("apply", 0.5)], 1)
        for told in ({"env_id": "another"}, {}, {}, {"state": "running"}, {"state": "finished"}):
            state(**{"state": "reset", **told})
            await asyncio.sleep(0.1)
        assert [value for what, value in site.device.done if what == "episode"] == [3]
        assert [(m["run"], m["episode"]) for m in site.said["status"][1:]] == [("e1", 3)]
        assert site.device.heard == ["reset", "reset", "running", "finished"]
        assert (site.last["episode"], "step" in site.last, "ack_seq" in site.last) == (3, False, False)
        state("running", boot="e2")
        await asyncio.sleep(0.1)
        assert len(site.said["status"]) == 3, "another run counts from its own beginning"
        site.broker.publish("run/state", {"type": "run_state", "state": "?"})
        await asyncio.sleep(0.1)
        assert site.broker.stats.rejected == 1
        site.send(0.25, sender=None, seq=seq)
        await asyncio.sleep(0.1)
        assert site.device.done[-1] == ("apply", 0.25), "what was heard in another episode is forgotten"

    serve(followed, Follower, period_s=0.0)


def test_a_device_that_follows_no_episodes_hears_of_them_all_the_same() -> None:
    class Listening(Clocked):
        heard: ClassVar[list[int | None]] = []

        def on_run_state(self, run_state: RunState) -> None:
            self.heard.append(run_state.episode)

    async def heard(site: ClockedSite) -> None:
        site.broker.publish("run/state", {"type": "run_state", "state": "reset", "boot": "e1", "episode": 3})
        await asyncio.sleep(0.1)
        assert Listening.heard == [3]
        (birth,) = site.said["status"]
        assert "run" not in birth
        assert (birth["p_min_mw"], birth["p_max_mw"], birth["kind"]) == (-1.0, 2.0, "battery")

    serve(heard, Listening, period_s=0.0)


def test_one_that_takes_the_name_over_ends_the_other_which_says_nothing_of_it() -> None:
    async def displaced(site: ClockedSite) -> None:
        with pytest.raises(NameTaken, match="device MG1/ess in environment 'default'"):
            await Clocked(site.broker, boot="d2").run()
        site.send(0.5)
        await asyncio.sleep(0.1)
        second = Clocked(site.broker, boot="d3", take_over=True)
        serving = asyncio.create_task(second.run())
        assert site.running is not None
        with pytest.raises(Displaced):
            await site.running
        await asyncio.sleep(0.1)
        assert site.device.done[-1] == ("safe", "the program ends")
        assert [m["state"] for m in site.said["status"]] == ["online", "online"]
        assert [m["state"] for m in site.said["lease"] if m["boot"] == "d1"][-1] == "held", "not in its name"
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
        assert site.said["status"][-1]["state"] == "offline"

    serve(displaced, period_s=0.0)


def test_hardware_that_does_not_come_to_rest_is_given_a_second_at_the_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def ended(site: ClockedSite) -> None:
        site.send(0.5)
        await asyncio.sleep(0.1)
        site.device.takes_s = 60.0
        assert site.running is not None
        begun_s = virtual_now()
        site.running.cancel()
        await asyncio.gather(site.running, return_exceptions=True)
        assert virtual_now() - begun_s == 1.0
        assert site.said["status"][-1]["state"] == "offline"
        assert site.said["lease"][-1]["state"] == "held", "it may have its power"

    serve(ended, period_s=0.0)
    [line] = [r for r in caplog.records if "could not go to the safe state" in r.getMessage()]
    assert (line.getMessage(), line.exc_info) == (
        "MG1/ess: could not go to the safe state at the end: it took longer than 1 s",
        None,
    )


@pytest.mark.parametrize("error", [HeronError("box: Modbus exception 4"), KeyError("p"), TimeoutError()])
def test_at_the_end_a_bug_keeps_its_traceback_and_an_error_with_a_name_is_one_line(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    async def ended(site: ClockedSite) -> None:
        site.send(0.5)
        await asyncio.sleep(0.1)

        def go_safe(reason: str) -> None:
            raise error

        site.device.go_safe = go_safe  # type: ignore[method-assign]
        assert site.running is not None
        site.running.cancel()
        await asyncio.gather(site.running, return_exceptions=True)
        assert site.said["status"][-1]["state"] == "offline"

    serve(ended, period_s=0.0)
    [line] = [r for r in caplog.records if "could not go to the safe state at the end" in r.getMessage()]
    assert (line.exc_info is None) is isinstance(error, HeronError)


def test_what_a_reconnection_has_begun_ends_with_the_device() -> None:
    async def ended(site: ClockedSite) -> None:
        await site.device._busy.taken_within(1.0, "the test holds it")
        site.device._on_reconnect()
        (task,) = site.device._tasks
        await asyncio.sleep(0.1)
        assert not task.done()
        site.device._busy.release()
        await asyncio.sleep(0.1)
        assert (task.done(), site.device._tasks) == (True, set())
        assert len(site.said["telemetry"]) == 2, "it speaks again"
        await site.device._busy.taken_within(1.0, "the test holds it")
        site.device._on_reconnect()
        (task,) = site.device._tasks
        assert site.running is not None
        site.running.cancel()
        await asyncio.gather(site.running, return_exceptions=True)
        await asyncio.sleep(0)
        assert task.cancelled()

    serve(ended, period_s=0.0)


def test_a_device_ends_after_its_time_or_its_first_answer() -> None:
    async def main() -> None:
        broker = OpenMemoryBroker()
        begun_s = virtual_now()
        await Clocked(broker).run(duration_s=7.0)
        took_s = virtual_now() - begun_s
        assert 7.0 <= took_s < 8.5, "and what taking the name takes"
        site = ClockedSite(broker, Clocked(broker, boot="d2"))
        site.running = asyncio.create_task(site.device.run(once=True))
        await asyncio.sleep(5.0)
        assert not site.running.done()
        site.send(0.5, heard_boot="x", heard_seq=0)
        await site.running
        assert site.said["telemetry"][-1]["rejected"].startswith("stale"), "an answer all the same"

    run_virtual(main())


def test_a_status_that_is_dropped_because_too_many_wait_is_counted_and_reported() -> None:
    async def main() -> None:
        broker = OpenMemoryBroker()
        device = Clocked(broker, period_s=0.5)
        for n in range(MOST_UNSAID + 2):
            device._failed("measure", OSError(f"bus {n}"))
        assert broker.stats.overflowed == 2
        reported = [report.what for report in broker.stats.reports if report.kind == "overflow"]
        assert reported == ["16 statuses of MG1/ess wait; the oldest (fault) was dropped"] * 2
        assert [m["reason"][-6:] for m in device._unsaid][::15] == [" bus 2", "bus 17"], "the newest stay"

    run_virtual(main())


def test_a_fault_that_lasts_is_said_once_and_what_is_said_before_the_birth_is_said_after_it() -> None:
    async def main() -> None:
        broker = OpenMemoryBroker()
        device = Clocked(broker, period_s=0.5)
        site = ClockedSite(broker, device)
        device._failed("measure", OSError("bus"))
        assert device._unsaid
        device.fails["measure"] = OSError("bus")
        site.running = asyncio.create_task(device.run())
        await asyncio.sleep(5.0)
        assert [m["state"] for m in site.said["status"]] == ["online"]
        device.fails["measure"] = OSError("x" * 600)
        await asyncio.sleep(2.0)
        assert [m["state"] for m in site.said["status"]] == ["online", "fault"]
        assert site.said["status"][-1]["reason"] == f"measure failed: OSError: {'x' * 600}"[:500]
        device.fails.clear()
        await asyncio.sleep(1.0)
        assert [m["state"] for m in site.said["status"]] == ["online", "fault", "online"]
        site.running.cancel()
        await asyncio.gather(site.running, return_exceptions=True)

    run_virtual(main())


@pytest.mark.parametrize("error", [NameTaken("taken"), asyncio.CancelledError()])
def test_who_leaves_a_name_to_another_says_goodbye_to_the_broker_first(error: BaseException) -> None:
    async def main() -> None:
        broker = OpenMemoryBroker()
        with pytest.raises(type(error)):
            async with leaving_others_alone(broker):
                raise error
        assert broker._closed

    run_virtual(main())


def test_what_a_device_is_without_more_being_said_of_it() -> None:
    defaults = {name: p.default for name, p in inspect.signature(FieldDevice).parameters.items()}
    assert (defaults["env_id"], defaults["period_s"]) == ("default", 1.0)
    assert (defaults["require_proof"], defaults["take_over"]) == (False, False)
    assert not FieldDevice.breaks_off_measuring
    device = Hardware("MG1", "ess", OpenMemoryBroker())
    assert (device.is_safe, device.stopped, device.ignored, device.refused) == (True, False, 0, 0)
    assert (device.owes_safe_state, device.is_settable) == (False, True)
    assert device.heeds(Setpoint(p_mw=0.0, lease_s=1.0)) is True
    assert device.channels() == []
    telemetry = Telemetry(p_mw=0.5)
    assert device.shown(telemetry) is telemetry


def test_the_safe_state_is_no_power_where_a_device_has_no_other() -> None:
    class Simple(FieldDevice):
        told: ClassVar[list[Setpoint]] = []

        def apply(self, setpoint: Setpoint) -> None:
            self.told.append(setpoint)

        def measure(self) -> Telemetry:
            return Telemetry(p_mw=0.0)

    Simple("MG1", "ess", OpenMemoryBroker()).go_safe("because")
    assert Simple.told == [Setpoint(p_mw=0.0, q_mvar=0.0, lease_s=1.0)]


def test_a_release_before_any_stop_is_confirmed_by_a_device_at_rest() -> None:
    async def released(site: ClockedSite) -> None:
        site.stop(False)
        await asyncio.sleep(0.1)
        assert [(m["active"], m["safe"]) for m in site.said["confirm"]] == [(False, True)]
        site.stop(True)
        await asyncio.sleep(0.1)
        assert site.last["stopped"] is True
        site.stop(False)
        await asyncio.sleep(0.1)
        assert "stopped" not in site.last

    serve(released, period_s=0.0)


def test_a_setpoint_that_echoes_what_was_said_is_followed_for_its_lease_since_then() -> None:
    async def echoed(site: ClockedSite) -> None:
        await asyncio.sleep(1.0)
        site.send(0.5, 3.0, heard_boot="d1", heard_seq=0)
        await asyncio.sleep(1.9)
        assert site.device.done == [("apply", 0.5)]
        await asyncio.sleep(0.2)
        assert site.device.done[1:] == [("safe", "no setpoint for 2 s")]

    serve(echoed, period_s=0.0)


def test_a_device_that_has_ended_hears_of_no_connection_and_leaves_no_task() -> None:
    class Reconnecting(OpenMemoryBroker):
        told: ClassVar[list[Callable[[], None]]] = []

        def on_reconnect(self, callback: Callable[[], None]) -> Callable[[], None]:
            self.told.append(callback)
            return lambda: self.told.remove(callback)

    async def main() -> None:
        broker = Reconnecting()
        device = Clocked(broker)
        before = asyncio.all_tasks()
        running = asyncio.create_task(device.run())
        await asyncio.sleep(5.0)
        assert device._on_reconnect in broker.told
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert device._on_reconnect not in broker.told
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == before
        assert sum(map(len, broker._dispatcher._subscriptions.values())) == 0

    run_virtual(main())


async def test_a_time_limit_of_the_hardware_is_not_the_end_of_the_duration() -> None:
    async def takes_too_long() -> None:
        raise TimeoutError("the hardware took too long")

    async with OpenMemoryBroker() as broker:
        device = Hardware("MG1", "ess", broker)
        device._keep_time = takes_too_long  # type: ignore[method-assign]
        with pytest.raises(TimeoutError, match="the hardware took too long"):
            await device.run(duration_s=60.0)

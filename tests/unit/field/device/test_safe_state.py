"""A device's own safe state: told until it is taken, shown by its power, and last whatever came before."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

from heron_mqtt.errors import NotHandedBack
from heron_mqtt.field.device import FieldDevice, SetpointRejected
from heron_mqtt.messages import Setpoint, Telemetry
from heron_mqtt.messaging.memory import InMemoryBroker
from support.clocked_device import ClockedSite, serve
from support.resting_hardware import POWER, REST, Hardware, ended
from support.waiting import until


class Consumer(Hardware):
    """Goes on in its safe state."""

    watches_its_rest = True


@pytest.mark.parametrize("how", ["stop", "release", "lease"])
def test_hardware_that_could_not_be_told_to_rest_is_faulty_and_told_again_until_it_is(how: str) -> None:
    async def refused(site: ClockedSite) -> None:
        site.device.fails["safe"] = OSError("the bus is busy")
        await ended(site, how)
        await asyncio.sleep(3.0)
        assert (site.last["p_mw"], site.last["safe"]) == (0.5, False)
        assert [s["state"] for s in site.said["status"]] == ["online", "fault"], "for as long as it is"
        assert [s["state"] for s in site.said["lease"]] == ["free", "held"]
        assert [c["safe"] for c in site.said["confirm"]] == [False] * (how == "stop")
        del site.device.fails["safe"]
        await asyncio.sleep(1.5)
        assert site.device.rests == 1
        assert (site.last["p_mw"], site.last["safe"]) == (0.0, True)
        assert [s["state"] for s in site.said["status"]] == ["online", "fault", "online"]
        assert site.said["lease"][-1]["state"] == "free"
        assert [c["safe"] for c in site.said["confirm"]] == [False, True] * (how == "stop")

    serve(refused, Hardware)


def test_a_safe_state_that_never_ends_is_a_fault_and_silences_nothing() -> None:
    async def hangs(site: ClockedSite) -> None:
        site.send(0.5)
        await asyncio.sleep(0.1)
        site.device.takes_s = 1e6
        site.stop()
        await asyncio.sleep(5.5)
        assert "go_safe failed: NotReady: it took longer than 5 s" in site.said["status"][-1]["reason"]
        assert site.said["confirm"][-1]["safe"] is False
        assert site.last["safe"] is False
        site.device.takes_s = 0.0
        await asyncio.sleep(7.5)
        assert site.said["confirm"][-1]["safe"] is True

    serve(hangs, Hardware)


@pytest.mark.parametrize("how", ["stop", "lease"])
def test_power_that_comes_back_is_not_safe_and_ends(how: str) -> None:
    """What was begun before came late, in a thread or in the hardware."""

    async def came_late(site: ClockedSite) -> None:
        await ended(site, how)
        assert site.last["safe"] is True
        await asyncio.sleep(3.0)
        site.device.measured = POWER
        await asyncio.sleep(1.1)
        assert site.last["safe"] is False
        await asyncio.sleep(3.0)
        assert site.device.rests == 2
        assert (site.last["p_mw"], site.last["safe"]) == (0.0, True)
        assert [c["safe"] for c in site.said["confirm"]] == [True, False, True] * (how == "stop")

    serve(came_late, Hardware)


def test_reactive_power_that_flows_is_not_at_rest_either() -> None:
    async def reactive(site: ClockedSite) -> None:
        site.device.stays = True
        await ended(site, "stop")
        site.device.measured = Telemetry(p_mw=0.0, q_mvar=0.3)
        await asyncio.sleep(1.1)
        assert site.last["safe"] is True, "a fifth of the nameplate is next to none"
        site.device.measured = Telemetry(p_mw=0.0, q_mvar=0.6)
        await asyncio.sleep(1.1)
        assert (site.last["safe"], site.said["confirm"][-1]["safe"]) == (False, False)
        await asyncio.sleep(5.0)
        assert site.device.rests == 2

    serve(reactive, Hardware)


@pytest.mark.parametrize("how", ["stop", "lease"])
def test_hardware_that_takes_its_safe_state_and_ignores_it_is_told_at_growing_intervals(how: str) -> None:
    async def ignores(site: ClockedSite) -> None:
        site.device.stays = True
        await ended(site, how)
        assert site.last["safe"] is False
        await asyncio.sleep(200.0)
        assert 5 <= site.device.rests <= 8
        assert all(c["safe"] is False for c in site.said["confirm"])

    serve(ignores, Hardware)


def test_after_a_lease_what_something_else_sets_later_is_left_to_it_and_not_called_safe(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def by_hand(site: ClockedSite) -> None:
        await ended(site, "lease")
        await asyncio.sleep(61.0)
        site.device.measured = POWER
        await asyncio.sleep(100.0)
        assert (site.last["p_mw"], site.last["safe"]) == (0.5, False)
        assert site.device.rests == 1
        site.stop()
        await asyncio.sleep(0.1)
        assert (site.device.rests, site.last["safe"]) == (2, True)
        await asyncio.sleep(100.0)
        site.device.measured = POWER
        await asyncio.sleep(1.1)
        assert (site.device.rests, site.last["safe"]) == (3, True), "in a stop nothing may"

    serve(by_hand, Hardware)
    assert caplog.text.count("something else has set it") == 1


def test_before_its_first_setpoint_nothing_is_told_of_hardware_that_another_drives() -> None:
    async def driven(site: ClockedSite) -> None:
        site.device.measured = POWER
        await asyncio.sleep(20.0)
        assert site.device.done == []

    serve(driven, Hardware)


def test_what_goes_on_in_its_safe_state_is_safe_with_its_power() -> None:
    async def consumes(site: ClockedSite) -> None:
        site.device.stays = True
        await ended(site, "lease")
        await asyncio.sleep(20.0)
        assert (site.last["p_mw"], site.last["safe"], site.device.rests) == (0.5, True, 1)

    serve(consumes, Consumer)


def test_hardware_whose_power_cannot_be_measured_is_not_known_to_rest_in_a_stop() -> None:
    async def unmeasured(site: ClockedSite) -> None:
        site.send(0.5)
        await asyncio.sleep(0.1)
        site.device.fails["measure"] = OSError("no answer")
        site.stop()
        await asyncio.sleep(3.0)
        assert [c["safe"] for c in site.said["confirm"]] == [False]
        assert site.device.rests == 1
        del site.device.fails["measure"]
        await asyncio.sleep(1.1)
        assert [c["safe"] for c in site.said["confirm"]] == [False, True]

    serve(unmeasured, Hardware)


def test_hardware_that_had_power_in_a_stop_and_then_measures_none_is_not_known_to_rest() -> None:
    async def silent(site: ClockedSite) -> None:
        site.device.stays = True
        await ended(site, "stop")
        site.device.measured = None
        await asyncio.sleep(100.0)
        assert [c["safe"] for c in site.said["confirm"]] == [False], "nothing has shown that it rests"
        site.device.measured = REST
        await asyncio.sleep(1.1)
        assert [c["safe"] for c in site.said["confirm"]] == [False, True]

    serve(silent, Hardware)


@pytest.mark.parametrize("how", ["lease", "stop"])
def test_a_fault_that_no_broker_takes_holds_up_no_safe_state(how: str) -> None:
    """Without a connection a status is not acknowledged before it is back; the lease ends before that."""

    async def away(site: ClockedSite) -> None:
        presence = site.device._presence
        assert presence is not None
        site.send(0.5, 2.0)
        await asyncio.sleep(0.1)
        presence.update = lambda _: asyncio.sleep(1e6)  # type: ignore[method-assign]
        site.device.fails["measure"] = OSError("no answer")
        await asyncio.sleep(1.1)
        if how == "stop":
            site.stop()
        await asyncio.sleep(0.1 if how == "stop" else 1.0)
        assert site.device.rests == 1

    serve(away, Hardware)


def test_a_rejected_setpoint_does_not_put_off_the_safe_state_that_is_still_owed() -> None:
    async def rejects(site: ClockedSite) -> None:
        site.device.fails["safe"] = OSError("the bus is busy")
        await ended(site, "lease")
        site.device.fails["apply"] = SetpointRejected("not now")
        site.send(0.4, 100.0)
        await asyncio.sleep(0.1)
        assert (site.last["p_mw"], site.last["safe"]) == (0.5, False)
        del site.device.fails["safe"]
        await asyncio.sleep(2.0)
        assert (site.device.rests, site.last["p_mw"], site.last["safe"]) == (1, 0.0, True)
        assert site.said["lease"][-1]["state"] == "free"

    serve(rejects, Hardware)


class Blocking(FieldDevice):
    """Calls a library that blocks, in its thread."""

    kind = "battery"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.p_mw = 0.0
        self.goes_on = threading.Event()
        self.begun = threading.Event()

    def _write(self, p_mw: float, waits: bool) -> None:
        self.begun.set()
        if waits:
            self.goes_on.wait(10.0)
        self.p_mw = p_mw

    async def apply(self, setpoint: Setpoint) -> None:
        await self.in_thread(self._write, setpoint.p_mw, waits=True)

    async def go_safe(self, reason: str) -> None:
        await self.in_thread(self._write, 0.0, waits=False)

    def measure(self) -> Telemetry:
        return Telemetry(p_mw=self.p_mw)


async def being_told(
    device: Blocking, broker: InMemoryBroker
) -> tuple[asyncio.Task[None], list[dict[str, Any]]]:
    """Have a device serve, and its thread wait in the midst of a setpoint; also returns its telemetry."""
    said: list[dict[str, Any]] = []
    broker.subscribe("devices/MG1/ess/telemetry", said.append)
    running = asyncio.create_task(device.run())
    await until(lambda: said, "it speaks")
    broker.publish("devices/MG1/ess/setpoint", {"type": "setpoint", "p_mw": 0.5, "lease_s": 30.0})
    await until(device.begun.is_set, "the hardware is being told")
    return running, said


@pytest.mark.parametrize("how", ["stop", "end"])
async def test_the_safe_state_comes_after_what_a_thread_was_still_doing(how: str) -> None:
    async with InMemoryBroker() as broker:
        device = Blocking("MG1", "ess", broker)
        confirmed: list[dict[str, Any]] = []
        broker.subscribe("estop/confirm/MG1/ess", confirmed.append)
        running, _ = await being_told(device, broker)
        if how == "stop":
            broker.publish("estop", {"type": "estop", "active": True})
            await asyncio.sleep(0.05)
            assert confirmed == [], "it does not rest while the old setpoint may still reach it"
            device.goes_on.set()
            await until(lambda: confirmed, "it confirms")
            assert (confirmed[-1]["safe"], device.p_mw) == (True, 0.0)
        running.cancel()
        if how == "end":
            await asyncio.sleep(0.4)  # what is broken off is waited for a moment, the safe state then longer
            device.goes_on.set()
        with pytest.raises(asyncio.CancelledError):
            await running
        began_s = time.monotonic()
        while device.p_mw and time.monotonic() < began_s + 1.0:
            await asyncio.sleep(0.01)
        assert device.p_mw == 0.0


class AtOnceSafe(Blocking):
    """Writes setpoints in its thread, and 0 beside it."""

    def go_safe(self, reason: str) -> None:
        self.p_mw = 0.0


@pytest.mark.parametrize("how", ["stop", "end"])
async def test_what_goes_on_in_the_thread_is_not_safe_and_is_followed_by_the_safe_state(how: str) -> None:
    async with InMemoryBroker() as broker:
        device = AtOnceSafe("MG1", "ess", broker, period_s=0.02)
        running, said = await being_told(device, broker)
        if how == "stop":
            broker.publish("estop", {"type": "estop", "active": True})
            await until(lambda: said[-1].get("stopped"), "the stop")
            assert said[-1]["safe"] is False
            device.goes_on.set()
            await until(lambda: said[-1]["safe"], "it is told once more")
            assert device.p_mw == 0.0
        running.cancel()
        with pytest.raises(asyncio.CancelledError if how == "stop" else NotHandedBack):
            await running
        device.goes_on.set()


def test_what_goes_on_in_its_safe_state_is_told_again_too_where_that_failed() -> None:
    async def fails(site: ClockedSite) -> None:
        site.device.fails["safe"] = OSError("the bus is busy")
        await ended(site, "lease")
        await asyncio.sleep(1.0)
        assert (site.last["safe"], site.said["lease"][-1]["state"]) == (False, "held")
        del site.device.fails["safe"]
        await asyncio.sleep(1.5)
        assert (site.last["safe"], site.said["lease"][-1]["state"]) == (True, "free")

    serve(fails, Consumer)


def test_the_lease_is_held_while_power_is_still_there() -> None:
    """A stop knows by it, once this program is gone, that the hardware may have power."""

    async def ramps(site: ClockedSite) -> None:
        site.device.stays = True
        await ended(site, "lease")
        assert (site.last["safe"], site.said["lease"][-1]["state"]) == (False, "held")
        site.device.measured = REST
        await asyncio.sleep(1.1)
        assert site.said["lease"][-1]["state"] == "free"

    serve(ramps, Hardware)


@pytest.mark.parametrize("how", ["stop", "lease"])
def test_what_was_measured_before_it_was_told_to_rest_does_not_show_that_it_does(how: str) -> None:
    async def aged(site: ClockedSite) -> None:
        site.device.stays = True
        await ended(site, how)
        site.device.measured = Telemetry(p_mw=0.0, age_s=600.0)
        await asyncio.sleep(2.0)
        assert site.last["safe"] is False
        assert all(c["safe"] is False for c in site.said["confirm"])
        site.device.measured = Telemetry(p_mw=0.0, age_s=1.0)
        await asyncio.sleep(2.0)
        assert site.last["safe"] is True

    serve(aged, Hardware)


def test_what_something_else_has_set_once_says_nothing_of_a_later_setpoint() -> None:
    async def twice(site: ClockedSite) -> None:
        await ended(site, "lease")
        await asyncio.sleep(70.0)
        site.device.measured = POWER  # by hand
        await asyncio.sleep(2.0)
        assert site.said["lease"][-1]["state"] == "free"
        site.device.stays = True
        await ended(site, "lease")
        assert site.said["lease"][-1]["state"] == "held"

    serve(twice, Hardware)


def test_power_that_hovers_round_the_limit_is_told_at_growing_intervals_and_reported_once() -> None:
    async def hovers(site: ClockedSite) -> None:
        site.device.stays = True
        await ended(site, "lease")
        for second in range(300):
            site.device.measured = Telemetry(p_mw=0.04 if second % 3 else 0.2)
            await asyncio.sleep(1.0)
        assert site.device.rests < 20

    serve(hovers, Hardware)

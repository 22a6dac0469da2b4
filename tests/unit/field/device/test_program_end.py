"""The end of a device's program: its hardware is at rest, or the program says why it is not."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from heron_mqtt.errors import NotHandedBack
from heron_mqtt.messages import Telemetry
from support.clocked_device import ClockedSite, serve
from support.resting_hardware import Hardware, ended
from support.virtual import virtual_now
from support.waiting import until


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ("cannot be told", "it could not go to the safe state, and may hold its last setpoint: no answer"),
        ("ignores a stop", "an emergency stop is in force, and it gave 500 kW when it was measured last"),
        ("ignores the end", "it holds no setpoint, and it gave 500 kW when it was measured last"),
        ("ignores it at once", "it holds no setpoint, and it gave 500 kW when it was measured last"),
    ],
)
def test_a_program_whose_hardware_does_not_rest_at_its_end_says_so(how: str, why: str) -> None:
    async def left(site: ClockedSite) -> None:
        site.device.stays = how != "cannot be told"
        site.send(0.5, 2.0)
        await asyncio.sleep(0.1)
        if how == "cannot be told":
            site.device.fails["safe"] = OSError("no answer")
        elif how == "ignores a stop":
            site.stop()
            await asyncio.sleep(0.1)
        else:
            await asyncio.sleep(2.5 if how == "ignores it at once" else 20.0)
        told = site.device.rests
        assert site.running is not None
        site.running.cancel()
        with pytest.raises(NotHandedBack, match=f"^MG1/ess: {why}$"):
            await site.running
        assert site.device.rests == told + (how != "cannot be told"), "it is told once more"
        assert site.said["status"][-1]["state"] == "offline"
        assert site.said["lease"][-1]["state"] == "held"

    serve(left, Hardware)


def test_hardware_that_shows_that_it_rests_once_it_was_told_again_at_the_end_is_a_good_end() -> None:
    """It was on its way to 0 when its program ended."""

    async def rests(site: ClockedSite) -> None:
        site.device.stays = True
        await ended(site, "lease")
        assert site.said["lease"][-1]["state"] == "held"
        site.device.stays = False
        assert site.running is not None
        site.running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await site.running
        assert site.said["lease"][-1]["state"] == "free"

    serve(rests, Hardware)


@pytest.mark.parametrize(("obeys", "is_driven"), [(True, False), (False, False), (True, True), (False, True)])
def test_power_that_is_known_at_the_end_is_told_once_more_and_is_no_good_end(
    obeys: bool, is_driven: bool
) -> None:
    async def ends(site: ClockedSite) -> None:
        site.send(0.5, 60.0 if is_driven else 2.0)
        site.device.stays = not is_driven
        await asyncio.sleep(0.1 if is_driven else 3.0)
        assert site.last["p_mw"] == 0.5
        before = site.device.rests
        site.device.stays = not obeys
        assert site.running is not None
        site.running.cancel()
        with pytest.raises(asyncio.CancelledError if obeys else NotHandedBack):
            await site.running
        assert site.device.rests == before + 1
        assert site.said["lease"][-1]["state"] == ("free" if obeys else "held")

    serve(ends, Hardware)


def test_power_that_falls_at_the_end_is_on_its_way() -> None:
    class Ramps(Hardware):
        stays = True

        async def measure(self) -> Any:
            if self.rests:
                self.measured = Telemetry(p_mw=0.9 * self.measured.p_mw)
            return self.measured

    async def ends(site: ClockedSite) -> None:
        site.send(0.5, 60.0)
        await asyncio.sleep(0.1)
        assert site.running is not None
        site.running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await site.running
        assert site.device.measured.p_mw < 0.45

    serve(ends, Ramps)


class Swings(Hardware):
    """Has power for some measurements, and none for the next ones, once it was told to rest."""

    stays = True
    powers_mw = (0.5, 0.0, 0.0)
    measurements = 0

    async def measure(self) -> Any:
        if self.rests:
            self.measurements += 1
            self.measured = Telemetry(p_mw=self.powers_mw[self.measurements % len(self.powers_mw)])
        return self.measured


@pytest.mark.parametrize("powers_mw", [(0.0, 0.0, 0.5), (0.5, 0.1, 0.3)])
def test_power_that_swings_at_the_end_is_not_at_rest_when_it_is_0(powers_mw: tuple[float, ...]) -> None:
    class Swinging(Swings):
        pass

    Swinging.powers_mw = powers_mw

    async def ends(site: ClockedSite) -> None:
        site.send(0.5, 60.0)
        await asyncio.sleep(0.1)
        assert site.running is not None
        site.running.cancel()
        with pytest.raises(NotHandedBack, match=r"it gave \d+ kW when it was measured last"):
            await site.running
        assert site.said["lease"][-1]["state"] == "held"

    serve(ends, Swinging)


def test_power_that_comes_to_0_last_is_at_rest() -> None:
    class Late(Swings):
        powers_mw = (*[0.5] * 11, *[0.0] * 100)

    async def ends(site: ClockedSite) -> None:
        site.send(0.5, 60.0)
        await asyncio.sleep(0.1)
        assert site.running is not None
        site.running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await site.running
        assert 10 < site.device.measurements < 15

    serve(ends, Late)


def test_hardware_that_was_reported_is_looked_at_for_longer_than_a_moment_at_the_end() -> None:
    class Swinging(Swings):
        powers_mw = (0.5,)

    async def ends(site: ClockedSite) -> None:
        site.send(0.5, 2.0)
        await asyncio.sleep(9.0)
        assert site.last["p_mw"] == 0.5
        site.device.powers_mw = (0.0,)
        await asyncio.sleep(1.5)
        assert (site.last["p_mw"], site.last["safe"]) == (0.0, True)
        site.device.powers_mw = (0.0, 0.0, 0.5)
        assert site.running is not None
        site.running.cancel()
        with pytest.raises(NotHandedBack):
            await site.running

    serve(ends, Swinging)


class Serial(Hardware):
    """Asks and reads the answer; who is broken off between the two takes that answer for the next one."""

    answers_after_s = 0.1

    async def measure(self) -> Any:
        self.done.append(("asked", None))
        await asyncio.sleep(self.answers_after_s)
        self.done.append(("read", None))
        return self.measured


@pytest.mark.parametrize("answers_after_s", [0.1, 60.0])
def test_the_end_of_the_program_breaks_off_no_measurement_that_ends_by_itself_in_time(
    answers_after_s: float,
) -> None:
    async def ends(site: ClockedSite) -> None:
        assert site.running is not None
        site.send(0.5)
        await asyncio.sleep(0.95)
        del site.device.done[:]
        site.device.answers_after_s = answers_after_s
        while not site.device.done:
            await asyncio.sleep(0.01)
        begun_s = virtual_now()
        site.running.cancel()
        await asyncio.gather(site.running, return_exceptions=True)
        done = [what for what, _ in site.device.done]
        if answers_after_s < 1.0:
            assert done[:3] == ["asked", "read", "safe"]
        else:
            assert done[:2] == ["asked", "safe"], "one that hangs holds up no safe state"
            assert virtual_now() - begun_s < 1.0

    serve(ends, Serial)


class SlowToRest(Hardware):
    """Takes its time to rest, and must not be told in the middle of that; one of its tries may fail."""

    rest_s = 0.5
    failing: Exception | None = None

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.begun: list[str] = []

    async def go_safe(self, reason: str) -> None:
        self.begun.append(reason)
        await asyncio.sleep(self.rest_s)
        failing, self.failing = self.failing, None
        if failing is not None:
            raise failing
        await super().go_safe(reason)


async def ended_while_it_goes_to_rest(
    site: ClockedSite, device: SlowToRest, how: str
) -> BaseException | None:
    """End the program a moment after a stop, or the end of the lease, has begun to bring it to rest."""
    site.send(0.5, 2.0)
    await asyncio.sleep(0.1)
    if how == "stop":
        site.stop()
    await until(lambda: device.begun, "it is told to rest")
    await asyncio.sleep(0.1)
    assert site.running is not None
    site.running.cancel()
    [ended] = await asyncio.gather(site.running, return_exceptions=True)
    assert ended is None or isinstance(ended, BaseException)
    return ended


@pytest.mark.parametrize("how", ["lease", "stop"])
def test_hardware_that_goes_to_rest_when_the_program_ends_is_waited_for_and_not_told_twice(how: str) -> None:
    async def ends(site: ClockedSite) -> None:
        device = site.device
        assert isinstance(device, SlowToRest)
        error = await ended_while_it_goes_to_rest(site, device, how)
        assert isinstance(error, asyncio.CancelledError)
        assert (len(device.begun), device.rests) == (1, 1)
        assert site.said["lease"][-1]["state"] == "free"

    serve(ends, SlowToRest)


@pytest.mark.parametrize("how", ["lease", "stop"])
def test_hardware_that_goes_to_rest_for_too_long_when_the_program_ends_is_named(how: str) -> None:
    async def ends(site: ClockedSite) -> None:
        device = site.device
        assert isinstance(device, SlowToRest)
        device.rest_s = 4.0
        begun_s = virtual_now() + (0.2 if how == "stop" else 2.1)
        error = await ended_while_it_goes_to_rest(site, device, how)
        assert isinstance(error, NotHandedBack)
        assert "may hold its last setpoint: it took longer than 1 s" in str(error)
        assert virtual_now() - begun_s < 1.5
        assert (len(device.begun), device.rests) == (1, 0), "it is not told beside what it is doing"
        assert site.said["lease"][-1]["state"] == "held"

    serve(ends, SlowToRest)


def test_hardware_that_fails_to_rest_while_the_program_ends_is_told_once_more() -> None:
    async def ends(site: ClockedSite) -> None:
        device = site.device
        assert isinstance(device, SlowToRest)
        device.failing = OSError("the bus is busy")
        error = await ended_while_it_goes_to_rest(site, device, "lease")
        assert isinstance(error, asyncio.CancelledError)
        assert (len(device.begun), device.rests) == (2, 1)
        assert site.said["lease"][-1]["state"] == "free"

    serve(ends, SlowToRest)

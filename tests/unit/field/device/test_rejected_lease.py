"""A setpoint that the device rejects gives the one done before no more time, and its owner nothing."""

from __future__ import annotations

import asyncio

import pytest

from heron_mqtt.field.device import SetpointDeferred, SetpointRejected
from support.clocked_device import ClockedSite, serve


def rejecting(site: ClockedSite) -> None:
    site.device.fails["apply"] = SetpointRejected("locked")


def rests(site: ClockedSite) -> list[str]:
    return [why for what, why in site.device.done if what == "safe"]


@pytest.mark.parametrize("is_renewed", [False, True])
def test_power_ends_with_its_own_lease_however_many_newer_ones_are_rejected(is_renewed: bool) -> None:
    async def rejected(site: ClockedSite) -> None:
        site.send(0.5, 6.0)
        await asyncio.sleep(1.0)
        rejecting(site)
        for _ in range(4):
            site.send(0.1, 6.0)
            await asyncio.sleep(1.0)
            if is_renewed:
                site.send(0.1, 6.0, renewal=True)
            assert site.last["rejected" if not is_renewed else "p_mw"] is not None
            assert rests(site) == []
        await asyncio.sleep(1.5)
        assert len(rests(site)) == 1
        assert site.times["lease"][-1] == pytest.approx(6.0, abs=0.2)
        assert site.said["lease"][-1]["state"] == "free"
        assert site.last["safe_after_s"] == pytest.approx(6.0, abs=0.2), "of the power that ended"

    serve(rejected)


def test_a_rejected_setpoint_of_another_takes_no_lease() -> None:
    async def taken_over(site: ClockedSite) -> None:
        site.send(0.5, 6.0)
        await asyncio.sleep(1.0)
        rejecting(site)
        site.send(0.1, 60.0, sender="ann", take_over=True)
        await asyncio.sleep(0.1)
        assert [s.get("holder") for s in site.said["lease"]] == [None, "MG1", "ann", "MG1"]
        site.device.fails.clear()
        site.send(0.0, 60.0, sender="ann", release=True)
        await asyncio.sleep(0.1)
        assert site.last["rejected"] == "not the lease's owner"
        await asyncio.sleep(5.0)
        assert len(rests(site)) == 1

    serve(taken_over)


def test_the_first_one_that_is_rejected_is_followed_by_the_safe_state() -> None:
    """Part of it may have reached the hardware."""

    async def first(site: ClockedSite) -> None:
        rejecting(site)
        site.send(0.5, 6.0)
        await asyncio.sleep(5.9)
        assert rests(site) == []
        await asyncio.sleep(0.2)
        assert len(rests(site)) == 1

    serve(first)


def test_a_stop_that_breaks_one_off_leaves_no_lease() -> None:
    async def broken_off(site: ClockedSite) -> None:
        site.send(0.5, 60.0)
        await asyncio.sleep(0.1)
        site.device.takes_s = 1.0
        site.send(0.4, 60.0)
        await asyncio.sleep(0.1)
        site.stop()
        await asyncio.sleep(3.0)
        assert site.said["lease"][-1]["state"] == "free"
        site.device.takes_s = 0.0
        site.stop(False)
        await asyncio.sleep(0.1)
        site.send(0.3, 60.0, renewal=True)
        await asyncio.sleep(0.1)
        assert [value for what, value in site.device.done if what == "apply"] == [0.5]

    serve(broken_off)


def test_of_two_leases_the_earlier_end_counts_for_one_that_is_rejected() -> None:
    """Part of it may have reached the hardware: it was sent, and is not acknowledged."""

    async def shorter(site: ClockedSite) -> None:
        site.send(0.0, 30.0)
        await asyncio.sleep(0.1)
        rejecting(site)
        site.send(0.5, 1.0)
        await asyncio.sleep(1.1)
        assert len(rests(site)) == 1

    serve(shorter)


def test_one_that_is_done_later_has_its_own_lease_and_is_renewed() -> None:
    async def later(site: ClockedSite) -> None:
        site.send(0.0, 30.0)
        await asyncio.sleep(0.1)
        site.device.fails["apply"] = SetpointDeferred("in 2 s")
        site.send(0.5, 3.0)
        await asyncio.sleep(2.0)
        site.send(0.5, 3.0, renewal=True)
        await asyncio.sleep(2.9)
        assert rests(site) == []
        await asyncio.sleep(0.2)
        assert len(rests(site)) == 1

    serve(later)


def test_one_that_fails_gives_the_one_before_no_more_time_either() -> None:
    async def failed(site: ClockedSite) -> None:
        site.send(0.5, 6.0)
        await asyncio.sleep(1.0)
        site.device.fails["apply"] = OSError("the bus is busy")
        for _ in range(5):
            site.send(0.1, 60.0)
            site.send(0.1, 60.0, renewal=True)
            await asyncio.sleep(0.9)
        assert rests(site) == []
        await asyncio.sleep(1.0)
        assert len(rests(site)) == 1

    serve(failed)


def test_one_that_waits_beyond_the_lease_of_the_one_before_does_not_prolong_it() -> None:
    async def waits(site: ClockedSite) -> None:
        site.send(0.5, 3.0)
        await asyncio.sleep(1.0)
        site.device.fails["apply"] = SetpointDeferred("in 20 s", 20.0)
        site.send(0.2, 60.0)
        await asyncio.sleep(0.5)
        site.send(0.2, 60.0, renewal=True)
        await asyncio.sleep(1.4)
        assert rests(site) == []
        await asyncio.sleep(0.3)
        assert len(rests(site)) == 1

    serve(waits)

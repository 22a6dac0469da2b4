"""What a killed program left driven is brought to rest by the next one, or is not called safe."""

from __future__ import annotations

import asyncio
from typing import Any

from heron_mqtt.field.device.kept_lease import KeptLease
from heron_mqtt.field.device.lease import Holder
from support.clocked_device import ESS, ClockedSite, serve
from support.field_rig import OpenMemoryBroker
from support.resting_hardware import POWER, REST, Hardware


class KeepsRunning(Hardware):
    """Hardware that a program before left with power."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.measured = POWER


class LeaseOfBefore(OpenMemoryBroker):
    """Has kept the lease of a program that was killed while its device was driven."""

    def __init__(self) -> None:
        super().__init__()
        left = {"type": "lease", "state": "held", "holder": "MG1", "holder_boot": "g0", "boot": "killed"}
        self.publish(f"{ESS}/lease", left, retain=True)


def test_what_a_killed_program_left_driven_is_told_to_rest_and_is_not_safe_before() -> None:
    async def starts(site: ClockedSite) -> None:
        await asyncio.sleep(0.1)
        assert site.device.rests == 1
        assert (site.last["p_mw"], site.last["safe"]) == (0.0, True)
        assert not any(t["safe"] and t["p_mw"] for t in site.said["telemetry"])
        assert site.said["lease"][-1]["state"] == "free"

    serve(starts, KeepsRunning, LeaseOfBefore)


def test_what_a_killed_program_left_driven_stays_held_while_it_has_power() -> None:
    async def ignores(site: ClockedSite) -> None:
        site.device.stays = True
        await asyncio.sleep(8.0)
        assert site.device.rests >= 2
        assert site.last["safe"] is False
        assert site.said["lease"][-1]["state"] == "held"

    class Ignores(KeepsRunning):
        stays = True

    serve(ignores, Ignores, LeaseOfBefore)


def test_hardware_under_its_own_control_is_not_told_to_rest_by_a_program_that_starts() -> None:
    async def starts(site: ClockedSite) -> None:
        await asyncio.sleep(8.0)
        assert site.device.rests == 0
        assert {t["safe"] for t in site.said["telemetry"]} == {True}

    kept = KeptLease(f"{ESS}/lease")
    kept.save(None)  # the last program ended well
    kept.close()
    serve(starts, KeepsRunning)


def test_what_a_killed_program_left_driven_is_known_on_its_machine_where_the_broker_has_lost_it() -> None:
    async def starts(site: ClockedSite) -> None:
        await asyncio.sleep(0.1)
        assert site.device.rests == 1
        assert (site.last["p_mw"], site.last["safe"]) == (0.0, True)
        assert not any(t["safe"] and t["p_mw"] for t in site.said["telemetry"])

    async def starts_again(site: ClockedSite) -> None:
        await asyncio.sleep(8.0)
        assert site.device.rests == 0, "what was brought to rest is nobody's any more"

    kept = KeptLease(f"{ESS}/lease")
    kept.save(Holder("MG1", "g0"))
    kept.close()
    serve(starts, KeepsRunning)
    serve(starts_again, KeepsRunning)


def test_a_lease_that_a_living_program_has_kept_is_not_taken_for_one_of_a_dead_one() -> None:
    async def starts(site: ClockedSite) -> None:
        await asyncio.sleep(8.0)
        assert site.device.rests == 0

    kept = KeptLease(f"{ESS}/lease")
    kept.save(Holder("MG1", "g0"))
    serve(starts, KeepsRunning)
    assert kept.load() == (Holder("MG1", "g0"),)
    kept.close()


def test_power_of_which_nobody_knows_who_left_it_is_not_called_safe_and_is_told_once() -> None:
    async def starts(site: ClockedSite) -> None:
        await asyncio.sleep(3.5)
        assert site.device.rests == 0
        assert len(site.said["telemetry"]) > 2
        assert not any("safe" in t for t in site.said["telemetry"])
        told = [report.what for report in site.broker.stats.reports if report.kind == "device"]
        assert len(told) == 1
        assert told[0].startswith(
            "it has 500 kW at the start, and it is not known whether an earlier program left it driven"
        )
        site.stop(False)
        await asyncio.sleep(0.1)
        assert site.said["confirm"][-1]["safe"] is False
        site.device.measured = REST
        await asyncio.sleep(1.1)
        assert site.last["safe"] is True
        site.stop(False)
        await asyncio.sleep(0.1)
        assert site.said["confirm"][-1]["safe"] is True
        site.device.measured = POWER
        await asyncio.sleep(1.1)
        assert site.last["safe"] is True, "it rested: what comes now is its own"

    serve(starts, KeepsRunning)

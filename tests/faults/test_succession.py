"""A gateway that is killed and started again has its lease back, and no other: seen from outside.

Quickly, without programs: ``unit/field/gateway/test_succession.py`` says whose lease is taken (a copied
folder or another machine has none), and ``test_a_lease_is_taken_from_an_own_dead_predecessor_only`` in
``unit/field/gateway/test_device_link.py`` that no other one is.
"""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.lease_site import LEASE_S, LONG_LEASE_S, LeaseSite, assert_goes_on, watched
from support.mosquitto_server import Mosquitto

pytestmark = pytest.mark.slow


@pytest.fixture
def server(own_mosquitto: Callable[..., Mosquitto]) -> Mosquitto:
    return own_mosquitto()


@pytest.fixture
def site(request: pytest.FixtureRequest, tmp_path: Path, server: Mosquitto) -> Iterator[LeaseSite]:
    lease_s = getattr(request, "param", LEASE_S)
    with watched(server.url, tmp_path, lease_s, is_remote=True) as site, site.run():
        yield site


@contextmanager
def killed(site: LeaseSite) -> Iterator[str]:
    """Let a gateway drive the device, and kill it; gives its boot, which still holds the lease."""
    with site.proxy() as first:
        boot = site.until_held_by_another_than()
        site.observer.wait("it is driven", lambda: site.p_mw != 0.0)
        first.process.kill()
        first.process.wait()
        yield boot


@pytest.mark.parametrize("site", [LONG_LEASE_S], indirect=True)
def test_a_restarted_gateway_has_the_lease_back_before_it_ends(site: LeaseSite) -> None:
    with killed(site) as dead:
        at = time.monotonic()
        with site.proxy() as second:
            assert_goes_on(site, dead, at)
            second.signal(signal.SIGTERM)
            second.wait()
        site.observer.wait("it is given back", lambda: site.holders[-1] is None)


def test_a_restarted_run_has_the_leases_of_its_gateways_back(tmp_path: Path, server: Mosquitto) -> None:
    with watched(server.url, tmp_path, LONG_LEASE_S, is_remote=False) as site:
        with site.run() as first:
            dead = site.until_held_by_another_than()
            site.observer.wait("it is driven", lambda: site.p_mw != 0.0)
            first.process.kill()
            first.process.wait()
        at = time.monotonic()
        with site.run():
            assert_goes_on(site, dead, at)


@pytest.mark.parametrize("what", ["another machine", "a copied folder"])
def test_the_lease_of_a_dead_gateway_goes_to_its_own_successor_only(site: LeaseSite, what: str) -> None:
    with killed(site) as dead:
        if what == "a copied folder":
            shutil.copytree(site.folder / "state", site.folder / "elsewhere")
        with site.proxy("elsewhere") as stranger:
            if what == "a copied folder":
                assert "it is a copy" in stranger.wait_for("state: ")
            stranger.wait_for("agent MG1 online")
            site.observer.wait("it tries", lambda: site.boots - {dead})
            after = site.until_held_by_another_than(dead)
            site.assert_waited_for_the_end(dead, after)
            assert not any(m.json.get("take_over") for m in site.observer.setpoints())
            # And now that it has the lease, the first one does not get it back from it, ever.
            refused = site.proxy().wait()
            assert refused.code == 1
            assert "is held by" in refused.errors[0]
            assert stranger.process.poll() is None
            assert site.holders[-1] == after
        site.assert_inside_envelope()


def test_a_second_gateway_of_the_same_folder_ends_also_where_the_first_stands_still(site: LeaseSite) -> None:
    with site.proxy() as first:
        boot = site.until_held_by_another_than()
        for number in (signal.SIGSTOP, signal.SIGCONT):
            first.signal(number)
            second = site.proxy("state", "--take-over").wait()
            assert second.code == 1
            assert f"pid {first.pid} on this machine, which has not ended" in second.errors[0]
        assert site.boots == {boot}


def test_a_lease_that_a_person_has_taken_meanwhile_stays_theirs(site: LeaseSite) -> None:
    with killed(site) as dead:
        told = {"type": "setpoint", "p_mw": 0.01, "lease_s": 2 * LEASE_S, "take_over": True}
        person = {"sender": "ann", "boot": "a person", "seq": 0}
        site.observer.publish("heron/small/devices/MG1/ess/setpoint", {**told, **person})
        site.observer.wait("it is the person's", lambda: site.holders[-1] == "a person")
        with site.proxy():
            site.observer.wait("the gateway tries", lambda: len(site.boots - {dead, "a person"}) == 1)
            tried = time.monotonic()
            site.observer.wait("and again", lambda: len(site.observer.setpoints(after=tried)) > 3)
            assert site.holders[-1] == "a person"
            assert site.p_mw == 0.01
            ours = [m.json for m in site.observer.setpoints() if m.json["boot"] != "a person"]
            assert not any(setpoint.get("take_over") for setpoint in ours)

"""A gateway that is killed and started again has its lease back, and nobody else: seen from outside."""

from __future__ import annotations

import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from support.heron_command import Program
from support.mosquitto_server import Mosquitto
from support.observer import Observed, Observer
from support.safety_runs import proxy, run, write

pytestmark = pytest.mark.slow

BARE_DEVICE = Path(__file__).parents[2] / "docs" / "examples" / "bare_device.py"
P_MAX_MW = 0.05
LEASE_S = 10.0
LONG_LEASE_S = 60.0
"""Longer than any restart, however slow the machine is."""
START_S = 60.0


@dataclass(frozen=True, slots=True)
class Site:
    """A run whose agent MG1 is remote, its battery in plain paho, and what an observer sees of both."""

    url: str
    scenario: Path
    observer: Observer
    folder: Path

    def proxy(self, state: str = "state", *more: str) -> Program:
        return proxy(self.scenario, self.url, "--no-record", "--state", str(self.folder / state), *more)

    def run(self) -> Program:
        return run(self.scenario, self.url, "--no-record", "--state", str(self.folder / "of the run"))

    @property
    def boots(self) -> set[str]:
        """Who has sent setpoints."""
        return {m.json["boot"] for m in self.observer.setpoints()}

    @property
    def holders(self) -> list[str | None]:
        """What the device said of its lease, one after the other: a boot, or None = free."""
        return [m.json.get("holder_boot") for m in self.observer.on("MG1/ess/lease")]

    @property
    def holder(self) -> str:
        held = self.holders[-1]
        assert held is not None
        return held

    @property
    def telemetry(self) -> list[Observed]:
        return self.observer.on("MG1/ess/telemetry")

    @property
    def p_mw(self) -> float:
        return float(self.telemetry[-1].json["p_mw"])

    def until_held_by_another_than(self, *boots: str) -> str:
        self.observer.wait(
            "the lease has a new holder", lambda: set(self.holders[-1:]) - {None, *boots}, START_S
        )
        return self.holder

    def assert_inside_envelope(self) -> None:
        asked = [m.json["p_mw"] for m in self.observer.setpoints()]
        assert max(map(abs, asked)) <= P_MAX_MW + 1e-9


@pytest.fixture
def server(own_mosquitto: Callable[..., Mosquitto]) -> Mosquitto:
    return own_mosquitto()


@contextmanager
def watched(server: Mosquitto, folder: Path, lease_s: float, *, is_remote: bool) -> Iterator[Site]:
    """Watch a battery in plain paho, which obeys a scenario's gateway."""
    host, port = server.url.removeprefix("mqtt://").split(":")
    device = [sys.executable, str(BARE_DEVICE), host, port, "small", "MG1", "ess"]
    changes: dict[str, Any] = {"lease_s": lease_s, "realtime_s": 0.5, "steps": 4000}
    scenario = write(folder, **changes, **{"microgrids.MG1.remote": is_remote})
    with Observer(server.url) as observer, Program(device):
        yield Site(server.url, scenario, observer, folder)


@pytest.fixture
def site(request: pytest.FixtureRequest, tmp_path: Path, server: Mosquitto) -> Iterator[Site]:
    lease_s = getattr(request, "param", LEASE_S)
    with watched(server, tmp_path, lease_s, is_remote=True) as site, site.run():
        yield site


@contextmanager
def killed(site: Site) -> Iterator[str]:
    """Let a gateway drive the device, and kill it; gives its boot, which still holds the lease."""
    with site.proxy() as first:
        boot = site.until_held_by_another_than()
        site.observer.wait("it is driven", lambda: site.p_mw != 0.0)
        first.process.kill()
        first.process.wait()
        yield boot


def assert_goes_on(site: Site, dead: str, at: float) -> None:
    """Wait for the successor of a gateway that was killed, and see that the device noticed nothing."""
    successor = site.until_held_by_another_than(dead)
    back = time.monotonic()
    print(f"the lease is back {back - at:.1f} s after the kill")
    site.observer.wait("it goes on", lambda: len(site.observer.driving(after=back)) > 2)
    assert site.holders[-2:] == [dead, successor], "from one to the other, never free"
    since = [m.json for m in site.telemetry if m.at > at]
    assert not any(said.get("safe") for said in since), "the device never left its setpoint"
    # Each of them speaks alone: the first until it died, the second from then on.
    order = [m.json["boot"] for m in site.observer.setpoints()]
    assert order == sorted(order, key=lambda boot: boot == successor)
    taking = [m.json for m in site.observer.setpoints() if m.json.get("take_over")]
    assert {m["boot"] for m in taking} == {successor}
    site.assert_inside_envelope()


@pytest.mark.parametrize("site", [LONG_LEASE_S], indirect=True)
def test_a_restarted_gateway_has_the_lease_back_before_it_ends(site: Site) -> None:
    with killed(site) as dead:
        at = time.monotonic()
        with site.proxy() as second:
            assert_goes_on(site, dead, at)
            second.signal(signal.SIGTERM)
            second.wait()
        site.observer.wait("it is given back", lambda: site.holders[-1] is None)


def test_a_restarted_run_has_the_leases_of_its_gateways_back(tmp_path: Path, server: Mosquitto) -> None:
    with watched(server, tmp_path, LONG_LEASE_S, is_remote=False) as site:
        with site.run() as first:
            dead = site.until_held_by_another_than()
            site.observer.wait("it is driven", lambda: site.p_mw != 0.0)
            first.process.kill()
            first.process.wait()
        at = time.monotonic()
        with site.run():
            assert_goes_on(site, dead, at)


@pytest.mark.parametrize("what", ["another machine", "a copied folder"])
def test_nobody_elses_gateway_gets_the_lease_of_the_dead(site: Site, what: str) -> None:
    with killed(site) as dead:
        if what == "a copied folder":
            shutil.copytree(site.folder / "state", site.folder / "elsewhere")
        with site.proxy("elsewhere") as stranger:
            if what == "a copied folder":
                assert "it is a copy" in stranger.wait_for("state: ")
            stranger.wait_for("agent MG1 online")
            site.observer.wait("it tries", lambda: site.boots - {dead})
            after = site.until_held_by_another_than(dead)
            assert site.holders[-3:] == [dead, None, after], "it has waited until the lease was over"
            assert not any(m.json.get("take_over") for m in site.observer.setpoints())
            # And now that it has the lease, the first one does not get it back from it, ever.
            refused = site.proxy().wait()
            assert refused.code == 1
            assert "is held by" in refused.errors[0]
            assert stranger.process.poll() is None
            assert site.holders[-1] == after
        site.assert_inside_envelope()


def test_a_second_gateway_of_the_same_folder_ends_also_where_the_first_stands_still(site: Site) -> None:
    with site.proxy() as first:
        boot = site.until_held_by_another_than()
        for number in (signal.SIGSTOP, signal.SIGCONT):
            first.signal(number)
            second = site.proxy("state", "--take-over").wait()
            assert second.code == 1
            assert f"pid {first.pid} on this machine, which has not ended" in second.errors[0]
        assert site.boots == {boot}


def test_a_lease_that_a_person_has_taken_meanwhile_stays_theirs(site: Site) -> None:
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

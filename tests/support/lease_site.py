"""One battery in plain paho under a gateway that is killed and started again, and who holds its lease."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.heron_command import Program, script
from support.observer import Observed, Observer
from support.safety_runs import proxy, run, write

BARE_DEVICE = Path(__file__).parents[2] / "docs" / "examples" / "bare_device.py"
P_MAX_MW = 0.05
LEASE_S = 10.0
LONG_LEASE_S = 60.0
"""Longer than any restart, however slow the machine is."""
START_S = 60.0
TOLERATED_S = 1.0
"""By which an observer may see telemetry later than it was sent, on a busy machine."""


@dataclass(frozen=True, slots=True)
class LeaseSite:
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

    def lease_end_s(self, boot: str) -> float:
        """When the lease of the newest setpoint of a sender ends, by the observer's clock.

        It counts from the telemetry that this setpoint echoes, which is observed a little after it was sent.
        """
        newest = next(m.json for m in reversed(self.observer.setpoints()) if m.json["boot"] == boot)
        echo = newest["heard_boot"], newest["heard_seq"]
        heard = next(m for m in self.telemetry if (m.json["boot"], m.json["seq"]) == echo)
        return heard.at + float(newest["lease_s"])

    def assert_waited_for_the_end(self, dead: str, after: str) -> None:
        """See that the lease went to another sender only when that of a dead one was over.

        It need not be free between them: a setpoint may come just as it ends, before the device looks.
        """
        assert [holder for holder in self.holders if holder is not None][-2:] == [dead, after]
        refused = [m for m in self.telemetry if f"held by MG1 (boot {dead})" in m.json.get("rejected", "")]
        assert refused, "it was refused before"
        taken = next(m for m in self.observer.on("MG1/ess/lease") if m.json.get("holder_boot") == after)
        assert taken.at > self.lease_end_s(dead) - TOLERATED_S, "it has waited until the lease was over"

    def assert_inside_envelope(self) -> None:
        asked = [m.json["p_mw"] for m in self.observer.setpoints()]
        assert max(map(abs, asked)) <= P_MAX_MW + 1e-9


@contextmanager
def watched(url: str, folder: Path, lease_s: float, *, is_remote: bool) -> Iterator[LeaseSite]:
    """Watch a battery in plain paho, which obeys a scenario's gateway."""
    host, port = url.removeprefix("mqtt://").split(":")
    device = script(BARE_DEVICE, host, port, "small", "MG1", "ess")
    changes: dict[str, Any] = {"lease_s": lease_s, "realtime_s": 0.5, "steps": 4000}
    scenario = write(folder, **changes, **{"microgrids.MG1.remote": is_remote})
    with device, Observer(url) as observer:
        yield LeaseSite(url, scenario, observer, folder)


def assert_goes_on(site: LeaseSite, dead: str, at: float) -> None:
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

"""What a device is examined on: the harness that watches it, and what the kit has in its hands beside.

A device's program can be cut off and started again; a broker of the kit's own can be killed. A real device
is there already: a person may cut its power where the kit asks for it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from heron_mqtt.json_object import Json
from heron_mqtt.testing.device_harness import CheckFailed, DeviceHarness
from heron_mqtt.testing.device_process import DeviceProcess

PRESENT_S = 2.0  # between two messages of telemetry, says docs/wire-contract.md
RECONNECT_S = 30.0  # between two attempts, says docs/wire-contract.md
START_S = 20.0  # of a program, on a busy machine; how soon it starts is no promise
BY_HAND_S = 600.0
"""How long a person may take to cut the power, or to give it back."""


class KilledBroker(Protocol):
    """A broker that the kit runs, and may kill and start again on the same port."""

    def start(self) -> object:
        """Start the broker on its earlier port."""

    def kill(self) -> None:
        """End it at once."""


@dataclass(slots=True)
class ConformanceBench:
    """One device on a bench.

    Attributes:
        harness: Watches it, and sends what a gateway or a person would send.
        program: The device's program, where the kit starts it.
        broker: The broker, where the kit runs it.
        ask: Asks a person to do something by hand, where one is there; returns at once.
        ramp_mw_per_s: Its ramp, MW/s; None = not named.
    """

    harness: DeviceHarness
    program: DeviceProcess | None = None
    broker: KilledBroker | None = None
    ask: Callable[[str], None] | None = None
    ramp_mw_per_s: float | None = None

    def make_ready(self) -> None:
        """Have the device online: start its program where it has ended.

        Raises:
            CheckFailed: It is not there.
        """
        harness = self.harness
        if self.program is not None and not self.program.is_running:
            self.give_power()
        if not harness.was_heard_within(PRESENT_S):
            mark = harness.now
            limit_s = max(harness.within_s, 5.0)
            harness.until(lambda: harness.heard("telemetry", mark), "telemetry", limit_s)

    def cut_power(self) -> None:
        """End the device as a power cut would."""
        if self.program is not None:
            self.program.kill()
        elif self.ask is not None:
            mark = self.harness.now
            self.ask(f"cut the power of {self.harness.label} now")
            self._wait_for_state("offline", mark)

    def give_power(self) -> Json:
        """Start the device, and wait for its birth and its first telemetry; returns the birth."""
        harness = self.harness
        mark = harness.now
        if self.program is not None:
            self.program.start()
        elif self.ask is not None:
            self.ask(f"give {harness.label} its power back")
        self._wait_for_state("online", mark)
        birth = harness.birth(mark)
        boot = birth.get("boot")

        def has_spoken() -> bool:
            self._must_run()
            return any(m.json.get("boot") == boot for m in harness.heard("telemetry", mark))

        try:
            harness.until(has_spoken, "telemetry after the birth")
        except CheckFailed as exc:
            if self.program is None or not self.program.said or self.program.ending:
                raise
            raise CheckFailed(f"{exc}; the program has printed last: {self.program.said[-1]}") from None
        return birth

    def restart(self) -> Json:
        """Cut the power and give it back; returns the new birth."""
        self.cut_power()
        return self.give_power()

    def restart_broker(self, away_s: float) -> int:
        """Kill the broker, leave it away for a while, and start it again; returns the mark from before."""
        assert self.broker is not None
        self.broker.kill()
        self.harness.pause(away_s)  # nothing can be seen meanwhile
        mark = self.harness.now
        self.broker.start()
        limit_s = self.harness.within_s + RECONNECT_S
        self.harness.until(lambda: self.harness.heard("status", mark), "its birth at the new broker", limit_s)
        return mark

    def _must_run(self) -> None:
        """Say how a program has ended that is waited for."""
        if self.program is not None and not self.program.is_running:
            raise CheckFailed(f"it does not start: {self.program.ending}")

    def _wait_for_state(self, state: str, mark: int) -> None:
        harness = self.harness
        limit_s = harness.within_s if self.program is not None else BY_HAND_S
        if self.program is not None and state == "online":
            limit_s = max(limit_s, START_S)

        def said() -> bool:
            if state == "online":
                self._must_run()
            return any(m.json.get("state") == state for m in harness.heard("status", mark))

        harness.until(said, f"`{state}` on {harness.topic('status')}", limit_s)

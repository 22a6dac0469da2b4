"""A whole site to break: a broker, a run, a remote proxy, devices, and an observer of plain paho.

The checks use the messages on the broker and the power of the devices, by the monotonic clock of this one
process. Nothing of the watched programs is imported.
"""

from __future__ import annotations

import json
import random
import signal
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

from heron_mqtt.errors import NotReady
from heron_mqtt.testing.faults.observer import Observed, PlainDevice, SiteObserver
from heron_mqtt.testing.faults.programs import Program, heron_program, write_toml
from heron_mqtt.testing.faults.tally import LEASE_S, FaultTally
from heron_mqtt.testing.faults.tcp_link import TcpLink
from heron_mqtt.testing.faults.trial_broker import TrialBroker
from heron_mqtt.testing.small_scenario import small_scenario

ENV = "small"
STEP_S = 0.15
IN_FLIGHT_S = 0.25
"""What left its sender before a stop was heard is still on its way for as long as this, on a busy machine."""
LIMITS_MW = {"MG1/ess": (-0.008, 0.01), "MG1/gen": (0.0, 0.02), "MG2/ess": (-0.008, 0.01)}
RAMP_MW = 0.013
"""What a generator can reach in one step of 900 s from rest: its least power, and its ramp of 0.009 MW."""
PROGRAMS = ("run", "proxy", "battery")
DRIVEN = ("MG1/ess", "MG2/ess")
SHADOW = "MG3/ess"
HANGS_S = 20.0
STARTS_S = 180.0  # on a machine that does ten other things; 4 s on an idle one
COUNTED = ("telemetry", "held", "refused", "flooded", "lost")
"""A run's counts of a device's telemetry; their sum is all of its messages."""
ENDS_WELL = (0, 130)
"""Exit codes of a run that was finished, or interrupted."""


@dataclass(frozen=True, slots=True)
class TimeSpan:
    """A time in which something holds; ``end`` is infinite while it continues."""

    begin: float
    end: float


def write_site(folder: Path, **changes: Any) -> Path:
    """Write the scenario: two batteries and a generator are driven, one battery is in shadow."""
    everything = [(a, d) for a in ("MG1", "MG2", "MG3") for d in ("gen", "pv", "ess")]
    data = small_scenario(
        {
            "lease_s": LEASE_S,
            "realtime_s": STEP_S,
            "steps": 20_000,
            "profiles.repeat": True,
            "deadlines": {
                "upstream_s": 0.4,
                "peer_s": 0.3,
                "device_s": 0.2,
                "action_s": 2.0,
                "ready_s": 15.0,
            },
            **{f"microgrids.{a}.devices.{d}.authority": "simulated" for a, d in everything},
            **{
                f"microgrids.{a}.policy": {"charge_below": -1000.0, "discharge_above": -999.0}
                for a in ("MG1", "MG2", "MG3")
            },
            **{f"microgrids.{a}.devices.ess.max_e_mwh": 5000.0 for a in ("MG1", "MG2", "MG3")},
            "microgrids.MG1.remote": True,
            **changes,
        }
    )
    for name, authority in (*((n, "full") for n in LIMITS_MW), (SHADOW, "shadow")):
        agent, _, device = name.partition("/")
        table = data["microgrids"][agent]["devices"][device]
        table.update({"authority": authority, "external": True, "gateway": {"gate_steps": 2}})
    return write_toml(folder / "small.toml", data)


class TrialSite:
    """All of it, once entered; what is missing is started by ``mend``.

    ``run``, ``proxy`` and ``battery`` are None after a trial has ended them (``end_program``). If a program
    has ended but is still named here, it ended by itself, which breaks a promise.
    """

    def __init__(self, kind: str, folder: Path, rng: random.Random) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.scenario = write_site(folder)
        self.broker = TrialBroker(kind, folder)
        self.run: Program | None = None
        self.proxy: Program | None = None
        self.battery: Program | None = None
        self.was_driven = False
        """Whether the site has come up once."""
        self.tally = FaultTally()
        self.begun = time.monotonic()
        self.powers: list[PlainDevice] = []
        """Plain batteries of MG1 in this trial, the dead ones too."""
        self.dead: list[TimeSpan] = []
        """When there was no living environment."""
        self.stopped: list[TimeSpan] = []
        self.injected: set[bytes] = set()
        self.is_blind = self._is_recovered = self._is_compared = False
        self._run_lost_its_broker = False
        self._run_begun = 0.0
        self._over_at: float | None = None
        self.device_stood_still_s = 0.0
        """For how long the program of MG2/ess was stopped in this trial: nothing can end its lease then."""
        self._shadow_from = 0
        self._rng = rng
        self._open = ExitStack()

    # -- life ------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        with ExitStack() as stack:  # what fails half-way leaves nothing behind
            self._stalls = _Stalls()
            stack.callback(self._stalls.end)
            stack.callback(self.broker.kill)
            self.broker.start()
            self.link = TcpLink(self.broker.port, self._rng).start()
            """Between the broker and what is not at its side: the remote proxy, and the battery's program."""
            stack.callback(self.link.close)
            self.observer = SiteObserver(self.broker.url)
            stack.callback(self.observer.close)
            self.ess = self._plain("MG1/ess")
            self.powers = [self.ess]
            stack.callback(self._close_battery)
            generator = {"kind": "generator", "p_min_mw": 0.0, "p_max_mw": 0.02}
            self.gen = PlainDevice(self.broker.url, ENV, "MG1/gen", birth=generator)
            stack.callback(self.gen.close)
            self.shadow = self._plain(SHADOW, judges_age=False)
            self.shadow.is_speaking = False
            stack.callback(self.shadow.close)
            for name in PROGRAMS:
                stack.callback(self.end_program, name)
            stack.callback(self.broker.signal, signal.SIGCONT)  # who leaves it can say so
            self._open = stack.pop_all()
        return self

    def __exit__(self, *_: Any) -> None:
        self._open.close()

    def end_program(self, name: str) -> None:
        """End a program as a power cut would; on purpose, so that its end is not reported.

        Args:
            name: One of ``PROGRAMS``.
        """
        program: Program | None = getattr(self, name)
        if program is not None:
            program.process.kill()
            program.process.wait()
            setattr(self, name, None)

    def _close_battery(self) -> None:
        self.ess.close()  # the one that is there in the end

    def _plain(self, name: str, **arguments: Any) -> PlainDevice:
        birth = {"p_min_mw": -0.008, "p_max_mw": 0.01, "max_e_mwh": 5000.0}
        return PlainDevice(self.broker.url, ENV, name, birth=birth, **arguments)

    @property
    def longest_stall_s(self) -> float:
        """The longest that this process itself was not run by the machine."""
        return self._stalls.longest_s

    def begin(self, tally: FaultTally) -> None:
        """Begin a trial: everything runs, and both batteries are driven."""
        self.tally = tally  # what ended or hangs before it is no secret either
        self.mend()
        tally.tried += 1
        self.begun = time.monotonic()
        self.dead.clear()
        self.stopped.clear()
        self.powers = [self.ess]
        self.is_blind = self._is_recovered = self._is_compared = False
        self._over_at = None
        self.device_stood_still_s = 0.0

    def is_over(self) -> None:
        """Mark the end of the cause: from here on everything may be as before."""
        self._over_at = time.monotonic()

    def goes_blind(self) -> None:
        """Telemetry may come late from here on: when MG2/ess went safe then says its own clock alone."""
        self.is_blind = True

    def has_nothing_to_recover(self) -> None:
        """What this trial ends and starts is a part of it, and how long that takes says nothing."""
        self._is_recovered = True

    def was_not_tried(self, why: str) -> None:
        """Take this trial back: the fault could not be done to the site."""
        self.tally.tried -= 1
        self.tally.untried = why
        self.note(f"not tried: {why}")
        self.has_nothing_to_recover()

    @property
    def said_in_shadow(self) -> int:
        """What the device in shadow has said to this run; messages that were left out on purpose count."""
        return self.shadow.seq - self._shadow_from

    def compare_counts(self) -> None:
        """End the run, unless a trial has ended it, to compare its counts with the messages."""
        if not self._is_compared and self.run is not None:
            self.end_run()

    def recover(self) -> None:
        """Mend what is broken, wait until all is as before, and keep how long that took: once a trial."""
        if self._is_recovered:
            self.mend()
            return
        self._is_recovered = True
        over_at = time.monotonic() if self._over_at is None else self._over_at
        self.link.mend()
        self.mend()
        if self._over_at is not None:
            over_at = self._over_at  # what had to be started begins when it is started
        again = [self._setpoints_that_drive(name, over_at) for name in DRIVEN]
        self.tally.recovered_s.append(max((told[0].at - over_at for told in again if told), default=0.0))

    def _setpoints_that_drive(self, name: str, since: float) -> list[Observed]:
        told = self.observer.driving(name, after=since)
        return [m for m in told if m.payload not in self.injected]

    def restart_broker(self) -> None:
        """Start the broker again."""
        self.is_over()
        self.broker.start()

    def start_proxy(self, environment: Mapping[str, str] | None = None) -> None:
        """Start the remote proxy."""
        self.is_over()
        self.proxy = heron_program(*self.proxy_arguments, environment=environment)

    def start_battery(self, environment: Mapping[str, str] | None = None) -> None:
        """Start the battery's program."""
        self.is_over()
        self.battery = heron_program(*self.battery_arguments, environment=environment)

    def kill_broker(self) -> None:
        """End the broker as a power cut would."""
        self.goes_blind()
        self._run_lost_its_broker = True
        self.broker.kill()

    def mend(self) -> None:
        """Start what is not there, and wait until both batteries are driven.

        A program that was not ended by the trial but is gone breaks a promise.

        Raises:
            NotReady: They are not driven.
        """
        self._find_ended()
        if not self.broker.is_up:
            self.restart_broker()
        if self.battery is None:
            self.start_battery()
        if self.proxy is None:
            self.start_proxy()
        if self.run is None:
            self.start_run()
        for attempt in range(2):
            if self.wait(partial(self._is_driven, time.monotonic()), 60.0):
                self.was_driven = True
                return
            self.note(f"not driven again within 60 s (attempt {attempt + 1}): {self._state()}")
            self.tally.hung += 1
            self._find_ended()
            for name in ("run", "proxy"):
                self.end_program(name)
            if self.battery is None:
                self.start_battery()
            self.start_proxy()
            self.start_run()
        raise NotReady(f"the site of the trials is not driven: {self._state()}")

    def _find_ended(self) -> None:
        """Break the promise for each program that ended by itself."""
        code = self.broker.ended_with
        if code is not None:
            self.tally.break_promise(f"the broker ended with {code}")
            self.kill_broker()
        for name in PROGRAMS:
            program: Program | None = getattr(self, name)
            code = None if program is None else program.process.poll()
            if program is not None and code is not None:
                self.tally.break_promise(f"{name} ended with {code}: {program.err[-3:]}")
                if name == "run":
                    self.dead.append(TimeSpan(time.monotonic(), float("inf")))
                setattr(self, name, None)

    def _is_driven(self, since: float) -> bool:
        shown = self.observer.on("MG2/ess/telemetry")
        is_driven = bool(shown) and shown[-1].at > since and shown[-1].json.get("p_mw") != 0.0
        return is_driven and self.ess.p_mw != 0.0 and len(self.observer.driving("MG1/ess", after=since)) > 2

    def _state(self) -> str:
        parts = []
        for name in PROGRAMS:
            program: Program | None = getattr(self, name)
            if program is None:
                parts.append(f"{name} not started")
            else:
                parts.append(f"{name} {program.process.poll()} said {program.err[-3:]}")
        return "; ".join(parts)

    def start_run(self, *more: str) -> None:
        """Start a run; the device in shadow publishes from the moment when the observer listens."""
        self.shadow.is_speaking = False
        self.is_over()
        begun = time.monotonic()
        if self.dead and self.dead[-1].end > begun:
            self.dead[-1] = TimeSpan(self.dead[-1].begin, begun)
        self.run = heron_program(*self.run_arguments, *more)
        if not self.wait(
            lambda: [m for m in self.observer.on("agents/MG3/status") if m.at > begun + 0.5], STARTS_S
        ):
            self.tally.hung += 1
            self.note(f"a run did not start within {STARTS_S:g} s: {self._state()}")
        self._shadow_from = self.shadow.seq
        self._run_begun = begun
        self._run_lost_its_broker = False
        self.shadow.is_speaking = True

    def end_run(self, *, compare: bool = True) -> dict[str, Any]:
        """End the run as Ctrl-C does, and compare its counts with the messages.

        Returns:
            Its JSON object; empty where it gave none, which breaks a promise.
        """
        self.shadow.is_speaking = False
        time.sleep(0.4)
        said = self.said_in_shadow
        self._find_ended()
        run, self.run = self.run, None
        if run is None:  # it ended by itself, and that was said
            return {}
        run.signal(signal.SIGINT)
        try:
            done = run.wait(10.0)
        except AssertionError as exc:
            self.tally.hung += 1
            self.note(f"the run did not end within 10 s of SIGINT, and was killed: {exc}")
            return {}
        finally:
            self.dead.append(TimeSpan(time.monotonic(), float("inf")))
        if done.code not in ENDS_WELL:
            self.tally.break_promise(f"the run ended with {done.code}: {done.err[-300:]!r}")
        try:
            result = done.result
        except (ValueError, AssertionError):
            self.tally.break_promise(
                f"the run ended without a result: {done.out[-200:]!r} {done.err[-300:]!r}"
            )
            return {}
        if compare:
            self._compare(result, said)
        return result

    def _compare(self, result: dict[str, Any], said: int) -> None:
        self._is_compared = True
        counted = result["devices"][SHADOW]
        known = sum(counted[key] for key in COUNTED)
        self.tally.lost += counted["lost"]
        if known != said:
            self.tally.undetected += max(0, said - known)
            picked = {key: counted[key] for key in (*COUNTED, "duplicated")}
            self.tally.break_promise(f"{SHADOW} said {said}, counted {known}: {picked}")
        if self._run_lost_its_broker:  # what was under way then was counted, and the observer was cut off too
            return
        boots = {m.json["boot"] for m in self.setpoints("MG2/ess", self._run_begun)}
        seen = [m.json for m in self.setpoints("MG2/ess", self._run_begun) if not m.json.get("renewal")]
        told = result["devices"]["MG2/ess"]["setpoints"]
        # of several gateways one is that of an earlier run, whose last messages came late: not counted here
        if len(boots) <= 1 and len(seen) != told:
            self.tally.break_promise(f"MG2/ess: {len(seen)} setpoints seen, {told} counted")
        fell = [
            m
            for m in self.observer.on("agents/MG2/action")
            if m.at > self._run_begun and "fallback_ess" in m.json
        ]
        fallbacks = result["devices"]["MG2/ess"]["fallbacks"]
        # that of the step in which the run was interrupted is counted, and its action is not sent any more
        if not 0 <= fallbacks - len(fell) <= 1:
            self.tally.break_promise(f"MG2/ess: {len(fell)} fallbacks seen, {fallbacks} counted")

    @property
    def _far_url(self) -> str:
        return self.broker.url_at(self.link.port)

    @property
    def battery_arguments(self) -> list[str]:
        arguments = ["device", "battery", "--agent", "MG2", "--name", "ess", "--broker", self._far_url]
        return [*arguments, "--scenario", str(self.scenario), "--period", "0.1"]

    @property
    def proxy_arguments(self) -> list[str]:
        arguments = ["proxy", str(self.scenario), "--agent", "MG1", "--broker", self._far_url]
        return [*arguments, "--devices", "simulated"]

    @property
    def run_arguments(self) -> list[str]:
        return ["run", str(self.scenario), "--broker", self.broker.url, "--json"]

    def new_battery(self) -> None:
        """Put a new plain battery in the place of one that died."""
        self.ess = self._plain("MG1/ess")
        self.powers.append(self.ess)

    def inject(self, topic: str, payload: Any, *, retain: bool = False) -> None:
        """Publish something that no rightful sender publishes."""
        data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        self.injected.add(data)
        self.observer.publish(topic, data, retain=retain)

    def wait(self, condition: Callable[[], object], within_s: float) -> bool:
        """Wait for something; return whether it came."""
        end = time.monotonic() + within_s
        while not condition():
            if time.monotonic() > end:
                return False
            time.sleep(0.02)
        return True

    def goes_on(self) -> None:
        """Count the run as hung unless it takes another step."""
        since = time.monotonic()
        self._find_ended()
        if self.run is None:
            self.tally.hung += 1
        elif not self.wait(lambda: [m for m in self.observer.on("run/state") if m.at > since], HANGS_S):
            self.tally.hung += 1
            self.note(f"no step within {HANGS_S:g} s")

    def note(self, text: str) -> None:
        """Keep what is worth a look."""
        self.tally.note(text)

    # -- what is asked of every trial --------------------------------------------------------------------

    def setpoints(self, name: str, since: float) -> list[Observed]:
        """Return the setpoints to a device since then that this trial did not inject."""
        return [m for m in self.observer.setpoints(name, after=since) if m.payload not in self.injected]


class _Stalls:
    """How long this process was not run: a machine that is busy makes every figure larger by as much."""

    def __init__(self) -> None:
        self.longest_s = 0.0
        self._ended = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        before = time.monotonic()
        while not self._ended.wait(0.01):
            now = time.monotonic()
            self.longest_s, before = max(self.longest_s, now - before - 0.01), now

    def end(self) -> None:
        self._ended.set()

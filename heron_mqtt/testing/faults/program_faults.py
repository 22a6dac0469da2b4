"""What is done to the programs of a site in a trial: killed, stopped, twice there, with another clock.

Each of these functions breaks the site once, at a moment that ``rng`` chooses. If a promise of this fault
alone did not hold, it reports this to the site's tally. What holds for all of them ``TrialSite.judge`` asks.
"""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

from heron_mqtt.testing.faults.message_faults import press_stop, release_stop
from heron_mqtt.testing.faults.observer import PlainDevice
from heron_mqtt.testing.faults.programs import Program, heron_program
from heron_mqtt.testing.faults.tally import LEASE_S
from heron_mqtt.testing.faults.trial_site import ENV, TimeSpan, TrialSite

BASE = f"heron/{ENV}"


# -- kills -----------------------------------------------------------------------------------------------


def kill_run(site: TrialSite, rng: random.Random) -> None:
    """Kill the run at any moment: its own gateway and the environment of the remote one are gone."""
    time.sleep(rng.uniform(0.0, 0.5))
    _kill_run(site)
    time.sleep(2.5 * LEASE_S)
    site.start_run()


def kill_environment_in_mid_step(site: TrialSite, rng: random.Random) -> None:
    """Kill the environment of a remote proxy right after a step has begun."""
    steps = len(site.observer.on("run/state"))
    site.wait(lambda: len(site.observer.on("run/state")) > steps, 5.0)
    time.sleep(rng.uniform(0.0, 0.04))
    _kill_run(site)
    time.sleep(2.5 * LEASE_S)
    site.start_run()


def kill_proxy(site: TrialSite, rng: random.Random) -> None:
    """Kill a remote proxy; another one is started later."""
    time.sleep(rng.uniform(0.0, 0.5))
    site.end_program("proxy")
    time.sleep(rng.uniform(0.5, 2.0) * LEASE_S)
    site.start_proxy()
    site.goes_on()


def kill_device(site: TrialSite, rng: random.Random) -> None:
    """Cut one battery off, and kill the process of another."""
    time.sleep(rng.uniform(0.0, 0.5))
    if rng.random() < 0.5:
        site.ess.die()
        time.sleep(2.0 * LEASE_S)
        site.goes_on()
        site.is_over()
        site.new_battery()
    else:
        site.end_program("battery")
        time.sleep(2.0 * LEASE_S)
        site.goes_on()


def kill_broker_that_returns(site: TrialSite, rng: random.Random) -> None:
    """Kill the broker, start it again after a while, and count what was lost."""
    time.sleep(rng.uniform(0.0, 0.5))
    site.kill_broker()
    time.sleep(rng.uniform(0.1, 2.5) * LEASE_S)
    site.restart_broker()
    site.goes_on()
    site.recover()
    site.end_run()


def kill_broker_for_good(site: TrialSite, rng: random.Random) -> None:
    """Kill the broker for longer than two leases; the run must end when it is asked to."""
    time.sleep(rng.uniform(0.0, 0.5))
    site.kill_broker()
    time.sleep(2.5 * LEASE_S)
    site.end_run(compare=False)
    site.restart_broker()


def kill_environment_and_broker(site: TrialSite, rng: random.Random) -> None:
    """Kill both; the broker returns, the environment does not."""
    time.sleep(rng.uniform(0.0, 0.5))
    site.kill_broker()
    _kill_run(site)
    time.sleep(rng.uniform(0.1, 1.0))
    site.restart_broker()
    time.sleep(2.5 * LEASE_S)
    site.start_run()


def _kill_run(site: TrialSite) -> None:
    site.end_program("run")
    site.dead.append(TimeSpan(time.monotonic(), float("inf")))


# -- stopped processes -----------------------------------------------------------------------------------


def pause_run(site: TrialSite, rng: random.Random) -> None:
    """SIGSTOP and SIGCONT the run, half of the time with a stop pressed in between."""
    assert site.run is not None
    _pause(site, site.run, rng)


def pause_proxy(site: TrialSite, rng: random.Random) -> None:
    """SIGSTOP and SIGCONT the remote proxy, half of the time with a stop pressed in between."""
    assert site.proxy is not None
    _pause(site, site.proxy, rng)


def _pause(site: TrialSite, program: Program, rng: random.Random) -> None:
    time.sleep(rng.uniform(0.0, 0.5))
    program.signal(signal.SIGSTOP)
    if program is site.run:
        site.dead.append(TimeSpan(time.monotonic(), float("inf")))
    time.sleep(0.1)
    is_stopped = rng.random() < 0.5
    if is_stopped:
        press_stop(site, b'{"active": true, "who": "observer"}', retain=True)
    time.sleep(rng.uniform(0.5, 2.5) * LEASE_S)
    if program is site.run:
        site.dead[-1] = TimeSpan(site.dead[-1].begin, time.monotonic())
    program.signal(signal.SIGCONT)
    site.is_over()
    time.sleep(1.0)
    if is_stopped:
        release_stop(site)
    site.goes_on()


def pause_broker(site: TrialSite, rng: random.Random) -> None:
    """SIGSTOP and SIGCONT the broker for up to two leases."""
    time.sleep(rng.uniform(0.0, 0.5))
    site.goes_blind()
    site.broker.signal(signal.SIGSTOP)
    time.sleep(rng.uniform(0.5, 2.0) * LEASE_S)
    site.broker.signal(signal.SIGCONT)
    site.is_over()
    site.goes_on()


def pause_device(site: TrialSite, rng: random.Random) -> None:
    """SIGSTOP and SIGCONT the program of a battery: it wakes up with a lease that is over, or continues."""
    time.sleep(rng.uniform(0.0, 0.5))
    assert site.battery is not None
    site.goes_blind()
    begun = time.monotonic()
    site.battery.signal(signal.SIGSTOP)
    time.sleep(rng.uniform(0.3, 2.0) * LEASE_S)
    site.device_stood_still_s = time.monotonic() - begun
    site.battery.signal(signal.SIGCONT)
    site.is_over()
    site.goes_on()


# -- clocks ----------------------------------------------------------------------------------------------

FAKETIME = (
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1",
    "/usr/lib/faketime/libfaketime.so.1",
)


def why_no_clock() -> str:
    """Return why the wall clock of a program cannot be moved here; empty: it can."""
    return "" if _faketime() else "libfaketime is not installed (Debian: apt install libfaketime)"


def _faketime() -> str | None:
    return next((path for path in FAKETIME if Path(path).exists()), None)


def with_moved_clock(clock: Path) -> dict[str, str]:
    """Return the environment of a program whose wall clock is moved by what a file says, ``+3600``, s."""
    clock.write_text("+0")
    return {
        "LD_PRELOAD": _faketime() or "",
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }


def clock_jump(site: TrialSite, rng: random.Random) -> None:
    """Let the wall clock of the remote proxy and of a battery jump, back and forth by up to a day."""
    clock = site.folder / "clock"
    _restart_far_side(site, with_moved_clock(clock))
    site.mend()
    for _ in range(3):
        clock.write_text(f"{rng.uniform(-86_400.0, 86_400.0):+.0f}")
        time.sleep(rng.uniform(0.3, 1.2))
    site.is_over()
    site.goes_on()
    site.mend()
    _restart_far_side(site, None)


def _restart_far_side(site: TrialSite, environment: dict[str, str] | None) -> None:
    for name, program in (("the proxy", site.proxy), ("the battery's program", site.battery)):
        assert program is not None
        program.process.terminate()
        try:
            program.wait(15.0)
        except AssertionError as exc:
            site.tally.hung += 1
            site.note(f"{name} did not end within 15 s of SIGTERM, and was killed: {exc}")
    site.proxy = site.battery = None
    site.start_proxy(environment)
    site.start_battery(environment)


# -- two of everything -----------------------------------------------------------------------------------


def second_run(site: TrialSite, rng: random.Random) -> None:
    """Start a second run of the same environment."""
    _second(site, site.run_arguments, rng)


def second_proxy(site: TrialSite, rng: random.Random) -> None:
    """Start a second proxy of the same agent."""
    _second(site, site.proxy_arguments, rng)


def second_device(site: TrialSite, rng: random.Random) -> None:
    """Start a second device of the same name."""
    boots = {m.json.get("boot") for m in site.observer.on("MG2/ess/telemetry")}
    _second(site, site.battery_arguments, rng)
    new = {m.json.get("boot") for m in site.observer.on("MG2/ess/telemetry")} - boots
    if new:
        site.tally.second_owner += 1
        site.note(f"a second device spoke: {new}")


def second_plain_device(site: TrialSite, rng: random.Random) -> None:
    """Let a second battery of another maker publish under the same name: neither may be driven."""
    time.sleep(rng.uniform(0.0, 0.3))
    with PlainDevice(site.broker.url, ENV, "MG1/ess", follows=False) as twin:
        begun = time.monotonic()
        time.sleep(2.5 * LEASE_S)
        driven = site.observer.driving("MG1/ess", after=begun + LEASE_S)
        if driven:
            site.tally.second_owner += len(driven)
            site.note(f"{len(driven)} setpoints while {twin.boot} and {site.ess.boot} spoke in turn")
    site.ess.reborn(soc=0.5)  # one that continues with its former boot counts as the second one


def _second(site: TrialSite, arguments: list[str], rng: random.Random) -> None:
    time.sleep(rng.uniform(0.0, 0.5))
    try:
        done = heron_program(*arguments).wait(40.0)
    except AssertionError as exc:
        site.tally.hung += 1
        site.note(f"the second one was not refused within 40 s, and was killed: {exc}")
        site.goes_on()
        return
    if done.code != 1 or not any("is held by" in line for line in done.errors):
        site.tally.hung += 1
        site.note(f"the second one ended with {done.code}: {done.err[-300:]!r}")
    site.goes_on()

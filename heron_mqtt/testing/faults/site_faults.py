"""What is done to a whole site in a trial: programs killed and stopped, foreign messages, a bad network.

Each of these functions breaks the site once, at a moment that ``rng`` chooses, and says so to the site's
tally where a promise of this fault alone did not hold. What holds for all of them ``TrialSite.judge`` asks.
"""

from __future__ import annotations

import math
import random
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from heron_mqtt.testing.faults.observer import PlainDevice
from heron_mqtt.testing.faults.programs import Program, heron_program, write_toml
from heron_mqtt.testing.faults.tally import LEASE_S
from heron_mqtt.testing.faults.tcp_link import LinkFaults
from heron_mqtt.testing.faults.trial_site import COUNTED, ENV, RAMP_MW, SHADOW, TimeSpan, TrialSite

BASE = f"heron/{ENV}"
LOSES_S = 12.0
"""Long enough that of every hundredth message that is lost some are those of each kind."""
HUGE = b"1" + b"0" * 400
STOPS = [
    b"",
    b"stop",
    b'{"active": 1}',
    b'{"active": "true"}',
    b'{"active": 0}',
    b'{"active": null}',
    b'{"active": true, "why": "' + b"x" * 2000 + b'"}',
    b'{"active": true, "sent_at": "yesterday"}',
    b'{"active": true, "seq": 1.0, "boot": "a", "sender": "s"}',
    b'{"active": true, "env_id": ""}',
    b'{"active": false, "env_id": "another"}',
    b'{"active": false, "type": "price"}',
    b'{"type": "estop"}',
    b"[false]",
    b"\xff\xfe\x00",
    b'{"active": true, "seq": ' + HUGE + b"}",
]
HUGE_ON = [
    ("agents/MG1/plan", b"p_ess"),
    ("agents/MG1/command", b"p_ess"),
    ("agents/MG2/command", b"p_ess"),
    ("agents/MG1/action", b"p_ess"),
    ("agents/MG1/observation", b"p_available_pv"),
    ("agents/MG2/observation", b"dt_s"),
    ("agents/MG1/clearance", b"p_ess"),
    ("agents/MG1/status", b"soc_ess"),
    ("agents/MG1/owner", b"state"),
    ("devices/MG1/ess/telemetry", b"p_mw"),
    ("devices/MG1/ess/telemetry", b"soc"),
    ("devices/MG2/ess/telemetry", b"ack_seq"),
    ("devices/MG1/ess/setpoint", b"lease_s"),
    ("devices/MG2/ess/setpoint", b"p_mw"),
    ("devices/MG2/ess/owner", b"state"),
    ("devices/MG1/ess/authority", b"level"),
    ("devices/MG1/ess/take", b"for_s"),
    ("p2p/MG2/MG1", b"quantity"),
    ("operators/system_operator/price", b"value"),
    ("run/state", b"seed"),
    ("run/owner", b"state"),
]


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
        _press(site, b'{"active": true, "who": "observer"}', retain=True)
    time.sleep(rng.uniform(0.5, 2.5) * LEASE_S)
    if program is site.run:
        site.dead[-1] = TimeSpan(site.dead[-1].begin, time.monotonic())
    program.signal(signal.SIGCONT)
    site.is_over()
    time.sleep(1.0)
    if is_stopped:
        _release(site)
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
    """SIGSTOP and SIGCONT the program of a battery: it wakes up with a lease that is over, or goes on."""
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


# -- the network between the broker and what is elsewhere ------------------------------------------------


def late_link(site: TrialSite, rng: random.Random) -> None:
    """Make every packet of the remote proxy and of one battery late, in both directions."""
    _bad_link(site, LinkFaults(delay_s=rng.uniform(0.05, 0.4)), rng)


def chopped_link(site: TrialSite, rng: random.Random) -> None:
    """Hand on what they send and get in pieces of a few bytes."""
    _bad_link(site, LinkFaults(chop=rng.randrange(1, 4)), rng)


def lossy_link(part: float) -> Callable[[TrialSite, random.Random], None]:
    """Return what loses a part of their packets: TCP sends them again, and everything is late."""
    return lambda site, rng: _bad_link(site, LinkFaults(loss=part), rng)


def silent_link(site: TrialSite, rng: random.Random) -> None:
    """Hand on nothing for up to two leases, and close nothing: then everything arrives at once."""
    _bad_link(site, LinkFaults(is_silent=True), rng)


def reset_link(site: TrialSite, rng: random.Random) -> None:
    """Reset their connections, again and again."""
    site.goes_blind()
    for _ in range(rng.randrange(1, 5)):
        time.sleep(rng.uniform(0.0, 0.6))
        site.link.reset()
    site.is_over()
    site.goes_on()


def half_closed_link(site: TrialSite, rng: random.Random) -> None:
    """Close one direction of their connections: one side hears the end, the other does not."""
    site.goes_blind()
    for towards_client in rng.sample([True, False], 2):
        time.sleep(rng.uniform(0.2, 0.8))
        site.link.half_close(towards_client=towards_client)
    site.is_over()
    site.goes_on()


def stop_while_cut_off(site: TrialSite, rng: random.Random) -> None:
    """Press a stop while the remote proxy and one battery are cut off: they must find it when they return."""
    site.goes_blind()
    site.link.faults = LinkFaults(is_refused=True)
    site.link.reset()
    time.sleep(rng.uniform(0.0, 0.5))
    _press(site, b'{"active": true, "who": "observer", "why": "trial"}', retain=True)
    time.sleep(rng.uniform(0.2, 1.5) * LEASE_S)
    site.link.mend()
    back = time.monotonic()
    names = ("confirm/MG1", "confirm/MG2/ess")
    if not site.wait(
        lambda: all([m for m in site.observer.on(f"estop/{name}") if m.at > back] for name in names), 10.0
    ):
        site.tally.break_promise("who was cut off did not confirm the stop within 10 s of its return")
    time.sleep(0.5)
    _release(site)
    site.goes_on()


def _bad_link(site: TrialSite, faults: LinkFaults, rng: random.Random) -> None:
    time.sleep(rng.uniform(0.0, 0.5))
    site.goes_blind()
    site.link.faults = faults
    time.sleep(rng.uniform(0.8, 2.0) * LEASE_S)
    site.link.mend()
    site.is_over()
    site.goes_on()


def lost_messages(part: float) -> Callable[[TrialSite, random.Random], None]:
    """Return what runs environment and agents on a network that loses a part of the messages."""

    def lose(site: TrialSite, rng: random.Random) -> None:
        rules = [{"pattern": "#", "loss": part}]
        impairment = {"name": "lossy", "seed": rng.randrange(1 << 30), "rules": rules}
        site.has_nothing_to_recover()
        network = write_toml(site.folder / "lossy.toml", {"impairment": impairment})
        site.end_run()
        site.start_run("--network", str(network))
        site.shadow.period_s = 0.05
        time.sleep(LOSES_S)
        result = site.end_run(compare=False)
        site.shadow.period_s = 0.1
        _compare_losses(site, result, part)
        site.start_run()

    return lose


def _compare_losses(site: TrialSite, result: dict[str, Any], part: float) -> None:
    """Compare what the run counted with what its network lost, and with what the device in shadow said.

    The network loses more than the run can count: what the run sends to others they miss, not the run. But
    each telemetry of the device in shadow is either there or counted, but for those that were lost before
    the first or after the last that came: these cannot be noticed.
    """
    if not result:
        site.tally.break_promise("the run gave no result to compare with what was lost")
        return
    done, counted = result["impairment"]["lost"], result["messages"]["lost"]
    site.tally.lost += counted
    if not done:
        site.tally.break_promise("nothing was lost: the fault was not there")
    elif not counted:
        site.tally.break_promise(f"the network lost {done} messages, and the run counted none")
    at_the_ends = math.ceil(math.log(1e-4) / math.log(part))
    device, said = result["devices"][SHADOW], site.said_in_shadow
    known = sum(device[key] for key in COUNTED)
    if not 0 <= said - known <= at_the_ends:
        site.tally.undetected += max(0, said - known)
        site.tally.break_promise(
            f"{SHADOW} said {said}, counted {known}; at most {at_the_ends} may be missing at the ends"
        )


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
    """Let a second battery of another maker speak under the same name: neither may be driven."""
    time.sleep(rng.uniform(0.0, 0.3))
    with PlainDevice(site.broker.url, ENV, "MG1/ess", follows=False) as twin:
        begun = time.monotonic()
        time.sleep(2.5 * LEASE_S)
        driven = site.observer.driving("MG1/ess", after=begun + LEASE_S)
        if driven:
            site.tally.second_owner += len(driven)
            site.note(f"{len(driven)} setpoints while {twin.boot} and {site.ess.boot} spoke in turn")
    site.ess.reborn(soc=0.5)  # one that goes on with its former boot counts as the second one


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


# -- old and foreign setpoints ---------------------------------------------------------------------------


def replay(site: TrialSite, rng: random.Random) -> None:
    """Replay recorded setpoints to devices that rest."""
    site.has_nothing_to_recover()
    time.sleep(rng.uniform(0.2, 0.6))
    site.end_run()
    recorded = [m for name in ("MG1/ess", "MG2/ess") for m in site.observer.driving(name, after=site.begun)]
    site.wait(lambda: site.ess.p_mw == 0.0 and _shown_mw(site) == 0.0, 4 * LEASE_S)
    time.sleep(LEASE_S + 0.05)  # younger ones are fresh: they may hold for what is left of their lease

    def replay_some() -> None:
        for m in rng.sample(recorded, min(12, len(recorded))):
            for changed in (
                m.payload,
                {**m.json, "boot": "another"},
                {**m.json, "boot": f"taker {m.json['seq']}", "take_over": True},
                {**m.json, "boot": f"renewer {m.json['seq']}", "renewal": True},
            ):
                site.inject(m.topic, changed)

    _assert_rest(site, replay_some)
    site.start_run()


def retained_setpoint(site: TrialSite, rng: random.Random) -> None:
    """Retain setpoints, recorded ones and by hand, and let devices meet them when they connect."""
    site.has_nothing_to_recover()
    time.sleep(rng.uniform(0.2, 0.6))
    site.end_run()
    by_hand = {"type": "setpoint", "p_mw": 0.007, "lease_s": 30.0}
    topics = [f"{BASE}/devices/{name}/setpoint" for name in ("MG1/ess", "MG2/ess")]
    site.wait(lambda: site.ess.p_mw == 0.0 and _shown_mw(site) == 0.0, 4 * LEASE_S)
    site.end_program("battery")
    site.ess.close()
    for topic in topics:
        site.inject(topic, by_hand, retain=True)
    site.new_battery()
    site.start_battery()
    since = time.monotonic()
    site.wait(lambda: [m for m in site.observer.on("MG2/ess/telemetry") if m.at > since], 40.0)
    _assert_rest(site, lambda: None)
    for topic in topics:
        site.inject(topic, b"", retain=True)
    site.start_run()


def _assert_rest(site: TrialSite, act: Callable[[], object]) -> None:
    begun = time.monotonic()
    act()
    time.sleep(1.0)
    moved = [m for m in site.observer.on("MG2/ess/telemetry") if m.at > begun and m.json["p_mw"] != 0.0]
    plain = [(at, p) for at, p in site.ess.power if at > begun and p != 0.0]
    if moved or plain:
        site.tally.past_lease += len(moved) + len(plain)
        site.note(f"moved by what is old: {len(moved)} telemetry of MG2/ess, {plain} of MG1/ess")


def _shown_mw(site: TrialSite) -> float:
    return float(site.observer.on("MG2/ess/telemetry")[-1].json.get("p_mw", 1.0))


# -- stops -----------------------------------------------------------------------------------------------


def malformed_stop(site: TrialSite, rng: random.Random) -> None:
    """Press stops that are hardly one, some of them retained, each released again."""
    for payload in rng.sample(STOPS, 3):
        time.sleep(rng.uniform(0.0, 0.4))
        pressed = _press(site, payload, retain=rng.random() < 0.3 and payload != b"")
        if not site.wait(partial(_has_stopped, site, pressed), 3.0):
            site.tally.break_promise(f"not stopped or not confirmed within 3 s: {payload[:60]!r}")
        time.sleep(0.4)
        _release(site)
        site.mend()


def stop_that_the_broker_forgets(site: TrialSite, rng: random.Random) -> None:
    """Press a stop, and let the broker forget it; a new run must find it."""
    time.sleep(rng.uniform(0.0, 0.4))
    pressed = _press(site, b'{"active": true, "who": "observer", "why": "trial"}', retain=True)
    if not site.wait(lambda: _has_stopped(site, pressed), 3.0):
        site.tally.break_promise("not stopped or not confirmed within 3 s")
    site.kill_broker()
    time.sleep(rng.uniform(0.1, 1.0))
    site.restart_broker()
    back = time.monotonic()
    if not site.wait(lambda: [m for m in site.observer.on(f"{ENV}/estop") if m.at > back], 10.0):
        site.tally.break_promise("the stop was not published again within 10 s")
    told = site.end_run()
    if not told:
        site.tally.break_promise("the run gave no result to say that the stop is in force")
    elif not (told["estop"] or {}).get("active"):
        site.tally.break_promise(
            f"the stop is in force, and the run's result does not say so: {told['estop']}"
        )
    site.start_run()
    time.sleep(1.5)
    _release(site)


def _press(site: TrialSite, payload: bytes, *, retain: bool = False) -> float:
    site.observer.publish(f"{BASE}/estop", payload, retain=retain)
    pressed = time.monotonic()
    site.stopped.append(TimeSpan(pressed, float("inf")))
    return pressed


def _has_stopped(site: TrialSite, pressed: float) -> bool:
    """Whether the device has stopped, and both gateways and the device have confirmed it."""
    shown = [m for m in site.observer.on("MG2/ess/telemetry") if m.at > pressed]
    names = ("confirm/MG1", "confirm/MG2", "confirm/MG3", "confirm/MG2/ess")
    confirmed = all(
        any(m.at > pressed - 0.2 and m.json.get("active") for m in site.observer.on(f"estop/{name}"))
        for name in names
    )
    return confirmed and bool(shown) and bool(shown[-1].json.get("stopped")) and shown[-1].json["p_mw"] == 0.0


def _release(site: TrialSite) -> None:
    site.stopped[-1] = TimeSpan(site.stopped[-1].begin, time.monotonic())
    told = {"type": "estop", "active": False, "who": "observer", "boot": site.ess.boot}
    told["seq"] = int(time.monotonic() * 1e6)
    site.is_over()
    site.observer.publish(f"{BASE}/estop", told, retain=True)


# -- coming back -----------------------------------------------------------------------------------------


def reborn_empty(site: TrialSite, rng: random.Random) -> None:
    """Let a battery start again at its minimum charge: it is not asked to discharge."""
    time.sleep(rng.uniform(0.0, 0.5))
    site.ess.reborn(soc=0.1)
    boot = site.ess.boot
    time.sleep(1.5)
    told = [m for m in site.observer.setpoints("MG1/ess") if m.json.get("heard_boot") == boot]
    wrong = [m for m in told if m.json["p_mw"] > 1e-9]
    if not told:
        site.tally.break_promise(
            "reborn with SOC 0.1: no setpoint within 1.5 s, so nothing shows what it is asked"
        )
    if wrong:
        site.tally.outside += len(wrong)
        site.note(f"reborn with SOC 0.1: {len(told)} setpoints, {[m.json['p_mw'] for m in wrong[:5]]}")
    site.ess.reborn(soc=0.5)


def reborn_generator(site: TrialSite, rng: random.Random) -> None:
    """Let a generator start again at 0: it is asked for no more than its ramp."""
    if not site.wait(lambda: site.gen.p_mw > RAMP_MW, 15.0):
        site.was_not_tried(f"the generator did not run above its ramp of {RAMP_MW} MW within 15 s")
        return
    time.sleep(rng.uniform(0.0, 0.5))
    site.gen.reborn(soc=0.5)
    boot = site.gen.boot
    site.wait(
        lambda: [m for m in site.observer.setpoints("MG1/gen") if m.json.get("heard_boot") == boot], 3.0
    )
    time.sleep(0.05)
    told = [m for m in site.observer.setpoints("MG1/gen") if m.json.get("heard_boot") == boot]
    asked = [m.json["p_mw"] for m in told[:3]]
    if not asked or asked[0] > RAMP_MW + 1e-9:
        site.tally.outside += 1
        site.note(f"reborn at 0: told {asked} MW, ramp {RAMP_MW}")


# -- bad messages, losses --------------------------------------------------------------------------------


def huge_number(site: TrialSite, rng: random.Random) -> None:
    """Send a number of 401 digits on every channel."""
    time.sleep(rng.uniform(0.0, 0.5))
    state = site.observer.on("run/state")[-1].json
    now = f'"episode": {state["episode"]}, "step": {state["step"] + 1}'.encode()
    for leaf, name in HUGE_ON:
        kind = leaf.rsplit("/", 1)[-1].encode()
        payload = b'{"type": "%s", "p_mw": 0.001, %s, "%s": %s}' % (kind, now, name, HUGE)
        site.inject(f"{BASE}/{leaf}", payload)
    site.goes_on()


def lost_and_repeated(site: TrialSite, rng: random.Random) -> None:
    """Lose and repeat telemetry of one device; the run must count both, exactly."""
    site.has_nothing_to_recover()
    lost = doubled = 0
    time.sleep(0.3)
    for _ in range(5):
        time.sleep(rng.uniform(0.0, 0.4))
        with site.shadow._lock:
            if rng.random() < 0.5:
                gap = rng.randrange(1, 5)
                site.shadow.seq += gap
                lost += gap
                site.shadow.say()
            else:
                site.shadow.say()
                payload = site.shadow.newest
                site.shadow.client.publish(f"{site.shadow.base}/telemetry", payload, qos=1)
                doubled += 1
    told = site.end_run()
    if not told:
        site.tally.break_promise(f"lost {lost}, repeated {doubled}; the run gave no result to compare with")
    else:
        counted = told["devices"][SHADOW]
        if (counted["lost"], counted["duplicated"]) != (lost, doubled):
            site.tally.undetected += max(0, lost - counted["lost"])
            site.tally.break_promise(
                f"lost {lost}, repeated {doubled}; counted {counted['lost']}, {counted['duplicated']}"
            )
    site.start_run()

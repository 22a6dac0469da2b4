"""Break a site again and again, and print what an observer saw: the table of docs/safety.md.

    python scripts/safety_trials.py --broker mosquitto --trials 4
    python scripts/safety_trials.py --broker embedded --only "kill the run" --seed 7

The observer is plain paho on a real broker. Moments are random with a fixed seed. Exit code 1: something
was sent that must not be, a device held power for too long, a loss was not counted, or a run hung.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from support.heron_command import Program, heron
from support.observer import PlainDevice
from support.trial_site import ENV, LEASE_S, RAMP_MW, SHADOW, Site, Span, Tally

TOLERATED_S = 0.25
"""Beyond the lease: a step in flight, and a machine that is busy."""
BASE = f"heron/{ENV}"
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


def kill_run(site: Site, rng: random.Random) -> None:
    """Kill the run at any moment: its own gateway and the environment of the remote one are gone."""
    time.sleep(rng.uniform(0.0, 0.5))
    _kill_run(site)
    time.sleep(2.5 * LEASE_S)
    site.start_run()


def kill_environment_in_mid_step(site: Site, rng: random.Random) -> None:
    """Kill the environment of a remote proxy right after a step has begun."""
    steps = len(site.observer.on("run/state"))
    site.wait(lambda: len(site.observer.on("run/state")) > steps, 5.0)
    time.sleep(rng.uniform(0.0, 0.04))
    _kill_run(site)
    time.sleep(2.5 * LEASE_S)
    site.start_run()


def kill_proxy(site: Site, rng: random.Random) -> None:
    """Kill a remote proxy; another one is started later."""
    time.sleep(rng.uniform(0.0, 0.5))
    assert site.proxy is not None
    site.proxy.process.kill()
    site.proxy.process.wait()
    time.sleep(rng.uniform(0.5, 2.0) * LEASE_S)
    site.proxy = heron(*site.proxy_arguments)
    site.goes_on()


def kill_device(site: Site, rng: random.Random) -> None:
    """Cut one battery off, and kill the process of another."""
    time.sleep(rng.uniform(0.0, 0.5))
    assert site.battery is not None
    if rng.random() < 0.5:
        site.ess.die()
        time.sleep(2.0 * LEASE_S)
        site.goes_on()
        site.new_battery()
    else:
        site.battery.process.kill()
        site.battery.process.wait()
        time.sleep(2.0 * LEASE_S)
        site.goes_on()


def kill_broker_that_returns(site: Site, rng: random.Random) -> None:
    """Kill the broker, start it again after a while, and count what was lost."""
    time.sleep(rng.uniform(0.0, 0.5))
    site.kill_broker()
    time.sleep(rng.uniform(0.1, 2.5) * LEASE_S)
    site.broker.start()
    site.goes_on()
    time.sleep(1.0)
    site.end_run()


def kill_broker_for_good(site: Site, rng: random.Random) -> None:
    """Kill the broker for longer than two leases; the run must end when it is told to."""
    time.sleep(rng.uniform(0.0, 0.5))
    site.kill_broker()
    time.sleep(2.5 * LEASE_S)
    site.end_run(compare=False)
    site.broker.start()


def kill_environment_and_broker(site: Site, rng: random.Random) -> None:
    """Kill both; the broker returns, the environment does not."""
    time.sleep(rng.uniform(0.0, 0.5))
    site.kill_broker()
    _kill_run(site)
    time.sleep(rng.uniform(0.1, 1.0))
    site.broker.start()
    time.sleep(2.5 * LEASE_S)
    site.start_run()


def _kill_run(site: Site) -> None:
    assert site.run is not None
    site.run.process.kill()
    site.dead.append(Span(time.monotonic(), float("inf")))
    site.run.process.wait()


# -- stopped processes -----------------------------------------------------------------------------------


def pause_run(site: Site, rng: random.Random) -> None:
    """SIGSTOP and SIGCONT the run, half of the time with a stop pressed in between."""
    assert site.run is not None
    _pause(site, site.run, rng)


def pause_proxy(site: Site, rng: random.Random) -> None:
    """SIGSTOP and SIGCONT the remote proxy, half of the time with a stop pressed in between."""
    assert site.proxy is not None
    _pause(site, site.proxy, rng)


def _pause(site: Site, program: Program, rng: random.Random) -> None:
    time.sleep(rng.uniform(0.0, 0.5))
    program.signal(signal.SIGSTOP)
    if program is site.run:
        site.dead.append(Span(time.monotonic(), float("inf")))
    time.sleep(0.1)
    is_stopped = rng.random() < 0.5
    if is_stopped:
        _press(site, b'{"active": true, "who": "observer"}', retain=True)
    time.sleep(rng.uniform(0.5, 2.5) * LEASE_S)
    if program is site.run:
        site.dead[-1] = Span(site.dead[-1].begin, time.monotonic())
    program.signal(signal.SIGCONT)
    time.sleep(1.0)
    if is_stopped:
        _release(site)
    site.goes_on()


# -- two of everything -----------------------------------------------------------------------------------


def second_run(site: Site, rng: random.Random) -> None:
    """Start a second run of the same environment."""
    _second(site, site.run_arguments, rng)


def second_proxy(site: Site, rng: random.Random) -> None:
    """Start a second proxy of the same agent."""
    _second(site, site.proxy_arguments, rng)


def second_device(site: Site, rng: random.Random) -> None:
    """Start a second device of the same name."""
    boots = {m.json.get("boot") for m in site.observer.on("MG2/ess/telemetry")}
    _second(site, site.battery_arguments, rng)
    new = {m.json.get("boot") for m in site.observer.on("MG2/ess/telemetry")} - boots
    if new:
        site.tally.second_owner += 1
        site.note(f"a second device spoke: {new}")


def second_plain_device(site: Site, rng: random.Random) -> None:
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


def _second(site: Site, arguments: list[str], rng: random.Random) -> None:
    time.sleep(rng.uniform(0.0, 0.5))
    done = heron(*arguments).wait(40.0)
    if done.code != 1 or not any("is held by" in line for line in done.errors):
        site.tally.hung += 1
        site.note(f"the second one ended with {done.code}: {done.err[-300:]!r}")
    site.goes_on()


# -- old and foreign setpoints ---------------------------------------------------------------------------


def replay(site: Site, rng: random.Random) -> None:
    """Replay recorded setpoints to devices that rest."""
    time.sleep(rng.uniform(0.2, 0.6))
    site.end_run()
    recorded = [m for name in ("MG1/ess", "MG2/ess") for m in site.observer.driving(name, after=site.begun)]
    site.wait(lambda: site.ess.p_mw == 0.0 and _shown_mw(site) == 0.0, 4 * LEASE_S)
    time.sleep(LEASE_S + 0.05)  # younger ones are fresh: they may hold for what is left of their lease
    _assert_rest(
        site,
        lambda: [
            site.inject(m.topic, changed)
            for m in rng.sample(recorded, min(12, len(recorded)))
            for changed in (
                m.payload,
                {**m.json, "boot": "another"},
                {**m.json, "boot": f"taker {m.json['seq']}", "take_over": True},
                {**m.json, "boot": f"renewer {m.json['seq']}", "renewal": True},
            )
        ],
    )
    site.start_run()


def retained_setpoint(site: Site, rng: random.Random) -> None:
    """Retain setpoints, recorded ones and by hand, and let devices meet them when they connect."""
    time.sleep(rng.uniform(0.2, 0.6))
    site.end_run()
    by_hand = {"type": "setpoint", "p_mw": 0.007, "lease_s": 30.0}
    topics = [f"{BASE}/devices/{name}/setpoint" for name in ("MG1/ess", "MG2/ess")]
    site.wait(lambda: site.ess.p_mw == 0.0 and _shown_mw(site) == 0.0, 4 * LEASE_S)
    assert site.battery is not None
    site.battery.process.kill()
    site.battery.process.wait()
    site.ess.close()
    for topic in topics:
        site.inject(topic, by_hand, retain=True)
    site.new_battery()
    site.battery = heron(*site.battery_arguments)
    since = time.monotonic()
    site.wait(lambda: [m for m in site.observer.on("MG2/ess/telemetry") if m.at > since], 40.0)
    _assert_rest(site, lambda: None)
    for topic in topics:
        site.inject(topic, b"", retain=True)
    site.start_run()


def _assert_rest(site: Site, act: Callable[[], object]) -> None:
    begun = time.monotonic()
    act()
    time.sleep(1.0)
    moved = [m for m in site.observer.on("MG2/ess/telemetry") if m.at > begun and m.json["p_mw"] != 0.0]
    plain = [(at, p) for at, p in site.ess.power if at > begun and p != 0.0]
    if moved or plain:
        site.tally.held_s = max(site.tally.held_s, 99.0)
        site.note(f"moved by what is old: {len(moved)} telemetry of MG2/ess, {plain} of MG1/ess")


def _shown_mw(site: Site) -> float:
    return float(site.observer.on("MG2/ess/telemetry")[-1].json.get("p_mw", 1.0))


# -- stops -----------------------------------------------------------------------------------------------


def malformed_stop(site: Site, rng: random.Random) -> None:
    """Press stops that are hardly one, some of them retained, each released again."""
    for payload in rng.sample(STOPS, 3):
        time.sleep(rng.uniform(0.0, 0.4))
        pressed = _press(site, payload, retain=rng.random() < 0.3 and payload != b"")
        if not site.wait(partial(_has_stopped, site, pressed), 3.0):
            site.tally.after_stop += 1
            site.note(f"not stopped or not confirmed within 3 s: {payload[:60]!r}")
        time.sleep(0.4)
        _release(site)
        site.mend()


def stop_that_the_broker_forgets(site: Site, rng: random.Random) -> None:
    """Press a stop, and let the broker forget it; a new run must find it."""
    time.sleep(rng.uniform(0.0, 0.4))
    pressed = _press(site, b'{"active": true, "who": "observer", "why": "trial"}', retain=True)
    site.wait(lambda: _has_stopped(site, pressed), 3.0)
    site.kill_broker()
    time.sleep(rng.uniform(0.1, 1.0))
    site.broker.start()
    back = time.monotonic()
    if not site.wait(lambda: [m for m in site.observer.on(f"{ENV}/estop") if m.at > back], 10.0):
        site.tally.after_stop += 1
        site.note("nobody said the stop again within 10 s")
    told = site.end_run()
    if told and not (told["estop"] or {}).get("active"):
        site.note(f"estop of --json: {told['estop']}")
        site.tally.undetected += 1
    site.start_run()
    time.sleep(1.5)
    _release(site)


def _press(site: Site, payload: bytes, *, retain: bool = False) -> float:
    site.observer.publish(f"{BASE}/estop", payload, retain=retain)
    pressed = time.monotonic()
    site.stopped.append(Span(pressed, float("inf")))
    return pressed


def _has_stopped(site: Site, pressed: float) -> bool:
    """Whether the device has stopped, and both gateways and the device have confirmed it."""
    shown = [m for m in site.observer.on("MG2/ess/telemetry") if m.at > pressed]
    names = ("confirm/MG1", "confirm/MG2", "confirm/MG3", "confirm/MG2/ess")
    confirmed = all(
        any(m.at > pressed - 0.2 and m.json.get("active") for m in site.observer.on(f"estop/{name}"))
        for name in names
    )
    return confirmed and bool(shown) and bool(shown[-1].json.get("stopped")) and shown[-1].json["p_mw"] == 0.0


def _release(site: Site) -> None:
    site.stopped[-1] = Span(site.stopped[-1].begin, time.monotonic())
    told = {"type": "estop", "active": False, "who": "observer", "boot": site.ess.boot}
    told["seq"] = int(time.monotonic() * 1e6)
    site.observer.publish(f"{BASE}/estop", told, retain=True)


# -- coming back -----------------------------------------------------------------------------------------


def reborn_empty(site: Site, rng: random.Random) -> None:
    """Let a battery start again at its minimum charge: it is not asked to discharge."""
    time.sleep(rng.uniform(0.0, 0.5))
    site.ess.reborn(soc=0.1)
    boot = site.ess.boot
    time.sleep(1.5)
    told = [m for m in site.observer.setpoints("MG1/ess") if m.json.get("heard_boot") == boot]
    wrong = [m for m in told if m.json["p_mw"] > 1e-9]
    if wrong or not told:
        site.tally.outside += len(wrong)
        site.note(f"reborn with SOC 0.1: {len(told)} setpoints, {[m.json['p_mw'] for m in wrong[:5]]}")
    site.ess.reborn(soc=0.5)


def reborn_generator(site: Site, rng: random.Random) -> None:
    """Let a generator start again at 0: it is asked for no more than its ramp."""
    if not site.wait(lambda: site.gen.p_mw > RAMP_MW, 15.0):
        site.note(f"the generator does not run above its ramp ({site.gen.p_mw} MW): not tried")
        site.tally.tried -= 1
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


def huge_number(site: Site, rng: random.Random) -> None:
    """Send a number of 401 digits on every channel."""
    time.sleep(rng.uniform(0.0, 0.5))
    state = site.observer.on("run/state")[-1].json
    now = f'"episode": {state["episode"]}, "step": {state["step"] + 1}'.encode()
    for leaf, name in HUGE_ON:
        kind = leaf.rsplit("/", 1)[-1].encode()
        payload = b'{"type": "%s", "p_mw": 0.001, %s, "%s": %s}' % (kind, now, name, HUGE)
        site.inject(f"{BASE}/{leaf}", payload)
    site.goes_on()
    assert site.proxy is not None
    if site.proxy.process.poll() is not None:
        site.tally.hung += 1
        site.note(f"the proxy ended: {site.proxy.err[-3:]}")


def lost_and_repeated(site: Site, rng: random.Random) -> None:
    """Lose and repeat telemetry of one device; the run must count both, exactly."""
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
    if told:
        counted = told["devices"][SHADOW]
        if (counted["lost"], counted["duplicated"]) != (lost, doubled):
            site.tally.undetected += max(0, lost - counted["lost"])
            site.note(f"lost {lost}, repeated {doubled}; counted {counted['lost']}, {counted['duplicated']}")
    site.start_run()


FAULTS: dict[str, Callable[[Site, random.Random], None]] = {
    "kill -9 the run": kill_run,
    "kill -9 the environment of a remote proxy, in mid-step": kill_environment_in_mid_step,
    "kill -9 a remote proxy": kill_proxy,
    "kill -9 or cut off a device": kill_device,
    "kill -9 the broker, it returns": kill_broker_that_returns,
    "kill -9 the broker, it stays away": kill_broker_for_good,
    "kill -9 environment and broker, the broker returns": kill_environment_and_broker,
    "SIGSTOP and SIGCONT the run": pause_run,
    "SIGSTOP and SIGCONT a proxy": pause_proxy,
    "second run": second_run,
    "second proxy": second_proxy,
    "second device": second_device,
    "second device of another maker": second_plain_device,
    "replay of recorded setpoints": replay,
    "retained setpoint": retained_setpoint,
    "stop in a malformed form": malformed_stop,
    "stop that the broker forgets": stop_that_the_broker_forgets,
    "battery reborn at minimum charge": reborn_empty,
    "generator reborn at 0": reborn_generator,
    "a number of 401 digits on every channel": huge_number,
    "telemetry lost and repeated": lost_and_repeated,
}
HEAD = (
    "fault",
    "tried",
    "longest power after the last rightful setpoint, s",
    "of the lease",
    "outside the envelope",
    "after a stop / in shadow / second owner / for the dead",
    "undetected losses",
    "hung",
)


def table(tallies: dict[str, Tally]) -> str:
    """Return the tallies as Markdown."""
    lines = [f"| {' | '.join(HEAD)} |", f"|{'---|' * len(HEAD)}"]
    for name, t in tallies.items():
        if t.tried:
            forbidden = f"{t.after_stop} / {t.to_shadow} / {t.second_owner} / {t.for_the_dead}"
            held = (f"{t.held_s:.2f}", f"{t.held_s / LEASE_S:.2f}") if t.held_s else ("-", "-")
            row = (name, t.tried, *held, t.outside, forbidden, t.undetected, t.hung)
            lines.append(f"| {' | '.join(map(str, row))} |")
    return "\n".join(lines)


def is_clean(tally: Tally) -> bool:
    """Whether nothing happened that must not."""
    counts = (tally.outside, tally.after_stop, tally.to_shadow, tally.second_owner, tally.for_the_dead)
    return not any((*counts, tally.undetected, tally.hung)) and tally.held_s <= LEASE_S + TOLERATED_S


def main() -> int:
    """Run the trials, one fault after another, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--broker", choices=("mosquitto", "embedded"), default="mosquitto")
    parser.add_argument("--trials", type=int, default=4, metavar="N", help="of each fault")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", action="append", choices=sorted(FAULTS), metavar="FAULT")
    parser.add_argument("--minutes", type=float, default=1e9, help="begin no further trial after this time")
    arguments = parser.parse_args()
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # started with & by a script: children inherit it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    rng = random.Random(arguments.seed)  # noqa: S311  moments, no secrets
    tallies = {name: Tally() for name in FAULTS if not arguments.only or name in arguments.only}
    end = time.monotonic() + 60.0 * arguments.minutes
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # what was started is ended on the way out
    with (
        tempfile.TemporaryDirectory() as folder,
        Site(arguments.broker, Path(folder) / "site") as site,
    ):
        for trial, name in _order(tallies, arguments.trials):
            if time.monotonic() > end:
                break
            tally = tallies[name]
            site.begin(tally)
            FAULTS[name](site, rng)
            site.mend()
            site.judge()
            took_s = time.monotonic() - site.begun
            _say(f"{trial + 1}/{arguments.trials} {name}: {took_s:.1f} s, held {tally.held_s:.2f} s")
        stall_s = site.longest_stall_s
    sys.stdout.write(table(tallies) + "\n")
    sys.stdout.write(
        f"\n{arguments.broker}, seed {arguments.seed}, lease {LEASE_S:g} s; the machine kept the observer "
        f"waiting for {stall_s:.3f} s at most\n"
    )
    return 0 if all(is_clean(tally) for tally in tallies.values()) else 1


def _order(names: Iterable[str], trials: int) -> list[tuple[int, str]]:
    """Return the trials, kills early: where the time ends first, they have been tried most."""
    every = [(trial, name) for trial in range(trials) for name in names]
    return sorted(every, key=lambda each: not each[1].startswith("kill -9"))


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())

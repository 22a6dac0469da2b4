"""What is said to a site in a trial: old, foreign, malformed and lost messages, stops, new births.

Each of these functions breaks the site once, at a moment that ``rng`` chooses. If a promise of this fault
alone did not hold, it reports this to the site's tally. What holds for all of them ``TrialSite.judge`` asks.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from functools import partial

from heron_mqtt.testing.faults.tally import LEASE_S
from heron_mqtt.testing.faults.tcp_link import LinkFaults
from heron_mqtt.testing.faults.trial_site import ENV, RAMP_MW, SHADOW, TimeSpan, TrialSite

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
        site.note(f"moved by old messages: {len(moved)} telemetry of MG2/ess, {plain} of MG1/ess")


def _shown_mw(site: TrialSite) -> float:
    return float(site.observer.on("MG2/ess/telemetry")[-1].json.get("p_mw", 1.0))


# -- stops -----------------------------------------------------------------------------------------------


def malformed_stop(site: TrialSite, rng: random.Random) -> None:
    """Press stops that are hardly one, some of them retained, each released again."""
    for payload in rng.sample(STOPS, 3):
        time.sleep(rng.uniform(0.0, 0.4))
        pressed = press_stop(site, payload, retain=rng.random() < 0.3 and payload != b"")
        if not site.wait(partial(_has_stopped, site, pressed), 3.0):
            site.tally.break_promise(f"not stopped or not confirmed within 3 s: {payload[:60]!r}")
        time.sleep(0.4)
        release_stop(site)
        site.mend()


def stop_that_the_broker_forgets(site: TrialSite, rng: random.Random) -> None:
    """Press a stop, and let the broker forget it; a new run must find it."""
    time.sleep(rng.uniform(0.0, 0.4))
    pressed = press_stop(site, b'{"active": true, "who": "observer", "why": "trial"}', retain=True)
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
    release_stop(site)


def press_stop(site: TrialSite, payload: bytes, *, retain: bool = False) -> float:
    """Stop everything by a message on ``estop``; returns when, by the monotonic clock, s."""
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


def release_stop(site: TrialSite) -> None:
    """Release the last stop."""
    site.stopped[-1] = TimeSpan(site.stopped[-1].begin, time.monotonic())
    told = {"type": "estop", "active": False, "who": "observer", "boot": site.ess.boot}
    told["seq"] = int(time.monotonic() * 1e6)
    site.is_over()
    site.observer.publish(f"{BASE}/estop", told, retain=True)


def stop_while_cut_off(site: TrialSite, rng: random.Random) -> None:
    """Press a stop while the remote proxy and one battery are cut off: they must find it when they return."""
    site.goes_blind()
    site.link.faults = LinkFaults(is_refused=True)
    site.link.reset()
    time.sleep(rng.uniform(0.0, 0.5))
    press_stop(site, b'{"active": true, "who": "observer", "why": "trial"}', retain=True)
    time.sleep(rng.uniform(0.2, 1.5) * LEASE_S)
    site.link.mend()
    back = time.monotonic()
    names = ("confirm/MG1", "confirm/MG2/ess")
    if not site.wait(
        lambda: all([m for m in site.observer.on(f"estop/{name}") if m.at > back] for name in names), 10.0
    ):
        site.tally.break_promise("who was cut off did not confirm the stop within 10 s of its return")
    time.sleep(0.5)
    release_stop(site)
    site.goes_on()


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

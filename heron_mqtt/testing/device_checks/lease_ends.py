"""A lease ends in time, whatever power it held, and leaves neither active nor reactive power."""

from __future__ import annotations

import math
import time

from heron_mqtt.json_object import Json
from heron_mqtt.testing.device_checks.waiting import heard_last, is_safe_within
from heron_mqtt.testing.device_harness import (
    LONGEST_LEASE_S,
    CheckFailed,
    DeviceHarness,
    SetpointSender,
    WatchedMessage,
    need,
)

SCENARIO_LEASE_S = 30.0  # `lease_s` of a scenario that does not say another
HEARD_AGO_S = 3.0  # so old may be what the setpoint of that lease echoes: so much less is waited for
LATE_COPY_S = 12.0
"""So long after a setpoint its copy comes: what remembers numbers by time has lost it."""
FURTHER_LEASES_S = (9.0, 13.0, 20.0, 27.0)
"""Leases that are looked at besides, by their last seconds; and the longest that the numbers allow."""
LAST_S = (0.8, 2.5)  # so much of such a lease is left when it is sent
REMEMBERED = 60  # of the 64 numbers that a device knows the time of: some are sent meanwhile
FRESH_S = 0.3
LATE_S = 0.5  # the end of a lease may show so late: it is looked for ten times a second, and told at once
TRIES = 3  # a machine under load may be late once


def check_lease_runs_out(device: DeviceHarness) -> None:
    """A renewal extends a lease and nothing else, unanswered; at its end the device is safe, for good."""
    device.make_free()
    p_mw = device.part_mw(0.4)
    sender = device.sender()
    first = sender.do(p_mw, lease_s=2.0)
    device.pause(1.2)
    begin = time.monotonic()
    mark = device.now
    sender.send(device.part_mw(0.2), lease_s=2.0, renewal=True)
    safe = device.telemetry(device.is_safe, "the safe state", mark)
    held_s = time.monotonic() - begin
    moved = [m.json for m in device.heard("telemetry", mark) if device.is_at(device.part_mw(0.2), m.json)]
    need(device.settle_s > 0.0 or not moved, f"a renewal set its power: {moved[:1]}")
    need(held_s >= 1.1, f"safe {held_s:.2f} s after a renewal by 2 s: it had no effect")
    need(safe.get("safe") is not False, f"it is at 0 and says that it is not safe: {safe}")
    need(safe.get("ack_seq") == first["ack_seq"], f"a renewal was acknowledged: {safe}")
    sender.send(p_mw, renewal=True)  # too late
    need(device.is_safe(device.later_telemetry()), "a renewal after the end brought the power back")
    sender.do(p_mw)
    sender.release()
    limit_s = LATE_S + device.settle_s
    late_s = math.inf
    powers_mw = device.powers_mw
    for i in range(max(TRIES, len(powers_mw))):
        if i >= len(powers_mw) and late_s <= limit_s:
            break
        late_s = min(late_s, _lateness_s(device, sender, powers_mw[i % len(powers_mw)], lease_s=1.5))
    if late_s <= limit_s:
        return
    told = f"leases of 1.5 s ended {late_s:.2f} s late or later, {TRIES} times on end, without renewal"
    raise CheckFailed(
        f"{told}; expected at most {limit_s:g} s: look for the end ten times a second, and say it"
    )


def _lateness_s(device: DeviceHarness, sender: SetpointSender, p_mw: float, *, lease_s: float) -> float:
    """Return how long after the end of a lease, which counts from what it echoes, the safe state came, s."""
    found = device.heard("telemetry")
    is_fresh = time.monotonic() - found[-1].at_s <= FRESH_S  # as after the end of the lease before this one
    echoed = found[-1] if is_fresh else heard_last(device)
    safe = _end_of_lease(device, sender, p_mw, lease_s, echoed)
    return safe.at_s - echoed.at_s - lease_s


def _end_of_lease(
    device: DeviceHarness, sender: SetpointSender, p_mw: float, lease_s: float, echoed: WatchedMessage
) -> WatchedMessage:
    """Send a setpoint, which has to be done; return the first telemetry after it that says the safe state.

    Its power is not waited for: what is left of the lease may be shorter than a ramp.
    """
    heard = {"heard_boot": echoed.json["boot"], "heard_seq": echoed.json["seq"]}
    answer = sender.answer(sender.send(p_mw, lease_s=lease_s, **heard))
    need(answer.get("rejected") is None, f"expected {p_mw:g} MW for {sender.last}, got a refusal: {answer}")
    seq = answer["seq"]
    return device.wait_for(
        device.topic("telemetry"),
        lambda m: m.get("seq", 0) > seq and device.is_safe(m) and m.get("safe") is not False,
        f"the safe state after a lease of {lease_s:g} s from telemetry of"
        f" {time.monotonic() - echoed.at_s:.1f} s ago, without renewal,",
    )


def check_long_lease_runs_out(device: DeviceHarness) -> None:
    """A lease as scenarios have it ends in time as a short one does; this takes 45 s.

    Storage is charged, if it can be; the setpoint echoes telemetry of some seconds ago, if there is some.
    Meanwhile a copy of it comes, long after it. What is as old as that lease by then is stale. Leases of
    other lengths echo telemetry that is nearly as old as they are long: only their last seconds are waited
    for.
    """
    device.make_free()
    p_mw = device.powers_mw[-1]
    old = device.next_telemetry()
    sender = device.sender()
    echoed = next(m for m in _remembered(device) if time.monotonic() - m.at_s <= HEARD_AGO_S)
    first = sender.next_seq
    heard = {"heard_boot": echoed.json["boot"], "heard_seq": echoed.json["seq"]}
    sender.do(p_mw, lease_s=SCENARIO_LEASE_S, **heard)
    mark = device.now
    device.pause(LATE_COPY_S)
    sender.send(device.part_mw(0.8), lease_s=LONGEST_LEASE_S, seq=first)
    limit_s = SCENARIO_LEASE_S + 2.0 + device.settle_s
    is_safe_within(device, mark, limit_s + device.within_s, f"one of {SCENARIO_LEASE_S:g} s was not renewed")
    held_s = time.monotonic() - echoed.at_s
    need(
        held_s <= limit_s,
        f"a lease of {SCENARIO_LEASE_S:g} s ended {held_s:.1f} s after what its setpoint echoes",
    )
    moved = [m.json for m in device.heard("telemetry", mark) if device.is_at(device.part_mw(0.8), m.json)]
    need(not moved, f"a copy {LATE_COPY_S:g} s after a setpoint moved it: {moved[:1]}")
    heard = {"heard_boot": old["boot"], "heard_seq": old["seq"]}
    sender.refused(p_mw, lease_s=SCENARIO_LEASE_S / 3.0, echo=False, **heard)
    oldest_s = time.monotonic() - _remembered(device)[0].at_s
    longest_s = min(LONGEST_LEASE_S, math.floor(oldest_s + LAST_S[0]))
    for lease_s in (*FURTHER_LEASES_S, longest_s):
        _check_last_seconds(device, sender, device.next_mw(), lease_s)


def _remembered(device: DeviceHarness) -> list[WatchedMessage]:
    """Return the telemetry of this start of which the device has to know when it left, oldest first."""
    said = device.heard("telemetry")[-REMEMBERED:]
    return [m for m in said if m.json.get("boot") == said[-1].json.get("boot")]


def _check_last_seconds(device: DeviceHarness, sender: SetpointSender, p_mw: float, lease_s: float) -> None:
    """Let a lease end of which little is left, if the device has sent something of the right age."""
    now_s = time.monotonic()
    fitting = [m for m in _remembered(device) if LAST_S[0] <= m.at_s + lease_s - now_s <= LAST_S[1]]
    if not fitting:
        return
    echoed = fitting[-1]
    late_s = _end_of_lease(device, sender, p_mw, lease_s, echoed).at_s - echoed.at_s - lease_s
    limit_s = 2.0 + device.settle_s
    need(late_s <= limit_s, f"a lease of {lease_s:g} s ended {late_s:.1f} s late, without renewal")


def check_no_reactive_power_stays(device: DeviceHarness) -> None:
    """The safe state is 0 Mvar, too: after the end of a lease, a release and a stop.

    A device without reactive power of its own may refuse such a setpoint, or leave that part out.
    """
    device.make_free()
    asked_mw = device.part_mw(0.4)
    q_mvar = 0.2 * abs(device.full_mw)

    def is_driven(lease_s: float) -> bool:
        answer = sender.answer(sender.send(asked_mw, lease_s=lease_s, q_mvar=q_mvar))
        return answer.get("rejected") is None

    def ends(how: str, since: int) -> None:
        what = f"0 MW and 0 Mvar after {how}"
        limit_s = device.within_s + device.settle_s
        device.until(
            lambda: any(_is_at_rest(device, m.json) for m in device.heard("telemetry", since)), what, limit_s
        )

    sender = device.sender()
    if not is_driven(2.0):
        return
    ends("the end of its lease", device.now)
    if is_driven(30.0):
        mark = device.now
        sender.send(0.0, release=True)
        ends("a release", mark)
    if is_driven(30.0):
        ends("a stop", device.stop())
        device.release_stop()


def _is_at_rest(device: DeviceHarness, telemetry: Json) -> bool:
    """Whether telemetry says neither active nor reactive power; a load continues with what it cannot shed."""
    if device.full_mw < 0.0:
        return device.is_safe(telemetry)
    q_mvar = telemetry.get("q_mvar", 0.0)
    is_number = isinstance(q_mvar, int | float) and not isinstance(q_mvar, bool)
    return device.is_safe(telemetry) and is_number and device.is_at(0.0, {"p_mw": q_mvar})

"""What every device on the wire does, whatever it is written in: one function for each promise.

Each begins from a free device without a stop, on a device that is online. They are for a bench: the device
moves, within its nameplate. ``heron_mqtt.testing.conformance`` runs them by the lines of docs/safety.md; the
rules and their reasons stand in docs/wire-contract.md, "Devices".
"""

from __future__ import annotations

import itertools
import json
import math
import time
import uuid
from collections.abc import Callable, Iterator

from heron_mqtt.json_object import Json
from heron_mqtt.testing.device_harness import (
    LONGEST_LEASE_S,
    CheckFailed,
    DeviceHarness,
    SetpointSender,
    WatchedMessage,
)

DeviceCheck = Callable[[DeviceHarness], None]
LARGE_BYTES = 200_000  # far beyond any buffer for a setpoint, and below what brokers limit messages to
SCENARIO_LEASE_S = 30.0  # `lease_s` of a scenario that does not say another
HEARD_AGO_S = 3.0  # so old may be what the setpoint of that lease echoes: so much less is waited for
STOP_S = 21.0  # a stop is looked at again after this time
LATE_COPY_S = 12.0
"""So long after a setpoint its copy comes: what remembers numbers by time has lost it."""
FURTHER_LEASES_S = (9.0, 13.0, 20.0, 27.0)
"""Leases that are looked at besides, by their last seconds; and the longest that the numbers allow."""
SHORT_LEASE_S = 3.0
LAST_S = (0.8, 2.5)  # so much of such a lease is left when it is sent
REMEMBERED = 60  # of the 64 numbers that a device knows the time of: some are sent meanwhile
FRESH_S = 0.3
LATE_S = 0.5  # the end of a lease may show so late: it is looked for ten times a second, and told at once
TRIES = 3  # a machine under load may be late once
FORGOTTEN = 70  # numbers ago: who remembers the newest 64 does not know it any more
RELEASES_AFTER = 20  # of the 64 that a device remembers
FLOOD = 400
"""Messages of a flood: more than a gateway ever sends at once, and nothing that a broker would cut off."""


def _need(condition: object, what: str) -> None:
    if not condition:
        raise CheckFailed(what)


# -- birth and telemetry -------------------------------------------------------------------------------


def check_birth(device: DeviceHarness) -> None:
    """The birth is retained, names kind and limits, and has the boot of the telemetry."""
    device.birth()
    with device.late_one() as late:
        birth = late.wait_for(late.topic("status"), lambda m: m.get("state") == "online", "the birth")
    told = birth.json
    _need(birth.retained, "the birth must be retained: a gateway that starts later must receive it")
    _need(isinstance(told.get("kind"), str), f"the birth must say the kind: {told}")
    _need(told["p_min_mw"] <= 0.0 <= told["p_max_mw"], f"0 MW must be within the nameplate: {told}")
    _is_fraction(told)
    _need(told.get("boot") == device.next_telemetry().get("boot"), "birth and telemetry differ in `boot`")


def _is_fraction(told: Json) -> None:
    soc = told.get("soc")
    is_number = isinstance(soc, int | float) and not isinstance(soc, bool)
    _need(soc is None or (is_number and 0.0 <= soc <= 1.0), f"`soc` is a part of 1, not of 100: {told}")


def check_telemetry_is_numbered_and_periodic(device: DeviceHarness) -> None:
    """Telemetry comes without being asked for, each with the next number of one boot."""
    device.birth()
    mark = device.now
    device.until(lambda: len(device.heard("telemetry", mark)) >= 2, "telemetry without a setpoint")
    said = [message.json for message in device.heard("telemetry")[-3:]]
    _need(len({m["boot"] for m in said}) == 1, f"`boot` changes without a start: {said}")
    steps = [b["seq"] - a["seq"] for a, b in itertools.pairwise(said)]
    _need(steps == [1, 1], f"`seq` must rise by one: {said}")
    _need(not any(m.retained for m in device.heard("telemetry")), "telemetry must not be retained")
    for one in said:
        _is_fraction(one)


def check_telemetry_follows_the_lease(device: DeviceHarness) -> None:
    """While a lease is held, at least three messages of telemetry a lease beside the answer."""
    device.make_free()
    sender = device.sender()
    sender.do(device.part_mw(0.4), lease_s=4.0)  # so long that a busy machine is not blamed on the device
    mark = device.now
    device.pause(3.8)
    while_held = device.heard("telemetry", mark)
    _need(len(while_held) >= 3, f"{len(while_held)} messages in 3.8 s of a lease of 4 s; expected at least 3")
    sender.release()


# -- setpoints -----------------------------------------------------------------------------------------


def check_answer(device: DeviceHarness) -> None:
    """A setpoint is acknowledged by its number, without a refusal, and not as the safe state."""
    device.make_free()
    sender = device.sender()
    answer = sender.answer(sender.send(device.part_mw(0.4)))
    _need(answer.get("rejected") is None, f"it refuses a setpoint that is in order: {answer}")
    _need(answer.get("safe") is not True, f"it follows a setpoint and says `safe`: {answer}")
    sender.release()


def check_sign(device: DeviceHarness) -> None:
    """Positive is into the grid: the power that is measured has the sign of the setpoint."""
    for asked_mw, said in _followed(device):
        p_mw = said.get("p_mw")
        _need(
            isinstance(p_mw, int | float) and p_mw * asked_mw > 0.0,
            f"{asked_mw:+g} MW were asked for, it says {p_mw} MW; positive is into the grid: {said}",
        )


def check_scale(device: DeviceHarness) -> None:
    """MW are MW: the power that is measured is as large as the setpoint."""
    for asked_mw, said in _followed(device):
        p_mw = said.get("p_mw", 0.0)
        factor = p_mw / asked_mw
        hint = "; kW for MW?" if 500.0 < abs(factor) < 2000.0 or 5e-4 < abs(factor) < 2e-3 else ""
        _need(
            device.is_at(abs(asked_mw), {"p_mw": abs(p_mw)}),
            f"{asked_mw:g} MW were asked for, it says {p_mw:g} MW, {factor:.3g} times as much{hint}: {said}",
        )


def _followed(device: DeviceHarness) -> Iterator[tuple[float, Json]]:
    """Yield what was asked for, and the telemetry once the output has settled, in either direction."""
    device.make_free()
    sender = device.sender()
    first_mw, *others_mw = device.powers_mw
    for p_mw in (first_mw, device.part_mw(0.6), *others_mw):  # what ramps is there after each of them
        mark = device.now
        answer = sender.answer(sender.send(p_mw))
        if device.settle_s > 0.0 and not device.is_at(p_mw, answer):
            device.settle(p_mw)
            answer = device.heard("telemetry", mark)[-1].json
        yield p_mw, answer
    sender.release()


def check_copies(device: DeviceHarness) -> None:
    """A setpoint is done once: a copy of its number and an older number move nothing."""
    device.make_free()
    sender = device.sender()
    sender.next_seq = 4
    sender.do(device.part_mw(0.4))
    mark = device.now
    sender.send(device.part_mw(0.8), seq=4)  # a copy of the number, and an older one
    sender.send(device.part_mw(0.6), seq=3)
    sender.next_seq = 5
    sender.do(device.part_mw(0.2))
    said = [m.json for m in device.heard("telemetry", mark)]
    moved = [m for m in said if device.is_at(device.part_mw(0.8), m) or device.is_at(device.part_mw(0.6), m)]
    _need(not moved, f"a copy or an older setpoint moved it: {moved}")
    sender.release()
    again = device.sender()
    again.do(device.part_mw(0.2))  # another boot of the same sender counts from 0
    again.release()


def check_nameplate(device: DeviceHarness) -> None:
    """More than the nameplate is clipped in either direction, and what is really done is said."""
    device.make_free()
    birth = device.birth()
    low_mw, high_mw = float(birth["p_min_mw"]), float(birth["p_max_mw"])
    sender = device.sender()
    sender.do(device.part_mw(0.2))
    for p_mw in (180.0 * low_mw, 180.0 * high_mw):
        if p_mw != 0.0:
            beyond = sender.answer(sender.send(p_mw))
            _need(
                beyond.get("rejected") or low_mw * 1.001 <= beyond["p_mw"] <= high_mw * 1.001,
                f"it went beyond its nameplate: {beyond}",
            )
    sender.release()


def check_ramp(device: DeviceHarness, mw_per_s: float) -> None:
    """Its power changes no faster than its ramp, up and down; and it hears a stop while it ramps.

    Args:
        device: The device.
        mw_per_s: Its ramp, MW/s, > 0. Between two messages of telemetry it is measured; tolerance and
            a tenth of a second for the clocks are forgiven.
    """
    device.make_free()
    p_mw = device.full_mw
    sender = device.sender()
    mark = device.now
    for part in (0.8, 0.2):
        sender.send(device.part_mw(part), lease_s=min(LONGEST_LEASE_S, 30.0))
        device.settle(device.part_mw(part), device.within_s + abs(p_mw) / mw_per_s)
        _need(
            device.is_at(device.part_mw(part), device.newest),
            f"it does not come to {part} of full: {device.newest}",
        )
    said = [(m.at_s, m.json["p_mw"]) for m in device.heard("telemetry", mark) if "p_mw" in m.json]
    for (before_s, before_mw), (after_s, after_mw) in itertools.pairwise(said):
        allowed_mw = mw_per_s * (after_s - before_s + 0.1) + device.tolerance * abs(p_mw)
        if device.is_at(0.0, {"p_mw": before_mw}) or device.is_at(0.0, {"p_mw": after_mw}):
            allowed_mw += device.least_mw  # what starts and stops has no power between
        _need(
            abs(after_mw - before_mw) <= allowed_mw,
            f"{before_mw:g} to {after_mw:g} MW in {after_s - before_s:.2f} s; its ramp is {mw_per_s:g} MW/s",
        )
    sender.release()


def check_setpoint_by_hand(device: DeviceHarness) -> None:
    """A setpoint without any metadata is done, each time it comes, for its lease from then."""
    device.make_free()
    first_mw, *others_mw = device.powers_mw
    mark = device.now
    device.send_by_hand(first_mw, lease_s=1.5)
    device.telemetry(lambda m: not device.is_safe(m), f"power after {first_mw:g} MW by hand", mark)
    _is_safe_within(device, device.now, 3.5 + device.settle_s, "one by hand of 1.5 s")
    for p_mw in (first_mw, *others_mw, first_mw, first_mw):
        device.do_by_hand(p_mw, lease_s=5.0)
    _need(device.newest.get("ack_seq") is None or device.newest.get("ack_boot"), "it invents a number")
    sender = device.sender()
    sender.do(0.0, take_over=True)
    sender.release()


def check_number_formats(device: DeviceHarness) -> None:
    """Spellings that leave no doubt are taken; fields that it does not know are ignored."""
    device.make_free()
    sender = device.sender()
    spellings: tuple[Json, ...] = (
        {"seq": 1.0},
        {"seq": 2, "renewal": 0, "release": 0, "take_over": 0},
        {"seq": 3, "q_mvar": None, "dt_s": device.dt_s, "sent_at": None, "episode": None},
        {"seq": 4, "colour": {"of": ["the", {"cable": None}]}, "x\u00e9\u4e2d": '\U0001f50b " \\ \n'},
        {"seq": 5, "sent_at": "yesterday", "episode": "the first", "step": -1},
        {"seq": 6, "lease_s": 30},
    )
    for i, fields in enumerate(spellings):
        sender.next_seq = i + 1
        sender.do(device.part_mw(0.2 + 0.1 * (i % 3)), **fields)
    sender.release()
    numeric = device.sender()
    numeric.do(device.part_mw(0.2), boot=7)
    numeric.do(0.0, release=1, boot=7)


def check_nonsense(device: DeviceHarness) -> None:
    """What is no valid setpoint moves nothing, and a good one after it is done."""
    device.make_free()
    sender = device.sender()
    sender.do(device.part_mw(0.4))
    mark = device.now
    for payload in _nonsense(device.part_mw(0.2), is_bounded=device.is_bounded):
        device.publish(device.topic("setpoint"), payload)
    sender.do(device.part_mw(0.6))
    said = [m.json for m in device.heard("telemetry", mark)]
    low_mw, high_mw = sorted((device.part_mw(0.4), device.part_mw(0.6)))
    others = [m for m in said if not device.is_at(min(max(m["p_mw"], low_mw), high_mw), m)]
    _need(not others, f"nonsense moved it: {others}")
    sender.release()


def _nonsense(p_mw: float, *, is_bounded: bool) -> Iterator[str | bytes]:
    """Yield payloads that are no setpoint.

    Args:
        p_mw: Power in those of them that name one.
        is_bounded: Leave out those that name more power or a longer lease than a bench may ask for.
    """
    yield from ("", "no json", "[1]", "7", '"text"', "null", "{", '{"p_mw": 0.02', b"\xff\xfe\x00")
    yield from ("[" * 3000, '{"a":' * 3000, '{"why": "' + "x" * 20_000 + '"}')
    good = f'"p_mw": {p_mw}, "lease_s": 5, "take_over": true'
    yield from (f'{{{good}}} {{"more": 1}}', f"{{{good}, }}", f"\ufeff{{{good}}}")
    huge_powers = () if is_bounded else ("Infinity", "-Infinity", "1e999", "9" * 401)
    for p in ("NaN", f'"{p_mw}"', "null", "{}", "[]", *huge_powers):
        yield f'{{"p_mw": {p}, "lease_s": 5, "take_over": true}}'
    long_leases = () if is_bounded else ("1e300", "86401", "9" * 401)
    for lease in ("0", "-1", "NaN", '"5"', "null", *long_leases):
        yield f'{{"p_mw": {p_mw}, "lease_s": {lease}, "take_over": true}}'
    yield '{"p_mw": true, "lease_s": 5, "take_over": true}' if not is_bounded else "{}"
    yield f'{{"p_mw": {p_mw}, "take_over": true}}'
    yield '{"lease_s": 5, "take_over": true}'
    yield f'{{"type": "telemetry", {good}}}'
    yield f'{{"seq": -1, "boot": "n", {good}}}'
    yield f'{{"seq": 1.5, "boot": "n", {good}}}'
    yield f'{{"seq": {"9" * 401}, "boot": "n", {good}}}'
    yield f'{{"seq": "1", "boot": "n", {good}}}'
    yield f'{{"env_id": "another", {good}}}'
    yield f'{{"q_mvar": "much", {good}}}'
    yield f'{{"renewal": "yes", {good}}}'
    yield f'{{"boot": "", {good}}}'
    yield f'{{"boot": "{"b" * 201}", {good}}}'


def check_large_message(device: DeviceHarness) -> None:
    """A message of 200 kB is dropped without harm, and what comes after it is done."""
    device.make_free()
    boot = device.newest.get("boot")
    device.publish(device.topic("setpoint"), json.dumps({"why": "x" * LARGE_BYTES}))
    sender = device.sender()
    sender.do(device.part_mw(0.4))
    _need(device.newest.get("boot") == boot, f"a large message made it begin anew: {device.newest}")
    sender.release()


def check_flood(device: DeviceHarness) -> None:
    """Hundreds of messages at once, all of them refused: it goes on, and a stop after them is obeyed."""
    device.make_free()
    p_mw = device.part_mw(0.4)
    sender = device.sender()
    sender.do(p_mw)
    foreign = {"type": "setpoint", "p_mw": device.part_mw(0.2), "lease_s": 5.0, "sender": "flood"}
    foreign |= {"heard_boot": "no-such-boot", "heard_seq": 0}  # whatever becomes of the lease meanwhile
    boot = uuid.uuid4().hex[:8]
    mark = device.now
    device.flood(device.topic("setpoint"), [{**foreign, "boot": boot, "seq": i} for i in range(FLOOD)])
    stop = device.stop()
    device.telemetry(device.is_safe, f"the safe state after {FLOOD} messages and a stop", stop)
    said = [m.json for m in device.heard("telemetry", mark)]
    moved = [m for m in said if not device.is_at(p_mw, m) and not device.is_safe(m)]
    _need(not moved, f"the flood moved it: {moved[:3]}")
    device.release_stop()
    again = device.sender()
    again.do(p_mw)
    again.release()
    _refuses_forgotten(device, again)


# -- leases --------------------------------------------------------------------------------------------


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
    _need(device.settle_s > 0.0 or not moved, f"a renewal set its power: {moved[:1]}")
    _need(held_s >= 1.1, f"safe {held_s:.2f} s after a renewal by 2 s: it was not heard")
    _need(safe.get("safe") is not False, f"it is at 0 and says that it is not safe: {safe}")
    _need(safe.get("ack_seq") == first["ack_seq"], f"a renewal was acknowledged: {safe}")
    sender.send(p_mw, renewal=True)  # too late
    _need(device.is_safe(device.later_telemetry()), "a renewal after the end brought the power back")
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
    echoed = found[-1] if is_fresh else _heard_last(device)
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
    _need(answer.get("rejected") is None, f"expected {p_mw:g} MW for {sender.last}, got a refusal: {answer}")
    seq = answer["seq"]
    return device.wait_for(
        device.topic("telemetry"),
        lambda m: m.get("seq", 0) > seq and device.is_safe(m) and m.get("safe") is not False,
        f"the safe state after a lease of {lease_s:g} s from telemetry of"
        f" {time.monotonic() - echoed.at_s:.1f} s ago, without renewal,",
    )


def _heard_last(device: DeviceHarness) -> WatchedMessage:
    device.next_telemetry()
    return device.heard("telemetry")[-1]


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
    _is_safe_within(device, mark, limit_s + device.within_s, f"one of {SCENARIO_LEASE_S:g} s was not renewed")
    held_s = time.monotonic() - echoed.at_s
    _need(
        held_s <= limit_s,
        f"a lease of {SCENARIO_LEASE_S:g} s ended {held_s:.1f} s after what its setpoint echoes",
    )
    moved = [m.json for m in device.heard("telemetry", mark) if device.is_at(device.part_mw(0.8), m.json)]
    _need(not moved, f"a copy {LATE_COPY_S:g} s after a setpoint moved it: {moved[:1]}")
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
    _need(late_s <= limit_s, f"a lease of {lease_s:g} s ended {late_s:.1f} s late, without renewal")


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
    """Whether telemetry says neither active nor reactive power; a load goes on with what it cannot shed."""
    if device.full_mw < 0.0:
        return device.is_safe(telemetry)
    q_mvar = telemetry.get("q_mvar", 0.0)
    is_number = isinstance(q_mvar, int | float) and not isinstance(q_mvar, bool)
    return device.is_safe(telemetry) and is_number and device.is_at(0.0, {"p_mw": q_mvar})


def check_lease_counts_from_the_echo(device: DeviceHarness) -> None:
    """What echoes telemetry of 1.5 s ago with a lease of 3 s holds for 1.5 s; so does a renewal."""
    device.make_free()
    p_mw = device.part_mw(0.4)
    sender = device.sender()
    if device.settle_s > 0.0:
        sender.do(p_mw)  # what is left of the lease may be shorter than its ramp
    old = device.next_telemetry()
    device.pause(1.5)
    begin = time.monotonic()
    answer = sender.answer(sender.send(p_mw, lease_s=3.0, heard_boot=old["boot"], heard_seq=old["seq"]))
    is_done = answer.get("rejected") is None and device.is_at(p_mw, answer)
    _need(is_done, f"expected {p_mw:g} MW for {sender.last}, got {answer}")
    mark = device.now
    device.telemetry(device.is_safe, "the safe state", mark)
    held_s = time.monotonic() - begin
    _need(
        held_s <= 2.5 + device.settle_s,
        f"it held for {held_s:.2f} s a setpoint that may be 1.5 s old, of a lease of 3 s",
    )
    if device.settle_s > 0.0:
        sender.do(p_mw)
    sender.do(p_mw, lease_s=2.5)
    old = device.next_telemetry()
    device.pause(1.5)
    begin = time.monotonic()
    mark = device.now
    sender.send(p_mw, lease_s=3.0, renewal=True, heard_boot=old["boot"], heard_seq=old["seq"])
    device.telemetry(device.is_safe, "the safe state", mark)
    held_s = time.monotonic() - begin
    _need(
        held_s <= 2.5 + device.settle_s,
        f"it held for {held_s:.2f} s by a renewal that may be 1.5 s old, of a lease of 3 s",
    )


def check_stale_echo(device: DeviceHarness) -> None:
    """What echoes telemetry older than its lease, of another boot, or never sent, is refused."""
    device.make_free()
    old = device.next_telemetry()
    device.pause(0.6)
    own = device.next_telemetry()
    sender = device.sender()
    stale: tuple[Json, ...] = (
        {"lease_s": 0.5, "heard_boot": old["boot"], "heard_seq": old["seq"]},
        {"heard_boot": "another-boot", "heard_seq": old["seq"]},
        {"heard_boot": own["boot"], "heard_seq": own["seq"] + 1000},
        {"heard_boot": own["boot"], "heard_seq": 10**15},
        {"heard_seq": own["seq"]},
        {"heard_boot": own["boot"]},
        {"heard_boot": "another-boot", "heard_seq": own["seq"], "take_over": True},
    )
    for fields in stale:
        sender.refused(device.next_mw(), echo=False, **fields)
    _refuses_forgotten(device, sender)
    _need(device.is_safe(device.next_telemetry()), "a stale setpoint moved it")


def _refuses_forgotten(device: DeviceHarness, sender: SetpointSender) -> None:
    """Echo telemetry that a device has forgotten, or knows to be older than the lease, if there is some."""
    newest = _heard_last(device)
    last = newest.json
    now_s = time.monotonic()
    forgotten = [
        m
        for m in device.heard("telemetry")
        if m.json.get("boot") == last["boot"]
        and m.json["seq"] <= last["seq"] - FORGOTTEN
        and now_s - m.at_s >= 2.0
    ]
    if not forgotten:
        return
    for old in {forgotten[0].json["seq"]: forgotten[0], forgotten[-1].json["seq"]: forgotten[-1]}.values():
        lease_s = min(LONGEST_LEASE_S, now_s - old.at_s - 1.0)
        heard = {"heard_boot": old.json["boot"], "heard_seq": old.json["seq"]}
        sender.refused(device.next_mw(), lease_s=lease_s, echo=False, **heard)


def check_stale_renewal(device: DeviceHarness) -> None:
    """A renewal that echoes another boot, or telemetry that was never sent, extends nothing."""
    device.make_free()
    own = device.next_telemetry()
    sender = device.sender()
    sender.do(device.part_mw(0.2), lease_s=1.5)
    mark = device.now
    sender.send(
        device.part_mw(0.2), lease_s=LONGEST_LEASE_S, renewal=True, heard_boot="another-boot", heard_seq=0
    )
    unknown = own["seq"] + 1000
    sender.send(
        device.part_mw(0.2), lease_s=LONGEST_LEASE_S, renewal=True, heard_boot=own["boot"], heard_seq=unknown
    )
    _is_safe_within(device, mark, 8.0, "a stale renewal extends nothing")


def _is_safe_within(device: DeviceHarness, mark: int, within_s: float, why: str) -> None:
    device.until(
        lambda: any(device.is_safe(m.json) for m in device.heard("telemetry", mark)),
        f"the safe state at the end of the lease: {why}",
        within_s,
    )


def check_lease_has_an_owner(device: DeviceHarness) -> None:
    """While a lease holds, another sender is refused and cannot release; it can take over."""
    device.make_free()
    one, other, reborn = device.sender("one"), device.sender("other"), device.sender("one")
    one.do(device.part_mw(0.4))
    other.refused(device.part_mw(0.8))
    reborn.refused(device.part_mw(0.8))  # the same name with another boot is another sender
    other.refused(0.0, release=True)
    stale = {"heard_boot": "another-boot", "heard_seq": 0}
    other.refused(device.part_mw(0.8), echo=False, take_over=True, **stale)
    _need(device.is_at(device.part_mw(0.4), device.next_telemetry()), "another sender moved it")
    other.do(device.part_mw(0.2), take_over=True)
    one.refused(device.part_mw(0.8))
    one.send(device.part_mw(0.4), renewal=True)
    _need(device.is_at(device.part_mw(0.2), device.later_telemetry()), "a displaced sender moved it")
    other.release()
    for p_mw in device.powers_mw:  # a release ends each of them
        one.do(p_mw)
        one.release()


def check_owner_against_one_by_hand(device: DeviceHarness) -> None:
    """While a lease holds, a setpoint by hand, which names no sender, is refused."""
    device.make_free()
    sender = device.sender()
    sender.do(device.part_mw(0.4))
    device.refused_by_hand(device.part_mw(0.8))
    _need(device.is_at(device.part_mw(0.4), device.next_telemetry()), "a setpoint by hand moved it")
    sender.release()


def check_nothing_else_extends_a_lease(device: DeviceHarness) -> None:
    """What is refused, ignored or repeated moves neither the end of a lease, nor power, nor owner.

    The newest setpoint of the owner does, also to an earlier end; a renewal without an echo counts from its
    arrival.
    """
    device.make_free()
    p_mw, foreign_mw = device.part_mw(0.4), device.part_mw(0.8)
    own = device.next_telemetry()
    sender, other = device.sender(), device.sender("other")
    sender.do(p_mw)
    mark = device.now
    begin = time.monotonic()
    first = sender.next_seq
    sender.do(p_mw, lease_s=SHORT_LEASE_S)
    unknown = {"heard_boot": own["boot"], "heard_seq": own["seq"] + 1000}
    another: Json = {"heard_boot": "another-boot", "heard_seq": own["seq"]}
    of_owner: tuple[Json, ...] = (
        another,
        unknown,
        {"heard_seq": own["seq"]},
        another | {"take_over": True},
        another | {"renewal": True},
        unknown | {"renewal": True},
    )
    for fields in of_owner:
        sender.send(foreign_mw, lease_s=LONGEST_LEASE_S, echo=False, **fields)
    sender.send(foreign_mw, lease_s=LONGEST_LEASE_S, seq=first)
    sender.send(foreign_mw, lease_s=LONGEST_LEASE_S, q_mvar="much")
    sender.send(foreign_mw, lease_s=LONGEST_LEASE_S, env_id="another")
    of_others: tuple[Json, ...] = ({}, {"renewal": True}, {"release": True}, another | {"take_over": True})
    for fields in of_others:
        other.send(foreign_mw, lease_s=LONGEST_LEASE_S, **fields)
    by_hand: tuple[Json, ...] = ({}, {"renewal": True}, {"release": True})
    for fields in by_hand:
        device.send_by_hand(foreign_mw, lease_s=LONGEST_LEASE_S, **fields)
    sender.send(p_mw, lease_s=SHORT_LEASE_S, renewal=True, echo=False)
    limit_s = SHORT_LEASE_S + 3.0 + device.settle_s
    _is_safe_within(device, mark, limit_s, f"a lease of {SHORT_LEASE_S:g} s that nothing has extended")
    held_s = time.monotonic() - begin
    _need(held_s >= SHORT_LEASE_S / 2.0, f"a refused or ignored setpoint has ended a lease: {held_s:.1f} s")
    moved = [m.json for m in device.heard("telemetry", mark) if device.is_at(foreign_mw, m.json)]
    _need(not moved, f"a refused or ignored setpoint moved it: {moved[:1]}")
    owners = [m.json for m in device.heard("lease", mark) if m.json.get("state") == "held"]
    strange = [m for m in owners if m.get("holder_boot") != sender.boot]
    _need(not strange, f"a refused or ignored setpoint has changed the owner of its lease: {strange[:1]}")


def check_lease_is_told(device: DeviceHarness) -> None:
    """Whom it follows stands on ``lease``: its owner, who took over, none after a release or a stop.

    During a stop the adapter of a vendor's device may name itself as the holder: the device is still to be
    handed back, and its next program knows it by this (docs/wire-contract.md, leases and their owner).
    """
    device.make_free()
    one, other = device.sender("one"), device.sender("other")
    one.do(device.part_mw(0.4))
    _lease(device, "held", one.boot)
    other.do(device.part_mw(0.2), take_over=True)
    _lease(device, "held", other.boot)
    with device.late_one() as late:
        kept = late.wait_for(late.topic("lease"), lambda m: m.get("holder_boot") == other.boot, "`lease`")
    _need(kept.retained, "`lease` must be retained: a gateway that starts later must know whose it is")
    other.release()
    _lease(device, "free", None)
    one.do(device.part_mw(0.4))
    device.stop()
    _lease(device, "free", None, or_held_by_itself=True)
    device.release_stop()
    _lease(device, "free", None)


def check_foreign_renewal(device: DeviceHarness) -> None:
    """Another sender cannot renew: the lease ends when its owner falls silent."""
    device.make_free()
    sender = device.sender()
    sender.do(device.part_mw(0.2), lease_s=1.5)
    mark = device.now
    device.sender().send(device.part_mw(0.2), lease_s=LONGEST_LEASE_S, renewal=True)
    _is_safe_within(device, mark, 8.0, "a renewal of another sender extends nothing")


def check_numbers_of_several_senders(device: DeviceHarness) -> None:
    """A copy is known as one after six other senders have been heard."""
    device.make_free()
    sender = device.sender()
    first = sender.send(device.part_mw(0.4))
    sender.answer(first)
    if device.settle_s > 0.0:
        device.settle(device.part_mw(0.4))
    for i in range(6):
        device.sender(f"other {i}").refused(device.part_mw(0.8))
    sender.send(device.part_mw(0.8), seq=first)
    answer = device.later_telemetry()
    _need(device.is_at(device.part_mw(0.4), answer), "a copy moved it after others had been heard")
    _need(
        (answer.get("ack_boot"), answer.get("ack_seq")) == (sender.boot, first),
        f"it must go on to acknowledge what it does, not what it refused: {answer}",
    )
    sender.next_seq = first + 1
    sender.release()


def _lease(device: DeviceHarness, state: str, boot: str | None, *, or_held_by_itself: bool = False) -> None:
    """Wait until the lease channel says so, or that the device itself holds it."""
    topic = device.topic("lease")

    def said() -> bool:
        found = device.heard_on(topic)
        last = found[-1].json if found else {}
        by_itself = last.get("state") == "held" and last.get("holder") == device.label
        as_wanted = last.get("state") == state and last.get("holder_boot") == boot
        return as_wanted or (or_held_by_itself and by_itself)

    device.until(said, f"lease {state!r} of {boot!r} on {topic}")


# -- emergency stop ------------------------------------------------------------------------------------


def malformed_stops(env_id: str) -> dict[str, bytes | str | Json]:
    """Return messages that are no valid release, by what is wrong with them: each is a stop."""
    release: Json = {"type": "estop", "active": False}
    whole = release | {"sender": "control-room", "boot": uuid.uuid4().hex[:8], "seq": 0}
    whole |= {"sent_at": "2026-01-02T03:04:05Z", "who": "an operator", "why": "checked"}
    return {
        "active is 1": {"type": "estop", "active": 1},
        "active is the text true": {"type": "estop", "active": "true"},
        "active is 0": {"type": "estop", "active": 0},
        "active is null": {"type": "estop", "active": None},
        "active is the text false": {"type": "estop", "active": "false"},
        "no active": {"type": "estop"},
        "a long why": {"type": "estop", "active": True, "why": "x" * 5000},
        "a why of another type": {"active": True, "why": {"a": [1]}},
        "a sent_at that does not parse": {"active": True, "sent_at": "now"},
        "a seq with a decimal point": {"active": True, "seq": 1.0, "boot": "b"},
        "an empty env_id": {**release, "env_id": ""},
        "env_id is null": {**release, "env_id": None},
        "type is null": {**release, "type": None},
        "another env_id": {**release, "env_id": f"{env_id}x"},
        "another type": {**release, "type": "setpoint"},
        "another env_id in a whole release": {**whole, "env_id": f"{env_id}x"},
        "another type in a whole release": {**whole, "env_id": env_id, "type": "setpoint"},
        "active is 0 in a whole release": {**whole, "env_id": env_id, "active": 0},
        "a BOM": b'\xef\xbb\xbf{"type":"estop","active":false}',
        "a BOM, UTF-16": '{"type":"estop","active":false}'.encode("utf-16"),
        "empty": "",
        "not JSON": "STOP!",
        "cut off": '{"type":"estop","active":fal',
        "two objects": '{"active":false}{"active":true}',
        "a list": '[{"active":false}]',
        "deep": "[" * 3000,
        "large": '{"why": "' + "x" * 20_000 + '"}',
        "not UTF-8": b'{"active":false,"who":"\xff"}',
        "NaN": '{"active":false,"x":NaN}',
        "infinite": '{"active":false,"x":{"y":[1e999]}}',
    }


def check_stop_is_confirmed(device: DeviceHarness) -> None:
    """A stop and its release are confirmed, with the number of the stop."""
    device.make_free()
    sender = device.sender()
    sender.do(device.part_mw(0.4))
    mark = device.stop({"type": "estop", "active": True, "boot": "s", "seq": 7})

    def confirms(message: Json) -> bool:
        # What ramps confirms at once that it is not safe yet, and again once it is.
        return message.get("active") is True and (device.settle_s == 0.0 or message.get("safe") is True)

    told = device.wait_for(device.confirm_topic, confirms, "the confirmed stop", mark).json
    _need(told.get("safe") is True, f"it confirms a stop without being safe: {told}")
    _need((told.get("stop_boot"), told.get("stop_seq")) == ("s", 7), f"it confirms another stop: {told}")
    device.release_stop()


def check_stop(device: DeviceHarness) -> None:
    """A stop is a safe state that no setpoint ends; its release ends it, and brings nothing back."""
    device.make_free()
    sender = device.sender()
    for p_mw in device.powers_mw:
        for is_by_hand in (False,) if device.requires_proof else (False, True):
            if is_by_hand:
                device.do_by_hand(p_mw)
            else:
                sender.do(p_mw)
            mark = device.stop()
            how = "by hand" if is_by_hand else "by a gateway"
            device.telemetry(device.is_safe, f"the safe state in a stop after {p_mw:g} MW {how}", mark)
            device.release_stop()
    sender.do(device.part_mw(0.4))
    mark = device.stop()
    device.telemetry(device.is_safe, "the safe state after the stop", mark)
    device.refused_by_hand(device.part_mw(0.6))
    for fields in ({}, {"take_over": True}):
        answer = sender.answer(sender.send(device.part_mw(0.6), **fields))
        _need(answer.get("rejected") and device.is_safe(answer), f"expected a refusal at rest: {answer}")
        _need(answer.get("stopped") is True, f"expected stopped = true in telemetry: {answer}")
    sender.send(device.part_mw(0.4), renewal=True)
    device.release_stop()
    sender.send(device.part_mw(0.4), renewal=True)
    after = device.later_telemetry()
    _need(
        device.is_safe(after) and not after.get("stopped"),
        f"the release, or a renewal after it, moved it; or the release is unheard: {after}",
    )
    sender.do(device.part_mw(0.2))
    sender.release()


def check_stop_stays(device: DeviceHarness) -> None:
    """Time does not end a stop, nor a power: it is looked at again after 21 s."""
    device.make_free()
    device.sender().do(device.next_mw())
    mark = device.stop()
    device.pause(STOP_S)
    sender = device.sender()
    answer = sender.answer(sender.send(device.part_mw(0.4)))
    told = f"{STOP_S:g} s after a stop that nobody released"
    _need(answer.get("rejected") and device.is_safe(answer), f"{told} it follows a setpoint: {answer}")
    _need(answer.get("stopped") is True, f"{told} it does not say `stopped`: {answer}")
    said = [m.json for m in device.heard("telemetry", mark)]
    first_safe = next((i for i, m in enumerate(said) if device.is_safe(m)), len(said))
    moved = [m for m in said[first_safe:] if not device.is_safe(m)]
    _need(not moved, f"it moved in a stop: {moved[:1]}")
    device.release_stop()


def check_malformed_stops(device: DeviceHarness) -> None:
    """Whatever comes on ``estop`` and is no valid release stops."""
    device.make_free()
    for i, (what, payload) in enumerate(malformed_stops(device.env_id).items()):
        sender = device.sender()
        p_mw = device.next_mw()
        if i % 3 == 0 and not device.requires_proof:
            device.do_by_hand(p_mw)
        else:
            sender.do(p_mw)
        mark = device.stop(payload)
        written = json.dumps(payload) if isinstance(payload, dict) else str(payload)
        about = f"{what} (estop: {written[:80] or 'an empty message'})"
        device.telemetry(device.is_safe, f"the safe state after a stop: {about}", mark)
        device.wait_for(device.confirm_topic, lambda m: m.get("active") is True, f"confirmed: {about}", mark)
        device.stop(payload)  # in a stop it does not end it
        answer = sender.answer(sender.send(p_mw))
        _need(answer.get("rejected") and device.is_safe(answer), f"{about}: it is not stopped: {answer}")
        device.release_stop()


def check_repeated_stops(device: DeviceHarness) -> None:
    """The same stop again is a stop; the same release again is none."""
    device.make_free()
    stop: Json = {"type": "estop", "active": True, "boot": "r1", "seq": 0}
    sender = device.sender()
    for _ in range(2):  # the second time it is a copy of the first one, byte for byte
        p_mw = device.next_mw()
        sender.do(p_mw)
        mark = device.stop(stop)
        device.telemetry(device.is_safe, "the safe state after a repeated stop", mark)
        device.release_stop()
    release: Json = {"type": "estop", "active": False, "boot": sender.boot, "seq": 1}
    device.stop()
    device.release_stop(**{k: v for k, v in release.items() if k in {"boot", "seq"}})
    device.stop()
    for seq in range(2, 2 + RELEASES_AFTER):  # so many releases later it is still known
        device.release_stop(boot=sender.boot, seq=seq)
    device.stop()
    mark = device.stop(release)  # the old release again: meant for the stop before
    answer = sender.answer(sender.send(p_mw))
    _need(answer.get("rejected") and device.is_safe(answer), f"an old release ended a new stop: {answer}")
    device.release_stop()

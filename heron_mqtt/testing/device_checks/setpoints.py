"""Setpoints: done once, within the nameplate, in the right direction and size; nonsense moves nothing."""

from __future__ import annotations

import itertools
import json
import uuid
from collections.abc import Iterator

from heron_mqtt.json_object import Json
from heron_mqtt.testing.device_checks.echoes import check_forgotten_echo
from heron_mqtt.testing.device_checks.waiting import is_no_copy_done, is_safe_within
from heron_mqtt.testing.device_harness import LONGEST_LEASE_S, DeviceHarness, need

LARGE_BYTES = 200_000  # far beyond any buffer for a setpoint, and below what brokers limit messages to
SOME_SEQ = 100  # far from 0: a number that wrongly counts again may do so only beyond a distance
FLOOD = 400
"""Messages of a flood: more than a gateway ever sends at once, and nothing that a broker would cut off."""


def check_answer(device: DeviceHarness) -> None:
    """A setpoint is acknowledged by its number, without a refusal, and not as the safe state."""
    device.make_free()
    sender = device.sender()
    answer = sender.answer(sender.send(device.part_mw(0.4)))
    need(answer.get("rejected") is None, f"it refuses a setpoint that is in order: {answer}")
    need(answer.get("safe") is not True, f"it follows a setpoint and says `safe`: {answer}")
    sender.release()


def check_sign(device: DeviceHarness) -> None:
    """Positive is into the grid: the power that is measured has the sign of the setpoint."""
    for asked_mw, said in _followed(device):
        p_mw = said.get("p_mw")
        need(
            isinstance(p_mw, int | float) and p_mw * asked_mw > 0.0,
            f"{asked_mw:+g} MW were asked for, it says {p_mw} MW; positive is into the grid: {said}",
        )


def check_scale(device: DeviceHarness) -> None:
    """MW are MW: the power that is measured is as large as the setpoint."""
    for asked_mw, said in _followed(device):
        p_mw = said.get("p_mw", 0.0)
        factor = p_mw / asked_mw
        hint = "; kW for MW?" if 500.0 < abs(factor) < 2000.0 or 5e-4 < abs(factor) < 2e-3 else ""
        need(
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
    """A setpoint is done once: a copy of its number and an older number move nothing.

    Nor does a copy once its lease has ended, by itself or by a release.
    """
    device.make_free()
    sender = device.sender()
    sender.next_seq = SOME_SEQ
    sender.do(device.part_mw(0.4))
    mark = device.now
    sender.send(device.part_mw(0.8), seq=SOME_SEQ)  # a copy of the number, and older ones
    for seq in (SOME_SEQ - 1, SOME_SEQ // 2, 0):
        sender.send(device.part_mw(0.6), seq=seq)
    sender.next_seq = SOME_SEQ + 1
    sender.do(device.part_mw(0.2))
    said = [m.json for m in device.heard("telemetry", mark)]
    moved = [m for m in said if device.is_at(device.part_mw(0.8), m) or device.is_at(device.part_mw(0.6), m)]
    need(not moved, f"a copy or an older setpoint moved it: {moved}")
    sender.release()
    is_no_copy_done(device, sender, "its release")
    sender.do(device.part_mw(0.2), lease_s=2.0)
    mark = device.now
    is_safe_within(device, mark, 6.0 + device.settle_s, "one of 2 s was not renewed")
    is_no_copy_done(device, sender, "the end of its lease")
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
    for p_mw in (factor * bound_mw for factor in (1.2, 180.0) for bound_mw in (low_mw, high_mw)):
        if p_mw != 0.0:
            beyond = sender.answer(sender.send(p_mw))
            need(
                beyond.get("rejected") or low_mw * 1.001 <= beyond["p_mw"] <= high_mw * 1.001,
                f"it went beyond its nameplate: {beyond}",
            )
    sender.release()


def check_ramp(device: DeviceHarness, mw_per_s: float) -> None:
    """Its power changes no faster than its ramp, up and down.

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
        need(
            device.is_at(device.part_mw(part), device.newest),
            f"it does not come to {part} of full: {device.newest}",
        )
    said = [(m.at_s, m.json["p_mw"]) for m in device.heard("telemetry", mark) if "p_mw" in m.json]
    for (before_s, before_mw), (after_s, after_mw) in itertools.pairwise(said):
        allowed_mw = mw_per_s * (after_s - before_s + 0.1) + device.tolerance * abs(p_mw)
        if device.is_at(0.0, {"p_mw": before_mw}) or device.is_at(0.0, {"p_mw": after_mw}):
            allowed_mw += device.least_mw  # what starts and stops has no power between
        need(
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
    is_safe_within(device, device.now, 3.5 + device.settle_s, "one by hand of 1.5 s")
    for p_mw in (first_mw, *others_mw, first_mw, first_mw):
        device.do_by_hand(p_mw, lease_s=5.0)
    need(device.newest.get("ack_seq") is None or device.newest.get("ack_boot"), "it invents a number")
    sender = device.sender()
    sender.do(0.0, take_over=True)
    sender.release()


def check_number_formats(device: DeviceHarness) -> None:
    """Unambiguous spellings are accepted; unknown fields are ignored."""
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
    need(not others, f"nonsense moved it: {others}")
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
    need(device.newest.get("boot") == boot, f"a large message made it restart: {device.newest}")
    sender.release()


def check_flood(device: DeviceHarness) -> None:
    """Hundreds of messages at once, all of them refused: it continues, and a stop after them is obeyed."""
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
    still = [
        m for m in said if not (device.settle_s > 0.0 and m.get("stopped") is True)
    ]  # it ramps down then
    moved = [m for m in still if not device.is_at(p_mw, m) and not device.is_safe(m)]
    need(not moved, f"the flood moved it: {moved[:3]}")
    device.release_stop()
    again = device.sender()
    again.do(p_mw)
    again.release()
    check_forgotten_echo(device, again)

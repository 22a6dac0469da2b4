"""A stop is confirmed, stays, and is ended by a valid release alone."""

from __future__ import annotations

import json
import time
import uuid
from functools import partial

from heron_mqtt.json_object import Json
from heron_mqtt.testing.device_checks.waiting import is_no_copy_done
from heron_mqtt.testing.device_harness import LONGEST_LEASE_S, DeviceHarness, need

STOP_S = 21.0  # a stop is looked at again after this time
IN_RAMP = 0.8  # of the largest power: a stop comes on the way there
TURN_S = 0.5  # so long a device may take to turn round, with what its telemetry is late
RELEASES_AFTER = 20  # of the 64 that a device remembers


def malformed_stops(env_id: str) -> dict[str, bytes | str | Json]:
    """Return messages that are no valid release, by what is wrong with them: each is a stop."""
    release: Json = {"type": "estop", "active": False}
    whole = release | {"sender": "control-room", "boot": uuid.uuid4().hex[:8], "seq": 0}
    whole |= {"sent_at": "2026-01-02T03:04:05Z", "who": "an operator", "why": "checked"}
    return {
        "active is 1": {"type": "estop", "active": 1},
        "active is the text true": {"type": "estop", "active": "true"},
        "active is 0": {"type": "estop", "active": 0},
        "active is 0.0": {"type": "estop", "active": 0.0},
        "active is an empty text": {"type": "estop", "active": ""},
        "active is an empty list": {"type": "estop", "active": []},
        "active is an empty object": {"type": "estop", "active": {}},
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
        "a key twice": '{"type":"estop","active":true,"active":false}',
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
    need(told.get("safe") is True, f"it confirms a stop without being safe: {told}")
    need((told.get("stop_boot"), told.get("stop_seq")) == ("s", 7), f"it confirms another stop: {told}")
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
    is_no_copy_done(device, sender, "a stop and its release")
    sender.do(device.part_mw(0.4))
    mark = device.stop()
    device.telemetry(device.is_safe, "the safe state after the stop", mark)
    for p_mw in device.powers_mw:
        device.refused_by_hand(p_mw)
        device.refused_by_hand(p_mw, take_over=True)
        sender.send(0.0, release=True)
        sender.send(p_mw, renewal=True)
        for fields in ({}, {"take_over": True}):  # in force as before, whatever came
            answer = sender.answer(sender.send(p_mw, **fields))
            need(answer.get("rejected") and device.is_safe(answer), f"expected a refusal at rest: {answer}")
            need(answer.get("stopped") is True, f"expected stopped = true in telemetry: {answer}")
    device.release_stop()
    sender.send(device.part_mw(0.4), renewal=True)
    after = device.later_telemetry()
    need(
        device.is_safe(after) and not after.get("stopped"),
        f"the release, or a renewal after it, moved it; or the release is unheard: {after}",
    )
    sender.do(device.part_mw(0.2))
    sender.release()


def check_stop_in_a_ramp(device: DeviceHarness, mw_per_s: float) -> None:
    """A stop while the power is still rising turns it round at once, in each direction.

    Args:
        device: The device.
        mw_per_s: Its ramp, MW/s, > 0. So much further as it goes in a moment it may be, and the tolerance.
    """
    device.make_free()
    sender = device.sender()
    for p_mw in (device.part_mw(IN_RAMP), *(p for p in device.powers_mw if p * device.full_mw < 0.0)):
        ramp_s = abs(p_mw) / mw_per_s
        lease_s = min(LONGEST_LEASE_S, 30.0)
        sender.send(p_mw, lease_s=lease_s)
        begun_s = time.monotonic()
        device.pause(ramp_s / 3.0)
        mark = device.stop()
        pressed_s = time.monotonic() - begun_s
        what = f"the safe state after a stop {pressed_s:.1f} s after {p_mw:g} MW were asked for"
        device.until(partial(_is_stopped_since, device, mark), what, device.within_s + ramp_s)
        said = [m.json for m in device.heard("telemetry", mark) if "p_mw" in m.json]
        most_mw = max(abs(m["p_mw"]) for m in said)
        allowed_mw = (
            mw_per_s * (pressed_s + TURN_S) + device.tolerance * abs(device.full_mw) + device.least_mw
        )
        need(
            most_mw <= allowed_mw,
            f"{pressed_s:.1f} s after {p_mw:g} MW were asked for a stop was pressed, and it went on to "
            f"{most_mw:g} MW; with {mw_per_s:g} MW/s it was at {mw_per_s * pressed_s:.3g} MW then",
        )
        device.release_stop()


def _is_stopped_since(device: DeviceHarness, mark: int) -> bool:
    """Whether the newest telemetry since a mark says that it is stopped and safe."""
    said = device.heard("telemetry", mark)
    return bool(said) and said[-1].json.get("stopped") is True and device.is_safe(said[-1].json)


def check_stop_stays(device: DeviceHarness) -> None:
    """Time does not end a stop, nor a power, nor that an old release is one: it is looked at after 21 s."""
    device.make_free()
    sender = device.sender()
    device.stop()
    device.release_stop(boot=sender.boot, seq=1)
    device.sender().do(device.next_mw())
    mark = device.stop()
    device.pause(STOP_S)
    device.stop({"type": "estop", "active": False, "boot": sender.boot, "seq": 1})  # that of before, again
    answer = sender.answer(sender.send(device.part_mw(0.4)))
    told = f"{STOP_S:g} s after a stop that was not released"
    need(answer.get("rejected") and device.is_safe(answer), f"{told} it follows a setpoint: {answer}")
    need(answer.get("stopped") is True, f"{told} it does not say `stopped`: {answer}")
    said = [m.json for m in device.heard("telemetry", mark)]
    first_safe = next((i for i, m in enumerate(said) if device.is_safe(m)), len(said))
    moved = [m for m in said[first_safe:] if not device.is_safe(m)]
    need(not moved, f"it moved in a stop: {moved[:1]}")
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
        need(answer.get("rejected") and device.is_safe(answer), f"{about}: it is not stopped: {answer}")
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
    need(answer.get("rejected") and device.is_safe(answer), f"an old release ended a new stop: {answer}")
    device.release_stop()

"""A setpoint and a renewal prove their age by the telemetry that they echo."""

from __future__ import annotations

import time

from heron_mqtt.json_object import Json
from heron_mqtt.testing.device_checks.waiting import heard_last, is_safe_within
from heron_mqtt.testing.device_harness import LONGEST_LEASE_S, DeviceHarness, SetpointSender, need

FORGOTTEN = 70  # numbers ago: who remembers the newest 64 does not know it any more


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
    need(is_done, f"expected {p_mw:g} MW for {sender.last}, got {answer}")
    mark = device.now
    device.telemetry(device.is_safe, "the safe state", mark)
    held_s = time.monotonic() - begin
    need(
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
    need(
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
    check_forgotten_echo(device, sender)
    need(device.is_safe(device.next_telemetry()), "a stale setpoint moved it")


def check_forgotten_echo(device: DeviceHarness, sender: SetpointSender) -> None:
    """Echo telemetry that a device has forgotten, or knows to be older than the lease, if there is some."""
    newest = heard_last(device)
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
    is_safe_within(device, mark, 8.0, "a stale renewal extends nothing")

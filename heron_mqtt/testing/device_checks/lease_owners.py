"""A lease has an owner, which is published, and nothing that is refused or foreign extends it."""

from __future__ import annotations

import time

from heron_mqtt.json_object import Json
from heron_mqtt.testing.device_checks.waiting import is_safe_within
from heron_mqtt.testing.device_harness import LONGEST_LEASE_S, DeviceHarness, need

SHORT_LEASE_S = 3.0


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
    need(device.is_at(device.part_mw(0.4), device.next_telemetry()), "another sender moved it")
    other.do(device.part_mw(0.2), take_over=True)
    one.refused(device.part_mw(0.8))
    one.send(device.part_mw(0.4), renewal=True)
    need(device.is_at(device.part_mw(0.2), device.later_telemetry()), "a displaced sender moved it")
    other.release()
    for p_mw in device.powers_mw:  # a release ends each of them, and no renewal brings them back
        one.do(p_mw)
        one.release()
        one.send(p_mw, renewal=True)
    need(device.is_safe(device.later_telemetry()), "a renewal after a release brought the power back")


def check_owner_against_one_by_hand(device: DeviceHarness) -> None:
    """While a lease holds, a setpoint by hand, which names no sender, is refused."""
    device.make_free()
    sender = device.sender()
    sender.do(device.part_mw(0.4))
    for p_mw, fields in ((device.part_mw(0.8), {}), (device.part_mw(0.8), {"seq": 10**6}), (0.0, {})):
        device.refused_by_hand(p_mw, **fields)
    need(device.is_at(device.part_mw(0.4), device.next_telemetry()), "a setpoint by hand moved it")
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
    is_safe_within(device, mark, limit_s, f"a lease of {SHORT_LEASE_S:g} s that nothing has extended")
    held_s = time.monotonic() - begin
    need(held_s >= SHORT_LEASE_S / 2.0, f"a refused or ignored setpoint has ended a lease: {held_s:.1f} s")
    moved = [m.json for m in device.heard("telemetry", mark) if device.is_at(foreign_mw, m.json)]
    need(not moved, f"a refused or ignored setpoint moved it: {moved[:1]}")
    owners = [m.json for m in device.heard("lease", mark) if m.json.get("state") == "held"]
    strange = [m for m in owners if m.get("holder_boot") != sender.boot]
    need(not strange, f"a refused or ignored setpoint has changed the owner of its lease: {strange[:1]}")


def check_lease_is_told(device: DeviceHarness) -> None:
    """Whom it follows stands on ``lease``: its owner, who took over, none after a release or a stop.

    During a stop the adapter of a vendor's device may name itself as the holder. The device is not handed
    back yet, and this tells the next program so (docs/wire-contract.md, leases and their owner).
    """
    device.make_free()
    one, other = device.sender("one"), device.sender("other")
    one.do(device.part_mw(0.4))
    _lease(device, "held", one.boot)
    other.do(device.part_mw(0.2), take_over=True)
    _lease(device, "held", other.boot)
    with device.late_one() as late:
        kept = late.wait_for(late.topic("lease"), lambda m: m.get("holder_boot") == other.boot, "`lease`")
    need(kept.retained, "`lease` must be retained: a gateway that starts later must know whose it is")
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
    for fields in ({}, {"take_over": True}):
        device.sender().send(device.part_mw(0.2), lease_s=LONGEST_LEASE_S, renewal=True, **fields)
    is_safe_within(device, mark, 8.0, "a renewal of another sender extends nothing")


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
    need(device.is_at(device.part_mw(0.4), answer), "a copy moved it after messages of others")
    need(
        (answer.get("ack_boot"), answer.get("ack_seq")) == (sender.boot, first),
        f"it must still acknowledge what it does, not what it refused: {answer}",
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

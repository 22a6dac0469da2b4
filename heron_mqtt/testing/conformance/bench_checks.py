"""What can be seen only by cutting off the device or its broker; each begins with the device online."""

from __future__ import annotations

import functools
import time

from heron_mqtt.json_object import Json
from heron_mqtt.testing.conformance.bench import ConformanceBench
from heron_mqtt.testing.device_harness import need

LEASES_OVER_S = (6.0, 15.0)  # in which the connection is lost
TRIES = 3
LATE_S = 1.5  # its end may show so late: a broker has just started


def check_will(bench: ConformanceBench) -> None:
    """Cut off, it leaves ``offline`` behind, retained, by its will."""
    harness = bench.harness
    boot = harness.next_telemetry()["boot"]
    mark = harness.now
    bench.cut_power()
    try:
        said = harness.wait_for(
            harness.topic("status"), lambda m: m.get("state") == "offline", "the will, `offline`,", mark
        )
        is_own = said.json.get("boot", boot) == boot
        need(is_own, f"the will names another `boot` than telemetry, {boot!r}: {said.json}")
        with harness.late_one() as late:
            kept = late.wait_for(late.topic("status"), lambda m: m.get("state"), "a retained status")
            need(kept.json.get("state") == "offline", f"what is retained is not the will: {kept.json}")
    finally:
        bench.give_power()


def check_new_boot(bench: ConformanceBench) -> None:
    """Each start has a ``boot`` of its own, and counts its telemetry from 0."""
    harness = bench.harness
    before = harness.next_telemetry()
    mark = harness.now
    birth = bench.restart()
    need(birth.get("boot") != before["boot"], f"two starts have one `boot`: {birth}")
    first = harness.telemetry(lambda m: m.get("boot") == birth["boot"], "telemetry", mark)
    need(first.get("seq") == 0, f"telemetry of a new boot begins at 0: {first}")


def check_start_is_safe(bench: ConformanceBench) -> None:
    """After a power cut amid a lease it is in its safe state until a setpoint comes."""
    harness = bench.harness
    harness.make_free()
    harness.sender().do(harness.next_mw())
    mark = harness.now
    birth = bench.restart()
    harness.later_telemetry()
    said = [m.json for m in harness.heard("telemetry", mark) if m.json.get("boot") == birth["boot"]]
    moved = [m for m in said if not harness.is_safe(m)]
    need(not moved, f"it came back with power without a new setpoint: {moved}")
    sender = harness.sender()
    sender.do(harness.part_mw(0.2))
    sender.release()


def check_replays_of_an_earlier_life(bench: ConformanceBench) -> None:
    """Setpoints that were recorded in an earlier life are refused, byte for byte as they were."""
    harness = bench.harness
    harness.make_free()
    sender = harness.sender()
    recorded = []
    for part in (0.2, 0.4, 0.6):
        sender.do(harness.part_mw(part))
        recorded.append(sender.last)
    bench.restart()
    mark = harness.now
    for message in recorded:
        harness.publish(harness.topic("setpoint"), message)
        answered = functools.partial(_acknowledges, message["seq"])
        harness.telemetry(answered, "the refusal of a replay", mark)
    said = [m.json for m in harness.heard("telemetry", mark)]
    moved = [m for m in said if not harness.is_safe(m)]
    need(not moved, f"a replay moved it: {moved}")
    answers = [m for m in said if m.get("ack_seq") is not None]
    need(all(m.get("rejected") for m in answers), f"a replay was not refused: {answers}")
    again = harness.sender()
    again.do(harness.part_mw(0.2))
    again.release()


def check_retained_setpoint(bench: ConformanceBench) -> None:
    """A setpoint that the broker has kept moves nothing at the start."""
    harness = bench.harness
    topic = harness.topic("setpoint")
    harness.make_free()
    bench.cut_power()
    kept = {"type": "setpoint", "p_mw": harness.next_mw(), "lease_s": 30.0}
    harness.publish(topic, kept, retain=True)
    try:
        mark = harness.now
        birth = bench.give_power()
        harness.later_telemetry()
        said = [m.json for m in harness.heard("telemetry", mark) if m.json.get("boot") == birth["boot"]]
        need(all(harness.is_safe(m) for m in said), f"a retained setpoint moved it: {said}")
    finally:
        harness.publish(topic, b"", retain=True)
        if bench.program is not None and not bench.program.is_running:
            bench.give_power()


def check_retained_stop(bench: ConformanceBench) -> None:
    """A stop that was pressed while it was away is in force from its first moment on."""
    harness = bench.harness
    harness.make_free()
    bench.cut_power()
    harness.stop(retain=True)
    try:
        bench.give_power()
        sender = harness.sender()
        answer = sender.answer(sender.send(harness.part_mw(0.4)))
        need(
            answer.get("rejected") and harness.is_safe(answer),
            f"it follows a setpoint although a stop is in force: {answer}",
        )
    finally:
        harness.send_release_of_stop(retain=True)  # not an empty message: that would be a stop, too
    harness.make_free()


def check_required_proof(bench: ConformanceBench) -> None:
    """A setpoint that echoes nothing is refused, one that echoes its telemetry is done."""
    harness = bench.harness
    harness.make_free()
    sender = harness.sender()
    sender.refused(harness.part_mw(0.4), echo=False)
    harness.refused_by_hand(harness.part_mw(0.4))
    sender.do(harness.part_mw(0.4))
    sender.release()


def check_without_its_broker(bench: ConformanceBench) -> None:
    """Without its broker the lease ends by its own clock: back, it is safe and stays so."""
    harness = bench.harness
    for p_mw in harness.powers_mw[:2]:  # in both directions, if it has both
        for _ in range(TRIES):
            harness.make_free()
            harness.sender().do(p_mw, lease_s=1.5)
            mark = harness.now
            back = bench.restart_broker(2.0)
            harness.birth(back)
            harness.later_telemetry()
            said = [m.json for m in harness.heard("telemetry", back)]
            moved = [m for m in said if not harness.is_safe(m)]
            need(not moved, f"the lease was over while the broker was away, and it has power: {moved}")
            before = [m.json for m in harness.heard("telemetry", mark)[: -len(said)]]
            if not any(harness.is_safe(m) for m in before):  # else the broker went away too late
                break


def check_reconnect(bench: ConformanceBench) -> None:
    """After a lost connection it publishes its birth again with the same ``boot``, measures, and follows.

    A lease continues, and ends when it would have ended. It is a longer one where the connection was back too
    late for the shorter one.
    """
    harness = bench.harness
    for lease_s in LEASES_OVER_S:
        if _is_held_over(bench, lease_s):
            break
    sender = harness.sender()
    sender.do(harness.part_mw(0.4))
    sender.release()


def _is_held_over(bench: ConformanceBench, lease_s: float) -> bool:
    """Break the connection within a lease, and await its end; returns whether it was held beyond that."""
    harness = bench.harness
    harness.make_free()
    harness.next_telemetry()
    before, begin = harness.newest, time.monotonic()
    harness.sender().do(harness.part_mw(0.4), lease_s=lease_s)
    mark = harness.now
    bench.restart_broker(0.2)
    birth = harness.birth(mark)
    need(birth.get("boot") == before["boot"], f"a lost connection is no start: `boot` changed: {birth}")
    told = harness.next_telemetry()
    need(told.get("boot") == before["boot"], f"a lost connection is no start: `boot` changed: {told}")
    need(told.get("seq", -1) > before["seq"], f"it uses a number of this boot again: {told}")
    end = begin + lease_s + LATE_S + harness.settle_s
    harness.until(
        lambda: any(harness.is_safe(m.json) for m in harness.heard("telemetry", mark)),
        "the safe state at the end of a lease in which the connection was lost",
        lease_s + harness.within_s + harness.settle_s,
    )
    late = [m.json for m in harness.heard("telemetry", mark) if m.at_s > end and not harness.is_safe(m.json)]
    need(not late, f"a lost connection has prolonged a lease of {lease_s:g} s: {late}")
    return not harness.is_safe(told)


def check_stop_over_a_lost_connection(bench: ConformanceBench) -> None:
    """A stop that the broker forgets in a restart stays in force at the device."""
    harness = bench.harness
    harness.make_free()
    mark = harness.stop()
    harness.wait_for(harness.confirm_topic, lambda m: m.get("active") is True, "the confirmed stop", mark)
    mark = harness.now
    bench.restart_broker(0.2)
    harness.birth(mark)
    harness.next_telemetry()
    sender = harness.sender()
    answer = sender.answer(sender.send(harness.part_mw(0.4)))
    need(
        answer.get("rejected") and harness.is_safe(answer),
        f"the broker forgot the stop, and so did the device: {answer}",
    )
    harness.release_stop()


def check_end(bench: ConformanceBench) -> None:
    """Told to end amid a lease, it leaves ``offline`` behind, and says no power after that."""
    harness = bench.harness
    assert bench.program is not None
    harness.make_free()
    harness.sender().do(harness.part_mw(0.4))
    mark = harness.now
    bench.program.end()
    try:
        harness.wait_for(
            harness.topic("status"), lambda m: m.get("state") == "offline", "`offline` at its end", mark
        )
    finally:
        bench.give_power()
    need(harness.is_safe(harness.newest), f"it came back with power: {harness.newest}")


def _acknowledges(seq: int, telemetry: Json) -> bool:
    return telemetry.get("ack_seq") == seq

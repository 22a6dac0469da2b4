"""What becomes of messages on their way: quality of service, order, round trip, and the largest size."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable
from typing import Any

from heron_mqtt.app.doctor.findings import BrokerFinding
from heron_mqtt.errors import BrokerError
from heron_mqtt.messaging.base import Received
from heron_mqtt.messaging.codec import MAX_PAYLOAD_BYTES, encode
from heron_mqtt.messaging.mqtt import MqttBroker

MakeOperator = Callable[[], MqttBroker]

CHANNEL = "bench/hop"
ANSWER_S = 5.0
IN_A_ROW = 500
ROUND_TRIPS, ROUND_TRIPS_S = 200, 5.0
SIZES = (1 << 10, 1 << 14, 1 << 16, 1 << 18, MAX_PAYLOAD_BYTES)
NEEDED_BYTES = 1 << 16
"""An observation of 1,000 quantities, or a summary of a run's record, has some 50 kB."""


async def examine_qos(connect: MakeOperator) -> list[BrokerFinding]:
    """Publish once at QoS 1 and once at QoS 2; each is acknowledged and arrives exactly once."""
    findings = []
    for qos in (1, 2):
        got, acknowledged = await _send(connect, [{"n": 0}], qos=qos)
        check = f"QoS {qos}"
        if acknowledged and got == [0]:
            findings.append(BrokerFinding(check, "go", "acknowledged, and arrived once"))
            continue
        what = f"{'acknowledged' if acknowledged else 'not acknowledged'}, and arrived {len(got)} times"
        if qos == 2:
            findings.append(BrokerFinding(check, "note", f"{what}; nothing of this project needs it"))
        else:
            findings.append(BrokerFinding(check, "no-go", what, "use a broker that serves QoS 1"))
    return findings


async def examine_order(connect: MakeOperator) -> BrokerFinding:
    """Publish many messages in a row; they arrive complete and in order."""
    got, acknowledged = await _send(connect, [{"n": n} for n in range(IN_A_ROW)], qos=1)
    first = list(dict.fromkeys(got))
    lost, repeated = IN_A_ROW - len(first), len(got) - len(first)
    figures = {"sent": IN_A_ROW, "lost": lost, "repeated": repeated}
    if lost or not acknowledged:
        return BrokerFinding(
            "order",
            "no-go",
            f"of {IN_A_ROW} messages in a row {lost} did not arrive"
            + ("" if acknowledged else ", and not all were acknowledged"),
            "give the broker queues that do not drop (mosquitto: max_queued_messages 0, "
            "max_inflight_messages 0), and this login a sufficient rate",
            figures,
        )
    if first != sorted(first):
        return BrokerFinding(
            "order", "no-go", "messages overtake each other", "use a broker that keeps order", figures
        )
    return BrokerFinding(
        "order", "go", f"{IN_A_ROW} messages in a row arrived in order, {repeated} repeated", figures=figures
    )


async def examine_round_trip(connect: MakeOperator, device_deadline_s: float | None) -> BrokerFinding:
    """Measure the time from publishing to arrival at another connection, one message after another.

    Args:
        connect: Makes a connection.
        device_deadline_s: How long a step of the scenario waits for a device; None = no scenario.
    """
    took_ms: list[float] = []
    async with connect() as sender, connect() as receiver:
        arrived = asyncio.Event()
        wanted = ""

        def on_message(message: Received) -> None:
            if message.get("boot") == wanted:
                arrived.set()

        subscription = receiver.subscribe(CHANNEL, on_message)
        await subscription
        end = time.monotonic() + ROUND_TRIPS_S
        try:
            while len(took_ms) < ROUND_TRIPS and time.monotonic() < end:
                wanted = secrets.token_hex(6)
                arrived.clear()
                begun = time.perf_counter()
                sender.publish(CHANNEL, {"type": "probe", "boot": wanted})
                async with asyncio.timeout(ANSWER_S):
                    await arrived.wait()
                took_ms.append(1e3 * (time.perf_counter() - begun))
        except TimeoutError:
            return BrokerFinding("round trip", "no-go", f"no message arrived within {ANSWER_S:g} s")
        finally:
            subscription()
    took_ms.sort()
    p50, p99 = _quantile(took_ms, 0.5), _quantile(took_ms, 0.99)
    figures = {"p50_ms": round(p50, 3), "p99_ms": round(p99, 3), "tried": len(took_ms)}
    what = f"p50 {p50:.1f} ms, p99 {p99:.1f} ms over {len(took_ms)} messages"
    # a setpoint and the telemetry that answers it
    if device_deadline_s is not None and 2.0 * p99 > 1e3 * device_deadline_s:
        return BrokerFinding(
            "round trip",
            "no-go",
            f"{what}; a setpoint and its answer need twice that, and deadlines.device_s is "
            f"{device_deadline_s:g}",
            f"set deadlines.device_s to {max(0.1, 6e-3 * p99):.2g} or more, or use a broker that answers "
            "faster",
            figures,
        )
    if p50 > 30.0 and p50 < 60.0:
        return BrokerFinding(
            "round trip",
            "note",
            f"{what}: about the 40 ms of a delayed TCP acknowledgement",
            "let the broker send small packets at once (mosquitto: set_tcp_nodelay true)",
            figures,
        )
    return BrokerFinding("round trip", "go", what, figures=figures)


async def examine_size(connect: MakeOperator) -> BrokerFinding:
    """Find the largest message that comes through, up to the limit of this project."""
    largest = 0
    for size in SIZES:
        frame = len(encode(_sized("", secrets.token_hex(6))))
        if not await _comes_through(connect, "x" * (size - frame)):
            break
        largest = size
    figures = {"largest_bytes": largest, "needed_bytes": NEEDED_BYTES}
    if largest == SIZES[-1]:
        return BrokerFinding("message size", "go", f"{_kib(largest)} come through", figures=figures)
    failed = next(size for size in SIZES if size > largest)
    what = f"{_kib(failed)} do not come through" + (f", {_kib(largest)} do" if largest else "")
    change = (
        "raise the broker's limit on packets and messages (mosquitto: max_packet_size, message_size_limit)"
    )
    if largest < NEEDED_BYTES:
        return BrokerFinding(
            "message size", "no-go", f"{what}; {_kib(NEEDED_BYTES)} are needed", change, figures
        )
    return BrokerFinding("message size", "note", f"{what}; large scenarios may need more", change, figures)


async def _comes_through(connect: MakeOperator, filling: str) -> bool:
    boot = secrets.token_hex(6)
    arrived = asyncio.Event()
    try:
        async with connect() as receiver, connect() as sender:
            subscription = receiver.subscribe(
                CHANNEL, lambda m: arrived.set() if m.get("boot") == boot else None
            )
            async with asyncio.timeout(ANSWER_S):
                await subscription
                sender.publish(CHANNEL, _sized(filling, boot), qos=0)
                while not arrived.is_set():
                    if sender.stats.reconnects or not sender.connected:
                        return False  # it ended the connection
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(0.05):
                            await arrived.wait()
            return True
    except (BrokerError, TimeoutError):
        return False


def _sized(filling: str, boot: str) -> dict[str, Any]:
    return {"type": "probe", "boot": boot, "filling": filling}


async def _send(connect: MakeOperator, bodies: list[dict[str, Any]], *, qos: int) -> tuple[list[int], bool]:
    """Send messages in a row; return the numbers that arrived, and whether all were acknowledged."""
    token = secrets.token_hex(6)
    got: list[int] = []
    missing, complete = set(range(len(bodies))), asyncio.Event()
    async with connect() as sender, connect() as receiver:

        def on_message(message: Received) -> None:
            if message.get("boot") == token:
                got.append(message["n"])
                missing.discard(message["n"])
                if not missing:
                    complete.set()

        subscription = receiver.subscribe(CHANNEL, on_message)
        acknowledged = False
        with contextlib.suppress(TimeoutError, BrokerError):
            async with asyncio.timeout(ANSWER_S):
                await subscription
                sent = [
                    sender.publish(CHANNEL, {"type": "probe", "boot": token, **body}, qos=qos)
                    for body in bodies
                ]
                await asyncio.gather(*sent)
                acknowledged = True
                await complete.wait()
        await asyncio.sleep(0.1)  # what comes twice
        subscription()
    return got, acknowledged


def _quantile(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _kib(size: int) -> str:
    return f"{size >> 10} KiB"

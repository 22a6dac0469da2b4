"""Half an hour of clients that come, go, break and publish at random, beside others that just work.

HERON_SOAK_S sets another duration in seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import resource
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from heron_mqtt.messaging.embedded import EmbeddedBroker, Limits
from support.raw_mqtt import Ended, Will, connect_packet, connected, opened, publish_packet

SOAK_S = float(os.environ.get("HERON_SOAK_S", "1800"))
MIB = 1 << 20


@dataclass
class Tally:
    """What the clients know they did."""

    published: int = 0
    steady_sent: int = 0
    steady_received: int = 0
    connects: int = 0


async def unsteady(port: int, seed: int, tally: Tally, end_s: float) -> None:
    """Connect, subscribe, publish, break; every publish is acknowledged before anything breaks."""
    rng = random.Random(seed)
    while time.monotonic() < end_s:
        async with opened(port) as client:
            will = Will(f"soak/will/{seed}", b"gone", rng.randrange(3)) if rng.random() < 0.5 else None
            name = f"unsteady-{rng.randrange(24)}"  # now and then it is in use: a takeover
            try:
                await client.send(connect_packet(name, clean=rng.random() < 0.5, keepalive=5, will=will))
                code = (await client.expect(2))[1]
                assert code == 0
                tally.connects += 1
                await client.subscribe(
                    (rng.choice(["soak/noise/#", "soak/noise/+", "soak/will/#"]), rng.randrange(3))
                )
                for _ in range(rng.randrange(60)):
                    topic, payload = f"soak/noise/{rng.randrange(9)}", rng.randbytes(rng.randrange(500))
                    await client.publish(topic, payload, qos=1, retain=rng.random() < 0.1)
                    tally.published += 1
                    await asyncio.sleep(rng.random() * 0.02)
                    if rng.random() < 0.3:
                        await client.arrived(ack=rng.random() < 0.8)
                match rng.randrange(4):
                    case 0:
                        await client.disconnect()
                    case 1:
                        client.drop()
                    case 2:  # in the middle of a packet
                        await client.send(publish_packet("soak/noise/0", bytes(300))[:100])
                        client.drop()
                    case 3:
                        await client.send(b"\xff\xff\xff\xff\xff")
                        await client.expect_end()
            except (Ended, ConnectionError):
                pass  # another client took the name over
        await asyncio.sleep(rng.random() * 0.05)


async def steady(port: int, number: int, tally: Tally, end_s: float) -> None:
    """A pair that publishes and receives without a break: nothing may be lost, doubled or out of order."""
    async with connected(port, f"steady-a{number}") as one, connected(port, f"steady-b{number}") as other:
        await other.subscribe((f"soak/steady/{number}", 1))
        sequence = 0
        while time.monotonic() < end_s:
            await one.publish(f"soak/steady/{number}", b"%d" % sequence, qos=1)
            tally.published += 1
            tally.steady_sent += 1
            assert (await other.received(10)).payload == b"%d" % sequence
            tally.steady_received += 1
            sequence += 1
            await asyncio.sleep(0.005)
        assert await other.arrived() == []


def resident_bytes(pid: int | None) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.slow
@pytest.mark.timeout(SOAK_S + 120)
async def test_soak() -> None:
    limits = Limits(max_queued_messages=500, session_expiry_s=60)
    async with EmbeddedBroker(limits=limits) as broker:
        tally = Tally()
        end_s = time.monotonic() + SOAK_S
        everyone = [asyncio.create_task(unsteady(broker.port, seed, tally, end_s)) for seed in range(8)]
        everyone += [asyncio.create_task(steady(broker.port, number, tally, end_s)) for number in range(2)]
        memory: list[int] = []
        try:
            while time.monotonic() < end_s and not any(task.done() for task in everyone):
                await asyncio.sleep(SOAK_S / 100)
                memory.append(resident_bytes(broker.pid))
            await asyncio.gather(*everyone)
        finally:
            for task in everyone:
                task.cancel()
            with contextlib.suppress(BaseException):
                await asyncio.gather(*everyone, return_exceptions=True)
        async with connected(broker.port) as last:
            await last.arrived()
        stats = await broker.read_stats()
        assert tally.steady_received == tally.steady_sent > SOAK_S * 20
        # A takeover can cut off the acknowledgement of a message that was taken: at most one for each.
        assert tally.published <= stats.received <= tally.published + stats.takeovers + stats.slow_readers
        assert stats.connects >= tally.connects
        early, late = memory[len(memory) // 4 : len(memory) // 2], memory[-len(memory) // 4 :]
        growth = sum(late) / len(late) - sum(early) / len(early)
        assert growth < 2 * MIB, f"{growth / MIB:.1f} MiB more in the last quarter than in the second"
        print(
            f"\n{stats.received} received, {stats.connects} connects, {stats.takeovers} takeovers, "
            f"{stats.dropped} dropped, memory {min(memory) / MIB:.1f} to {max(memory) / MIB:.1f} MiB"
        )

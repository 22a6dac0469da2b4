"""What an outbox costs: a message that leaves at once, and one that has to be written."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time
from pathlib import Path

from heron_mqtt.bench.rounds import BenchCase
from heron_mqtt.messaging.codec import encode
from heron_mqtt.messaging.core.stats import MessageStats
from heron_mqtt.messaging.mqtt import MqttBroker
from heron_mqtt.messaging.outbox import Outbox, OutboxStore
from heron_mqtt.messaging.stamping import MessageStamper

ENV_ID, CHANNEL = "bench-outbox", "devices/MG1/ess/telemetry"
AT_ONCE = 50
MAX_BYTES, MAX_AGE_S = 1_000_000_000, 86_400.0


async def publishing(
    stack: contextlib.AsyncExitStack, url: str, outbox: Path | None, pids: tuple[int, ...]
) -> BenchCase:
    """Return what publishes telemetry, ``AT_ONCE`` messages a step, until the broker has them."""
    broker = await stack.enter_async_context(MqttBroker(url, env_id=ENV_ID, outbox=outbox))
    stamper = MessageStamper("MG1/ess", ENV_ID)

    async def step() -> float:
        began_s = time.perf_counter()
        messages = [stamper.stamp(CHANNEL, {"type": "telemetry", "p_mw": 0.001}) for _ in range(AT_ONCE)]
        await asyncio.gather(*(broker.publish(CHANNEL, message) for message in messages))
        return time.perf_counter() - began_s

    return BenchCase(step, pids)


async def write_all(folder: Path, messages: int) -> tuple[float, float, int]:
    """Have an outbox keep messages while the broker is away, until all are on the disk.

    Returns:
        Time and CPU time of it, s, and the size of the file, bytes.
    """
    stats = MessageStats()
    path = Path(tempfile.mkdtemp(dir=folder)) / "outbox"
    outbox = Outbox(OutboxStore(path, ENV_ID), stats, max_bytes=MAX_BYTES, max_age_s=MAX_AGE_S)
    outbox.open()
    stamper = MessageStamper("MG1/ess", ENV_ID)
    began_s, cpu_s = time.perf_counter(), time.process_time()
    for n in range(messages):
        payload = encode(stamper.stamp(CHANNEL, {"type": "telemetry", "p_mw": 0.001}))
        outbox.add(f"heron/{ENV_ID}/{CHANNEL}", payload, 1, False, stop=False)
        if n % 100 == 0:
            await asyncio.sleep(0)
    await outbox.close()  # which writes what is left
    took_s, took_cpu_s = time.perf_counter() - began_s, time.process_time() - cpu_s
    return took_s, took_cpu_s, path.stat().st_size

"""Many devices that send telemetry once a second, evenly staggered, over a few connections.

    python -m heron_mqtt.bench.senders URL DEVICES SECONDS

Prints ``ready``, starts when it gets a line on standard input, and prints how many it has sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys

from heron_mqtt.messages import Telemetry
from heron_mqtt.messaging import topics
from heron_mqtt.messaging.mqtt import MqttBroker
from heron_mqtt.messaging.stamping import MessageStamper, utc_now

CONNECTIONS = 4
ENV_ID, AGENT = "bench-telemetry", "MG1"
PERIOD_S = 1.0


def device_name(index: int) -> str:
    """Return the name of one device."""
    return f"d{index:04d}"


async def send(url: str, n: int, seconds: int) -> int:
    """Send from ``n`` devices, once a second each; return the number of messages."""
    async with contextlib.AsyncExitStack() as stack:
        brokers = [
            await stack.enter_async_context(MqttBroker(url, env_id=ENV_ID)) for _ in range(CONNECTIONS)
        ]
        channels = [topics.device(AGENT, device_name(i), "telemetry") for i in range(n)]
        stampers = [MessageStamper(f"{AGENT}/{device_name(i)}", ENV_ID) for i in range(n)]
        print("ready", flush=True)  # noqa: T201 - whoever started us reads it
        await asyncio.to_thread(sys.stdin.readline)  # a pipe has no other portable way to be waited for
        loop = asyncio.get_running_loop()
        begin_s = loop.time()
        for number in range(n * seconds):
            due_s = begin_s + number * PERIOD_S / n
            if due_s > loop.time():
                await asyncio.sleep(due_s - loop.time())
            i = number % n
            telemetry = Telemetry(p_mw=0.01, soc=0.5, vm_pu=1.0)
            stamped = stampers[i].stamp(channels[i], telemetry)
            stamped["sent_at"] = utc_now().isoformat()  # microseconds: delays are measured by it
            brokers[i % CONNECTIONS].publish(channels[i], stamped)
    return n * seconds


if __name__ == "__main__":
    sent = asyncio.run(send(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
    print(sent, flush=True)  # noqa: T201 - whoever started us reads it

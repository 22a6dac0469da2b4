"""Many devices that send telemetry once a second, evenly staggered, over a few connections.

    python -m heron_mqtt.bench.senders URL DEVICES SECONDS

Prints ``ready`` and starts when it gets a line on standard input. At the end it prints the number of
messages, and by how many seconds the most delayed one was sent too late.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sys

from heron_mqtt.messages import Telemetry
from heron_mqtt.messaging import topics
from heron_mqtt.messaging.mqtt import MqttBroker
from heron_mqtt.messaging.stamping import MessageStamper, utc_now
from heron_mqtt.program_arguments import ProgramArguments

CONNECTIONS = 4
MAX_UNSENT = 20  # that are stamped before they are written; more are due where this process was kept waiting
ENV_ID, AGENT = "bench-telemetry", "MG1"
PERIOD_S = 1.0


def device_name(index: int) -> str:
    """Return the name of one device."""
    return f"d{index:04d}"


async def send(url: str, n: int, seconds: int) -> tuple[int, float]:
    """Send from ``n`` devices, once a second each; return the number of messages, and how late one was, s.

    A pause of this process must not count as a delay on the network. So the garbage collector ignores the
    objects made at the start, and no message waits for many others after its stamp.
    """
    async with contextlib.AsyncExitStack() as stack:
        brokers = [
            await stack.enter_async_context(MqttBroker(url, env_id=ENV_ID)) for _ in range(CONNECTIONS)
        ]
        channels = [topics.device(AGENT, device_name(i), "telemetry") for i in range(n)]
        stampers = [MessageStamper(f"{AGENT}/{device_name(i)}", ENV_ID) for i in range(n)]
        gc.freeze()
        print("ready", flush=True)  # noqa: T201 - the process that started this one reads it
        await asyncio.to_thread(sys.stdin.readline)  # a pipe has no other portable way to be waited for
        loop = asyncio.get_running_loop()
        begin_s, late_s = loop.time(), 0.0
        for number in range(n * seconds):
            wait_s = begin_s + number * PERIOD_S / n - loop.time()
            late_s = max(late_s, -wait_s)
            if wait_s > 0.0 or number % MAX_UNSENT == 0:
                await asyncio.sleep(max(0.0, wait_s))
            i = number % n
            telemetry = Telemetry(p_mw=0.01, soc=0.5, vm_pu=1.0)
            stamped = stampers[i].stamp(channels[i], telemetry)
            stamped["sent_at"] = utc_now().isoformat()  # microseconds: delays are measured by it
            brokers[i % CONNECTIONS].publish(channels[i], stamped)
    return n * seconds, late_s


if __name__ == "__main__":
    parser = ProgramArguments(prog="python -m heron_mqtt.bench.senders", description=__doc__)
    parser.add_argument("url")
    parser.add_argument("devices", type=int)
    parser.add_argument("seconds", type=int)
    wanted = parser.parse_args()
    sent, late_s = asyncio.run(send(wanted.url, wanted.devices, wanted.seconds))
    print(sent, late_s, flush=True)  # noqa: T201 - the process that started this one reads it

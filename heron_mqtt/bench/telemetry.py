"""Many devices, one gateway: what is lost, how old telemetry is when it has been taken, what it costs."""

from __future__ import annotations

import asyncio
import functools
import time
from dataclasses import dataclass

from heron_mqtt.bench.processes import module, next_line
from heron_mqtt.bench.senders import AGENT, ENV_ID, device_name
from heron_mqtt.field.gateway.device_link import DeviceLink
from heron_mqtt.messaging.mqtt import MqttBroker
from heron_mqtt.messaging.stamping import utc_now

LATE_S = 5.0  # how long the last messages may take before they count as lost


@dataclass(frozen=True, slots=True)
class Taken:
    """What one gateway saw of its devices.

    Attributes:
        sent, taken: Messages.
        delays_s: From the sender's stamp to the end of the gateway's work on it, sorted.
        cpu: Cores' worth of CPU that the gateway took.
    """

    sent: int
    taken: int
    delays_s: list[float]
    cpu: float

    def delay_ms(self, fraction: float) -> float:
        """Return a quantile of the delays, ms."""
        return self.delays_s[min(len(self.delays_s) - 1, int(fraction * len(self.delays_s)))] * 1e3


async def take_telemetry(url: str, n: int, seconds: int) -> Taken:
    """Have ``n`` devices in another process send for some seconds, and take it with one link each."""
    delays_s: list[float] = []
    links: list[DeviceLink] = []

    def note(i: int) -> None:
        telemetry = links[i].telemetry
        if telemetry is not None and telemetry.sent_at is not None:
            delays_s.append((utc_now() - telemetry.sent_at).total_seconds())

    async with MqttBroker(url, env_id=ENV_ID) as broker:
        for i in range(n):
            on_change = functools.partial(note, i)
            links.append(DeviceLink(AGENT, device_name(i), broker, lease_s=30.0, on_change=on_change))
        await asyncio.gather(*(link.open() for link in links))
        async with module("heron_mqtt.bench.senders", url, str(n), str(seconds)) as child:
            await next_line(child)
            began_s, cpu_s = time.perf_counter(), time.process_time()
            assert child.stdin is not None
            child.stdin.write(b"go\n")
            sent = int(await next_line(child, seconds + 60.0))
            cpu = (time.process_time() - cpu_s) / (time.perf_counter() - began_s)
            for _ in range(round(LATE_S / 0.01)):  # the last ones are on their way
                if len(delays_s) >= sent:
                    break
                await asyncio.sleep(0.01)
        for link in links:
            link.close()
    return Taken(sent, len(delays_s), sorted(delays_s), cpu)

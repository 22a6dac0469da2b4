"""Many devices, one gateway: losses, age of telemetry when it was processed, and CPU time."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from heron_mqtt.app.gc_freeze import frozen_gc
from heron_mqtt.bench.processes import module, next_line
from heron_mqtt.bench.senders import AGENT, ENV_ID, device_name
from heron_mqtt.field.gateway.device_link import DeviceLink
from heron_mqtt.messaging.mqtt import MqttBroker

LATE_S = 5.0  # how long the last messages may take before they count as lost


@dataclass(frozen=True, slots=True)
class TelemetryResult:
    """What one gateway saw of its devices.

    Attributes:
        sent, taken: Messages.
        delays_s: From the sender's stamp to the end of the gateway's work on it, sorted.
        cpu_s: CPU time that the gateway took, s.
        late_s: By how much a message was sent too late: the machine had no core for the sender, and may have
            had none for the gateway.
        collected_s: The longest garbage collection of the gateway, in which it read nothing.
    """

    sent: int
    taken: int
    delays_s: list[float]
    cpu_s: float
    late_s: float
    collected_s: float

    def delay_ms(self, fraction: float) -> float:
        """Return a quantile of the delays, ms."""
        return self.delays_s[min(len(self.delays_s) - 1, int(fraction * len(self.delays_s)))] * 1e3


async def take_telemetry(url: str, n: int, seconds: int) -> TelemetryResult:
    """Have ``n`` devices in another process send for some seconds, and take it with one link each.

    The garbage collector stays away from the links, as it does in ``heron-mqtt run`` and ``proxy``.
    """
    came_at_s: list[float] = []  # since 1970, as the stamps; compared afterwards, not at the gateway's cost
    stamped: list[datetime] = []
    links: list[DeviceLink] = []

    def note(i: int) -> None:
        telemetry = links[i].telemetry
        if telemetry is not None and telemetry.sent_at is not None:
            came_at_s.append(time.time())
            stamped.append(telemetry.sent_at)

    async with MqttBroker(url, env_id=ENV_ID) as broker:
        for i in range(n):
            on_change = functools.partial(note, i)
            links.append(
                DeviceLink(AGENT, device_name(i), broker, env_id=ENV_ID, lease_s=30.0, on_change=on_change)
            )
        await asyncio.gather(*(link.open() for link in links))
        async with module("heron_mqtt.bench.senders", url, str(n), str(seconds)) as child:
            await next_line(child)
            with frozen_gc(), _collections() as collected_s:
                cpu_s = time.process_time()
                assert child.stdin is not None
                child.stdin.write(b"go\n")
                sent, late_s = (await next_line(child, seconds + 60.0)).split()
                for _ in range(round(LATE_S / 0.01)):  # the last ones are on their way
                    if len(stamped) >= int(sent):
                        break
                    await asyncio.sleep(0.01)
                cpu_s = time.process_time() - cpu_s
        for link in links:
            link.close()
    delays_s = sorted(at_s - sent_at.timestamp() for at_s, sent_at in zip(came_at_s, stamped, strict=True))
    return TelemetryResult(
        int(sent), len(stamped), delays_s, cpu_s, float(late_s), max(collected_s, default=0.0)
    )


@contextlib.contextmanager
def _collections() -> Iterator[list[float]]:
    """Note how long each garbage collection takes meanwhile, s."""
    took_s: list[float] = []
    began_s = 0.0

    def note(phase: str, _info: dict[str, int]) -> None:
        nonlocal began_s
        if phase == "start":
            began_s = time.perf_counter()
        else:
            took_s.append(time.perf_counter() - began_s)

    gc.callbacks.append(note)
    try:
        yield took_s
    finally:
        gc.callbacks.remove(note)

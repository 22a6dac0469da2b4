"""A device of one's own by a virtual clock, and who talks to it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from heron_mqtt.field.device import FieldDevice
from heron_mqtt.messages import Setpoint, Telemetry
from heron_mqtt.messaging.stamping import MessageStamper
from support.field_rig import OpenMemoryBroker
from support.virtual import run_virtual, virtual_now

ESS = "devices/MG1/ess"


class Clocked(FieldDevice):
    """Does at once what it is told, by a virtual clock; what it does besides is the test's."""

    kind = "battery"

    def __init__(self, broker: OpenMemoryBroker, **options: Any) -> None:
        stamper = MessageStamper("MG1/ess", "default", boot=options.pop("boot", "d1"))
        self.slept_s = 0.0
        super().__init__(
            *("MG1", "ess", broker),
            **{"monotonic": lambda: virtual_now() + self.slept_s, "stamper": stamper, **options},
        )
        self.done: list[tuple[str, Any]] = []
        self.measured: Any = Telemetry(p_mw=0.0)
        self.fails: dict[str, Exception] = {}
        self.takes_s = 0.0
        self.is_owing = False
        self.settable = True
        self.is_heeding = True

    async def _do(self, what: str, value: Any) -> None:
        if self.takes_s:
            await asyncio.sleep(self.takes_s)
        if what in self.fails:
            raise self.fails[what]
        self.done.append((what, value))

    async def apply(self, setpoint: Setpoint) -> None:
        await self._do("apply", setpoint.p_mw)

    async def renew(self, setpoint: Setpoint) -> None:
        await self._do(
            "renew", (setpoint.p_mw, setpoint.lease_s, setpoint.seq, setpoint.boot, setpoint.renewal)
        )

    async def measure(self) -> Any:
        if "measure" in self.fails:
            raise self.fails["measure"]
        return self.measured

    async def go_safe(self, reason: str) -> None:
        await self._do("safe", reason)

    @property
    def owes_safe_state(self) -> bool:
        return self.is_owing

    @property
    def is_settable(self) -> bool:
        return self.settable

    def heeds(self, setpoint: Setpoint) -> bool:
        return self.is_heeding

    def nameplate(self) -> dict[str, Any]:
        return {"p_min_mw": -1.0, "p_max_mw": 2.0}


class ClockedSite:
    """A device that serves, and whoever talks to it."""

    def __init__(self, broker: OpenMemoryBroker, device: Clocked) -> None:
        self.broker, self.device = broker, device
        self.begun_s = virtual_now()
        self.said: dict[str, list[dict[str, Any]]] = {}
        self.times: dict[str, list[float]] = {}
        for leaf, channel in (
            *((leaf, f"{ESS}/{leaf}") for leaf in ("telemetry", "status", "lease")),
            ("confirm", "estop/confirm/MG1/ess"),
        ):
            self.said[leaf], self.times[leaf] = [], []
            broker.subscribe(channel, lambda m, leaf=leaf: self._note(leaf, m))
        self.seq = -1
        self.running: asyncio.Task[None] | None = None

    def _note(self, leaf: str, message: dict[str, Any]) -> None:
        self.said[leaf].append(dict(message))
        self.times[leaf].append(round(virtual_now() - self.begun_s, 6))

    @property
    def last(self) -> dict[str, Any]:
        return self.said["telemetry"][-1]

    def send(self, p_mw: float, lease_s: float = 30.0, **fields: Any) -> int:
        self.seq += 1
        told = {"p_mw": p_mw, "lease_s": lease_s, "sender": "MG1", "boot": "g1", "seq": self.seq, **fields}
        self.broker.publish(f"{ESS}/setpoint", {"type": "setpoint", **told})
        return self.seq

    def stop(self, active: bool = True, **fields: Any) -> None:
        self.broker.publish("estop", {"type": "estop", "active": active, "who": "ann", **fields})


def serve(
    test: Callable[[ClockedSite], Coroutine[Any, Any, None]],
    kind: type[Clocked] = Clocked,
    broker_kind: type[OpenMemoryBroker] = OpenMemoryBroker,
    **options: Any,
) -> None:
    """Run a test in virtual time with a device that serves."""

    async def main() -> None:
        broker = broker_kind()
        site = ClockedSite(broker, kind(broker, **options))
        online = asyncio.Event()
        site.running = asyncio.create_task(site.device.run(on_online=online.set))
        await online.wait()
        site.begun_s = virtual_now()
        for times in site.times.values():
            times[:] = [0.0] * len(times)
        await test(site)
        site.running.cancel()
        await asyncio.gather(site.running, return_exceptions=True)

    run_virtual(main())

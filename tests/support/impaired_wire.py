"""A network without brokers: numbered messages go in, and what comes out is written down."""

from __future__ import annotations

from typing import Any

from heron_mqtt.errors import BrokerError
from heron_mqtt.messaging.impaired.event_log import ImpairmentLog
from heron_mqtt.messaging.impaired.network import Network
from heron_mqtt.messaging.impairment import ImpairmentTable
from support.fake_timers import FakeTimers


class Wire:
    """A network, and what came out of it."""

    def __init__(self, *, run_seed: int = 1, **table: Any) -> None:
        self.timers = FakeTimers()
        self.record = ImpairmentLog()
        self.overflowed: list[str] = []
        self.network = Network(
            ImpairmentTable.model_validate(table), run_seed, self.record, self.overflowed.append
        )
        self.network.start(self.timers)
        self.out: list[tuple[str, int]] = []
        self.times: list[float] = []
        self.gone: list[tuple[int, BrokerError | None]] = []

    def send(
        self, i: int, channel: str = "c", *, stream: Any = "out", sure: bool = False, **message: Any
    ) -> None:
        wire = self

        class _Item:
            def arrive(self) -> None:
                wire.out.append((channel, i))
                wire.times.append(round(wire.timers.now_s - 1000.0, 9))

            def vanish(self, error: BrokerError | None) -> None:
                wire.gone.append((i, error))

        self.network.send(stream, channel, {"i": i, **message}, _Item(), sure=sure)

    def numbers(self, channel: str = "c") -> list[int]:
        return [i for name, i in self.out if name == channel]


def rules(**keys: Any) -> dict[str, Any]:
    return {"rules": [keys]}

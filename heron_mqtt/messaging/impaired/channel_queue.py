"""One channel in one direction, a message on its way in it, and what the network needs of others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from heron_mqtt.errors import BrokerError
from heron_mqtt.messaging.impaired.event_log import TrafficStream
from heron_mqtt.messaging.impaired.sampler import Impairment, ImpairmentSampler
from heron_mqtt.messaging.impairment import Direction, ImpairmentTable, PartitionTable


class Timer(Protocol):
    """A call that is to come."""

    def cancel(self) -> None:
        """Do not call."""


class Timers(Protocol):
    """What the network needs of a clock; every asyncio event loop is one."""

    def time(self) -> float:
        """Return the time, s, never going back."""

    def call_at(self, when: float, callback: Callable[[], object], /) -> Timer:
        """Call back at a time, s."""


class InFlight(Protocol):
    """A message in the network's hands."""

    def arrive(self) -> None:
        """It has come through; called again for a copy."""

    def vanish(self, error: BrokerError | None) -> None:
        """It has not: lost like any message (None), or for a reason that its sender can know."""


class ChannelQueue:
    """One channel in one direction."""

    def __init__(self, direction: Direction, channel: str, table: ImpairmentTable, seed: int) -> None:
        self.channel = channel
        self.rule = next((rule for rule in table.rules if rule.matches(direction, channel)), None)
        is_exempt = self.rule is not None and self.rule.exempt
        self.partitions: list[PartitionTable] = []
        if not is_exempt:
            self.partitions = [window for window in table.partitions if window.matches(direction, channel)]
        self.waiting = 0  # messages on their way that later ones must not overtake
        self.last_due_s = 0.0
        self.last_delivered = -1
        self._seed = seed
        self._samplers: dict[TrafficStream, ImpairmentSampler] = {}

    def sampler(self, stream: TrafficStream) -> ImpairmentSampler:
        """Return the sampler of a stream; retained messages have their own and leave the live ones alone."""
        sampler = self._samplers.get(stream)
        if sampler is None:
            sampler = self._samplers[stream] = ImpairmentSampler(
                self.rule, self._seed, f"{stream}/{self.channel}"
            )
        return sampler

    def cut(self, now_s: float, step: int | None) -> PartitionTable | None:
        """Return the partition in which a message falls, if any."""
        return next((window for window in self.partitions if window.is_open(now_s, step)), None)


@dataclass(slots=True)
class ScheduledMessage:
    """One message on its way."""

    queue: ChannelQueue
    stream: TrafficStream
    n: int
    entry: int
    due_s: float
    delay_s: float
    item: InFlight
    impairment: Impairment
    is_held: bool = False
    """It waits for the end of a partition."""

    def __lt__(self, other: ScheduledMessage) -> bool:
        return (self.due_s, self.entry) < (other.due_s, other.entry)

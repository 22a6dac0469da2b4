"""What the network did to which message: counters a channel, and the last events one by one."""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from heron_mqtt.messaging.core.subscription import MAX_CHANNELS

What = Literal["delayed", "held", "lost", "partitioned", "duplicated", "reordered", "overflowed", "abandoned"]
TrafficStream = Literal["out", "in", "retained"]
"""Published; received; received after subscribing to a channel that holds a retained message."""

OTHERS = "(others)"
"""Stands for the channels beyond the first 10,000: what comes from the network must not fill the memory."""


@dataclass(slots=True)
class ChannelCounts:
    """Messages of one channel and stream. Copies are not counted as messages.

    Of the messages that arrived (``passed``):

    - ``delayed``: took time
    - ``held``: waited for the end of a partition
    - ``duplicated``: were followed by a copy
    - ``reordered``: were held back so that others could overtake
    - ``overtaken``: really were overtaken

    Of the messages that did not arrive:

    - ``lost``: were lost at random (``lost_in_burst`` of them in bursts)
    - ``partitioned``: fell into a partition
    - ``overflowed``: were the oldest when too many were in transit
    - ``abandoned``: were still in transit when the broker was closed
    """

    passed: int = 0
    delayed: int = 0
    delay_sum_s: float = 0.0
    delay_max_s: float = 0.0
    held: int = 0
    duplicated: int = 0
    reordered: int = 0
    overtaken: int = 0
    lost: int = 0
    lost_in_burst: int = 0
    partitioned: int = 0
    overflowed: int = 0
    abandoned: int = 0

    def add(self, other: ChannelCounts) -> None:
        """Add another channel's counts."""
        for field in fields(self):
            mine, theirs = getattr(self, field.name), getattr(other, field.name)
            together = max(mine, theirs) if field.name == "delay_max_s" else mine + theirs
            setattr(self, field.name, together)


@dataclass(frozen=True, slots=True)
class Event:
    """One thing done to one message.

    Attributes:
        at_s: When the message entered the network, s since the start.
        stream: See ``Stream``.
        channel: Its channel.
        n: Its number in this stream of this channel, from 0.
        what: What was done; a message that was delayed and duplicated has two events.
        delay_s: How long it took or would have taken, s.
        sender, seq, step: As the message says, if it does.
    """

    at_s: float
    stream: TrafficStream
    channel: str
    n: int
    what: What
    delay_s: float = 0.0
    sender: str | None = None
    seq: int | None = None
    step: int | None = None


class ImpairmentLog:
    """Counters and events of one impaired network.

    Args:
        max_events: Events kept; the oldest are forgotten first, the counters know them all.
    """

    def __init__(self, max_events: int = 10_000) -> None:
        self.events: deque[Event] = deque(maxlen=max_events)
        self._counts: dict[tuple[TrafficStream, str], ChannelCounts] = {}

    def of(self, stream: TrafficStream, channel: str) -> ChannelCounts:
        """Return the counters of a channel, to read or to count in."""
        if len(self._counts) >= MAX_CHANNELS and (stream, channel) not in self._counts:
            channel = OTHERS
        return self._counts.setdefault((stream, channel), ChannelCounts())

    def totals(self, stream: TrafficStream | None = None) -> ChannelCounts:
        """Return the sum over all channels, of one stream or of all."""
        total = ChannelCounts()
        for (one, _), counts in self._counts.items():
            if stream in {None, one}:
                total.add(counts)
        return total

    def as_dict(self) -> dict[str, Any]:
        """Return the counters as plain data: ``totals`` and ``channels[stream][channel]``."""
        channels: dict[str, dict[str, Any]] = {}
        for (stream, channel), counts in sorted(self._counts.items()):
            channels.setdefault(stream, {})[channel] = asdict(counts)
        return {"totals": asdict(self.totals()), "channels": channels}

    def rows(self) -> Iterator[dict[str, Any]]:
        """Return the events that are kept as plain data, oldest first."""
        return (asdict(event) for event in self.events)

    def write_csv(self, path: str | Path) -> None:
        """Write the events that are kept to a CSV file, oldest first.

        Raises:
            OSError: It cannot be written.
        """
        with Path(path).open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, [field.name for field in fields(Event)])
            writer.writeheader()
            writer.writerows(self.rows())

"""Duplicates and gaps, seen by (sender, boot, channel, seq)."""

from __future__ import annotations

import enum
from collections import OrderedDict
from dataclasses import dataclass, field

MAX_GAP = 100_000
"""More than a day of a message a second: a larger step is a sender that miscounts, not messages lost."""


class Arrival(enum.Enum):
    """The meaning of a message's sequence number."""

    EXPECTED = enum.auto()
    """The next one, or the first one heard of this stream."""
    AFTER_GAP = enum.auto()
    """Some before it have not arrived (yet)."""
    AFTER_JUMP = enum.auto()
    """So far ahead that it was not reached by counting: nothing is known of what is between."""
    LATE = enum.auto()
    """Fills a gap: it was counted as lost and now is not."""
    DUPLICATE = enum.auto()
    """Arrived before: drop it."""


@dataclass(slots=True)
class SequenceStream:
    """What is known of one stream; ``SequenceTracker`` makes and follows it."""

    floor: int
    expected: int
    # seq -> whether it was counted as lost (those from before the first one heard were not)
    missing: dict[int, bool] = field(default_factory=dict)

    def is_next(self, seq: object) -> bool:
        """Note the next message and return True; False = it is another one: ``observe`` says which."""
        if seq != self.expected:
            return False
        self.expected += 1
        return True


class SequenceTracker:
    """Follows every stream of sequence numbers; bounded in memory.

    A stream is (sender, boot, channel). A sender that starts again has a new ``boot`` and so a new
    stream. The first number heard of a stream starts it: what came before was not meant for us.

    Args:
        max_streams: Streams remembered; the one not heard of for longest is forgotten first.
        max_missing: Missing numbers remembered a stream; a message that is later than that is a duplicate.
    """

    def __init__(self, max_streams: int = 20_000, max_missing: int = 1_000) -> None:
        self._streams: OrderedDict[tuple[str, str, str], SequenceStream] = OrderedDict()
        self._max_streams = max_streams
        self._max_missing = max_missing
        self.lost = 0
        """Messages that have not arrived though a later one of their stream has."""

    def stream(self, sender: str, boot: str, channel: str) -> SequenceStream | None:
        """Return what is remembered of a stream, for who hears one message after the other of it."""
        return self._streams.get((sender, boot, channel))

    def keep(self, sender: str, boot: str, channel: str, stream: SequenceStream) -> None:
        """Remember a stream as the newest heard of, though its messages were taken by ``is_next``."""
        key = (sender, boot, channel)
        self._streams[key] = stream
        self._streams.move_to_end(key)
        self._forget()

    def _forget(self) -> None:
        if len(self._streams) > self._max_streams:
            self._streams.popitem(last=False)

    def observe(self, sender: str, boot: str, channel: str, seq: int) -> Arrival:
        """Take note of one message and say what it is."""
        key = (sender, boot, channel)
        stream = self._streams.get(key)
        if stream is None:
            self._streams[key] = SequenceStream(seq, seq + 1)
            self._forget()
            return Arrival.EXPECTED
        self._streams.move_to_end(key)
        if seq < stream.expected:
            return self._earlier(stream, seq)
        if stream.is_next(seq):
            return Arrival.EXPECTED
        if seq - stream.expected > MAX_GAP:
            self._streams[key] = SequenceStream(seq, seq + 1)
            return Arrival.AFTER_JUMP
        self.lost += seq - stream.expected
        self._remember(stream, range(max(stream.expected, seq - self._max_missing), seq), counted=True)
        stream.expected = seq + 1
        return Arrival.AFTER_GAP

    def _earlier(self, stream: SequenceStream, seq: int) -> Arrival:
        """Say what a message is that comes after later ones."""
        if seq < stream.floor:
            self._remember(
                stream, range(max(seq + 1, stream.floor - self._max_missing), stream.floor), counted=False
            )
            stream.floor = seq
            return Arrival.LATE
        counted = stream.missing.pop(seq, None)
        if counted is None:
            return Arrival.DUPLICATE
        self.lost -= counted
        return Arrival.LATE

    def _remember(self, stream: SequenceStream, numbers: range, *, counted: bool) -> None:
        stream.missing.update(dict.fromkeys(numbers, counted))
        while len(stream.missing) > self._max_missing:
            del stream.missing[next(iter(stream.missing))]

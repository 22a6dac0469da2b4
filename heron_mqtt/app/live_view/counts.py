"""Number of messages on each kind of channel, and of lost ones; bounded for any input."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from heron_mqtt.app.live_view.delays import Delays, MinimumDelays
from heron_mqtt.app.live_view.events import may_be_event
from heron_mqtt.app.operator_client.observer import Heard
from heron_mqtt.json_object import Json
from heron_mqtt.messaging import topics
from heron_mqtt.messaging.core.sequence import Arrival, SequenceStream, SequenceTracker

KINDS = 500
KNOWN_CHANNELS = 20_000
RATE_S = 5  # over which rates are counted
MAX_AGE_S = 1e10  # three centuries
HELD_FOR_S = 60
"""How long the age of what an outbox handed over is shown: senders share a kind, and live ones speak too."""
OTHER = "(other channels)"


@dataclass(slots=True)
class KindCount:
    """Messages of one kind of channel; ``by_second`` has second and number, of the newest seconds.

    ``held`` were kept by their sender while it had no connection. While an outbox is emptied, oldest first,
    the longest age among the newest of them is that of the oldest that is left.
    """

    messages: int = 0
    lost: int = 0
    repeated: int = 0
    held: int = 0
    delays: Delays = field(default_factory=Delays)
    held_ages: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=HELD_FOR_S + 1))
    """Second, and the longest age in it, s; longest age first."""
    by_second: deque[list[int]] = field(default_factory=lambda: deque(([0, 0],), maxlen=RATE_S + 1))

    def note(self, at_s: float) -> None:
        """Count one message."""
        self.messages += 1
        second, newest = int(at_s), self.by_second[-1]
        if newest[0] == second:
            newest[1] += 1
        else:
            self.by_second.append([second, 1])

    def note_held(self, at_s: float, age_s: float) -> None:
        """Take note of a message that its sender had kept for so long."""
        second = int(at_s)
        while self.held_ages and self.held_ages[-1][1] <= age_s:
            self.held_ages.pop()
        if not self.held_ages or self.held_ages[-1][0] != second:
            self.held_ages.append((second, age_s))

    def held_age_s(self, now_s: float) -> float:
        """Return the longest time for which one of the newest was kept, s; 0 = all came at once."""
        since = int(now_s) - HELD_FOR_S
        return next((age_s for second, age_s in self.held_ages if second >= since), 0.0)

    def rate(self, now_s: float) -> float:
        """Return messages a second, over the last whole seconds."""
        now = int(now_s)
        return sum(number for second, number in self.by_second if now - RATE_S <= second < now) / RATE_S


@dataclass(slots=True)
class KnownChannel:
    """What follows from the name of a channel, so that it is worked out once.

    Attributes:
        name: With its environment.
        levels: Of the channel, unescaped.
        kind: Where it is counted.
        may_be_event: Whether a message on it can be an event.
        sender, boot, stream: Of the newest message with a number: the next one is nearly always of the same.
    """

    name: str
    levels: list[str]
    kind: KindCount
    may_be_event: bool
    sender: str | None = None
    boot: str | None = None
    stream: SequenceStream | None = None


class ChannelTraffic:
    """Counts by kind of channel, of one environment.

    Args:
        tracker: Finds gaps and repetitions; shared by all environments, so that what it remembers is bounded.
        quickest: Finds delays; shared as well.
        env_id: The environment.
    """

    def __init__(
        self,
        tracker: SequenceTracker,
        quickest: MinimumDelays,
        env_id: str,
    ) -> None:
        self.kinds: dict[str, KindCount] = {}
        self._known: dict[str, KnownChannel] = {}
        self._quickest = quickest
        self._tracker = tracker
        self._env_id = env_id

    def known(self, channel: str) -> KnownChannel:
        """Return what follows from the name of a channel."""
        return self._known.get(channel) or self._know(channel)

    def _know(self, channel: str) -> KnownChannel:
        if len(self._known) >= KNOWN_CHANNELS:
            self._known.clear()
        levels = topics.levels(channel)
        pattern = channel_kind(levels)
        kind = self.kinds.get(pattern)
        if kind is None:
            kind = self.kinds.setdefault(OTHER if len(self.kinds) >= KINDS else pattern, KindCount())
        found = KnownChannel(f"{self._env_id}/{channel}", levels, kind, may_be_event(levels))
        return self._known.setdefault(channel, found)

    def note_heard(self, channel: KnownChannel, heard: Heard) -> bool:
        """Count one message; what says nothing, or was kept by the broker, counts for no gap.

        Returns:
            Whether it came before, by its number.
        """
        fields = heard.fields
        if fields and not heard.retained:
            return self.note(channel, fields, heard.at_s)
        channel.kind.note(heard.at_s)
        return False

    def note(self, channel: KnownChannel, fields: Mapping[str, Any], at_s: float) -> bool:
        """Count one message that came live.

        Args:
            channel: Its channel.
            fields: What it says.
            at_s: When it came, by the loop's clock.

        Returns:
            Whether it came before, by its number.
        """
        get, kind, stream = fields.get, channel.kind, channel.stream
        kind.note(at_s)
        held_s, sender = get("held_s"), get("sender")
        if held_s is not None:
            kind.note_held(at_s, _age(held_s))
        if stream is not None and sender == channel.sender and get("boot") == channel.boot:
            is_next = stream.is_next(get("seq"))
        else:
            is_next = False
        if not is_next and self._is_repeated(channel, fields):
            kind.repeated += 1
            return True
        if held_s is not None:
            kind.held += 1
        elif (sent_at := get("sent_at")) is not None:
            kind.delays.note(self._quickest.later_s(sender, sent_at, at_s))
        return False

    def _is_repeated(self, channel: KnownChannel, fields: Mapping[str, Any]) -> bool:
        """Have a number looked at that is not the next one; count what is missing or has come late."""
        if (stream := channel.stream) is not None and channel.boot is not None:
            self._tracker.keep(str(channel.sender or ""), channel.boot, channel.name, stream)
        arrival, missing = observed(self._tracker, channel.name, fields)
        if arrival is None:
            return False
        channel.kind.lost += missing
        channel.sender, channel.boot = fields.get("sender"), fields["boot"]
        channel.stream = self._tracker.stream(str(fields.get("sender", "")), fields["boot"], channel.name)
        return arrival is Arrival.DUPLICATE

    def as_json(self, now_s: float) -> Json:
        """Return messages, lost, repeated, held (with age) and rate by kind of channel."""
        return {
            name: {
                "messages": kind.messages,
                "lost": kind.lost,
                "repeated": kind.repeated,
                "held": kind.held,
                "held_age_s": round(kind.held_age_s(now_s), 3),
                "rate": round(kind.rate(now_s), 2),
                "delay_mean_s": kind.delays.mean_s,
                "delay_max_s": kind.delays.max_s,
            }
            for name, kind in sorted(self.kinds.items())
        }


def observed(tracker: SequenceTracker, channel: str, fields: Mapping[str, Any]) -> tuple[Arrival | None, int]:
    """Have a tracker look at one message.

    Returns:
        What its number says, None where it has none; and how many more messages are missing than before
        (-1: one that was missing has come).
    """
    boot, seq = fields.get("boot"), fields.get("seq")
    if not isinstance(boot, str) or type(seq) is not int:
        return None, 0
    before = tracker.lost
    arrival = tracker.observe(str(fields.get("sender", "")), boot, channel, seq)
    return arrival, tracker.lost - before


def _age(held_s: object) -> float:
    """Return what a sender says of how long it kept a message, s; 0 for what cannot be that."""
    is_number = isinstance(held_s, int | float) and not isinstance(held_s, bool)
    return float(held_s) if is_number and 0.0 <= held_s < MAX_AGE_S else 0.0  # type: ignore[arg-type, operator]


def channel_kind(levels: list[str]) -> str:
    """Return the kind of a channel: its pattern, where many have the same one."""
    match levels:
        case ["devices", _, _, leaf]:
            return f"devices/+/+/{leaf}"[:100]
        case ["agents", _, leaf]:
            return f"agents/+/{leaf}"[:100]
        case ["p2p", _, _]:
            return "p2p/+/+"
        case ["estop", "confirm", *_]:
            return "estop/confirm/#"
        case _:
            return "/".join(levels)[:100]

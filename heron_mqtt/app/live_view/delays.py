"""The delay of a message relative to the fastest message of its sender.

The clocks of two machines are never compared. The time of arrival by our clock minus ``sent_at`` by the
sender's clock contains the difference of the two clocks. This difference is the same in all messages of that
sender. The smallest of these values is subtracted. The result is the variation of the delay (packet delay
variation, RFC 5481). It is 0 for the fastest message and does not depend on the clocks.
"""

from __future__ import annotations

from collections import deque
from datetime import datetime

NEWEST = 200
SENDERS = 10_000
MAX_SENDER = 200  # characters, as messages have it: what is remembered is bounded
WINDOW_S = 600.0
"""Clocks drift: the quickest message of the present and the last window counts."""


class Delays:
    """Of the newest messages of one kind of channel that say when they were sent."""

    def __init__(self) -> None:
        self._newest_s: deque[float] = deque(maxlen=NEWEST)

    def note(self, later_s: float | None) -> None:
        """Note the delay of one message; None = it is not known."""
        if later_s is not None:
            self._newest_s.append(later_s)

    @property
    def mean_s(self) -> float | None:
        """Their mean, s; None = there is none."""
        return round(sum(self._newest_s) / len(self._newest_s), 4) if self._newest_s else None

    @property
    def max_s(self) -> float | None:
        """The longest one, s; None = there is none."""
        return round(max(self._newest_s), 4) if self._newest_s else None


class MinimumDelays:
    """Remembers of each sender the least that a message was under way by the two clocks; bounded."""

    def __init__(self) -> None:
        self._senders: dict[object, list[float]] = {}  # window, least of it, least of the window before

    def later_s(self, sender: object, sent_at: object, at_s: float) -> float | None:
        """Return how much later than the quickest of its sender a message came, s, >= 0.

        Args:
            sender: Who sent it, as it says.
            sent_at: When, as it says, by a clock of its own; RFC 3339.
            at_s: When it came, by ours; any beginning.

        Returns:
            None where it does not say who sent it and when, or the sender is no name.
        """
        if not isinstance(sender, str) or len(sender) > MAX_SENDER or not isinstance(sent_at, str):
            return None
        try:
            sent = datetime.fromisoformat(sent_at)
        except ValueError:
            return None
        if sent.tzinfo is None:
            return None
        took_s, window = at_s - sent.timestamp(), at_s // WINDOW_S
        known = self._senders.get(sender)
        if known is None:
            if len(self._senders) >= SENDERS:
                self._senders.clear()
            self._senders[sender] = [window, took_s, took_s]
            return 0.0
        if window != known[0]:
            known[:] = [window, took_s, known[1]]
        elif took_s < known[1]:
            known[1] = took_s
        return max(0.0, took_s - min(known[1], known[2]))

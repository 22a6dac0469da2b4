"""Which telemetry of a device acknowledges a setpoint, and since when none has."""

from __future__ import annotations

import math

from heron_mqtt.messages import Telemetry

SPEAKS = 2  # telemetry since the first setpoint without answer; a single one may be an old one, late

Numbered = tuple[str, int]
"""Boot and number of a setpoint."""


class Acknowledgements:
    """The setpoints of one device that were sent, and what has acknowledged them; times by our clock, s.

    Attributes:
        newest: The newest setpoint; None = none was sent.
        sent_at: When it was sent.
        round_trip_s: From then to its answer; None = not answered (yet).
        is_expected: Whether a step should wait for an answer. After a setpoint without an answer it does not,
            until the device answers again, late or not, or publishes that it is online.
        unanswered_since: When the first setpoint was sent that was given up, since the last late answer.
        heard_unanswered: Telemetry since then; counted before, too, but it says nothing then.
    """

    __slots__ = (
        "_given_up",
        "_newest_seq",
        "heard_unanswered",
        "is_expected",
        "newest",
        "round_trip_s",
        "sent_at",
        "unanswered_since",
    )

    def __init__(self) -> None:
        self.newest: Numbered | None = None
        self.sent_at = -math.inf
        self.round_trip_s: float | None = None
        self.is_expected = True
        self.unanswered_since: float | None = None
        self.heard_unanswered = 0
        self._newest_seq = -1
        self._given_up: Numbered | None = None

    def note_number(self, seq: int) -> None:
        """Note the number of a setpoint, renewal or release: a device may acknowledge any of them."""
        self._newest_seq = seq

    def note_sent(self, boot: str, seq: int, now_s: float) -> None:
        """Note a new setpoint, before it leaves: in memory the answer comes while it does."""
        self.newest = (boot, seq)
        self.sent_at = now_s
        self.round_trip_s = None
        if self.unanswered_since is None:
            self.heard_unanswered = 0

    def is_answer(self, telemetry: Telemetry) -> bool:
        """Whether telemetry acknowledges the newest setpoint."""
        return self._acknowledges(telemetry, self.newest)

    def note_answer(self, now_s: float) -> float:
        """Note the first answer to the newest setpoint; returns how long it took, s."""
        self.round_trip_s = now_s - self.sent_at
        return self.round_trip_s

    def give_up(self) -> None:
        """Wait no longer for the answer to the newest setpoint."""
        self._given_up = self.newest
        self.is_expected = False
        if self.unanswered_since is None:
            self.unanswered_since = self.sent_at

    def note_late_answer(self, telemetry: Telemetry) -> bool:
        """Whether telemetry answers the setpoint that was given up; if so, answers are expected."""
        if self._given_up is None or not self._acknowledges(telemetry, self._given_up):
            return False
        self._given_up = self.unanswered_since = None
        self.is_expected = True
        return True

    def is_of_now(self, arrived_at: float) -> bool:
        """Whether the newest telemetry tells of now although it acknowledges nothing.

        A single message may have been delayed for long, so it counts only for the step in which it arrived.
        It counts for longer if the device has sent several messages since its first unanswered setpoint.

        Args:
            arrived_at: When it came.
        """
        return arrived_at > self.sent_at or self.heard_unanswered >= SPEAKS

    def _acknowledges(self, telemetry: Telemetry, setpoint: Numbered | None) -> bool:
        """Whether telemetry answers a setpoint or one after it, but none that was never sent."""
        if setpoint is None or telemetry.ack_seq is None:
            return False
        boot, seq = setpoint
        return telemetry.ack_boot in {None, boot} and seq <= telemetry.ack_seq <= self._newest_seq

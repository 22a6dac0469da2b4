"""Whether a vendor's device is there: the worst that its topics say, and their silence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from heron_mqtt.field.vendor.telemetry import AvailabilityReader
from heron_mqtt.messages import Status

_WORST_FIRST = ("offline", "fault", "online")


@dataclass(slots=True)
class _Said:
    status: Status
    at: float
    is_live: bool


class PresenceState:
    """What the availability topics of one device said last.

    A live word wins over a retained one, which may be older, until the next connection.

    Args:
        readers: The topics.
    """

    def __init__(self, readers: Sequence[AvailabilityReader]) -> None:
        self._timeouts_s = {reader.topic: reader.timeout_s for reader in readers}
        self._said: dict[str, _Said] = {}
        self._confirmed: set[str] = set()  # sources with a message since the connection was made

    def take(
        self, reader: AvailabilityReader, topic: str, payload: bytes, now_s: float, *, retained: bool = False
    ) -> None:
        """Take one word in.

        Raises:
            MessageError: It is not known, and the mapping says to leave those out.
        """
        before = self._said.get(reader.topic)
        if retained and before is not None and before.is_live:
            return
        read = reader.read(payload)
        if read is None:
            return
        state, word = read
        reason = None if state == "online" else f"{topic}: {word}"[:500]
        self.say(reader.topic, Status(state=state, reason=reason), now_s, retained=retained)

    def say(self, source: str, status: Status, now_s: float, *, retained: bool = False) -> None:
        """Take in what a source says otherwise: the birth or death of a Sparkplug node."""
        self._said[source] = _Said(status, now_s, not retained)
        self._confirmed.add(source)

    def reconnected(self) -> None:
        """Forget what was heard live: retained messages count again."""
        self._confirmed.clear()
        for said in self._said.values():
            said.is_live = False

    def is_surely_online(self, now_s: float) -> bool:
        """Whether every topic that ever had a message says so, in a message since the connection was made."""
        status = self.status(now_s)
        return status is not None and status.state == "online" and self._confirmed >= self._said.keys()

    def status(self, now_s: float | None = None) -> Status | None:
        """Return the worst; None if nothing was said.

        Args:
            now_s: None = silence is not looked at.
        """
        found = [self._of(source, said, now_s) for source, said in self._said.items()]
        return min(found, key=lambda s: _WORST_FIRST.index(s.state), default=None)

    def _of(self, source: str, said: _Said, now_s: float | None) -> Status:
        timeout_s = self._timeouts_s.get(source)
        if (
            now_s is None
            or timeout_s is None
            or now_s - said.at <= timeout_s
            or said.status.state == "offline"
        ):
            return said.status
        return Status(state="offline", reason=f"{source}: nothing for {timeout_s:g} s")

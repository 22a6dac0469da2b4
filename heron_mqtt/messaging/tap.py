"""MessageTap: gets every message that a broker object publishes or receives.

For a record of what crossed the broker; see ``MessageBroker.observe``. The calls are made where the message
is handled, so they must return at once and must not raise. Messages are not copied: a tap must not write to
them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Protocol

ArrivalKind = Literal["new", "late", "repeated"]
"""``repeated``: it has arrived before, and goes no further (a retained one: only to those who have not
heard it). ``late``: it is new, but waited for a connection, its sender's or ours: it tells what was."""


class MessageTap(Protocol):
    """Called with messages, in the thread that handles them."""

    def published(
        self, channel: str, message: Mapping[str, Any], payload: bytes | None, retain: bool
    ) -> None:
        """Take a message that is on its way out; without ``payload`` it was not encoded here."""

    def arrived(
        self,
        channel: str,
        message: Mapping[str, Any],
        payload: bytes | None,
        retained: bool,
        kind: ArrivalKind,
    ) -> None:
        """Take a message that has come in; without ``payload`` it was decoded elsewhere."""

    def impaired(
        self, stream: str, channel: str, message: Mapping[str, Any], what: str, delay_s: float
    ) -> None:
        """Take what an impaired network does to a message.

        Called before ``published`` or ``arrived`` of the same message; of one that is lost on its way in,
        ``arrived`` never is.

        Args:
            stream: ``out``, ``in`` or ``retained``.
            channel: Of the message.
            message: As it is sent.
            what: lost, partitioned, delayed, held, reordered or duplicated.
            delay_s: How long it takes, s.
        """

"""What the horizontal protocols have in common: rounds in which a participant speaks at most once a peer.

A session is one agent's part in one step, a state machine without I/O. A driver (the proxy over a
broker, or the direct exchange in centralized mode) publishes ``outgoing()``, feeds ``receive()``, and
calls ``advance()`` when ``waiting_for()`` is empty or the round's deadline has passed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from heron_mqtt.messages import Message


class HorizontalSession(Protocol):
    """One agent's part in one step of a horizontal protocol."""

    def outgoing(self) -> Mapping[str, Message]:
        """Return this round's messages, at most one a peer; the same ones at every call in a round."""

    def receive(self, peer: str, message: Message) -> bool:
        """Take a peer's message, of this round or a later one.

        Returns:
            False if it was ignored: a stranger's, a repetition, of a round that is over.
        """

    def waiting_for(self) -> set[str]:
        """Return the peers that owe a word in this round and have not spoken."""

    def advance(self) -> bool:
        """End the round, without those who have not spoken; False once there is no further round."""

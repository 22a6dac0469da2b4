"""What agents of many copies hear of a step, where messages may be lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from powergrid.simulation.links import Links

__all__ = ["MessageArrivals"]

Flags = NDArray[np.bool_]


@dataclass(slots=True)
class MessageArrivals:
    """One step of (n,) copies.

    Attributes:
        links: Of all copies.
        steps: (n,) under way.
        informed: (n, n_agents) who has the observation; the others take no part.
        commanded: (n, n_agents) whose command has arrived, of those that were sent.
        missed: (n, n_agents) phases that ended at their deadline.
    """

    links: Links
    steps: NDArray[np.int64]
    informed: Flags
    commanded: Flags
    missed: NDArray[np.int64]

    def clear_copies(self, pairs: Sequence[tuple[int, int]], n_messages: int) -> Flags:
        """Return the (n,) copies in which all send, and up to ``n_messages`` of each pair arrive.

        Args:
            pairs: Numbers of sender and receiver; the same ones in every step.
            n_messages: At most so many messages are sent in a step, by each to each.
        """
        clear: Flags = np.logical_and.reduce(self.informed, axis=1)
        clear &= (
            self.links.elapsed_s.max(axis=1) < self.links.peer_s
        )  # or an agent is too late for the offers
        for copy in np.flatnonzero(clear):
            clear[copy] = self.links.is_clear(int(copy), pairs, n_messages, int(self.steps[copy]))
        return clear

    def pass_by(self, clear: Flags, n_messages: NDArray[np.int64]) -> None:
        """Count the (n, sender, receiver) messages between agents of clear copies; all wait for the last."""
        elapsed_s = self.links.elapsed_s
        elapsed_s[clear] = elapsed_s[clear].max(axis=1, keepdims=True)
        for copy in np.flatnonzero(clear):
            self.links.pass_by(int(copy), n_messages[copy].tolist())

"""RunPart: a run that was interrupted and resumed has parts; each but the first begins with an event."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from heron_mqtt.locked_file import LockedFile

__all__ = ["LOST", "RESUMED", "ResumedRecord", "RunPart", "is_abandoned"]

RESUMED = "resumed"
"""Kind of the event with which a part begins. Its data: ``rows`` and ``head`` of the record before it."""

LOST = "lost"
"""Kind of the event with which the writer ends a part of which it lost rows. Its data: ``lost_rows``."""


@dataclass(frozen=True, slots=True)
class RunPart:
    """From the beginning of a run, or from where it was resumed, to where that happens next.

    Attributes:
        first: Episode and step that it begins with.
        rows: By table, how many rows stood in the record before it.
        head: The hash of the record then (hex); empty for the first part.
        at_s: When it began, s since the record began.
        summary: What the run said of itself at the end of this part; None = it was killed.
        lost_rows: Rows of this part that its writer could not write, beside those that the summary tells of.
    """

    first: tuple[int, int] = (0, 0)
    rows: Mapping[str, int] = field(default_factory=dict)
    head: str = ""
    at_s: float = -math.inf
    summary: Mapping[str, Any] | None = None
    lost_rows: int = 0


@dataclass(frozen=True, slots=True)
class ResumedRecord:
    """Where the run of a record continues.

    Attributes:
        first: Episode and step that it continues with.
        rows: By table, how many rows stand in it.
        head: Its hash (hex).
        begun_at: When the record began.
        last_s: The latest time in it, s since it began.
        lock: Held since before it was read, so that no other process has written to it meanwhile.
    """

    first: tuple[int, int]
    rows: Mapping[str, int]
    head: str
    begun_at: datetime
    last_s: float
    lock: LockedFile

    def elapsed_s(self, now: datetime) -> float:
        """Return the time since the record began, s: by the time of day, as clocks of two processes differ.

        Never before what is in it, should the time of day have been set back.
        """
        return max(self.last_s, (now - self.begun_at).total_seconds())


def is_abandoned(parts: Sequence[RunPart], at_s: float, at: tuple[int | None, int | None]) -> bool:
    """Whether a message belongs to a step that was not finished, and was done again after an interruption.

    Args:
        parts: Of the run.
        at_s: When it passed, s since the record began.
        at: Its episode and step.
    """
    episode, step = at
    if episode is None or step is None:
        return False
    return any(at_s < part.at_s and (episode, step) >= part.first for part in parts[1:])

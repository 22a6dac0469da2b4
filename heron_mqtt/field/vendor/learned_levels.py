"""Levels of topics that are learned: the instance of a device, which changes when it starts again."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

RELEARN_AFTER_S = 30.0
MOST_NOTED = 20  # other instances that are reported: anyone may publish on these topics


class LevelNote(NamedTuple):
    """What people should know of a learned level.

    Attributes:
        text: One line.
        is_change: Another instance is there or has taken over; else one was learned, as expected.
    """

    text: str
    is_change: bool


class LearnedLevels:
    """Learns, from the topics that are received, what stands for ``{name}`` and ``+``.

    The first instance that sends is learned. Another one replaces it only after it has been silent for a
    while, so that two instances that send at the same time are never mixed. Retained messages give way to the
    first live one.

    Args:
        relearn_after_s: By name, after how long a silence another instance may follow, s.
        keeps_instance: Whether the one that was learned has still to be told something at its own topics.
    """

    def __init__(
        self, relearn_after_s: Mapping[str, float], keeps_instance: Callable[[], bool] = lambda: False
    ) -> None:
        self._relearn_after_s = relearn_after_s
        self._keeps_instance = keeps_instance
        self._known: dict[str, tuple[str, float]] = {}  # and when it was heard live
        self._noted: set[str] = set()

    @property
    def values(self) -> dict[str, str]:
        """What is known, by name."""
        return {name: text for name, (text, _) in self._known.items()}

    def takes(self, found: Mapping[str, str], now_s: float, retained: bool, notes: list[LevelNote]) -> bool:
        """Return whether a message is of the instance that was learned; learn it if there is none.

        Args:
            found: What stands in its topic, by name.
            now_s: When it came.
            retained: The broker had kept it.
            notes: Takes what people should know, each once.
        """
        return all(self._takes(name, text, now_s, retained, notes) for name, text in found.items())

    def _takes(self, name: str, text: str, now_s: float, retained: bool, notes: list[LevelNote]) -> bool:
        known, heard_at = self._known.get(name, ("", -math.inf))
        if known == text:
            if not retained:
                self._known[name] = (text, now_s)
            return True
        silent_s = now_s - heard_at
        if known and (retained or silent_s <= self._relearn_after_s.get(name, RELEARN_AFTER_S)):
            if not retained:
                other = f"{name} is {known}, but {text} is there too and not read: give the parameter"
                self._note(LevelNote(other, True), notes)
            return False
        if known and self._keeps_instance():
            other = f"{name} is {known}, which may hold a setpoint: {text} is not read until that has ended"
            self._note(LevelNote(other, True), notes)
            return False
        notes.append(LevelNote(f"{name} is {text}" + (f" instead of {known}" if known else ""), bool(known)))
        self._known[name] = (text, -math.inf if retained else now_s)
        return True

    def _note(self, note: LevelNote, notes: list[LevelNote]) -> None:
        if note.text not in self._noted and len(self._noted) < MOST_NOTED:
            self._noted.add(note.text)
            notes.append(note)

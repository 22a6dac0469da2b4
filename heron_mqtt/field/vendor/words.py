"""Words of devices: what is listed, in any case, with * for any text."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from heron_mqtt.field.vendor.cleaning_keys import Scalar
from heron_mqtt.field.vendor.parameters import as_text
from heron_mqtt.field.vendor.units import Complain

_OFF_WORDS = """
    off idle stop stopped standby stand-by stand_by none zero hold pause paused halt halted rest neutral
    disable disabled disconnect disconnected inactive deactivated suspend suspended shutdown cancel cancelled
    clear abort open false no aus
"""
OFF_WORDS = frozenset(_OFF_WORDS.split())
"""What devices call no power, in any case."""


def is_off(word: Scalar) -> bool:
    """Whether a word is one for no power: such a text, 0 or false."""
    if not isinstance(word, str):
        return not word
    text = word.strip().casefold()
    try:
        return float(text) == 0.0
    except ValueError:
        return text in OFF_WORDS


class Words:
    """Looks words up: the very word first, then in any case, then the patterns in their order.

    Args:
        meanings: Word -> what it means; ``*`` in a word is any text.
        key: Where the words stand, for complaints.
        complain: Takes note of mistakes.
    """

    def __init__(self, meanings: Mapping[str, Any], key: str, complain: Complain) -> None:
        self._exact = {word.strip(): meaning for word, meaning in meanings.items() if "*" not in word}
        self._any_case: dict[str, Any] = {}
        for word, meaning in self._exact.items():
            if self._any_case.setdefault(word.casefold(), meaning) != meaning:
                self._any_case[word.casefold()] = None  # two that differ in case only: no guess
        self._patterns = [
            (
                re.compile(".*".join(map(re.escape, word.strip().split("*"))), re.IGNORECASE | re.DOTALL),
                meaning,
            )
            for word, meaning in meanings.items()
            if "*" in word
        ]
        self._shown = ", ".join(meanings)
        if not meanings:
            complain(key, "expected at least one word")

    def __str__(self) -> str:
        """Return the words for a message."""
        return self._shown

    def find(self, raw: Any, other: Any = None) -> Any:
        """Return what a word means; ``other`` if it is not listed."""
        if not isinstance(raw, Scalar):
            return other
        text = word_text(raw)
        if text in self._exact:
            return self._exact[text]
        if (found := self._any_case.get(text.casefold())) is not None:
            return found
        return next((meaning for pattern, meaning in self._patterns if pattern.fullmatch(text)), other)


def word_text(raw: Scalar) -> str:
    """Return a value as a word: 1.0 is 1, true is true, white space around a text does not count."""
    if isinstance(raw, float) and raw.is_integer():
        return str(int(raw))
    return as_text(raw).strip()

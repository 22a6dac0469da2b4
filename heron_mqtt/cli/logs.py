"""Warnings that are alike in the log: the first ones, one a minute from then on, and how many there were."""

from __future__ import annotations

import logging
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TextIO

AGAIN_S = 60.0
SHOWN = 3  # of warnings that differ in numbers alone; of those that are equal, one
MAX_KINDS = 1_000  # of warnings that are remembered; more are shown as they come

_NUMBER = re.compile(r"(?<![\w.])[-+]?\d+(\.\d+)?(e[-+]?\d+)?(?![\w.])")


@dataclass(slots=True)
class _Repeated:
    text: str
    shown_s: float
    times: int = 1
    hidden: int = 0


class RepeatFilter(logging.Filter):
    """Holds back a warning that is equal to one just shown, or differs from several in numbers alone.

    A record with the attribute ``always`` is shown in any case: a stop is no repetition.

    Args:
        clock: Monotonic time, s.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._kinds: dict[tuple[str, str], _Repeated] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to show a record; how many were held back before it is added to its text."""
        if record.levelno > logging.WARNING or record.exc_info or getattr(record, "always", False):
            return True
        text, now_s = record.getMessage(), self._clock()
        kind = record.name, _NUMBER.sub("#", text)
        known = self._kinds.get(kind)
        if known is None:
            if len(self._kinds) < MAX_KINDS:
                self._kinds[kind] = _Repeated(text, now_s)
            return True
        is_due = now_s - known.shown_s >= AGAIN_S
        if not is_due and (text == known.text or known.times >= SHOWN):
            known.hidden += 1
            return False
        if known.hidden:
            record.msg, record.args = f"{text} (and {known.hidden} like it since it was last logged)", None
        known.text, known.shown_s, known.hidden = text, now_s, 0
        known.times = 1 if is_due else known.times + 1
        return True

    def held_back(self) -> list[str]:
        """Return one line for each kind of warning that was held back since it was last said."""
        found = [
            f"{known.hidden} more like: {logger}: {known.text}"
            for (logger, _), known in self._kinds.items()
            if known.hidden
        ]
        self._kinds.clear()
        return found


class _StandardError(logging.StreamHandler[TextIO]):
    """Writes to what is standard error now: a live table takes it over, so that it is not written across."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:
        """Standard error."""
        return sys.stderr

    @stream.setter
    def stream(self, _stream: TextIO) -> None:
        raise AttributeError("this handler has no stream of its own")


REPEATS = RepeatFilter()


def set_up_logging(*, verbose: bool) -> None:
    """Log to standard error, unless the caller has a log already; ``verbose``: more, nothing held back."""
    handler = _StandardError()
    if not verbose:
        handler.addFilter(REPEATS)
    logging.basicConfig(
        handlers=[handler],
        level=logging.INFO if verbose else logging.WARNING,
        format="%(levelname)s %(name)s: %(message)s",
    )


def tell_what_was_held_back() -> None:
    """Say at the end how often warnings came that were not shown."""
    for line in REPEATS.held_back():
        sys.stderr.write(f"WARNING {line}\n")

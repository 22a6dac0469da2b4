"""The broker's log: one line an event, ``event key=value ...``, never more than so many a second."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable

LOGGER_NAME = "heron_mqtt.broker"
_MAX_VALUE_CHARS = 200


class EventLog:
    """Structured log lines that a flood of events cannot turn into a flood of lines.

    Args:
        max_lines_per_s: Lines of one event in one second; 0 means no bound.
        clock: Monotonic time, s.
    """

    def __init__(self, max_lines_per_s: int, clock: Callable[[], float]) -> None:
        self._logger = logging.getLogger(LOGGER_NAME)
        self._max_lines_per_s = max_lines_per_s
        self._clock = clock
        self._second = -1
        self._lines: dict[tuple[str, int], int] = {}

    def info(self, event: str, **fields: object) -> None:
        """Log what is expected to happen."""
        self._log(logging.INFO, event, fields)

    def warning(self, event: str, **fields: object) -> None:
        """Log what a person should look at."""
        self._log(logging.WARNING, event, fields)

    def exception(self, event: str, exc: BaseException, **fields: object) -> None:
        """Log a fault of the broker itself, with its traceback."""
        self._logger.error(_line(event, fields), exc_info=exc)

    def _log(self, level: int, event: str, fields: dict[str, object]) -> None:
        if not self._logger.isEnabledFor(level):
            return
        if self._max_lines_per_s:
            second = int(self._clock())
            if second != self._second:
                self._report_suppressed()
                self._second = second
                self._lines.clear()
            lines = self._lines[event, level] = self._lines.get((event, level), 0) + 1
            if lines > self._max_lines_per_s:
                return
        self._logger.log(level, "%s", _line(event, fields))

    def _report_suppressed(self) -> None:
        for (event, level), lines in self._lines.items():
            if lines > self._max_lines_per_s:
                suppressed = {"of": event, "lines": lines - self._max_lines_per_s}
                self._logger.log(level, "%s", _line("suppressed", suppressed))


def _line(event: str, fields: dict[str, object]) -> str:
    """Render one line. Strings are quoted as JSON: what a client sent cannot begin a line of its own."""
    parts = [event]
    for name, value in fields.items():
        if isinstance(value, str):
            text = value if len(value) <= _MAX_VALUE_CHARS else value[:_MAX_VALUE_CHARS] + "..."
            parts.append(f"{name}={json.dumps(text)}")
        elif isinstance(value, float):
            parts.append(f"{name}={value:.3f}")
        else:
            parts.append(f"{name}={value}")
    return " ".join(parts)

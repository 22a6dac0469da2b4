"""The newest points of a device's plot: what it was told and what it measured."""

from __future__ import annotations

import math
from array import array
from typing import Any

POINTS = 400
APART_S = 0.4  # a page is drawn no more often

Json = dict[str, Any]


class DeviceTrace:
    """A ring of points, 24 bytes each; NaN where there is no value."""

    def __init__(self) -> None:
        self._points = array("d")
        self._next = 0
        self._newest_at_s = -APART_S

    def note(self, at_s: float, told_mw: float | None, done_mw: float) -> None:
        """Keep a point; one that was just before is replaced, at its time.

        Args:
            at_s: By the clock of the loop.
            told_mw: The setpoint in force, MW, positive = injected; None = there is none.
            done_mw: Measured, MW, positive = injected.
        """
        told = float("nan") if told_mw is None else told_mw
        if at_s - self._newest_at_s < APART_S and self._points:
            self._points[self._next - 2], self._points[self._next - 1] = told, done_mw
            return
        self._newest_at_s = at_s
        point = array("d", (at_s, told, done_mw))
        if len(self._points) < 3 * POINTS:
            self._points.extend(point)
        else:
            self._points[self._next : self._next + 3] = point
        self._next = (self._next + 3) % (3 * POINTS)

    def as_json(self, offset_s: float) -> Json:
        """Return the points, oldest first: ``t`` with an offset, s, ``told`` and ``done``, MW or None."""
        begin = self._next if len(self._points) == 3 * POINTS else 0
        points = self._points[begin:] + self._points[:begin]
        return {
            "t": [round(at_s + offset_s, 3) for at_s in points[0::3]],
            "told": [_or_none(value) for value in points[1::3]],
            "done": [_or_none(value) for value in points[2::3]],
        }


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value

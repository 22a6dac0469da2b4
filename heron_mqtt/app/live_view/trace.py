"""The newest points of a device's plot: setpoints and measurements."""

from __future__ import annotations

import math
from array import array

from heron_mqtt.json_object import Json

POINTS = 400
KEPT = 3 * (POINTS - 1)
APART_S = 0.4  # a page is drawn no more often


class DeviceTrace:
    """A ring of points, 24 bytes each; NaN where there is no value."""

    __slots__ = ("_done_mw", "_newest_at_s", "_next", "_points", "_told_mw")

    def __init__(self) -> None:
        self._points = array("d")  # but for the newest one
        self._next = 0
        self._newest_at_s: float | None = None
        self._told_mw: float | None = None
        self._done_mw = 0.0

    def note(self, at_s: float, told_mw: float | None, done_mw: float) -> None:
        """Keep a point; one that was just before is replaced, at its time.

        Args:
            at_s: By the clock of the loop.
            told_mw: The setpoint in force, MW, positive = injected; None = there is none.
            done_mw: Measured, MW, positive = injected.
        """
        newest_at_s = self._newest_at_s
        if newest_at_s is None or at_s - newest_at_s >= APART_S:
            if newest_at_s is not None:
                self._keep(newest_at_s)
            self._newest_at_s = at_s
        self._told_mw, self._done_mw = told_mw, done_mw

    def _keep(self, at_s: float) -> None:
        told_mw = float("nan") if self._told_mw is None else self._told_mw
        point = array("d", (at_s, told_mw, self._done_mw))
        if len(self._points) < KEPT:
            self._points.extend(point)
        else:
            self._points[self._next : self._next + 3] = point
        self._next = (self._next + 3) % KEPT

    def as_json(self, offset_s: float) -> Json:
        """Return the points, oldest first: ``t`` with an offset, s, ``told`` and ``done``, MW or None."""
        begin = self._next if len(self._points) == KEPT else 0
        points = self._points[begin:] + self._points[:begin]
        if self._newest_at_s is not None:
            told_mw = float("nan") if self._told_mw is None else self._told_mw
            points.extend((self._newest_at_s, told_mw, self._done_mw))
        return {
            "t": [round(at_s + offset_s, 3) for at_s in points[0::3]],
            "told": [_or_none(value) for value in points[1::3]],
            "done": [_or_none(value) for value in points[2::3]],
        }


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value

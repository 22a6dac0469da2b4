"""A signal as an SVG: its line, the bounds that were asserted, and the samples that broke them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from heron_mqtt.testing.signals.signal import Signal

WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 900, 320, 80, 46, 20, 34
TICKS = 5
LONGEST_TEXT = 150
MAX_MARKS = 200


@dataclass(frozen=True, slots=True)
class Bound:
    """A band in which the values must lie, over a time; infinite ends are not drawn."""

    from_s: float
    until_s: float
    low: float
    high: float


def plot_of(signal: Signal, title: str, bounds: Sequence[Bound], bad: Sequence[int]) -> str:
    """Return the plot.

    Args:
        signal: What is drawn; where it is not known, its line is broken.
        title: Above it.
        bounds: What was asserted.
        bad: Indices of the samples that broke it.
    """
    known = [value for value in signal.values if math.isfinite(value)]
    edges = [edge for bound in bounds for edge in (bound.low, bound.high) if math.isfinite(edge)]
    y = _Scale([*known, *edges], HEIGHT - BOTTOM, TOP)
    x = _Scale([*signal.t_s, *(b.from_s for b in bounds), *(b.until_s for b in bounds)], LEFT, WIDTH - RIGHT)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        *(f'<text x="8" y="{16 + 15 * i}">{escape(line)}</text>' for i, line in enumerate(_lines(title))),
    ]
    parts += [_band(bound, x, y) for bound in bounds]
    for tick in y.ticks():
        at = y.place(tick)
        parts.append(f'<path d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{tick:.4g}</text>')
    for tick in x.ticks():
        at = x.place(tick)
        parts.append(f'<text x="{at:.1f}" y="{HEIGHT - 12}" text-anchor="middle">{tick:.5g} s</text>')
    parts.append(f'<text x="{LEFT}" y="{TOP - 4}" fill="#555">{escape(signal.unit)}</text>')
    parts.append(f'<path d="{_line(signal, x, y)}" fill="none" stroke="#1f5fa8" stroke-width="1.5"/>')
    for i in bad[:MAX_MARKS]:
        where = f'cx="{x.place(signal.t_s[i]):.1f}" cy="{y.place(signal.values[i]):.1f}"'
        parts.append(f'<circle {where} r="3.5" fill="#c00020"/>')
    return "\n".join([*parts, "</svg>\n"])


class _Scale:
    """From values to pixels."""

    def __init__(self, values: Sequence[float], first: float, last: float) -> None:
        low, high = (min(values), max(values)) if values else (0.0, 1.0)
        if high - low <= 1e-12 * max(abs(low), abs(high), 1e-12):
            size = max(abs(low), abs(high))
            around = size if size > 1e-12 else 1.0  # half of the least number there is would be nothing
            low, high = low - 0.5 * around, high + 0.5 * around
        self._low, self._high, self._first, self._last = low, high, first, last

    def place(self, value: float) -> float:
        share = (value - self._low) / (self._high - self._low)
        return self._first + min(max(share, 0.0), 1.0) * (self._last - self._first)

    def ticks(self) -> list[float]:
        return [self._low + (self._high - self._low) * i / (TICKS - 1) for i in range(TICKS)]


def _band(bound: Bound, x: _Scale, y: _Scale) -> str:
    left, right = x.place(bound.from_s), x.place(bound.until_s)
    top = y.place(bound.high) if math.isfinite(bound.high) else TOP
    bottom = y.place(bound.low) if math.isfinite(bound.low) else HEIGHT - BOTTOM
    size = f'width="{max(right - left, 1.0):.1f}" height="{max(bottom - top, 1.0):.1f}"'
    return f'<rect x="{left:.1f}" y="{top:.1f}" {size} fill="#2a9d5c" fill-opacity="0.15" stroke="#2a9d5c"/>'


def _line(signal: Signal, x: _Scale, y: _Scale) -> str:
    """Return the path: from sample to sample, broken at gaps and where a value is not known."""
    path, before = [], None
    for t, value in zip(signal.t_s, signal.values, strict=True):
        if not math.isfinite(value):
            before = None
            continue
        pen = "L" if before is not None and t - before <= signal.gap_s else "M"
        path.append(f"{pen}{x.place(t):.1f} {y.place(value):.1f}")
        before = t
    return "".join(path)


def _lines(text: str) -> list[str]:
    return [text[:LONGEST_TEXT], text[LONGEST_TEXT : 2 * LONGEST_TEXT]]

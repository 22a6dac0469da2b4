"""Numbers as a line of blocks."""

from __future__ import annotations

from collections.abc import Sequence

BLOCKS = "▁▂▃▄▅▆▇█"
PLAIN = "_.-=+*#@"  # where the terminal's encoding has no blocks


def sparkline(
    values: Sequence[float],
    *,
    low: float | None = None,
    high: float | None = None,
    ascii_only: bool = False,
) -> str:
    """Return numbers as blocks, the newest at the right.

    Args:
        values: The numbers.
        low: What the lowest block stands for; None = the least of them.
        high: What the highest block stands for; None = the largest of them.
        ascii_only: Whether to write it in ASCII.
    """
    if not values:
        return ""
    blocks = PLAIN if ascii_only else BLOCKS
    low = min(values) if low is None else low
    span = ((max(values) if high is None else high) - low) or 1.0
    last = len(blocks) - 1
    return "".join(blocks[max(0, min(last, int((value - low) / span * len(blocks))))] for value in values)

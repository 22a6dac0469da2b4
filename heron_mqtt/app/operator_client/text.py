"""Text of others on our terminal."""

from __future__ import annotations


def printable(text: object, limit: int = 200) -> str:
    """Return a text that came over the network without what a terminal would obey, and not too long."""
    shown = "".join(c if c.isprintable() else "?" for c in str(text))
    return shown if len(shown) <= limit else f"{shown[: limit - 3]}..."

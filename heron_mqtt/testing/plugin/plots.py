"""Writes the plot of an assertion on a signal that failed."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path


def write_plot(folder: str, test: str, svg: str) -> str:
    """Write the plot, and return its text for the report.

    Args:
        folder: Where to; made if it is not there.
        test: Name of the test; becomes the name of the file.
        svg: The plot.
    """
    plain = re.sub(r"^-+|-+$", "", re.sub(r"[^A-Za-z0-9_.-]+", "-", test))
    # Of two tests whose names differ only in what is replaced or cut off, each has a file of its own.
    name = f"{plain[-140:]}-{hashlib.sha256(test.encode()).hexdigest()[:8]}"
    path = Path(folder) / f"{name}.svg"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(svg, encoding="utf-8")
    except OSError as exc:
        return f"{path}: cannot be written: {exc.strerror}"
    return str(path)

"""In which line of a TOML file a key stands, for messages to people; as far as plain looking tells."""

from __future__ import annotations

import re
from pathlib import Path

_HEADER = re.compile(r"^\s*(\[\[?)\s*([^\]]+?)\s*\]\]?\s*(#.*)?$")
_KEY = re.compile(r"""^\s*((?:[\w-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[\w-]+|"[^"]*"|'[^']*'))*)\s*=""")
_PROBLEM = re.compile(r"^(?:.*\(profile (?P<profile>.+?)\)|(?P<file>.+?)): (?P<key>[\w.\[\]-]+)(?: = .*?)?: ")
_PART = re.compile(r"""[\w-]+|"[^"]*"|'[^']*'""")


def with_line(problem: str) -> str:
    """Return a problem of ``load_mapping`` with the line that its key stands in, where that is found.

    Args:
        problem: ``FILE: KEY: what is wrong``, or ``... (profile FILE): KEY: what is wrong``.
    """
    found = _PROBLEM.match(problem)
    if found is None:
        return problem
    path = Path(found["profile"] or found["file"])
    try:
        number = line_of(path.read_text("utf-8-sig"), found["key"])
    except (OSError, UnicodeDecodeError):
        return problem
    return problem if number is None else f"{problem} ({path.name}, line {number})"


def line_of(text: str, key: str) -> int | None:
    """Return the line of a key, from 1: its own, or that of the nearest table or value that it is in.

    Args:
        text: TOML.
        key: Dotted, with indices: ``telemetry[0].fields.p_mw.unit``.
    """
    wanted = tuple(re.findall(r"[^.\[\]]+", key))
    best: tuple[int, int] | None = None
    table: tuple[str, ...] = ()
    counts: dict[tuple[str, ...], int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if (header := _HEADER.match(line)) is not None:
            table = _resolved(_parts(header[2]), counts, is_array=header[1] == "[[")
            at = table
        elif (assigned := _KEY.match(line)) is not None:
            at = (*table, *_parts(assigned[1]))
        else:
            continue
        depth = len(at)
        if at == wanted[:depth] and (best is None or depth > best[0]):
            best = (depth, number)
    return None if best is None else best[1]


def _parts(text: str) -> tuple[str, ...]:
    return tuple(part.strip("\"'") for part in _PART.findall(text))


def _resolved(
    parts: tuple[str, ...], counts: dict[tuple[str, ...], int], *, is_array: bool
) -> tuple[str, ...]:
    """Return the path of a table, with the index of each array of tables that it is in."""
    path: tuple[str, ...] = ()
    for i, part in enumerate(parts):
        path = (*path, part)
        if is_array and i == len(parts) - 1:
            counts[path] = counts.get(path, -1) + 1
        if path in counts:
            path = (*path, str(counts[path]))
    return path

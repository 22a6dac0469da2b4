"""The hash chain: every row of a table is bound to all rows before it, and to what the run began with.

``hash(row) = SHA-256(hash(row before) + JSON of [id, columns...])``. The first row follows the *seed*: the
SHA-256 of the record's data about the run's beginning (``meta`` and ``input_file``) and the name of the
table. JSON is Python's ``json.dumps`` with ``separators=(",", ":")`` and ``ensure_ascii=False``, UTF-8: a
number is the shortest decimal that reads back as the same float.

To change, remove or insert a row, every hash behind it must be rewritten; the head that was printed or
published then no longer fits.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, check_circular=False).encode


def seed(meta: Mapping[str, str], files: Mapping[str, str], table: str) -> bytes:
    """Return what the first row of a table follows.

    Args:
        meta: What was written at the beginning.
        files: Name -> SHA-256 (hex) of the input files.
        table: Its name.
    """
    said = _encode([table, sorted(meta.items()), sorted(files.items())])
    return hashlib.sha256(said.encode()).digest()


def link(before: bytes, row: Sequence[Any]) -> bytes:
    """Return the hash of a row: its id and columns, behind the hash of the row before."""
    return hashlib.sha256(before + _encode(row).encode("utf-8", "surrogatepass")).digest()


def whole(heads: Iterable[tuple[str, int, str]]) -> str:
    """Return one hash (hex) for a whole record.

    Args:
        heads: Table, number of rows, head (hex) of each chain.
    """
    return hashlib.sha256(_encode(sorted(heads)).encode()).hexdigest()

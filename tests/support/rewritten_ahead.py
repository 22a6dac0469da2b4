"""The assertions of tests rewritten by a second process, from the last file on, while the first collects.

In a fresh clone to rewrite them takes 13 s of the processor, and collection, which is one process, waits for
it while the other processor has nothing to do. What the second process has written, the first one reads.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["RewritesAhead", "rewrite"]


class RewritesAhead:
    """A plugin of the process that collects."""

    def __init__(self) -> None:
        self._other: int | None = None

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_collection(self, session: pytest.Session) -> Iterator[None]:
        """Fork the second process, and wait for its end at that of the collection."""
        if not sys.dont_write_bytecode:
            self._other = os.fork()
            if self._other == 0:
                try:
                    rewrite(session.config)
                finally:  # what is wrong with a file, the process that collects tells
                    os._exit(0)
        try:
            return (yield)
        finally:
            if self._other is not None:
                os.waitpid(self._other, 0)


def rewrite(config: pytest.Config) -> list[Path]:
    """Rewrite and keep the tests that pytest is called with, last file first; return what was not kept.

    By names that are private to pytest; with another pytest the process that collects rewrites all of them.
    """
    try:
        from _pytest.assertion.rewrite import (
            PYC_TAIL,
            _read_pyc,
            _rewrite_test,
            _write_pyc,
            assertstate_key,
            get_cache_dir,
            try_makedirs,
        )
    except ImportError:
        return []
    rewritten = []
    for file in reversed(_files(config)):
        folder = get_cache_dir(file)
        kept = folder / f"{file.stem}{PYC_TAIL}"
        if _read_pyc(file, kept) is None and try_makedirs(folder):
            of_source, code = _rewrite_test(file, config)
            _write_pyc(config.stash[assertstate_key], code, of_source, kept)
            rewritten.append(file)
    return rewritten


def _files(config: pytest.Config) -> list[Path]:
    """Return the files in about the order in which pytest collects them."""
    found: list[Path] = []
    for argument in config.args:
        path = (config.invocation_params.dir / argument.partition("::")[0]).resolve()
        found += sorted(path.rglob("test_*.py")) if path.is_dir() else [path]
    return list(dict.fromkeys(file for file in found if file.suffix == ".py"))

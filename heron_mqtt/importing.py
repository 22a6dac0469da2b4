"""Imports without garbage collection, and without a search for plugins: what they make stays as it is."""

from __future__ import annotations

import contextlib
import gc
import os
import sys
from collections.abc import Iterator

__all__ = ["importing", "without_plugins"]

_PLUGINS_OFF = "PYDANTIC_DISABLE_PLUGINS"


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Keep the garbage collector away meanwhile, and what was made then counts as old; models get no plugins.

    The modules of a run are 150,000 objects. The collector would look at each of them several times, a
    twelfth of the CPU time of the start, and find nothing. Old ones are looked at in full collections alone.

    With its first model pydantic reads what every installed package says of itself, to find plugins: a
    thirtieth of the start. Models of ours need none. Those of a user's policy get theirs; those of kinds
    that a package of the user registers are made meanwhile, and get none.
    """
    with without_plugins():
        if not gc.isenabled():
            yield
            return
        gc.disable()
        known = len(sys.modules)
        try:
            yield
        finally:
            # What another caller has frozen would be thawed, too; to count 500,000 objects takes 40 ms.
            if len(sys.modules) != known and not gc.get_freeze_count():
                gc.freeze()
                gc.unfreeze()  # to the oldest generation, from whichever
            gc.enable()


@contextlib.contextmanager
def without_plugins() -> Iterator[None]:
    """Keep pydantic from searching for plugins meanwhile."""
    if _PLUGINS_OFF in os.environ:
        yield
        return
    os.environ[_PLUGINS_OFF] = "__all__"
    try:
        yield
    finally:
        os.environ.pop(_PLUGINS_OFF, None)

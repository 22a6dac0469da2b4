"""Imports without a look for garbage: what they make stays."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

__all__ = ["importing"]


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Keep the garbage collector away meanwhile; what was made then counts as old.

    The modules of a run are 150,000 objects. The collector would look at each of them several times, a
    twelfth of the CPU time of the start, and find nothing. Old ones are looked at in full collections alone.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        if not gc.get_freeze_count():  # else what somebody holds back would come back, too
            gc.freeze()
            gc.unfreeze()  # to the oldest generation, from whichever
        gc.enable()

"""What a process of many modules is asked again and again, and looks up at length each time.

A power flow looks for the libraries of linear algebra among all that are loaded, 3 to 7 ms. A run asks
whether anything is kept from the garbage collector, and Python counts half a million objects, 30 ms.
"""

from __future__ import annotations

import functools
import gc
import sys

__all__ = ["freeze", "look_for_libraries_once"]

_real_count, _real_unfreeze = gc.get_freeze_count, gc.unfreeze


def look_for_libraries_once() -> None:
    """Have the libraries that are loaded now be those that each power flow finds."""
    blas = sys.modules.get("powergrid.powerflow.blas")
    if blas is not None and not hasattr(blas.ThreadpoolController, "cache_info"):
        blas.ThreadpoolController = functools.cache(blas.ThreadpoolController)


def freeze() -> None:
    """Keep what there is from the garbage collector; that there is something is answered without counting."""
    gc.freeze()
    gc.get_freeze_count, gc.unfreeze = _some, _unfreeze


def _some() -> int:
    return 1


def _unfreeze() -> None:
    gc.get_freeze_count, gc.unfreeze = _real_count, _real_unfreeze
    gc.unfreeze()

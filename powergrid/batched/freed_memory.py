"""Memory that a batch frees in a step stays with the process, for the next one."""

from __future__ import annotations

import numpy as np

__all__ = ["keep_freed_memory"]

_LARGEST_BYTES = 1 << 24  # of 32 MiB, above which glibc no longer adapts


def keep_freed_memory() -> None:
    """Have the C library keep up to 32 MiB that were freed, instead of returning them to the system.

    A step of many copies makes arrays of a few 100 kB and frees them. Where these happen to lie at the end
    of the heap, glibc returns them, and takes them anew in the next step: 200 page faults, a tenth of the
    step's time, more in a virtual machine, and worst where two processes step at once. What it keeps
    adapts to the largest block that was ever freed (mallopt(3), M_MMAP_THRESHOLD and M_TRIM_THRESHOLD), so
    one block that is never written to does it. No effect with limits of one's own (``MALLOC_...``) or
    another C library.
    """
    np.empty(_LARGEST_BYTES, dtype=np.uint8)

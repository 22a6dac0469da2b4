"""Memory that a batch frees in a step stays with the process, for the next one."""

from __future__ import annotations

import numpy as np

__all__ = ["keep_freed_memory"]

_BLOCK_BYTES = 1 << 21  # glibc keeps twice as much as the largest block that was freed


def keep_freed_memory() -> None:
    """Have the C library keep 4 MiB that were freed at the end of the heap, for the next step.

    A step of many copies makes arrays of a few 100 kB and frees them. Where these happen to lie at the end
    of the heap, glibc returns them, and takes them again in the next step: 200 page faults, a tenth of the
    step's time, more in a virtual machine, and worst where two processes step at once. What it keeps
    adapts to the largest block that was ever freed (mallopt(3), M_MMAP_THRESHOLD and M_TRIM_THRESHOLD), so
    one block that is never written to does it. Arrays above 2 MiB stay blocks of their own, which go back to
    the system when they are freed: a learner's buffers are such. No effect with limits of one's own
    (``MALLOC_...``) or another C library.
    """
    np.empty(_BLOCK_BYTES, dtype=np.uint8)

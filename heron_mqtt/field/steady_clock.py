"""The clock of leases, holds and ages: it never jumps, and it goes on while the machine sleeps.

``time.monotonic`` stands still while a Linux machine is suspended, and so do the timers of an event loop: a
lease of ten seconds would be a lease of ten seconds awake, and hold over a night with the lid closed.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial

steady_s: Callable[[], float] = time.monotonic
"""Seconds since some moment in the past, on this machine alone."""
if sys.platform == "linux":
    steady_s = partial(time.clock_gettime, time.CLOCK_BOOTTIME)

"""The clock of leases, holds and ages: it never jumps, and it continues while the machine sleeps.

``time.monotonic`` and the timers of an event loop stop while a Linux machine is suspended. With them a lease
of ten seconds would hold for ten seconds of running time, and so over a whole night if the machine sleeps.
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

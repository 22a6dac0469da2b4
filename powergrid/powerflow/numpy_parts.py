"""scipy without the parts of numpy that it imports for nothing.

``scipy.sparse`` begins with ``from numpy import *``, which imports every part of numpy that numpy itself
imports only on demand, its Fortran compiler driver and its test tools among them. These take longer than the
rest of scipy, 0.1 s of every process. ``left_out`` stands in for them while scipy is imported, and no longer.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from types import ModuleType

import numpy as np

ON_DEMAND = ("f2py", "testing")


@contextlib.contextmanager
def left_out() -> Iterator[None]:
    """Let ``numpy.<part>`` be an empty module for the time being, where it is not imported yet."""
    empty = {part: ModuleType(f"numpy.{part}") for part in ON_DEMAND if f"numpy.{part}" not in sys.modules}
    for part, module in empty.items():
        setattr(np, part, module)
    try:
        yield
    finally:
        for part, module in empty.items():
            if vars(np).get(part) is module:
                delattr(np, part)


with left_out():
    import scipy.sparse  # noqa: F401

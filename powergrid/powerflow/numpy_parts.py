"""scipy without the parts of numpy that it imports for nothing.

``scipy.sparse`` begins with ``from numpy import *``. This imports every part of numpy that numpy itself
imports only on demand, for example its Fortran compiler driver, test tools and polynomials. These take longer
than the rest of scipy, 0.1 s of every process. ``left_out`` stands in for them while scipy is imported, and
no longer. Code that has kept the replacement gets the real part by it.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np

ON_DEMAND = ("char", "core", "ctypeslib", "f2py", "ma", "polynomial", "rec", "testing")


class _Later(ModuleType):
    """Stands in for a module, which is imported when something of it is asked for."""

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module(self.__name__), name)


@contextlib.contextmanager
def left_out() -> Iterator[None]:
    """Let ``numpy.<part>`` be imported later for the time being, where it is not imported yet."""
    later = {part: _Later(f"numpy.{part}") for part in ON_DEMAND if f"numpy.{part}" not in sys.modules}
    for part, module in later.items():
        setattr(np, part, module)
    try:
        yield
    finally:
        for part, module in later.items():
            if vars(np).get(part) is module:
                delattr(np, part)


with left_out():
    import scipy.sparse  # noqa: F401

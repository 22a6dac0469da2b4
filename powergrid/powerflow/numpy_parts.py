"""scipy without the parts of numpy that it imports for nothing.

``scipy.sparse`` begins with ``from numpy import *``, which imports every part of numpy that numpy itself
imports only on demand, its Fortran compiler driver and its test tools among them. These take longer than the
rest of scipy, 0.1 s of every process. Imported before scipy, this module leaves them to be executed at their
first use.
"""

from __future__ import annotations

import importlib.util
import sys

import numpy as np

ON_DEMAND = ("f2py", "testing")


def leave_for_later(name: str) -> None:
    """Let ``numpy.<name>`` be executed when an attribute of it is first asked for; nothing if it has been."""
    full = f"numpy.{name}"
    if full in sys.modules:
        return
    spec = importlib.util.find_spec(full)
    if spec is None or spec.loader is None:
        return  # a numpy without it
    spec.loader = loader = importlib.util.LazyLoader(spec.loader)
    module = importlib.util.module_from_spec(spec)
    sys.modules[full] = module
    loader.exec_module(module)
    setattr(np, name, module)


for part in ON_DEMAND:
    leave_for_later(part)

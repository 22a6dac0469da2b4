"""lightsim2grid's compiled Newton-Raphson, without what its package imports beside it.

``import lightsim2grid`` imports pandas before it finds that grid2op, which it wants pandas for, is not
installed: 0.3 s of every process. Its compiled module needs neither, so it is loaded by itself, under its own
name. A later ``import lightsim2grid``, by the user or pandapower, finds it loaded and continues as always.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import sys
from types import ModuleType

__all__ = ["ErrorType", "NRSing_KLU"]

_NAME = "lightsim2grid.lightsim2grid_cpp"


def _compiled_module() -> ModuleType:
    """Return the compiled module; by way of its package where it does not lie in that as a file."""
    if _NAME in sys.modules:
        return sys.modules[_NAME]
    package = importlib.util.find_spec("lightsim2grid")
    folders = package.submodule_search_locations if package is not None else None
    spec = importlib.machinery.PathFinder.find_spec(_NAME, folders)
    if spec is None or spec.loader is None:
        return importlib.import_module(_NAME)
    module = importlib.util.module_from_spec(spec)
    sys.modules[_NAME] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[_NAME]
        raise
    return module


_module = _compiled_module()
ErrorType = _module.ErrorType
NRSing_KLU = _module.NRSing_KLU

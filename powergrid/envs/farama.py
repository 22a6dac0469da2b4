"""The names of gymnasium and PettingZoo that an environment is made of, without all that comes with them.

``import gymnasium`` also imports its wrappers, its vector environments and its registry, and searches every
installed package for more environments; ``import pettingzoo`` imports all of its wrappers: together a
fifteenth of a short run, which has no use for them. So modules of both are imported here without running the
``__init__`` of their packages. It runs when somebody imports the package, or asks it for anything else:
whoever uses them finds them as ever. What was imported before is left alone.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import Any

__all__ = ["Box", "Dict", "ParallelEnv"]


class _FirstImport(MetaPathFinder):
    """Has the first import of a package go on with the module that was entered, and run its ``__init__``."""

    def __init__(self) -> None:
        self.entered: dict[str, ModuleType] = {}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in self.entered:
            return None
        spec = PathFinder.find_spec(fullname, path)
        if spec is not None and spec.loader is not None:
            spec.loader = _GoingOn(spec.loader, self)
        return spec


class _GoingOn(Loader):
    def __init__(self, real: Loader, finder: _FirstImport) -> None:
        self._real, self._finder = real, finder

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._finder.entered.get(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__spec__.loader = module.__loader__ = self._real
        if self._finder.entered.pop(module.__name__, None) is not None:
            del vars(module)["__getattr__"]
        if not self._finder.entered:
            with contextlib.suppress(ValueError):  # another thread did
                sys.meta_path.remove(self._finder)
        self._real.exec_module(module)


@contextlib.contextmanager
def _init_later(*names: str) -> Iterator[None]:
    """Let modules of packages be imported meanwhile without running the ``__init__`` of these packages."""
    finder = _FirstImport()
    try:
        for name in names:
            spec = None if name in sys.modules else find_spec(name)
            if spec is not None and spec.submodule_search_locations is not None:
                sys.modules[name] = finder.entered[name] = module_from_spec(spec)
        yield
    finally:
        for name, package in finder.entered.items():
            del sys.modules[name]
            vars(package)["__getattr__"] = _asker(name)
        if finder.entered:
            sys.meta_path.insert(0, finder)


def _asker(package: str) -> Any:
    def get(name: str) -> Any:
        return getattr(importlib.import_module(package), name)

    return get


with _init_later("gymnasium", "pettingzoo", "pettingzoo.utils"):
    from gymnasium.spaces import Box, Dict
    from pettingzoo.utils.env import ParallelEnv

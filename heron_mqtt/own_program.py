"""A module of this package as a program of its own: how it is started, wherever the user happens to be.

The program imports this very package, also from a source tree that is not installed. It imports nothing from
the current directory, where a folder or file may have the name of one of our modules, or of the standard
library.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

_PACKAGE_ROOT = str(Path(__file__).resolve().parents[1])


def module_command(module: str, *arguments: str) -> list[str]:
    """Return the command line that runs ``module`` with ``arguments``."""
    return [sys.executable, "-P", "-m", module, *arguments]


def module_environment(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment in which the program finds this package.

    Args:
        environment: Its environment; None = that of this process.
    """
    before = dict(os.environ if environment is None else environment)
    return {**before, "PYTHONPATH": os.pathsep.join(filter(None, (_PACKAGE_ROOT, before.get("PYTHONPATH"))))}

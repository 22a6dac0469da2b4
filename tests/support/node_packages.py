"""Packages of npm that tests use; .ci/npm-packages.txt names them, .ci/run installs them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

VARIABLE = "HERON_NODE_MODULES"


def node_package(name: str) -> Path:
    """Return the folder of a package; skips where it is not installed."""
    found = Path(os.environ.get(VARIABLE, "node_modules")) / name
    if not found.is_dir():
        pytest.skip(f"{name} is not there: npm install --prefix DIR {name}; {VARIABLE}=DIR/node_modules")
    return found.resolve()

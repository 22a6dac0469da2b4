"""The small scenario as a file, and what it earns when everything is one process: a reference for others."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from support.heron_command import Ended, run_heron, write_toml
from support.small_grid import scenario

STEPS = 6  # there are trades, PV and batteries in them


def write_scenario(
    folder: Path, changes: Mapping[str, Any] | None = None, names: Mapping[str, str] | None = None
) -> Path:
    """Write the scenario, changed; see ``small_grid.scenario``."""
    return write_toml(folder / "small.toml", scenario(changes, names))


@functools.cache
def centralized() -> Ended:
    """Run the first steps by direct calls; once for all test files."""
    with tempfile.TemporaryDirectory() as folder:
        file = write_scenario(Path(folder))
        return run_heron("run", str(file), "--steps", str(STEPS), "--centralized", "--json")

"""Grids that were compiled before, also where a product builds them anew: for ``check`` and for records.

An environment looks for its grid among those that were compiled earlier; what verifies, shows or resumes a
record, and what checks a scenario, has pandapower build it, which takes 0.1 s of the processor. In the tests
these, too, look in the folder of the test run first. They do not with ``HERON_FRESH_PROCESSES=1``, as in
``.ci/slow``, and in tests with the fixture ``built_anew``.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["building_anew", "find_grids"]


def find_grids() -> None:
    """Have a grid looked for wherever a scenario is built, if that is imported."""
    module: Any = sys.modules.get("powergrid.simulation.build")
    if module is None or hasattr(module.placed_grid, "real"):
        return
    from powergrid.simulation.grid_cache import GridCache  # most of it is imported then
    from powergrid.simulation.placed_grid import network_source

    real = module.placed_grid

    def placed_grid(loaded: Any, attempt: Any, cache: Any = None) -> Any:
        if cache is None and not isinstance(network_source(loaded), Path):  # a record's file is gone soon
            cache = GridCache.of_this_user()
        return real(loaded, attempt, cache)

    placed_grid.real = real  # type: ignore[attr-defined]
    module.placed_grid = placed_grid


@contextlib.contextmanager
def building_anew() -> Iterator[None]:
    """Have pandapower build them meanwhile, as without this module."""
    import powergrid.simulation.build

    module: Any = powergrid.simulation.build
    ours = module.placed_grid
    module.placed_grid = getattr(ours, "real", ours)
    try:
        yield
    finally:
        module.placed_grid = ours

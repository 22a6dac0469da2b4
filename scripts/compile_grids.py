"""Compile the grids of the shipped scenarios into ``powergrid/simulation/compiled_grids``.

To be run when a test says that one of them is missing: after a change of the code that compiles networks, or
of where a shipped scenario has its microgrids and devices.
"""

from __future__ import annotations

import sys
from pathlib import Path

from heron_mqtt.config import shipped_config
from heron_mqtt.errors import HeronError
from heron_mqtt.program_arguments import ProgramArguments
from powergrid.scenario import load_scenario
from powergrid.simulation.build import build
from powergrid.simulation.grid_cache import SHIPPED_GRIDS, grid_key, write_grid
from powergrid.simulation.placed_grid import CompiledGrid


def main() -> int:
    """Write one file a grid, and remove what is no longer one; returns the exit code."""
    parser = ProgramArguments(description=__doc__)
    parser.add_argument("directory", nargs="?", type=Path, default=SHIPPED_GRIDS)
    directory = parser.parse_args().directory
    directory.mkdir(exist_ok=True)
    try:
        written = compiled(directory)
    except HeronError as exc:
        sys.stderr.write(f"{exc}\n")
        return exc.exit_code
    for file in set(directory.glob("*.npz")) - written:
        file.unlink()
        sys.stdout.write(f"removed {file.name}\n")
    return 0


def compiled(directory: Path) -> set[Path]:
    """Write the grids, and return their files."""
    written = set()
    for file in sorted(shipped_config().glob("*.toml")):
        loaded = load_scenario(file)
        grid = build(loaded).grid
        target = directory / f"{grid_key(loaded)}.npz"
        write_grid(target, CompiledGrid(grid.placement, grid.compiled(), grid.drawing()))
        target.chmod(0o644)  # a user's cache is the user's; these are shipped
        written.add(target)
        sys.stdout.write(f"{file.name}: {target.name}, {target.stat().st_size / 1000:.0f} kB\n")
    return written


if __name__ == "__main__":
    sys.exit(main())

"""Networks by name or file: built, or read, with the microgrids in them."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from heron_mqtt.errors import ConfigError
from powergrid.networks.builders import BUILDERS
from powergrid.networks.json_file import read_network
from powergrid.networks.library import build_from_library, library_names
from powergrid.networks.sites import GridModel


def load_grid(source: str | Path) -> GridModel:
    """Return a network, with its microgrids if it is one of the shipped ones.

    Args:
        source: A shipped network (``cigre_mv_lv``, ``three_case33bw_on_cigre_mv``), a function of
            ``pandapower.networks`` that needs no argument, or the path of a pandapower JSON file: a
            ``Path``, or a string that ends in ``.json`` or holds a separator.

    Returns:
        A new network at every call. In any but the shipped ones ``microgrids`` is empty:
        :func:`attach_microgrid` makes them.

    Raises:
        ConfigError: Unknown name, unreadable file, or a network without an external grid in service.
    """
    if isinstance(source, Path) or source.endswith(".json") or "/" in source or "\\" in source:
        grid = GridModel(read_network(Path(source)), {})
    elif source in BUILDERS:
        grid = BUILDERS[source]()
    elif source in library_names():
        grid = GridModel(build_from_library(source), {})
    else:
        close = difflib.get_close_matches(source, network_names(), n=3)
        known = f"there are {', '.join(BUILDERS)} and the networks of pandapower.networks"
        hint = f"did you mean {' or '.join(close)}?" if close else known
        raise ConfigError(f"network '{source}': no such network, and not a .json file; {hint}")
    if not grid.net.ext_grid.in_service.any():
        raise ConfigError(f"network '{source}': has no external grid in service; add an ext_grid to it")
    return grid


def load_network(source: str | Path) -> Any:
    """Return the pandapowerNet of :func:`load_grid`."""
    return load_grid(source).net


def network_names() -> tuple[str, ...]:
    """Return every name that :func:`load_grid` knows: the shipped networks, then pandapower's."""
    return (*BUILDERS, *library_names())

"""Networks by name or file: built, or read, with the microgrids in them."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from heron_mqtt.errors import ConfigError
from powergrid.networks.sites import GridModel
from powergrid.networks.sources import NETWORK_SOURCES, SHIPPED_NETWORKS, NetworkSource


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
        ConfigError: Unknown name, unreadable file, or a network without an external grid in service. A
            generator with ``slack = True`` becomes one.
    """
    found = find_source(source)
    if found is None:
        close = difflib.get_close_matches(str(source), network_names(), n=3)
        known = f"there are {', '.join(SHIPPED_NETWORKS)} and the networks of pandapower.networks"
        hint = f"did you mean {' or '.join(close)}?" if close else known
        raise ConfigError(f"network '{source}': no such network, and not a .json file; {hint}")
    grid = found.load(source)
    _slack_generators_to_ext_grids(grid.net)
    if not grid.net.ext_grid.in_service.any():
        raise ConfigError(f"network '{source}': has no external grid in service; add an ext_grid to it")
    return grid


def _slack_generators_to_ext_grids(net: Any) -> None:
    """Put an ext_grid in the place of each generator that is a slack: same voltage, same power."""
    slack = net.gen["in_service"].to_numpy(bool) & net.gen["slack"].fillna(False).to_numpy(bool)
    if slack.any():
        import pandapower.toolbox  # a second, and nothing else here needs it

        pandapower.toolbox.replace_gen_by_ext_grid(net, net.gen.index[slack].tolist())


def load_network(source: str | Path) -> Any:
    """Return the pandapowerNet of :func:`load_grid`."""
    return load_grid(source).net


def network_names() -> tuple[str, ...]:
    """Return every name that :func:`load_grid` knows: the shipped networks, then pandapower's."""
    return tuple(name for source in NETWORK_SOURCES.values() for name in source().names())


def find_source(source: str | Path) -> NetworkSource | None:
    """Return where a network comes from; None if no source knows it."""
    for attempt in (1, 2):
        for kind in NETWORK_SOURCES.values():
            if (found := kind()).has(source):
                return found
        if attempt == 1:
            NETWORK_SOURCES.search()
    return None

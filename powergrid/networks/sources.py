"""Where networks come from: files, the networks shipped with the project, pandapower's library.

What is built by a function is built once a process: pandas takes a second for it, and a copy 10 ms.

A new source is one class and one registration, ``NETWORK_SOURCES.add(MySource)``. The sources here import
pandapower, which takes a second, when a network is built and not when one is named.
"""

from __future__ import annotations

import copy
import functools
import hashlib
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

from heron_mqtt.registry import Registry
from powergrid.networks.sites import GridModel

__all__ = ["NETWORK_SOURCES", "SHIPPED_NETWORKS", "NetworkSource"]

SHIPPED_NETWORKS = ("cigre_mv_lv", "three_case33bw_on_cigre_mv")
"""Names of the functions of ``powergrid.networks.builders`` that build a network of this project."""


class NetworkSource(ABC):
    """A place that networks come from.

    Attributes:
        name: Of the source.
    """

    name: ClassVar[str]

    def names(self) -> tuple[str, ...]:
        """Return the names of the networks that it has; none for files."""
        return ()

    def has(self, source: str | Path) -> bool:
        """Whether ``[network] source`` means a network of this source."""
        return source in self.names()

    def is_file(self, source: str) -> bool:
        """Whether it is a file, whose name is relative to the scenario."""
        return False

    def identity(self, source: str | Path) -> str | None:
        """Return a text that is another one whenever the network may be another one.

        None, as here, means unknown: then the network is built again every time.
        """
        return None

    @abstractmethod
    def load(self, source: str | Path) -> GridModel:
        """Return the network, new at every call.

        Raises:
            ConfigError: It cannot be read or built.
        """


NETWORK_SOURCES: Registry[type[NetworkSource]] = Registry(
    "source of networks", "heron_mqtt.network_sources", lambda source: source.name
)
"""Every source, in the order in which they are asked."""


@NETWORK_SOURCES.add
class JsonFile(NetworkSource):
    """A pandapower JSON file."""

    name = "json"

    def has(self, source: str | Path) -> bool:
        """Whether it is a ``Path``, or a text that ends in ``.json`` or holds a separator."""
        return isinstance(source, Path) or source.endswith(".json") or "/" in source or "\\" in source

    def is_file(self, source: str) -> bool:
        """Whether it ends in ``.json``."""
        return source.endswith(".json")

    def identity(self, source: str | Path) -> str | None:
        """Return a hash of the file's content; None if it cannot be read."""
        try:
            return f"json {hashlib.sha256(Path(source).read_bytes()).hexdigest()}"
        except (OSError, ValueError):
            return None

    def load(self, source: str | Path) -> GridModel:
        """Return the network of the file, without microgrids."""
        from powergrid.networks.json_file import read_network

        return GridModel(read_network(Path(source)), {})


@NETWORK_SOURCES.add
class ShippedNetworks(NetworkSource):
    """The networks of this project, with their microgrids."""

    name = "shipped"

    def names(self) -> tuple[str, ...]:
        """Return their names."""
        return SHIPPED_NETWORKS

    def identity(self, source: str | Path) -> str | None:
        """Return the name: how the network is built is part of this package's version."""
        return f"shipped {source}"

    def load(self, source: str | Path) -> GridModel:
        """Return the network and its microgrids."""
        built = _shipped(str(source))
        return GridModel(copy.deepcopy(built.net), built.microgrids)


@NETWORK_SOURCES.add
class PandapowerLibrary(NetworkSource):
    """The functions of ``pandapower.networks`` that need no argument."""

    name = "pandapower"

    def names(self) -> tuple[str, ...]:
        """Return the names of the functions."""
        from powergrid.networks.library import library_names

        return tuple(library_names())

    def identity(self, source: str | Path) -> str | None:
        """Return the name: how the network is built is part of pandapower's version."""
        return f"pandapower {source}"

    def load(self, source: str | Path) -> GridModel:
        """Return the network, without microgrids."""
        return GridModel(copy.deepcopy(_of_pandapower(str(source))), {})


@functools.cache
def _shipped(name: str) -> GridModel:
    from powergrid.networks import builders

    built: GridModel = getattr(builders, name)()
    return built


@functools.lru_cache(maxsize=16)  # some have a few thousand buses, 30 MB
def _of_pandapower(name: str) -> Any:
    from powergrid.networks.library import build_from_library

    return build_from_library(name)

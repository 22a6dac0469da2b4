"""Where networks come from: files, the networks shipped with the project, pandapower's library.

A new source is one class and one registration, ``NETWORK_SOURCES.add(MySource)``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

from heron_mqtt.registry import Registry
from powergrid.networks.builders import BUILDERS
from powergrid.networks.json_file import read_network
from powergrid.networks.library import build_from_library, library_names
from powergrid.networks.sites import GridModel

__all__ = ["NETWORK_SOURCES", "NetworkSource"]


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

    def load(self, source: str | Path) -> GridModel:
        """Return the network of the file, without microgrids."""
        return GridModel(read_network(Path(source)), {})


@NETWORK_SOURCES.add
class ShippedNetworks(NetworkSource):
    """The networks of this project, with their microgrids."""

    name = "shipped"

    def names(self) -> tuple[str, ...]:
        """Return their names."""
        return tuple(BUILDERS)

    def load(self, source: str | Path) -> GridModel:
        """Return the network and its microgrids."""
        return BUILDERS[str(source)]()


@NETWORK_SOURCES.add
class PandapowerLibrary(NetworkSource):
    """The functions of ``pandapower.networks`` that need no argument."""

    name = "pandapower"

    def names(self) -> tuple[str, ...]:
        """Return the names of the functions."""
        return tuple(library_names())

    def load(self, source: str | Path) -> GridModel:
        """Return the network, without microgrids."""
        return GridModel(build_from_library(str(source)), {})

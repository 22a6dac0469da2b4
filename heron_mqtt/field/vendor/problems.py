"""Collects what is wrong with a mapping, so that all of it is said at once."""

from __future__ import annotations

from heron_mqtt.errors import ConfigError
from heron_mqtt.field.vendor.units import Complain


class Problems:
    """Problems of one mapping.

    Args:
        source: Where the mapping stands: file and key.
    """

    def __init__(self, source: str) -> None:
        self._source = source
        self._found: list[str] = []

    def __bool__(self) -> bool:
        return bool(self._found)

    def add(self, key: str, text: str) -> None:
        """Note a problem at a key."""
        self._found.append(f"{self._source}: {key}: {text}")

    def at(self, prefix: str) -> Complain:
        """Return what notes problems at keys below ``prefix``."""

        def complain(key: str, text: str) -> None:
            self.add(f"{prefix}.{key}", text)

        return complain

    def raise_if_any(self) -> None:
        """End the loading of a mapping that has problems.

        Raises:
            ConfigError: One line for each problem.
        """
        if self._found:
            raise ConfigError(*dict.fromkeys(self._found))

"""Trying on after a problem, so that a user sees all of them at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from heron_mqtt.errors import ConfigError

__all__ = ["Attempts"]

T = TypeVar("T")


class Attempts:
    """Collects what is wrong with a scenario.

    Args:
        source: Of the scenario, for messages.
    """

    def __init__(self, source: str) -> None:
        self._source = source
        self._problems: list[str] = []

    def __call__(self, key: str, action: Callable[[], T]) -> T | None:
        """Return what an action returns; None, and a problem more, if the scenario is wrong there.

        Args:
            key: Of the scenario, which the action is about.
            action: What to try.
        """
        try:
            return action()
        except ConfigError as exc:
            self._problems += [f"{self._source}: {key}: {problem}" for problem in exc.problems]
            return None

    def raise_problems(self) -> None:
        """End here if there are any.

        Raises:
            ConfigError: One line for each problem.
        """
        if self._problems:
            raise ConfigError(*dict.fromkeys(self._problems))

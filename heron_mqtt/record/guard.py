"""Recording must not stop a run: what a recorder raises is logged, traceback and all, and counted."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Concatenate, ParamSpec, Protocol, TypeVar

log = logging.getLogger("heron_mqtt.record")

P = ParamSpec("P")


class Guarded(Protocol):
    """Counts what it failed to record."""

    failures: int


G = TypeVar("G", bound=Guarded)


def guarded(method: Callable[Concatenate[G, P], None]) -> Callable[Concatenate[G, P], None]:
    """Make a method that never raises; the first failure is logged with its traceback."""

    @functools.wraps(method)
    def call(self: G, /, *args: P.args, **kwargs: P.kwargs) -> None:
        try:
            method(self, *args, **kwargs)
        except Exception:
            self.failures += 1
            if self.failures == 1:
                log.exception(
                    "something could not be recorded; the run continues, further failures are counted"
                )

    return call

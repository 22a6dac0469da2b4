"""Run a coroutine in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from heron_mqtt.messaging.virtual_time import VirtualTimeLoop

T = TypeVar("T")


def run_virtual(coroutine: Coroutine[Any, Any, T]) -> T:
    """Return the coroutine's result; its waiting takes no time."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(coroutine)


def virtual_now() -> float:
    """Return the virtual time, s."""
    return asyncio.get_running_loop().time()

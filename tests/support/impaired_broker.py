"""An impaired broker to try things with, in virtual time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from heron_mqtt.messaging.base import MessageBroker
from heron_mqtt.messaging.impaired import ImpairedBroker
from heron_mqtt.messaging.impairment import ImpairmentTable
from heron_mqtt.messaging.memory import InMemoryBroker
from support.virtual import run_virtual


def impaired(inner: MessageBroker | None = None, *, seed: int = 1, **table: Any) -> ImpairedBroker:
    return ImpairedBroker(inner or InMemoryBroker(), ImpairmentTable.model_validate(table), seed=seed)


def outbound(**keys: Any) -> dict[str, Any]:
    """A rule for what is published alone, so that each message meets it once."""
    return {"rules": [{"direction": "out", **keys}]}


def run_impaired(
    test: Callable[[ImpairedBroker], Awaitable[Any]], broker: ImpairedBroker | None = None, **table: Any
) -> Any:
    async def main() -> Any:
        async with broker or impaired(**table) as made:
            return await test(made)

    return run_virtual(main())

"""ImpairedBroker: any broker, behind a network that delays, loses, copies, reorders and cuts off.

It is imported when it is asked for: an environment needs one part of it, which has no broker.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from heron_mqtt.messaging.impaired.broker import ImpairedBroker

__all__ = ["ImpairedBroker"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from heron_mqtt.messaging.impaired import broker

    globals()[name] = value = getattr(broker, name)
    return value

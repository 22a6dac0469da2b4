"""ImpairedBroker: any broker, behind a network that delays, loses, copies, reorders and cuts off.

It is imported when it is asked for: an environment needs one part of it, which has no broker.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from heron_mqtt.names_on_demand import on_demand

if TYPE_CHECKING:
    from heron_mqtt.messaging.impaired.broker import ImpairedBroker

__all__ = ["ImpairedBroker"]

__getattr__, __dir__ = on_demand(__name__, {"ImpairedBroker": "heron_mqtt.messaging.impaired.broker"})

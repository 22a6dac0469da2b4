"""How messages travel: the interface in ``base``, and brokers in memory, over MQTT, embedded, impaired.

``open_broker(url)`` makes the one that a URL names. Imported when it is asked for: the embedded broker's
process is in this package, too, and needs none of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from heron_mqtt.names_on_demand import on_demand

if TYPE_CHECKING:
    from heron_mqtt.messaging.schemes import BrokerScheme, open_broker, register_scheme, scheme_of

__all__ = ["BrokerScheme", "open_broker", "register_scheme", "scheme_of"]

__getattr__, __dir__ = on_demand(__name__, dict.fromkeys(__all__, "heron_mqtt.messaging.schemes"))

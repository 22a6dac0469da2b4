"""The embedded broker: amqtt, hardened, in a process of its own or in the caller's event loop.

This package is the only place that imports amqtt. Importing it imports neither amqtt nor anything else
that is slow; starting a broker does, in the broker's own process.
"""

from heron_mqtt.messaging.embedded.broker import EmbeddedBroker
from heron_mqtt.messaging.embedded.options import BrokerOptions, Limits
from heron_mqtt.messaging.embedded.stats import BrokerStats

__all__ = ["BrokerOptions", "BrokerStats", "EmbeddedBroker", "Limits"]

"""ImpairedBroker: any broker, behind a network that delays, loses, copies, reorders and cuts off."""

from heron_mqtt.messaging.impaired.broker import ImpairedBroker

__all__ = ["ImpairedBroker"]

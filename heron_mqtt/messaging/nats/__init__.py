"""A client of a NATS server, over core NATS (extra ``nats``)."""

from heron_mqtt.messaging.nats.broker import NatsBroker

__all__ = ["NatsBroker"]

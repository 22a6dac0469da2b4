"""A client of Kafka, and of servers with its protocol (extra ``kafka``)."""

from heron_mqtt.messaging.kafka.broker import KafkaBroker

__all__ = ["KafkaBroker"]

"""The nats-server of the tests: the one of the test kit."""

from heron_mqtt.testing.nats_server import NatsServer, executable

__all__ = ["NatsServer", "executable"]

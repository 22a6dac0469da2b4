"""The mosquitto of the tests: the one of the test kit."""

from heron_mqtt.testing.mosquitto_server import Mosquitto, executable

__all__ = ["Mosquitto", "executable"]

"""MqttBroker: MQTT 3.1.1 and 5 over paho-mqtt, which is imported here only."""

from heron_mqtt.messaging.mqtt.broker import MqttBroker

__all__ = ["MqttBroker"]

"""The parts of ``MqttBroker``; nothing here is public."""

"""How messages travel: the interface in ``base``, and brokers in memory, over MQTT, embedded, impaired."""

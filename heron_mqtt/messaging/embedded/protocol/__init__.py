"""MQTT as bytes and topics: packets read and written, filters matched."""

"""The documented name of what ``heron_mqtt.field.vendor`` holds: mappings of vendors' devices."""

from heron_mqtt.field.vendor.device_mapping import DeviceMapping, Keepalive, Outgoing
from heron_mqtt.field.vendor.mapping import load_mapping

__all__ = ["DeviceMapping", "Keepalive", "Outgoing", "load_mapping"]

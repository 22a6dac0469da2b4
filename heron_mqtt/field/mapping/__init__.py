"""The documented name of what ``heron_mqtt.field.vendor.mapping`` holds: mappings of vendors' devices."""

from heron_mqtt.field.vendor.mapping import Decoded, DeviceMapping, Keepalive, Outgoing, load_mapping

__all__ = ["Decoded", "DeviceMapping", "Keepalive", "Outgoing", "load_mapping"]

"""A vendor's device by configuration: its own topics and payloads on one side, ours on the other."""

from heron_mqtt.field.vendor.mapping import DeviceMapping, load_mapping
from heron_mqtt.field.vendor.vendor_device import VendorDevice

__all__ = ["DeviceMapping", "VendorDevice", "load_mapping"]

"""A vendor's device by configuration: its own topics and payloads on one side, ours on the other."""

from heron_mqtt.field.vendor.mapping import DeviceMapping, load_mapping
from heron_mqtt.field.vendor.vendor_device import VendorDevice
from heron_mqtt.field.vendor.vendor_state import VendorState

__all__ = ["DeviceMapping", "VendorDevice", "VendorState", "load_mapping"]

"""A vendor's device by configuration: its own topics and payloads on one side, ours on the other.

Raw inputs are cleaned and named, formulas make quantities of them, setpoints become messages:
docs/device-mappings.md describes the model.
"""

from heron_mqtt.field.vendor.device_mapping import DeviceMapping
from heron_mqtt.field.vendor.mapping import load_mapping
from heron_mqtt.field.vendor.vendor_device import VendorDevice
from heron_mqtt.field.vendor.vendor_state import VendorState

__all__ = ["DeviceMapping", "VendorDevice", "VendorState", "load_mapping"]

"""The documented name of what ``heron_mqtt.field.vendor.vendor_state`` holds."""

from heron_mqtt.field.vendor.vendor_state import VendorState as BoxState

__all__ = ["BoxState"]

"""The documented name of ``heron_mqtt.field.vendor.vendor_state.VendorState``."""

from heron_mqtt.field.vendor.vendor_state import VendorState as BoxState

__all__ = ["BoxState"]

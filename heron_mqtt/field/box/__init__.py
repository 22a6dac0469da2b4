"""The former name of ``heron_mqtt.field.vendor.vendor_state.VendorState``, kept for those who import it."""

from heron_mqtt.field.vendor.vendor_state import VendorState as BoxState

__all__ = ["BoxState"]

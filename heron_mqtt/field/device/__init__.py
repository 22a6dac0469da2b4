"""The device's own end of the wire: derive from ``FieldDevice`` to put hardware, or a model, on MQTT."""

from heron_mqtt.field.device.field_device import FieldDevice, SetpointDeferred, SetpointRejected

__all__ = ["FieldDevice", "SetpointDeferred", "SetpointRejected"]

"""One agent's devices as the gateway sees them: link, authority, lease, envelope, twins, stop signals."""

from heron_mqtt.field.gateway.gateway import FieldGateway

__all__ = ["FieldGateway"]

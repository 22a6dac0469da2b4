"""One agent's devices as the gateway sees them: link, authority, lease, envelope, twins, stop signals.

It is imported when it is asked for: a device script reads a scenario, with its settings, and has no gateway.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from heron_mqtt.names_on_demand import on_demand

if TYPE_CHECKING:
    from heron_mqtt.field.gateway.gateway import FieldGateway

__all__ = ["FieldGateway"]

__getattr__, __dir__ = on_demand(__name__, {"FieldGateway": "heron_mqtt.field.gateway.gateway"})

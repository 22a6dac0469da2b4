"""The horizontal protocols, by the name that scenarios use."""

from __future__ import annotations

from heron_mqtt import messages
from heron_mqtt.protocols.base import HorizontalProtocol, HorizontalSession, StepPosition
from heron_mqtt.protocols.consensus import ConsensusProtocol
from heron_mqtt.protocols.order_book import OrderBookProtocol
from heron_mqtt.protocols.p2p import PeerToPeerProtocol
from heron_mqtt.registry import Registry

__all__ = ["PROTOCOLS", "NoProtocol"]


class NoProtocol(HorizontalProtocol):
    """Every agent decides by itself."""

    name = "none"

    def begin(self, position: StepPosition) -> HorizontalSession | None:
        """Return None: there is nothing to say."""
        return None


class _Protocols(Registry[type[HorizontalProtocol]]):
    """Protocols, whose messages become known on the wire with them."""

    def add(self, thing: type[HorizontalProtocol]) -> type[HorizontalProtocol]:
        for message in thing.messages:
            name = message.model_fields["type"].default
            known = messages.WIRE_TYPES.setdefault(name, message)
            if known is not message:
                raise ValueError(f"{thing.name}: message type {name!r} is there already: {known}")
        return super().add(thing)

    def discard(self, thing: type[HorizontalProtocol]) -> None:
        for message in thing.messages:
            messages.WIRE_TYPES.pop(message.model_fields["type"].default, None)
        super().discard(thing)


PROTOCOLS = _Protocols("horizontal protocol", "heron_mqtt.protocols", lambda protocol: protocol.name)
"""Every horizontal protocol."""

for _shipped in (PeerToPeerProtocol, OrderBookProtocol, ConsensusProtocol, NoProtocol):
    PROTOCOLS.add(_shipped)

"""The horizontal protocols by name: their messages become known on the wire with them, and no others."""

from __future__ import annotations

from typing import Literal

import pytest

from heron_mqtt.messages import WIRE_TYPES, Message, Offer
from heron_mqtt.protocols.base import HorizontalProtocol, HorizontalSession, StepPosition
from heron_mqtt.protocols.registry import PROTOCOLS


class Bell(Message):
    """Rings."""

    type: Literal["bell"] = "bell"


class Ringing(HorizontalProtocol):
    """Says one message of its own."""

    name = "ringing"
    messages = (Bell,)

    def begin(self, position: StepPosition) -> HorizontalSession | None:
        return None


def test_the_messages_of_a_protocol_are_known_as_long_as_it_is() -> None:
    assert "bell" not in WIRE_TYPES
    assert PROTOCOLS.add(Ringing) is Ringing
    try:
        assert WIRE_TYPES["bell"] is Bell
        assert PROTOCOLS["ringing"] is Ringing
    finally:
        PROTOCOLS.discard(Ringing)
    assert "bell" not in WIRE_TYPES
    assert "ringing" not in PROTOCOLS


def test_a_message_type_that_is_there_already_is_refused() -> None:
    class Other(Message):
        """An offer of another kind."""

        type: Literal["offer"] = "offer"

    class Wrong(Ringing):
        name = "wrong"
        messages = (Other,)

    with pytest.raises(ValueError, match=r"wrong: message type 'offer' is there already: .*Offer"):
        PROTOCOLS.add(Wrong)
    assert WIRE_TYPES["offer"] is Offer
    assert "wrong" not in PROTOCOLS


def test_where_every_agent_decides_by_itself_there_is_nothing_to_say() -> None:
    assert PROTOCOLS["none"]().begin(StepPosition("A", ("B",), 1.0, 50.0)) is None
    assert {"p2p", "consensus", "none"} <= set(PROTOCOLS)

"""Every message of the wire contract by its ``type``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from heron_mqtt.errors import MessageError
from heron_mqtt.messages.agent import Action, Clearance, Command, Observation, PriceSignal, SetpointPlan
from heron_mqtt.messages.authority import AuthorityRequest, AuthorityState, Take
from heron_mqtt.messages.device import (
    EmergencyStop,
    Fault,
    LeaseState,
    Setpoint,
    Status,
    StopConfirm,
    Telemetry,
)
from heron_mqtt.messages.grid import GridResults, NetworkModel
from heron_mqtt.messages.message import Message
from heron_mqtt.messages.parsing import parse
from heron_mqtt.messages.peer import Accept, Confirm, Consensus, Fill, Offer, Order
from heron_mqtt.messages.reports import RecordHead
from heron_mqtt.messages.run import Owner, RunState

WIRE_TYPES: dict[str, type[Message]] = {
    model.model_fields["type"].default: model
    for model in (
        *(PriceSignal, Observation, Command, Action, Offer, Accept, Confirm, Order, Fill, Consensus),
        *(Setpoint, Telemetry, Status, RunState, RecordHead, SetpointPlan, Clearance),
        *(NetworkModel, GridResults),
        *(AuthorityRequest, AuthorityState, Take, Owner, LeaseState, EmergencyStop, StopConfirm, Fault),
    )
}


def parse_any(payload: Mapping[str, Any]) -> Message:
    """Validate a payload as the model its ``type`` names; raises what ``model_of`` and ``parse`` raise."""
    return parse(model_of(payload), payload)


def model_of(payload: Mapping[str, Any]) -> type[Message]:
    """Return the model that a payload's ``type`` names.

    Raises:
        MessageError: Unknown type.
    """
    name = payload.get("type")
    model = WIRE_TYPES.get(name) if isinstance(name, str) else None
    if model is None:
        raise MessageError(f"unknown message type {name!r}; known: {', '.join(sorted(WIRE_TYPES))}")
    return model

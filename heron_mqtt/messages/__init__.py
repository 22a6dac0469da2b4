"""Everything that crosses the wire, as frozen pydantic models.

One JSON object a message, flat, UTF-8. ``type`` names the model; metadata are in the same object.
Powers are MW and Mvar, **positive = injected into the grid**; energies MWh; prices $/MWh; durations s.
Fields a model does not know are ignored, fields that are wrong are refused, NaN and infinity too.

``docs/wire-contract.md`` shows each of them on its topic.

Each file has the messages from one kind of program to another, and is imported when one of its names is first
used. A device program needs a third of the models, and building a model takes a millisecond or two.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from heron_mqtt.names_on_demand import on_demand

if TYPE_CHECKING:
    from heron_mqtt.messages.agent import (
        Action,
        Clearance,
        Command,
        Forecast,
        Observation,
        PriceSignal,
        SetpointPlan,
    )
    from heron_mqtt.messages.authority import ROUNDING_MW, AuthorityRequest, AuthorityState, Take
    from heron_mqtt.messages.device import (
        EmergencyStop,
        Fault,
        FaultKind,
        LeaseState,
        Setpoint,
        Status,
        StopConfirm,
        Telemetry,
    )
    from heron_mqtt.messages.grid import GridResults, NetworkModel, Position
    from heron_mqtt.messages.message import Message
    from heron_mqtt.messages.parsing import (
        ROUNDING,
        M,
        explain,
        fields_of,
        normalized,
        parse,
        parse_known_fields,
    )
    from heron_mqtt.messages.peer import Accept, Confirm, Consensus, Fill, Offer, Order
    from heron_mqtt.messages.reports import OutboxKindReport, OutboxReport, RecordHead
    from heron_mqtt.messages.run import NO_RUN, Owner, RunState
    from heron_mqtt.messages.values import (
        MAX_INTEGER,
        MAX_LEASE_S,
        MAX_REASON,
        UNNAMED_KIND,
        Finite,
        Identifier,
        Level,
        shortened,
    )
    from heron_mqtt.messages.wire_types import WIRE_TYPES, model_of, parse_any

__all__ = [
    "MAX_INTEGER",
    "MAX_LEASE_S",
    "MAX_REASON",
    "NO_RUN",
    "ROUNDING",
    "ROUNDING_MW",
    "UNNAMED_KIND",
    "WIRE_TYPES",
    "Accept",
    "Action",
    "AuthorityRequest",
    "AuthorityState",
    "Clearance",
    "Command",
    "Confirm",
    "Consensus",
    "EmergencyStop",
    "Fault",
    "FaultKind",
    "Fill",
    "Finite",
    "Forecast",
    "GridResults",
    "Identifier",
    "LeaseState",
    "Level",
    "M",
    "Message",
    "NetworkModel",
    "Observation",
    "Offer",
    "Order",
    "OutboxKindReport",
    "OutboxReport",
    "Owner",
    "Position",
    "PriceSignal",
    "RecordHead",
    "RunState",
    "Setpoint",
    "SetpointPlan",
    "Status",
    "StopConfirm",
    "Take",
    "Telemetry",
    "explain",
    "fields_of",
    "model_of",
    "normalized",
    "parse",
    "parse_any",
    "parse_known_fields",
    "shortened",
]

_NAMES = {
    "agent": ("Action", "Clearance", "Command", "Forecast", "Observation", "PriceSignal", "SetpointPlan"),
    "authority": ("AuthorityRequest", "AuthorityState", "ROUNDING_MW", "Take"),
    "device": (
        "EmergencyStop",
        "Fault",
        "FaultKind",
        "LeaseState",
        "Setpoint",
        "Status",
        "StopConfirm",
        "Telemetry",
    ),
    "grid": ("GridResults", "NetworkModel", "Position"),
    "message": ("Message",),
    "parsing": ("M", "ROUNDING", "explain", "fields_of", "normalized", "parse", "parse_known_fields"),
    "peer": ("Accept", "Confirm", "Consensus", "Fill", "Offer", "Order"),
    "reports": ("OutboxKindReport", "OutboxReport", "RecordHead"),
    "run": ("NO_RUN", "Owner", "RunState"),
    "values": (
        "Finite",
        "Identifier",
        "Level",
        "MAX_INTEGER",
        "MAX_LEASE_S",
        "MAX_REASON",
        "UNNAMED_KIND",
        "shortened",
    ),
    "wire_types": ("WIRE_TYPES", "model_of", "parse_any"),
}

__getattr__, __dir__ = on_demand(
    __name__, {name: f"{__name__}.{module}" for module, names in _NAMES.items() for name in names}
)

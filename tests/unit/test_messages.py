"""The wire contract: what each message looks like, and what is refused."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from heron_mqtt.errors import MessageError
from heron_mqtt.messages import (
    WIRE_TYPES,
    Action,
    Message,
    Observation,
    Offer,
    PriceSignal,
    Setpoint,
    Status,
    Telemetry,
    parse,
    parse_any,
    parse_known_fields,
)
from heron_mqtt.messaging.codec import decode
from support.rows import each_row

META = {
    "sender": "MG1",
    "env_id": "default",
    "episode": 2,
    "step": 3,
    "seq": 4,
    "boot": "abc",
    "sent_at": "2026-01-02T03:04:05.678901Z",
}
# one of each, as another implementation would write it
EXAMPLES: dict[str, dict[str, Any]] = {
    "price": {"value": 55.0},
    "observation": {"dt_s": 900.0, "p_load_mw": -0.1, "p_available_pv": 0.05, "vm_min_pu": 0.98},
    "command": {"p_gen": 1.5, "q_gen": 0.0, "p_ess": -0.3},
    "action": {
        "p_gen": 1.5,
        "p_ess": -0.3,
        "soc_ess": 0.5,
        "trade_MG2": 0.1,
        "price_MG2": 52.0,
        "fallback_gen": "stale",
    },
    "offer": {"quantity": 0.5, "price": 52.0},
    "accept": {"quantity": 0.5},
    "confirm": {"quantity": 0.5, "price": 52.0},
    "order": {"quantity": -0.5, "price": 56.0},
    "fill": {"price": 54.0, "trade_MG2": -0.5},
    "consensus": {"round": 1, "value": 48.5},
    "setpoint": {"p_mw": 0.1, "q_mvar": 0.0, "lease_s": 2.0, "heard_boot": "xyz", "heard_seq": 0},
    "telemetry": {"p_mw": 0.1, "soc": 0.5, "ack_seq": 7, "running": True, "stopped": True},
    "status": {"state": "online", "kind": "battery", "p_min_mw": -0.5, "p_max_mw": 0.5, "max_e_mwh": 1.0},
    "plan": {"p_gen": 1.5, "q_gen": 0.1},
    "clearance": {"p_gen": 0.75, "factor": 0.5, "limit": "bus 3: vm_pu 1.052 > 1.05"},
    "authority_request": {"level": "shadow", "who": "operator", "why": "commissioning"},
    "authority_state": {
        "level": "shadow",
        "requested": "limited",
        "granted": False,
        "request_seq": 3,
        "ceiling": "limited",
        "demoted": True,
        "manual_by": "ann",
        "manual_p_mw": 0.005,
        "manual_s": 600.0,
    },
    "take": {"p_mw": 0.005, "q_mvar": 0.0, "for_s": 600.0, "who": "ann", "why": "commissioning"},
    "owner": {"state": "holds", "who": "ann@lab pid 12", "since": "2026-01-02T03:04:05Z"},
    "lease": {"state": "held", "holder": "MG1", "holder_boot": "abc", "lease_s": 2.0},
    "estop": {"active": True, "who": "operator", "why": "smoke"},
    "estop_confirm": {"active": True, "safe": False, "stop_boot": "abc", "stop_seq": 4},
    "fault": {"kind": "offset", "steps": 3, "value": 0.1},
    "run_state": {"state": "running", "scenario": "three_microgrids", "clock": "2026-01-02T03:15:00Z"},
    "network": {
        "bus": ["a", "b"],
        "bus_kv": [20.0, 0.4],
        "bus_agent": ["", "MG1"],
        "bus_x": [0.0, 1.0],
        "bus_y": [0.0, 0.5],
        "line": ["l"],
        "line_from": [0],
        "line_to": [1],
        "device": ["MG1/ess"],
        "device_kind": ["battery"],
        "device_bus": [1],
    },
    "grid_results": {"vm_pu": [1.0, None], "line_loading_percent": [12.5]},
    "record": {"head": "0123456789abcdef" * 4, "rows": 6073, "lost": 0},
}


def test_every_message_has_an_example_here() -> None:
    assert set(WIRE_TYPES) == set(EXAMPLES), "a new message needs an example, as others would write it"


@each_row("name", EXAMPLES)
def test_an_example_is_understood_and_written_the_same(name: str) -> None:
    wire = {"type": name, **META, **EXAMPLES[name]}
    message = parse_any(decode(json.dumps(wire).encode()))
    assert type(message) is WIRE_TYPES[name]
    again = json.loads(message.model_dump_json(exclude_none=True))
    assert {k: v for k, v in again.items() if k in wire} == wire
    assert parse_any(again) == message


@each_row("name", EXAMPLES)
def test_metadata_may_be_left_out(name: str) -> None:
    assert parse_any({"type": name, **EXAMPLES[name]}).seq is None


@each_row("name", EXAMPLES)
def test_unknown_fields_are_ignored(name: str) -> None:
    parse_any({"type": name, **EXAMPLES[name], "vendor_extension": {"anything": [1]}})


@each_row("name", EXAMPLES)
def test_a_message_cannot_be_changed(name: str) -> None:
    message = parse_any({"type": name, **EXAMPLES[name]})
    with pytest.raises(ValidationError):
        message.sender = "MG2"  # type: ignore[misc]


@each_row("name", EXAMPLES)
def test_a_message_is_flat(name: str) -> None:
    message = parse_any({"type": name, **META, **EXAMPLES[name]})
    fields = message.model_dump(mode="json").values()
    assert not any(isinstance(value, dict) for value in fields)
    lists = [value for value in fields if isinstance(value, list)]
    assert not lists or name in {"network", "grid_results"}
    assert not any(isinstance(entry, dict | list) for value in lists for entry in value)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"bus_kv": [20.0]}, "bus_kv: expected 2 entries"),
        ({"line_to": [2]}, "line_to: expected positions in bus"),
    ],
)
def test_the_lists_of_a_network_belong_together(change: dict[str, Any], why: str) -> None:
    with pytest.raises(MessageError, match=why):
        parse_any({"type": "network", **EXAMPLES["network"], **change})


def _is_required(name: str, field: str) -> bool:
    """Whether a message is none without this field; ``null`` in any other one leaves it out."""
    fields = WIRE_TYPES[name].model_fields
    return field in fields and fields[field].is_required()


NUMBERS = {
    name: [field for field, value in example.items() if isinstance(value, float)]
    for name, example in EXAMPLES.items()
}


@each_row("name", [name for name, fields in NUMBERS.items() if fields])
def test_what_is_no_finite_number_is_refused_and_named(name: str) -> None:
    for field in NUMBERS[name]:
        missing = None if _is_required(name, field) else "x"
        for wrong in ("1.0", missing, math.nan, math.inf, True, [1.0], {}):
            with pytest.raises(MessageError) as caught:
                parse_any({"type": name, **EXAMPLES[name], field: wrong})
            assert field in str(caught.value), wrong
            assert name in str(caught.value), wrong
            assert "\n" not in str(caught.value), wrong


@each_row(
    ("field", "wrong"),
    [("seq", -1), ("seq", 1.5), ("seq", "1"), ("seq", 10**400), ("step", True), ("sender", ""),
     ("sender", ["MG1"]), ("boot", "x" * 201), ("boot", math.nan)],
)  # fmt: skip
def test_wrong_metadata_is_refused_and_named(field: str, wrong: Any) -> None:
    with pytest.raises(MessageError, match=field):
        parse_any({"type": "price", "value": 1.0, field: wrong})


@each_row(
    ("name", "spelled", "meant"),
    [
        ("telemetry", {"ack_seq": 7.0, "seq": 3.0}, {"ack_seq": 7, "seq": 3}),
        ("telemetry", {"running": 1, "safe": 0.0}, {"running": True, "safe": False}),
        ("telemetry", {"boot": 17, "ack_boot": 2.5}, {"boot": "17", "ack_boot": "2.5"}),
        ("telemetry", {"soc": 1.0000001}, {"soc": 1.0}),
        ("telemetry", {"soc": -0.0000001}, {"soc": 0.0}),
        ("telemetry", {"vm_pu": None, "sender": None}, {"vm_pu": None, "sender": None}),
        ("setpoint", {"heard_boot": 4, "heard_seq": 9.0}, {"heard_boot": "4", "heard_seq": 9}),
        ("price", {"sender": 1}, {"sender": "1"}),
    ],
)
def test_a_spelling_that_leaves_no_doubt_is_accepted(
    name: str, spelled: dict[str, Any], meant: dict[str, Any]
) -> None:
    message = parse_any({"type": name, **EXAMPLES[name], **spelled})
    assert {field: getattr(message, field) for field in meant} == meant


@each_row("value", ["x", "", -1, 1.5, [], {}, True])
@each_row("name", ["episode", "step"])
def test_an_episode_or_a_step_of_a_setpoint_that_cannot_be_read_is_left_out(name: str, value: Any) -> None:
    told = {"p_mw": 0.01, "lease_s": 5.0, "seq": 4, "episode": 2, "step": 3, name: value}
    setpoint = parse(Setpoint, told)
    assert {"episode": setpoint.episode, "step": setpoint.step} == {"episode": 2, "step": 3, name: None}
    assert (setpoint.p_mw, setpoint.seq) == (0.01, 4)
    with pytest.raises(MessageError, match=name):
        parse(Observation, {"dt_s": 900.0, name: value})


@pytest.mark.parametrize("sent_at", ["yesterday", "2026-01-02T03:04:05", "", [], {}, True])
def test_an_unreadable_time_of_sending_is_left_out_and_the_message_counts(sent_at: Any) -> None:
    price = parse(PriceSignal, {"type": "price", "value": 1.0, "seq": 4, "sent_at": sent_at})
    assert (price.value, price.seq, price.sent_at) == (1.0, 4, None)


@pytest.mark.parametrize("wrong", [{"running": 2}, {"running": "true"}, {"ack_seq": 7.5}, {"soc": 1.1}])
def test_a_spelling_that_leaves_doubt_is_refused(wrong: dict[str, Any]) -> None:
    (field,) = wrong
    with pytest.raises(MessageError, match=field):
        parse(Telemetry, {"type": "telemetry", "p_mw": 0.1, **wrong})


def test_an_optional_field_that_cannot_be_read_is_left_out_and_named() -> None:
    telemetry, left_out = parse_known_fields(
        Telemetry, {"type": "telemetry", "p_mw": 0.1, "soc": 7.0, "vm_pu": 1.0}
    )
    assert (telemetry.p_mw, telemetry.soc, telemetry.vm_pu) == (0.1, None, 1.0)
    assert "soc" in left_out


@pytest.mark.parametrize("wrong", [{"p_mw": "x"}, {"seq": -1}, {"ack_seq": "x"}, {"boot": []}])
def test_what_is_required_identity_and_numbering_are_never_left_out(wrong: dict[str, Any]) -> None:
    (field,) = wrong
    with pytest.raises(MessageError, match=field):
        parse_known_fields(Telemetry, {"type": "telemetry", "p_mw": 0.1, **wrong})


@each_row(
    ("name", "wrong"),
    [
        ("setpoint", {"p_mw": 0.0, "lease_s": 1e300}),
        ("take", {"for_s": -1.0, "who": "ann"}),
        ("take", {"for_s": 1e300, "who": "ann"}),
        ("take", {"for_s": 1.0}),
        ("owner", {"state": "has"}),
        ("lease", {"state": "held", "lease_s": 0.0}),
        ("estop_confirm", {"active": True}),
        ("offer", {"quantity": -0.1, "price": 1.0}),
        ("accept", {"quantity": -0.1}),
        ("setpoint", {"p_mw": 0.0, "lease_s": 0.0}),
        ("observation", {"dt_s": 0.0}),
        ("telemetry", {"p_mw": 0.0, "soc": 1.01}),
        ("telemetry", {"p_mw": 0.0, "soc": -0.01}),
        ("status", {"state": "perhaps"}),
        ("action", {"p_gen": "much"}),
        ("action", {"fallback_gen": 1.0}),
        ("price", {}),
    ],
)
def test_values_out_of_range_are_refused(name: str, wrong: dict[str, Any]) -> None:
    with pytest.raises(MessageError):
        parse_any({"type": name, **wrong})


@pytest.mark.parametrize("kind", [None, "prices", "", 1, [], {}])
def test_an_unknown_type_is_refused_with_the_known_ones(kind: Any) -> None:
    with pytest.raises(MessageError, match=r"unknown message type.*accept, action"):
        parse_any({"type": kind})


def test_a_message_of_another_type_is_refused() -> None:
    with pytest.raises(MessageError, match="type"):
        parse(PriceSignal, {"type": "offer", "value": 1.0})


def test_many_faults_make_one_bounded_line() -> None:
    wire = {f"p_{i}": "x" * 1_000 for i in range(50)}
    with pytest.raises(MessageError) as caught:
        parse(
            Action, {"type": "action", **wire, "seq": -1, "step": -1, "episode": -1, "sender": "", "boot": ""}
        )
    assert len(str(caught.value)) < 1_000


def test_values_are_picked_by_prefix() -> None:
    action = parse(Action, {"type": "action", "p_gen": 1, "p_ess": -0.3, "q_gen": 0.2, "soc_ess": 0.5})
    assert action.values("p_") == {"gen": 1.0, "ess": -0.3}
    assert action.values("q_") == {"gen": 0.2}
    assert action.values("soc_") == {"ess": 0.5}


def test_declared_fields_are_not_taken_for_devices() -> None:
    observation = parse(
        Observation, {"type": "observation", "dt_s": 1.0, "p_load_mw": -1.0, "p_available_pv": 2.0}
    )
    assert observation.values("p_available_") == {"pv": 2.0}
    assert "load_mw" not in observation.values("p_")
    status = parse(Status, {"type": "status", "state": "online", "soc": 0.5, "soc_ess": 0.4})
    assert status.values("soc_") == {"ess": 0.4}


@given(st.floats(0, 1e6), st.floats(-1e6, 1e6))
def test_numbers_keep_every_bit(quantity: float, price: float) -> None:
    offer = Offer(quantity=quantity, price=price)
    assert parse(Offer, decode(offer.model_dump_json().encode())) == offer


def test_every_model_is_a_message() -> None:
    assert all(issubclass(model, Message) for model in WIRE_TYPES.values())


def test_a_huge_number_in_a_field_of_somebody_else_harms_no_action() -> None:
    action = Action.model_validate({"p_ess": 1, "state": 10**400})
    assert action.by_prefix()["p_"] == {"ess": 1.0}

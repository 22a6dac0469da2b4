"""What proves that a device is at 0 in a stop: when it was measured, what it was told, what it answers."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from heron_mqtt.field.device.hardware_rest import LEAVES_POWER_S, HardwareRest
from heron_mqtt.field.vendor.mapping import load_mapping
from heron_mqtt.field.vendor.stop_proof import StopProof
from heron_mqtt.field.vendor.vendor_state import VendorState

TABLE: dict[str, Any] = {
    "name": "box",
    "setpoint": {
        "values": {"p": {"quantity": "p_mw", "unit": "W"}},
        "messages": [{"topic": "box/set", "payload": "{p}"}],
        "settle_s": 2.0,
    },
    "telemetry": [{"topic": "box/state", "fields": {"p_mw": {"path": "p", "unit": "W"}}}],
}
ON_CHANGE = {
    **TABLE,
    "telemetry": [{**TABLE["telemetry"][0], "reports": "on_change"}],
    "liveness": {"by": "heartbeat", "topic": "box/alive"},
}
ANSWERS = {**TABLE["setpoint"], "answers": [{"topic": "box/ack", "error": {"path": "error"}}]}


class Case:
    """A box of 10 kW that is told of a stop at 100 s."""

    def __init__(self, table: dict[str, Any] = TABLE, *, moved_at: float = 50.0) -> None:
        mapping = load_mapping(table, agent="MG1", device="ess", source="test")
        self.state = VendorState(mapping)
        self.reported: list[str] = []
        self.commander: Any = SimpleNamespace(moved_at=moved_at)
        self.now_s = 100.0
        self.rest = HardwareRest((-0.01, 0.01), self.reported.append, lambda: self.now_s)
        self.proof = StopProof(
            mapping,
            self.state,
            self.commander,
            self.rest,
            lambda topic, what: None,
            stale_after_s=60.0,
            answer_within_s=1.0,
        )

    def begin(self, at_s: float) -> None:
        self.now_s = at_s
        self.proof.begin()

    def says(self, p_w: float, at_s: float) -> None:
        self.state.take("box/state", json.dumps({"p": p_w}).encode(), at_s)
        self.proof.take_power(p_w / 1e6, at_s)

    def knows(self, now_s: float, *, was_told: bool = True, is_offline: bool = False) -> float | None:
        return self.proof.known_p_mw(now_s, was_told=was_told, is_offline=is_offline)


@pytest.mark.parametrize(
    ("said_at", "known"), [(99.0, None), (100.0, None), (101.9, None), (102.0, 0.0), (110.0, 0.0)]
)
def test_only_a_power_of_after_the_stop_that_has_settled_counts(said_at: float, known: float | None) -> None:
    case = Case()
    case.begin(100.0)
    case.says(0.0, said_at)
    assert case.knows(110.0) == known
    assert case.knows(110.0, was_told=False) == 0.0, "of one that is only read, the last one"


def test_one_that_was_moved_meanwhile_says_so_itself_or_had_the_time_to() -> None:
    case = Case(moved_at=105.0)
    case.begin(100.0)
    case.says(0.0, 106.0)
    assert case.knows(106.0) is None, "it may not have settled"
    case.says(0.0, 107.0)
    assert case.knows(107.0) == 0.0
    quiet = Case(ON_CHANGE, moved_at=105.0)
    quiet.says(0.0, 90.0)
    quiet.begin(100.0)
    for now_s, known in ((107.0, None), (107.0 + LEAVES_POWER_S, 0.0)):
        quiet.state.take("box/alive", b"tick", now_s)
        assert quiet.knows(now_s) == known


def test_one_that_is_offline_may_hold_what_it_was_told_last() -> None:
    case = Case()
    case.says(5000.0, 60.0)
    assert case.proof.may_hold_power
    assert case.knows(70.0, is_offline=True) is None
    case.proof.note_released(65.0)
    assert not case.proof.may_hold_power
    case.commander.moved_at = 66.0
    assert case.proof.may_hold_power
    case.says(0.0, 67.0)
    assert case.knows(70.0, is_offline=True) == 0.0


def test_a_stop_is_taken_when_the_device_says_so_where_it_answers() -> None:
    case = Case({**TABLE, "setpoint": ANSWERS})
    case.begin(100.0)
    assert not case.proof.is_taken()
    assert not case.proof.must_be_told_again(100.9)
    assert case.proof.must_be_told_again(101.0), "no answer came"
    assert case.proof.take_answer("box/ack", b'{"error": "locked"}', {}, 103.0)
    assert not case.proof.take_answer("box/other", b"{}", {}, 103.0), "of something else"
    assert case.proof.must_be_told_again(101.0)
    case.begin(102.0)
    assert case.proof.take_answer("box/ack", b'{"error": null}', {}, 103.0)
    assert case.proof.is_taken()
    case.rest.see(0.0)
    assert not case.proof.must_be_told_again(110.0)
    assert len(case.reported) == 1
    assert "no answer on box/ack within 1 s" in case.reported[0]
    case.proof.end()
    assert not case.proof.take_answer("box/ack", b'{"error": "late"}', {}, 103.0)

"""Local state in its plain form says what the message would say."""

from __future__ import annotations

from heron_mqtt.agents.base import LocalState


def test_what_devices_offer_is_found_by_its_prefix_alone() -> None:
    state = LocalState(900.0, False, -0.01, 0.0, {"pv": 0.02})
    assert state.values("p_available_") == {"pv": 0.02}
    assert state.values("p_") == {}
    assert state.to_fields()["p_available_pv"] == 0.02

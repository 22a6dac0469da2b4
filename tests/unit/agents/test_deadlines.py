"""Deadlines: how long each phase of a step may take, and which comes last."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from heron_mqtt.agents.deadlines import Deadlines


def test_what_is_left_out_has_a_default() -> None:
    made = Deadlines()
    assert (made.upstream_s, made.peer_s, made.device_s, made.action_s, made.ready_s) == (
        *(1.0, 2.0, 2.0, 15.0, 30.0),
    )
    assert (made.plan_s, made.clearance_s) == (7.5, 8.5)
    made = Deadlines(upstream_s=3.0, action_s=20.0)
    assert (made.plan_s, made.clearance_s) == (10.0, 13.0)


@pytest.mark.parametrize("name", ["upstream_s", "peer_s", "device_s", "action_s", "ready_s"])
def test_every_deadline_is_some_time(name: str) -> None:
    others = {"upstream_s": 1e-6, "peer_s": 1e-6, "device_s": 1e-6, "action_s": 1.0}
    assert getattr(Deadlines(**{**others, name: 1e-5}), name) == 1e-5
    for wrong in (0.0, -1.0, float("inf"), float("nan"), "1"):
        with pytest.raises(ValidationError, match=name):
            Deadlines.model_validate({name: wrong})
    with pytest.raises(ValidationError, match="unheard"):
        Deadlines.model_validate({"unheard": 1.0})
    with pytest.raises(ValidationError, match="frozen"):
        setattr(Deadlines(), name, 1.0)


@pytest.mark.parametrize("name", ["upstream_s", "peer_s", "device_s"])
def test_the_actions_are_waited_for_longer_than_what_agents_wait_for(name: str) -> None:
    assert Deadlines(**{name: 14.99}).action_s == 15.0
    for action_s in (15.0, 16.0):
        with pytest.raises(ValidationError) as refused:
            Deadlines(**{name: action_s})
        assert (
            "action_s must exceed upstream_s, peer_s and device_s, which agents wait for before they act, "
            "got 15.0"
        ) in str(refused.value)

"""How long acknowledgements wait for something to go with."""

from __future__ import annotations

from heron_mqtt.messaging.mqtt.ack_holding import IN_VAIN_S, MAX_HELD, MAX_HOLD_S, AckHolding


class Clock:
    """Time that a test moves."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def holding() -> tuple[AckHolding, Clock]:
    clock = Clock()
    return AckHolding(clock, may_hold=True), clock


def test_one_waits_for_a_message_to_go_with() -> None:
    made, _ = holding()
    assert not made.holds
    made.owed()
    assert (made.holds, made.hold_s()) == (True, MAX_HOLD_S)
    made.went()
    assert not made.holds


def test_several_do_not_wait() -> None:
    made, _ = holding()
    for _n in range(MAX_HELD):
        assert made.hold_s() == MAX_HOLD_S
        made.owed()
    assert made.hold_s() == 0.0


def test_none_waits_for_a_while_after_one_has_waited_in_vain() -> None:
    made, clock = holding()
    made.owed()
    made.waited_in_vain()
    made.went()
    clock.now_s += IN_VAIN_S * 0.9
    made.owed()
    assert made.hold_s() == 0.0
    made.went()
    clock.now_s += IN_VAIN_S * 0.2
    made.owed()
    assert made.hold_s() == MAX_HOLD_S


def test_a_kept_session_holds_none() -> None:
    made = AckHolding(Clock(), may_hold=False)
    made.owed()
    assert made.hold_s() == 0.0

"""What goes out to a device: two of one meaning are the same."""

from __future__ import annotations

from heron_mqtt.field.vendor.outgoing import Outgoing, RegisterCommand


def test_a_message_is_sent_once_acknowledged_not_kept_and_at_once_unless_it_says_otherwise() -> None:
    message = Outgoing("box/set", b"5")
    assert (message.qos, message.retain, message.pause_s) == (1, False, 0.0)
    assert message == Outgoing("box/set", b"5", meaning=("anything",)), "what it means is not what it is"
    command = RegisterCommand(())
    assert (command.read_back, command.pause_s) == (False, 0.0)
    assert command == RegisterCommand((), meaning=("anything",))

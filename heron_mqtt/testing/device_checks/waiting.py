"""What several checks wait for, and look at then."""

from __future__ import annotations

from heron_mqtt.testing.device_harness import DeviceHarness, SetpointSender, WatchedMessage, need


def heard_last(device: DeviceHarness) -> WatchedMessage:
    """Wait for the next telemetry, and return it with the time of its arrival."""
    device.next_telemetry()
    return device.heard("telemetry")[-1]


def is_safe_within(device: DeviceHarness, mark: int, within_s: float, why: str) -> None:
    """Wait up to ``within_s`` seconds until telemetry since ``mark`` says the safe state; ``why`` it must."""
    device.until(
        lambda: any(device.is_safe(m.json) for m in device.heard("telemetry", mark)),
        f"the safe state at the end of the lease: {why}",
        within_s,
    )


def is_no_copy_done(device: DeviceHarness, sender: SetpointSender, after: str) -> None:
    """Send copies of the newest numbers, whose lease has ended: the device stays at rest."""
    for seq in (sender.next_seq - 1, sender.next_seq - 2):
        sender.send(device.part_mw(0.8), seq=seq)
    told = device.later_telemetry()
    need(device.is_safe(told), f"a copy of a setpoint, after {after}, moved it: {told}")

"""The gateway's side of leases: what was sent, until when it is renewed, and when that is forgotten."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from heron_mqtt.field.gateway.device_link import DeviceLink
from heron_mqtt.field.steady_clock import steady_s

RENEWALS = 3  # a lease survives two lost renewals
LEAST_LEASE_S = 0.2  # a shorter one ends before it could be renewed often


class GatewayLeases:
    """Renewals of one agent's devices, by a clock that is handed in.

    Args:
        links: The devices, by name.
        lease_s: Length of a lease, wall-clock s.
        left_s: Returns how long a setpoint may last that is sent now, s; 0 = nothing may be renewed.
        monotonic: Our clock, s.
    """

    def __init__(
        self,
        links: Mapping[str, DeviceLink],
        *,
        lease_s: float,
        left_s: Callable[[], float],
        monotonic: Callable[[], float] = steady_s,
    ) -> None:
        self._links = links
        self.longest_s = lease_s
        """Length of a lease that the environment does not shorten, wall-clock s."""
        self._left_s = left_s
        self._monotonic = monotonic
        self._due_at: float | None = None

    @property
    def lease_s(self) -> float:
        """The lease of a setpoint that is sent now, s; 0 = none may be sent.

        The environment's last sign of life is the beginning of every lease: whatever fails between it and
        the device, no setpoint outlives it by more than one lease.
        """
        return min(self.longest_s, self._left_s())

    def sent(self, shortest_s: float) -> None:
        """Setpoints have left, or been renewed: the next renewal is due after a third of the lease.

        Args:
            shortest_s: The shortest lease among them, s; one that is nearly over is not counted by it.
        """
        lease_s = shortest_s if shortest_s > LEAST_LEASE_S else self.longest_s
        self._due_at = self._monotonic() + min(lease_s, self.longest_s) / RENEWALS

    def end(self) -> None:
        """Nothing is renewed any more, until something is sent again."""
        self._due_at = None
        for link in self._links.values():
            link.forget_setpoint()

    @property
    def due_at(self) -> float:
        """When renewals are due, by our clock, s; infinite = none are."""
        if self._due_at is None or not any(link.holds_setpoint for link in self._links.values()):
            return math.inf
        return self._due_at

    def renewable(self) -> list[str]:
        """Return the devices whose setpoint is to be renewed now."""
        if self.lease_s <= 0.0:
            return []
        return [
            name for name, link in self._links.items() if link.holds_setpoint and link.why_not_sent is None
        ]

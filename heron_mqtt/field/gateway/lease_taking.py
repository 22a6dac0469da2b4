"""LeaseTaking: whether a setpoint may displace who holds the device's lease."""

from __future__ import annotations

from collections.abc import Collection

from heron_mqtt.messages import LeaseState


class LeaseTaking:
    """What is known of the lease of one device, and whose of it may be taken without waiting for its end.

    Args:
        sender: Who sends our setpoints, and sent those of our predecessors.
        from_anybody: Displace any other holder, until the lease is ours: asked for by ``take_over``.
        predecessors: Boots of earlier starts of this gateway, all dead; see ``Succession``.
    """

    def __init__(self, sender: str, *, from_anybody: bool, predecessors: Collection[str]) -> None:
        self._sender = sender
        self._from_anybody = from_anybody
        self._predecessors = frozenset(predecessors)
        self._lease: LeaseState | None = None

    @property
    def depends_on_holder(self) -> bool:
        """Whether ``heard`` is to be told what the device says of its lease."""
        return bool(self._predecessors)

    def heard(self, lease: LeaseState) -> None:
        """Note what the device says of its lease, or what the broker has kept of that."""
        self._lease = lease

    def is_ours(self) -> None:
        """Note that a setpoint of ours was followed: no other holder is displaced any more."""
        self._from_anybody = False

    def may_displace(self, device_boot: str | None) -> bool:
        """Whether the next setpoint may displace the holder of the lease.

        Args:
            device_boot: The device's present life; what it said in an earlier one tells nothing.
        """
        lease = self._lease
        is_predecessors = (
            lease is not None
            and lease.state == "held"
            and lease.holder == self._sender
            and lease.holder_boot in self._predecessors
            and lease.boot in {None, device_boot}
        )
        return self._from_anybody or is_predecessors

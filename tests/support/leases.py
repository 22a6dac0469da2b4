"""Whether a device held power longer than its leases let it, by its own clock."""

from __future__ import annotations

from itertools import pairwise

from support.observer import PlainDevice

ON_ITS_WAY_S = 0.25
"""How late a thread of a busy machine may see that a lease is over."""


def assert_within_lease(device: PlainDevice, lease_s: float) -> None:
    """Whenever the device had power, a setpoint or renewal had come within one lease."""
    assert device.p_mw == 0.0, "the run is over"
    heard = [m.at for m in device.heard]
    for (begin, p_mw), (end, _) in pairwise(device.power):
        if p_mw == 0.0:
            continue
        told = [at for at in heard if begin <= at <= end]
        for before, after in zip([begin, *told], [*told, end], strict=True):
            assert after - before <= lease_s + ON_ITS_WAY_S

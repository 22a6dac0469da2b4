"""LeaseTaking: whose lease a gateway may take without waiting for its end."""

from __future__ import annotations

from typing import Any

from heron_mqtt.field.gateway.lease_taking import LeaseTaking
from heron_mqtt.messages import LeaseState
from support.rows import each_row

HELD = {"state": "held", "holder": "MG1", "holder_boot": "g1", "boot": "d1"}


@each_row(
    ("lease", "device_boot", "may"),
    [
        (HELD, "d1", True),
        ({**HELD, "boot": None}, "d1", True),  # the device says no boot
        (HELD, "d2", False),  # said in an earlier life of the device
        (HELD, None, False),
        ({**HELD, "holder": "MG2"}, "d1", False),
        ({**HELD, "holder_boot": "g9"}, "d1", False),  # one that may live
        ({**HELD, "holder_boot": None}, "d1", False),
        ({"state": "free", "boot": "d1"}, "d1", False),
        ({**HELD, "state": "free"}, "d1", False),
    ],
)
def test_only_a_lease_of_a_dead_predecessor_is_taken(
    lease: dict[str, Any], device_boot: str | None, may: bool
) -> None:
    taking = LeaseTaking("MG1", from_anybody=False, predecessors={"g1"})
    assert taking.depends_on_holder
    assert not taking.may_displace(device_boot), "nothing is known of the lease"
    taking.heard(LeaseState.model_validate(lease))
    assert taking.may_displace(device_boot) is may


def test_who_was_told_to_take_it_from_anybody_does_so_until_it_is_ours() -> None:
    taking = LeaseTaking("MG1", from_anybody=True, predecessors=())
    assert not taking.depends_on_holder
    assert taking.may_displace("d1")
    taking.heard(LeaseState.model_validate({**HELD, "holder": "MG2"}))
    assert taking.may_displace("d1")
    taking.is_ours()
    assert not taking.may_displace("d1")

"""GatewayLeases: how long a setpoint may hold, when it is renewed, and when that is over."""

from __future__ import annotations

import math

import pytest

from heron_mqtt.field.gateway.device_link import DeviceLink
from heron_mqtt.field.gateway.gateway_leases import GatewayLeases
from support.field_rig import LEASE_S, Rig, nothing

LEAST_LEASE_S = 0.2
RENEWALS = 3


class Renewing:
    """The leases of a gateway that has sent a setpoint, and what is left of the sign of life."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.left_s = LEASE_S
        self.leases = GatewayLeases(
            rig.gateway.links,
            lease_s=LEASE_S,
            left_s=lambda: self.left_s,
            monotonic=lambda: rig.clock_s,
        )


async def renewing() -> Renewing:
    rig = await Rig("full").open()
    rig.step()
    return Renewing(rig)


async def test_a_lease_is_no_longer_than_what_is_left_of_the_environments_sign_of_life() -> None:
    made = await renewing()
    for left_s, lease_s in ((LEASE_S, LEASE_S), (LEASE_S + 1.0, LEASE_S), (1.0, 1.0), (0.0, 0.0)):
        made.left_s = left_s
        assert made.leases.lease_s == lease_s
        assert made.leases.renewable() == (["ess"] if left_s > 0.0 else [])


@pytest.mark.parametrize(
    ("shortest_s", "due_s"),
    [
        (LEASE_S, LEASE_S / RENEWALS),
        (1.5, 1.5 / RENEWALS),
        (10.0, LEASE_S / RENEWALS),  # no lease is longer than ours
        (LEAST_LEASE_S, LEASE_S / RENEWALS),  # one that is nearly over is not counted by it
        (LEAST_LEASE_S + 0.01, (LEAST_LEASE_S + 0.01) / RENEWALS),
    ],
)
async def test_a_renewal_is_due_after_a_third_of_the_shortest_lease(shortest_s: float, due_s: float) -> None:
    made = await renewing()
    assert made.leases.due_at == math.inf, "nothing was sent"
    made.leases.sent(shortest_s)
    assert made.leases.due_at == pytest.approx(made.rig.clock_s + due_s)
    made.rig.clock_s += due_s / 2.0
    assert made.leases.due_at == pytest.approx(made.rig.clock_s + due_s / 2.0)


async def test_a_lease_survives_two_lost_renewals() -> None:
    made = await renewing()
    made.leases.sent(LEASE_S)
    assert (made.leases.due_at - made.rig.clock_s) * 3 <= LEASE_S + 1e-9


async def test_what_has_run_out_or_ended_is_renewed_no_more() -> None:
    made = await renewing()
    made.leases.sent(LEASE_S)
    made.rig.clock_s += LEASE_S
    assert (made.leases.due_at, made.leases.renewable()) == (math.inf, [])
    made = await renewing()
    made.leases.sent(LEASE_S)
    made.leases.end()
    assert (made.leases.due_at, made.leases.renewable()) == (math.inf, [])
    made.rig.step()
    assert made.leases.renewable() == ["ess"]
    assert made.leases.due_at == math.inf, "until something is sent again"


async def test_one_lease_that_is_held_is_enough_for_a_renewal_to_be_due() -> None:
    made = await renewing()
    silent = DeviceLink("MG1", "pv", made.rig.broker, lease_s=LEASE_S, on_change=lambda: None)
    for links in ({"ess": made.rig.link, "pv": silent}, {"pv": silent, "ess": made.rig.link}):
        made.leases._links = links
        made.leases.sent(LEASE_S)
        assert made.leases.due_at == pytest.approx(made.rig.clock_s + LEASE_S / RENEWALS)
        assert made.leases.renewable() == ["ess"]


async def test_a_device_that_may_be_sent_nothing_is_not_renewed() -> None:
    made = await renewing()
    made.rig.answer = nothing
    made.rig.say("status", state="fault", run="none")
    assert made.leases.renewable() == []

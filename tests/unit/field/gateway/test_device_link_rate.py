"""A run as fast as it goes: a device that answers every setpoint is not taken for one that floods."""

from __future__ import annotations

from heron_mqtt.field.gateway.device_link import DeviceLink, SetpointRequest
from heron_mqtt.field.gateway.settings import GatewayTable
from heron_mqtt.messaging.memory import InMemoryBroker
from heron_mqtt.messaging.stamping import MessageStamper

TELEMETRY = "devices/MG1/ess/telemetry"


async def _link(broker: InMemoryBroker) -> DeviceLink:
    link = DeviceLink(
        "MG1",
        "ess",
        broker,
        lease_s=30.0,
        on_change=lambda: None,
        settings=GatewayTable(max_rate_per_s=10.0),
        monotonic=lambda: 5.0,  # everything happens within one second
    )
    await link.open()
    return link


async def test_a_thousand_answers_in_a_second_all_count() -> None:
    async with InMemoryBroker() as broker:
        link, stamper = await _link(broker), MessageStamper("MG1", "default")
        for step in range(1_000):
            link.send(SetpointRequest(0.01), stamper, dt_s=900.0, episode=1, step=step)
            await broker.publish(TELEMETRY, {"p_mw": 0.01, "ack_seq": step, "ack_boot": stamper.boot})
            assert link.answer() is not None, f"the answer of step {step} was dropped"
        assert link.stats.flooded == 0
        link.close()


async def test_telemetry_that_nobody_asked_for_is_still_bounded() -> None:
    async with InMemoryBroker() as broker:
        link, stamper = await _link(broker), MessageStamper("MG1", "default")
        link.send(SetpointRequest(0.01), stamper, dt_s=900.0, episode=1, step=0)
        for _ in range(50):
            await broker.publish(TELEMETRY, {"p_mw": 0.01})
        assert link.stats.telemetry in {10, 11}
        assert link.stats.flooded == 50 - link.stats.telemetry
        link.close()

"""The observer of a step is told what the agent wanted, what of it was allowed, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from heron_mqtt.agents.deadlines import Deadlines
from heron_mqtt.agents.proxy import Proxy
from heron_mqtt.field.gateway.settings import DeviceSettings, GatewayTable
from heron_mqtt.messaging.stamping import MessageStamper
from powergrid.agents import GridAgent
from powergrid.devices import Battery
from support.field_rig import BAND, DT_S, ESS, OpenMemoryBroker
from support.virtual import run_virtual


class Notes:
    """An observer that notes the powers it is told, MW."""

    def __init__(self) -> None:
        self.told: list[tuple[str, Any]] = []

    def on_bounded(self, agent: str, wanted: Mapping[str, Any], allowed: Mapping[str, Any]) -> None:
        self.told.append(("bounded", (agent, wanted["ess"].p_mw, allowed["ess"].p_mw)))

    def on_settled(
        self, agent: str, episode: int, step: int, allowed: Mapping[str, Any], devices: Mapping[str, Any]
    ) -> None:
        self.told.append(("settled", (agent, episode, step, allowed["ess"].p_mw, sorted(devices))))

    def on_report(self, agent: str, episode: int, step: int, report: Any) -> None:
        self.told.append(("report", (agent, episode, step, report.p_mw["ess"])))


def test_an_observer_is_told_the_wanted_the_bounded_and_the_settled_power_in_that_order() -> None:
    async def main() -> None:
        broker, notes = OpenMemoryBroker(), Notes()
        proxy = Proxy(
            "proxy",
            GridAgent("MG1", {"ess": Battery(ESS)}, step_s=DT_S),
            broker,
            devices={"ess": DeviceSettings(authority="shadow", gateway=GatewayTable(band=BAND))},
            env_id="test",
            deadlines=Deadlines(upstream_s=5.0, peer_s=5.0, device_s=5.0, action_s=10.0, ready_s=5.0),
            lease_s=60.0,
            stamper=MessageStamper("MG1", "test"),
        )
        proxy.observer = notes
        await proxy.start()
        proxy.gateway.authority._held["ess"].level = "limited"  # as if it had been earned
        meta = {"sender": "MG1/ess", "boot": "b1"}
        now = {"episode": 1, "step": 0, "boot": "env1"}

        def say(channel: str, **fields: Any) -> None:
            broker.publish(channel, fields)

        def answer(setpoint: Mapping[str, Any]) -> None:
            acked = {"ack_seq": setpoint["seq"], "ack_boot": setpoint["boot"]}
            say("devices/MG1/ess/telemetry", type="telemetry", seq=2, p_mw=0.009, soc=0.5, **meta, **acked)

        broker.subscribe("devices/MG1/ess/setpoint", answer)
        say("run/state", type="run_state", state="running", **now)
        say("devices/MG1/ess/status", type="status", seq=0, state="online", run="none", **meta)
        say("devices/MG1/ess/telemetry", type="telemetry", seq=1, p_mw=0.0, soc=0.5, **meta)
        say("agents/MG1/observation", type="observation", dt_s=DT_S, commanded=True, **now)
        say("operators/system_operator/price", type="price", value=50.0, **now)
        say("agents/MG1/command", type="command", p_ess=0.02, **now)
        await proxy.step_distributed()
        await proxy.close()
        assert notes.told == [
            ("bounded", ("MG1", 0.02, 0.01)),
            ("settled", ("MG1", 1, 0, 0.01, ["ess"])),
            ("report", ("MG1", 1, 0, 0.009)),
        ]

    run_virtual(main())

"""A gateway with one battery, a device that does as the test says, and a clock that stands still."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

from heron_mqtt.field.gateway import FieldGateway
from heron_mqtt.field.gateway.settings import BandTable, DeviceSettings, GatewayTable
from heron_mqtt.messages import AuthorityRequest, Command, Level, Observation
from heron_mqtt.messaging.base import Features, Received
from heron_mqtt.messaging.memory import InMemoryBroker
from heron_mqtt.messaging.stamping import MessageStamper
from powergrid.agents import GridAgent
from powergrid.devices import Battery, BatterySpec

DT_S = 900.0
LEASE_S = 3.0
STALE_S = 5.0
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
ESS = BatterySpec(
    max_e_mwh=0.2,
    max_p_charge_mw=0.05,
    max_p_discharge_mw=0.05,
    efficiency_charge=0.95,
    efficiency_discharge=0.95,
    min_soc=0.1,
    max_soc=0.9,
)
BAND = BandTable(p_min_mw=-0.01, p_max_mw=0.01)
Answer = Callable[["Rig", dict[str, Any]], None]
"""What the device does with a setpoint."""


class OpenMemoryBroker(InMemoryBroker):
    """In memory, but as one that devices can connect to."""

    features: ClassVar[Features] = Features(wildcards=True, retain=True, external=True)

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._when_back: list[Callable[[], None]] = []

    def on_reconnect(self, callback: Callable[[], None]) -> Callable[[], None]:
        self._when_back.append(callback)
        return lambda: self._when_back.remove(callback) if callback in self._when_back else None

    def come_back(self) -> None:
        """Let who is there see its connection come back."""
        for callback in tuple(self._when_back):
            callback()


def follow(rig: Rig, setpoint: dict[str, Any]) -> None:
    """Do what is asked, and say so."""
    if not setpoint.get("renewal"):
        rig.p_mw = setpoint["p_mw"]
        rig.measure(ack=setpoint)


def nothing(rig: Rig, setpoint: dict[str, Any]) -> None:
    """Be silent."""


class Rig:
    """One gateway of MG1 with the battery ``ess``; the test is the device and moves the clock."""

    def __init__(
        self, level: Level = "emulated", *, predecessors: frozenset[str] = frozenset(), **table: Any
    ) -> None:
        self.clock_s = 1000.0
        self.broker = OpenMemoryBroker()
        self.agent = GridAgent("MG1", {"ess": Battery(ESS)}, step_s=DT_S)
        settings = GatewayTable(**{"stale_after_s": STALE_S, "band": BAND, **table})
        self.gateway = FieldGateway(
            "MG1",
            self.agent,
            {"ess": DeviceSettings(authority=level, kind="battery", gateway=settings)},
            {"ess": ESS.power_range_mw},
            self.broker,
            MessageStamper("MG1", "test"),
            notify=lambda: None,
            lease_s=LEASE_S,
            predecessors=predecessors,
            monotonic=lambda: self.clock_s,
            now=lambda: NOON + timedelta(seconds=self.clock_s),
        )
        self._level: Level = level
        self.link = self.gateway.links["ess"]
        self.answer: Answer = follow
        self.p_mw = 0.0
        self.soc = 0.5
        self.boot = "b1"
        self.step_number = -1
        self.sent: list[dict[str, Any]] = []
        """Everything that an independent subscriber saw on any setpoint topic."""
        self._seq = 0

    async def open(self, *, birth: bool = True, measure: bool = True) -> Rig:
        self.broker.subscribe("devices/+/+/setpoint", self._on_setpoint)
        await self.gateway.open()
        self.gateway.begin()
        self.gateway.environment.heard(None)
        # As if it had been earned: what the gates want is another test's.
        self.gateway.authority._held["ess"].level = self._level
        if birth:
            self.say("status", state="online", run="none")
        if birth and measure:
            self.measure()
            self.link.stats.telemetry = 0
        return self

    def _on_setpoint(self, message: Received) -> None:
        self.sent.append(dict(message))
        self.answer(self, dict(message))

    # -- the device --------------------------------------------------------------------------------

    def say(self, leaf: str, *, retain: bool = False, **fields: Any) -> None:
        """Publish something in the device's name."""
        self._seq += 1
        meta = {"type": leaf, "sender": "MG1/ess", "boot": self.boot, "seq": self._seq}
        self.broker.publish(f"devices/MG1/ess/{leaf}", {**meta, **fields}, retain=retain)

    def measure(self, ack: dict[str, Any] | None = None, **fields: Any) -> None:
        """Publish telemetry, perhaps as the answer to a setpoint."""
        acked = {"ack_seq": ack["seq"], "ack_boot": ack["boot"]} if ack else {}
        self.say("telemetry", **{"p_mw": self.p_mw, "soc": self.soc, **acked, **fields})

    # -- the agent ---------------------------------------------------------------------------------

    def step(self, p_mw: float = 0.02) -> int:
        """Take a step in which ``p_mw`` is wanted; return the deadlines missed."""
        self.step_number += 1
        self.gateway.environment.heard(None)
        self.agent.observe(Observation(dt_s=DT_S, episode=1, step=self.step_number), 50.0)
        self.agent.decide(Command.model_validate({"p_ess": p_mw}))
        self.agent.conclude()
        allowed = self.gateway.clamp_setpoints(self.agent.wanted())
        self.gateway.send(allowed, dt_s=DT_S, episode=1, step=self.step_number)
        return self.gateway.settle(allowed)

    def ask(self, level: Level, who: str = "ann", why: str = "test") -> str:
        """Ask for a level; return the gate that refused, or nothing."""
        asked = AuthorityRequest(level=level, who=who, why=why)
        return self.gateway.authority.request("ess", asked, has_waited=False).reason

    # -- what came of it ---------------------------------------------------------------------------

    @property
    def p_done_mw(self) -> float:
        return self.agent.report().p_mw["ess"]

    @property
    def fallback(self) -> str | None:
        return self.agent.report().fallbacks.get("ess")

    @property
    def bound(self) -> str | None:
        return self.gateway.reasons().get("ess")

    @property
    def reports(self) -> list[str]:
        """What was named to the user about this device."""
        return [report.what for report in self.broker.stats.reports if report.kind == "device"]

"""GridAgent: one microgrid's devices and its policy. Formulas: docs/models.md, economics and trading."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from heron_mqtt.agents.base import LocalState, StepReport
from heron_mqtt.field.gateway.device_link import SetpointRequest
from heron_mqtt.field.gateway.envelope import SetpointLimits
from heron_mqtt.messages import Command, Observation, Telemetry
from heron_mqtt.protocols.base import HorizontalSession
from heron_mqtt.protocols.consensus import ConsensusSession
from heron_mqtt.protocols.p2p import Bid, P2PSession
from powergrid.agents.economic_dispatch import economic_setpoint
from powergrid.devices import Battery, Device, Generator, GeneratorState, Load, Measurement, Pv, make_device
from powergrid.devices.base import clip, hours
from powergrid.scenario import MarketTable, PolicyTable, ProtocolTable, Scenario

LEAST_TRADE_MWH = 1e-9  # below a milliwatt-hour is rounding, not energy for sale


@dataclass(slots=True)
class _Unit:
    """A device in this step: its model, what is wanted of it and what it did."""

    device: Device
    usual_p_mw: float = 0.0  # wanted where nobody says otherwise
    wanted_p_mw: float = 0.0
    wanted_q_mvar: float = 0.0
    p_available_mw: float | None = None
    done: Measurement | None = None
    _planned_mw: float | None = None

    def want(self, p_mw: float, planned_mw: float | None = None) -> None:
        """Plan a setpoint, MW, and what the device will do of it, if that is known."""
        self.wanted_p_mw = p_mw
        self._planned_mw = planned_mw

    def planned_mw(self, dt_s: float) -> float:
        """Return what the device will do of what is wanted, MW; worked out once a plan."""
        if self._planned_mw is None:
            self._planned_mw = self.device.project(self.wanted_p_mw, dt_s, self.p_available_mw)
        return self._planned_mw


class GridAgent:
    """Dispatches one microgrid; driven by a proxy or directly (see ``heron_mqtt.agents.base.Agent``).

    Its own policy, where no command says otherwise: the generator runs where its marginal cost meets
    what energy is worth to the microgrid, the battery follows price thresholds, PV gives all it can, no
    load is shed, and what is left over is offered to the peers.

    Args:
        agent_id: The microgrid's id.
        devices: Models by name; they also serve as twins of real devices.
        peers: The other agents of the horizontal protocol.
        step_s: Length of a step where an observation does not say it, s.
        market: What energy costs besides the price.
        policy: Thresholds.
        protocol: How to talk to the peers.
    """

    def __init__(
        self,
        agent_id: str,
        devices: Mapping[str, Device],
        *,
        peers: tuple[str, ...] = (),
        step_s: float = 900.0,
        market: MarketTable | None = None,
        policy: PolicyTable | None = None,
        protocol: ProtocolTable | None = None,
    ) -> None:
        self.agent_id = agent_id
        self.devices = dict(devices)
        self.peers = tuple(sorted(peers))
        self._step_s = step_s
        self._market = market or MarketTable()
        self._policy = policy or PolicyTable()
        self._protocol = protocol or ProtocolTable()
        self.reset(0, None)

    @classmethod
    def from_scenario(cls, scenario: Scenario, agent_id: str) -> GridAgent:
        """Return the agent of one microgrid of a scenario.

        Raises:
            KeyError: The scenario has no such microgrid.
        """
        microgrid = scenario.microgrids[agent_id]
        return cls(
            agent_id,
            {name: make_device(table.spec) for name, table in microgrid.devices.items()},
            peers=tuple(other for other in scenario.microgrids if other != agent_id),
            step_s=scenario.step_s,
            market=scenario.market,
            policy=microgrid.policy,
            protocol=scenario.protocol,
        )

    # -- one step, in the order of heron_mqtt.agents.base.Agent ------------------------------------

    def reset(self, episode: int, seed: int | None) -> None:
        """Go back to the devices' initial states; the policy is deterministic and needs no seed."""
        for device in self.devices.values():
            device.reset()
        self._units = {name: _Unit(device) for name, device in self.devices.items()}
        self._generators = {n: device for n, device in self.devices.items() if isinstance(device, Generator)}
        self._batteries = {n: device for n, device in self.devices.items() if isinstance(device, Battery)}
        self._plants = {n: unit for n, unit in self._units.items() if isinstance(unit.device, Pv)}
        self._loads = {n: unit for n, unit in self._units.items() if isinstance(unit.device, Load)}
        # Whatever the price, PV gives all it can and no load is shed.
        for unit in self._plants.values():
            unit.usual_p_mw = unit.device.spec.power_range_mw[1]
        for unit in self._loads.values():
            unit.usual_p_mw, unit.p_available_mw = unit.device.spec.power_range_mw[0], 0.0
        self._dt_s = self._step_s
        self._load_mw = 0.0
        self._price = 0.0
        self._commanded: Mapping[str, float] = {}
        self._session: HorizontalSession | None = None
        self._fallbacks: dict[str, str] = {}
        self._twins: dict[str, Device] = {}  # of shadowed devices

    def observe(self, observation: Observation | LocalState | None, price: float | None) -> None:
        """Take local state and price; without an observation the last demand is the best guess, PV none."""
        self._fallbacks = {}
        self._session = None
        if price is not None:
            self._price = price
        available: Mapping[str, float] = {}
        if observation is not None:
            self._dt_s = observation.dt_s
            self._load_mw = observation.p_load_mw
            available = observation.values("p_available_")
        for unit in self._units.values():
            unit.done = None
        for name, unit in self._plants.items():
            unit.p_available_mw = available.get(name, 0.0)
        for name, unit in self._loads.items():
            unit.p_available_mw = available.get(name, unit.p_available_mw)

    def decide(self, command: Command | None) -> None:
        """Plan each device: commanded powers as they are, the rest by the policy."""
        p = command.values("p_") if command is not None else {}
        q = command.values("q_") if command is not None else {}
        self._commanded = p
        for name, unit in self._units.items():
            unit.want(p.get(name, unit.usual_p_mw))
            unit.wanted_q_mvar = q.get(name, 0.0)
        for name, battery in self._batteries.items():
            if name not in p:
                self._units[name].want(self._battery_p_mw(battery))
        self._dispatch_generators(self._price, self._price + self._market.import_adder_per_mwh)

    def negotiate(self) -> HorizontalSession | None:
        """Offer the surplus or look for the deficit of the plan; in consensus, agree on a value."""
        if not self.peers or self._protocol.horizontal == "none":
            return None
        surplus_mwh = self._planned_mw() * hours(self._dt_s)
        if self._protocol.horizontal == "consensus":
            adder = self._market.import_adder_per_mwh if surplus_mwh <= -LEAST_TRADE_MWH else 0.0
            self._session = ConsensusSession(
                self.agent_id,
                neighbours(self.agent_id, self.peers, self._protocol),
                self._price + adder,
                self._protocol.consensus_rounds,
            )
        else:
            self._session = P2PSession(self.agent_id, self.peers, self._bid(surplus_mwh))
        return self._session

    def conclude(self) -> Collection[str]:
        """Dispatch by what was agreed on; return the names of the devices."""
        if isinstance(self._session, ConsensusSession):
            self._dispatch_generators(self._session.value, self._session.value)
        return self._units.keys()

    def wanted(self) -> Mapping[str, SetpointRequest]:
        """Return the setpoints to send, each within what the device's nameplate and state allow."""
        return {
            name: SetpointRequest(
                p_mw=unit.device.project(unit.wanted_p_mw, self._dt_s),
                q_mvar=clip(unit.wanted_q_mvar, -unit.device.spec.rated_s_mva, unit.device.spec.rated_s_mva),
                p_available_mw=unit.p_available_mw,
            )
            for name, unit in self._units.items()
        }

    def limits(self, device: str) -> SetpointLimits:
        """Return what bounds a device's setpoint in this step: nameplate, and what its state allows."""
        model = self._units[device].device
        nameplate = model.spec.power_range_mw
        low, high = model.feasible(self._dt_s)
        return SetpointLimits(*nameplate, model.spec.rated_s_mva, low, high)

    def simulate(
        self, device: str, reason: str | None = None, *, setpoint: SetpointRequest | None = None
    ) -> None:
        """Let the model take the step with ``setpoint``, or what is wanted if none is given."""
        unit = self._units[device]
        p, q = unit.wanted_p_mw, unit.wanted_q_mvar
        if setpoint is not None:
            p, q = setpoint.p_mw, setpoint.q_mvar
        unit.done = unit.device.step(p, q, self._dt_s, unit.p_available_mw)
        if reason is not None:
            self._fallbacks[device] = reason

    def measured(
        self, device: str, telemetry: Telemetry, *, setpoint: SetpointRequest | None = None
    ) -> float:
        """Take what the device measured; its model takes the same step and then follows it.

        Returns:
            The residual: what the device measured minus what its model did, MW.
        """
        unit = self._units[device]
        before = unit.device.state
        self.simulate(device, setpoint=setpoint)
        model = unit.done
        assert model is not None
        soc, cost = telemetry.soc, model.cost
        if model.soc is not None and soc is None:  # all that tells the charge is what flowed
            unit.device.state = before
            soc = unit.device.step(telemetry.p_mw, telemetry.q_mvar, self._dt_s).soc
        unit.device.restore(telemetry.p_mw, soc, telemetry.running)
        if isinstance(unit.device, Generator) and isinstance(before, GeneratorState):
            cost = self._follow_switching(unit.device, before, telemetry.p_mw)
        unit.done = model._replace(
            p_mw=telemetry.p_mw,
            q_mvar=telemetry.q_mvar,
            soc=soc if soc is not None else model.soc,
            running=telemetry.running if telemetry.running is not None else model.running,
            cost=cost,
        )
        return telemetry.p_mw - model.p_mw

    def _follow_switching(self, generator: Generator, before: GeneratorState, p_mw: float) -> float:
        """Count up and down time and return the cost, $, of what the generator did rather than its model."""
        spec, ran = generator.spec, generator.state.running
        cost = generator.cost_per_h(p_mw) * hours(self._dt_s) if ran else 0.0
        time_in_state_s = before.time_in_state_s + self._dt_s
        if ran != before.running:
            cost += spec.start_cost_usd if ran else spec.stop_cost_usd
            time_in_state_s = self._dt_s
        generator.state = replace(generator.state, time_in_state_s=time_in_state_s)
        return cost

    def shadowed(self, device: str, telemetry: Telemetry) -> float:
        """Compare a device that others drive with a model that is driven alike; return the residual, MW.

        The model takes the device's own power for the step; what differs is power it could not have
        given, or energy (state of charge) that went elsewhere, as the power that would explain it.
        """
        unit = self._units[device]
        twin = self._twins.get(device)
        if twin is None:
            twin = self._twins[device] = copy.copy(unit.device)  # spec and state are immutable values
            twin.restore(telemetry.p_mw, telemetry.soc, telemetry.running)
            return 0.0
        model = twin.step(telemetry.p_mw, telemetry.q_mvar, self._dt_s, unit.p_available_mw)
        residual = telemetry.p_mw - model.p_mw
        if isinstance(twin, Battery) and telemetry.soc is not None and model.soc is not None:
            missing_mwh = (model.soc - telemetry.soc) * twin.spec.max_e_mwh
            residual = max(residual, missing_mwh / hours(self._dt_s), key=abs)
        twin.restore(telemetry.p_mw, telemetry.soc, telemetry.running)
        return residual

    def reseed(self, device: str, telemetry: Telemetry) -> None:
        """Put the model where the device is; no time passes."""
        self._units[device].device.restore(telemetry.p_mw, telemetry.soc, telemetry.running)

    def report(self) -> StepReport:
        """Return what happened; a device that was not driven in this step is not in it."""
        p_mw, q_mvar, soc, cost = {}, {}, {}, {}
        for name, unit in self._units.items():
            if (done := unit.done) is None:
                continue
            p_mw[name], q_mvar[name] = done.p_mw, done.q_mvar
            if done.soc is not None:
                soc[name] = done.soc
            if name in self._generators:
                cost[name] = done.cost
        trades = self._session.trades if isinstance(self._session, P2PSession) else {}
        return StepReport(p_mw, q_mvar, soc, cost, trades, self._fallbacks)

    # -- policy ------------------------------------------------------------------------------------

    def _battery_p_mw(self, battery: Battery) -> float:
        """Charge when energy is cheap, discharge when it is dear, else rest."""
        policy, spec = self._policy, battery.spec
        if self._price <= policy.charge_below:
            return -policy.battery_share * spec.max_p_charge_mw
        if self._price >= policy.discharge_above:
            return policy.battery_share * spec.max_p_discharge_mw
        return 0.0

    def _dispatch_generators(self, export_value: float, import_value: float) -> None:
        """Run each generator that is not commanded where the step earns most, in the scenario's order."""
        free = [name for name in self._generators if name not in self._commanded]
        for name in free:
            self._units[name].want(0.0)  # what an earlier dispatch wanted counts for nothing
        for name in free:
            unit = self._units[name]
            generator, need_mw = self._generators[name], -self._planned_mw(without=unit)
            unit.want(*economic_setpoint(generator, need_mw, export_value, import_value, self._dt_s))

    def _planned_mw(self, without: _Unit | None = None) -> float:
        """Return the microgrid's net injection if every device (but one) does what is wanted of it, MW."""
        total, dt_s = self._load_mw, self._dt_s
        for unit in self._units.values():
            if unit is not without:
                total += unit.planned_mw(dt_s)
        return total

    def _bid(self, surplus_mwh: float) -> Bid:
        adder, policy = self._market.import_adder_per_mwh, self._policy
        if abs(surplus_mwh) < LEAST_TRADE_MWH:
            surplus_mwh = 0.0
        share = policy.ask_share if surplus_mwh > 0.0 else policy.bid_share
        return Bid(surplus_mwh, self._price + share * adder)


def neighbours(agent_id: str, peers: Sequence[str], protocol: ProtocolTable) -> dict[str, int]:
    """Return the peers that an agent talks to in consensus, each with the number of its neighbours."""
    if protocol.neighbours == "all" or len(peers) < 3:
        return dict.fromkeys(peers, len(peers))
    ring = sorted((*peers, agent_id))
    at = ring.index(agent_id)
    return {ring[at - 1]: 2, ring[(at + 1) % len(ring)]: 2}

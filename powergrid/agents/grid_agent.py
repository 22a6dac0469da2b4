"""GridAgent: one microgrid's devices and its policy. Formulas: docs/models.md, economics and trading."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from heron_mqtt.agents.base import LocalState, StepReport
from heron_mqtt.field.gateway.device_link import SetpointRequest
from heron_mqtt.field.gateway.envelope import SetpointLimits
from heron_mqtt.messages import Command, Observation, Telemetry
from heron_mqtt.protocols.base import HorizontalSession, StepPosition
from heron_mqtt.protocols.registry import PROTOCOLS
from heron_mqtt.protocols.setpoint import StepCommand
from powergrid.agents.economic_dispatch import economic_setpoint
from powergrid.agents.policy import (
    AgentPolicy,
    PolicyContext,
    PolicyView,
    checked_setpoints,
    fit_policies,
    make_policy,
    policy_states,
    put_policies_back,
)
from powergrid.devices import Device, Measurement, make_device
from powergrid.devices.base import clip, hours_of, make_tuple
from powergrid.devices.draws import draw_delays, draw_device, drawn_device
from powergrid.devices.response import mean_and_end
from powergrid.scenario import (
    MarketTable,
    PolicyTable,
    ProtocolTable,
    RandomisationTable,
    Scenario,
    TwinTable,
)

NO_DIFFERENCE = TwinTable()


@dataclass(slots=True)
class _Unit:
    """A device in this step: its model, what is wanted of it and what it did."""

    device: Device
    twin: TwinTable = NO_DIFFERENCE
    twin_p_mw: float = 0.0
    """Power of the twin at the end of the last step, MW."""
    wanted_p_mw: float = 0.0
    wanted_q_mvar: float = 0.0
    p_available_mw: float | None = None
    done: Measurement | None = None
    response_delay_s: float = 0.0
    """Dead time that the episode has drawn for the device while its model is all there is, s."""
    end_p_mw: float = 0.0
    """Power of such a device at the end of the last step, MW."""
    planned_mw: float | None = None
    """What the device will do of what is wanted, MW; None = not worked out yet."""

    def expected_mw(self, p_mw: float, dt_s: float) -> float:
        """Return what the device's meter should show of a step that its model takes with ``p_mw``, MW."""
        twin = self.twin
        if twin is NO_DIFFERENCE:
            return p_mw
        mean, self.twin_p_mw = mean_and_end(
            self.twin_p_mw,
            p_mw,
            dt_s,
            response_delay_s=twin.response_delay_s,
            lag_s=twin.lag_s,
            ramp_mw_per_s=twin.ramp_mw_per_s,
        )
        return mean + twin.offset_mw

    def step_delayed(self, p_mw: float, q_mvar: float, dt_s: float) -> Measurement:
        """Let the device take the step after its dead time, as an emulated one does."""
        device, available = self.device, self.p_available_mw
        target_mw = device.project(p_mw, dt_s, available)
        mean_mw, self.end_p_mw = mean_and_end(
            self.end_p_mw, target_mw, dt_s, response_delay_s=self.response_delay_s
        )
        done = device.step(mean_mw, q_mvar, dt_s, available)
        if done.p_mw != mean_mw:
            self.end_p_mw = done.p_mw  # a limit of the device came first
        return done

    def want(self, p_mw: float, planned_mw: float | None = None) -> None:
        """Plan a setpoint, MW, and what the device will do of it, if that is known."""
        self.wanted_p_mw = p_mw
        self.planned_mw = planned_mw


class GridAgent:
    """Dispatches one microgrid; driven by a proxy or directly (see ``heron_mqtt.agents.base.Agent``).

    Its own policy, without a command: each device follows the policy of its kind (``Device.usual_p_mw``).
    Dispatched devices run at the power where marginal cost equals the value of energy to the microgrid. The
    remaining energy is offered to the peers.

    Args:
        agent_id: The microgrid's id.
        devices: Models by name; they also serve as twins of real devices.
        peers: The other agents of the horizontal protocol.
        step_s: Length of a step where an observation does not say it, s.
        market: What energy costs besides the price.
        policy: Thresholds.
        protocol: How to talk to the peers.
        twins: How devices differ from their models, by name.
        randomisation: The values that an episode's seed draws for devices; None = nothing.
        decider: Decides instead of the agent's own policy, as far as it likes; None = the policy alone.
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
        twins: Mapping[str, TwinTable] | None = None,
        randomisation: RandomisationTable | None = None,
        decider: AgentPolicy | None = None,
    ) -> None:
        self.agent_id = agent_id
        self.devices = dict(devices)
        self.peers = tuple(sorted(peers))
        self._step_s = step_s
        self._import_adder = (market or MarketTable()).import_adder_per_mwh
        self._policy = policy or PolicyTable()
        self._ask_share, self._bid_share = self._policy.ask_share, self._policy.bid_share
        self._protocol = protocol or ProtocolTable()
        self._talk = PROTOCOLS[self._protocol.horizontal]()
        self.decider = decider
        self._nameplates = {name: device.spec for name, device in self.devices.items()}
        self._randomisation = randomisation if randomisation and randomisation.varies_devices else None
        self._delays = randomisation if randomisation and randomisation.varies_response else None
        self._differences = {name: twin for name, twin in (twins or {}).items() if twin != NO_DIFFERENCE}
        self._begin(None)

    @classmethod
    def from_scenario(cls, scenario: Scenario, agent_id: str) -> GridAgent:
        """Return the agent of one microgrid of a scenario.

        Raises:
            KeyError: The scenario has no such microgrid.
            ConfigError: The policy that it names cannot be made.
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
            twins={name: table.twin for name, table in microgrid.devices.items()},
            randomisation=scenario.randomisation,
            decider=make_policy(microgrid.policy, PolicyContext(agent_id, scenario)),
        )

    # -- one step, in the order of heron_mqtt.agents.base.Agent ------------------------------------

    def reset(self, episode: int, seed: int | None) -> None:
        """Go back to the devices' initial states, or to those that the episode's seed draws."""
        self._begin(seed)
        if self.decider is not None:
            self.decider.reset(episode, seed)

    def _begin(self, seed: int | None) -> None:
        if self._randomisation is None or seed is None:
            for device in self.devices.values():
                device.reset()
        else:
            for name, nameplate in self._nameplates.items():
                draw = draw_device(self._randomisation, seed, self.agent_id, name)
                self.devices[name] = drawn_device(nameplate, draw)
        self._units = {
            name: _Unit(device, self._differences.get(name, NO_DIFFERENCE))
            for name, device in self.devices.items()
        }
        if self._delays is not None and seed is not None:
            for name, unit in self._units.items():
                drawn = draw_delays(self._delays, seed, self.agent_id, name)
                unit.response_delay_s, unit.end_p_mw = drawn.response_delay_s, unit.device.state.p_mw
        self._storage = [name for name, unit in self._units.items() if unit.device.spec.has_soc]
        self._costly = {name for name, unit in self._units.items() if unit.device.spec.has_cost}
        self._dispatched = {name: unit for name, unit in self._units.items() if unit.device.is_dispatched}
        self._profiled = {
            name: unit for name, unit in self._units.items() if unit.device.spec.profile_says is not None
        }
        for unit in self._profiled.values():
            if unit.device.spec.profile_holds:
                unit.p_available_mw = 0.0
        self._told: Observation | LocalState | None = None
        self._dt_s = self._step_s
        self._load_mw = 0.0
        self._price = 0.0
        self._commanded: Mapping[str, float] = {}
        self._session: HorizontalSession | None = None
        self._fallbacks: dict[str, str] = {}
        self._twins: dict[str, Device] = {}  # of shadowed devices

    def observe(self, observation: Observation | LocalState | None, price: float | None) -> None:
        """Take local state and price.

        For values that are missing, the last value is the best guess if the profile of this kind holds (a
        demand). Otherwise it is 0 (the sun).
        """
        self._fallbacks = {}
        self._session = None
        if price is not None:
            self._price = price
        available: Mapping[str, float] = {}
        self._told = observation
        if observation is not None:
            self._dt_s = observation.dt_s
            self._load_mw = observation.p_load_mw
            available = observation.values("p_available_")
        for unit in self._units.values():
            unit.done = None
        for name, unit in self._profiled.items():
            if (told_mw := available.get(name)) is not None:
                unit.p_available_mw = told_mw
            elif not unit.device.spec.profile_holds:
                unit.p_available_mw = 0.0

    def decide(self, command: Command | StepCommand | None) -> None:
        """Plan each device: commanded powers as they are, the rest by the policy."""
        if self.decider is not None:
            p, q = self._decided(self.decider, command)
        else:
            p, q = command.powers() if command is not None else ({}, {})
        self._commanded, price, dt_s = p, self._price, self._dt_s
        for name, unit in self._units.items():
            if (wanted_mw := p.get(name)) is None:
                wanted_mw = unit.device.usual_p_mw(price, self._policy, dt_s, unit.p_available_mw)
            unit.wanted_p_mw, unit.planned_mw = wanted_mw, None
            unit.wanted_q_mvar = q.get(name, 0.0)
        if not p.keys() >= self._dispatched.keys():
            self._dispatch(price, price + self._import_adder)

    def _decided(
        self, decider: AgentPolicy, command: Command | StepCommand | None
    ) -> tuple[Mapping[str, float], Mapping[str, float]]:
        """Return P and Q by device, MW and Mvar: as commanded, else as the policy decides."""
        p, q = command.powers() if command is not None else ({}, {})
        if len(p) >= len(self._units):
            return p, q
        who = f"policy {type(decider).__name__} of {self.agent_id}"
        decided = checked_setpoints(decider.decide(self._view()), self._units, who)
        own_p = {name[2:]: value for name, value in decided.items() if name[:2] == "p_"}
        own_q = {name[2:]: value for name, value in decided.items() if name[:2] == "q_"}
        return {**own_p, **p}, {**own_q, **q}

    def _view(self) -> PolicyView:
        told, states = self._told, {name: unit.device.state for name, unit in self._units.items()}
        return PolicyView(
            dt_s=self._dt_s,
            price=self._price,
            clock_s=told.clock_s if told is not None else None,
            p_load_mw=self._load_mw,
            q_load_mvar=told.q_load_mvar if told is not None else 0.0,
            p_available_mw={name: unit.p_available_mw for name, unit in self._profiled.items()},
            p_mw={name: state.p_mw for name, state in states.items()},
            soc={name: getattr(states[name], "soc", 0.0) for name in self._storage},
            vm_min_pu=told.vm_min_pu if told is not None else None,
            vm_max_pu=told.vm_max_pu if told is not None else None,
            loading_max_percent=told.loading_max_percent if told is not None else None,
            forecast=(told.forecast or {}) if told is not None else {},
            observation=told.observation if told is not None else None,
        )

    def negotiate(self) -> HorizontalSession | None:
        """Return this agent's part in the scenario's horizontal protocol, with the surplus of its plan."""
        if not self.peers:
            return None
        position = make_tuple(
            StepPosition,
            (
                self.agent_id,
                self.peers,
                self._planned_mw() * hours_of(self._dt_s),
                self._price,
                self._import_adder,
                self._ask_share,
                self._bid_share,
                self._protocol,
            ),
        )
        self._session = self._talk.begin(position)
        return self._session

    def conclude(self) -> Collection[str]:
        """Dispatch by what was agreed on; return the names of the devices."""
        value = self._session.dispatch_value if self._session is not None else None
        if value is not None:
            self._dispatch(value, value)
        return self._units.keys()

    def wanted(self) -> Mapping[str, SetpointRequest]:
        """Return the setpoints to send, each within what the device's nameplate and state allow."""
        return {
            name: SetpointRequest(
                p_mw=unit.device.project(unit.wanted_p_mw, self._dt_s),
                q_mvar=clip(unit.wanted_q_mvar, -unit.device.spec.rated_s_mva, unit.device.spec.rated_s_mva),
                p_available_mw=unit.p_available_mw,
                asked_p_mw=unit.wanted_p_mw,
                reach_mw=unit.p_available_mw if unit.device.spec.profile_bounds else None,
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
        if reason is None and unit.response_delay_s > 0.0:
            unit.done = unit.step_delayed(p, q, self._dt_s)
        else:  # how slow a real device is today, its model does not know
            unit.done = unit.device.step(p, q, self._dt_s, unit.p_available_mw)
        if reason is not None:
            self._fallbacks[device] = reason

    def simulate_each(self, devices: Iterable[str]) -> None:
        """Let the models of devices take the step with what is wanted."""
        if type(self).simulate is not GridAgent.simulate:  # a class of one's own decides
            for name in devices:
                self.simulate(name)
            return
        units, dt_s = self._units, self._dt_s
        for name in devices:
            unit = units[name]
            if unit.response_delay_s > 0.0:
                unit.done = unit.step_delayed(unit.wanted_p_mw, unit.wanted_q_mvar, dt_s)
            else:
                unit.done = unit.device.step(unit.wanted_p_mw, unit.wanted_q_mvar, dt_s, unit.p_available_mw)

    def measured(
        self, device: str, telemetry: Telemetry, *, setpoint: SetpointRequest | None = None
    ) -> float:
        """Take what the device measured; its model takes the same step and then follows it.

        Returns:
            The residual: what the device measured minus what its model did, MW.
        """
        unit = self._units[device]
        before = unit.device.state
        p, q = unit.wanted_p_mw, unit.wanted_q_mvar
        if setpoint is not None:
            p, q = setpoint.p_mw, setpoint.q_mvar
        model = unit.device.step(p, q, self._dt_s, unit.p_available_mw)
        soc = telemetry.soc
        if model.soc is not None and soc is None:  # all that tells the charge is what flowed
            unit.device.state = before
            flowed = unit.device.step(telemetry.p_mw, telemetry.q_mvar, self._dt_s, unit.p_available_mw)
            soc = flowed.soc
        p_mw, running = telemetry.p_mw, telemetry.running
        unit.device.restore(p_mw, soc, running)
        cost = unit.device.follow(before, p_mw, self._dt_s, model.cost)
        unit.done = make_tuple(
            Measurement,
            (
                p_mw,
                telemetry.q_mvar,
                soc if soc is not None else model.soc,
                running if running is not None else model.running,
                cost,
                model.clipped,
                model.loss_mwh,
            ),
        )
        return p_mw - unit.expected_mw(model.p_mw, self._dt_s)

    def shadowed(self, device: str, telemetry: Telemetry) -> float:
        """Compare a device that others drive with a model driven in the same way; return the residual, MW.

        The model takes the device's own power for the step. The difference is power that it could not have
        given, or energy (state of charge) that went elsewhere, expressed as the power that would explain it.
        """
        unit = self._units[device]
        twin = self._twins.get(device)
        if twin is None:
            twin = self._twins[device] = copy.copy(unit.device)  # spec and state are immutable values
            twin.restore(telemetry.p_mw, telemetry.soc, telemetry.running)
            return 0.0
        model = twin.step(telemetry.p_mw, telemetry.q_mvar, self._dt_s, unit.p_available_mw)
        residual = telemetry.p_mw - model.p_mw
        if telemetry.soc is not None and model.soc is not None:
            residual = max(residual, twin.missing_mw(model.soc, telemetry.soc, self._dt_s), key=abs)
        twin.restore(telemetry.p_mw, telemetry.soc, telemetry.running)
        return residual

    def reseed(self, device: str, telemetry: Telemetry) -> None:
        """Put the model where the device is; no time passes."""
        unit = self._units[device]
        unit.device.restore(telemetry.p_mw, telemetry.soc, telemetry.running)
        unit.twin_p_mw = telemetry.p_mw - unit.twin.offset_mw

    def report(self) -> StepReport:
        """Return what happened; a device that was not driven in this step is not in it."""
        p_mw, q_mvar, soc, cost = {}, {}, {}, {}
        for name, unit in self._units.items():
            if unit.done is None:
                continue
            p_mw[name], q_mvar[name], level, _, of_step, _, _ = unit.done
            if level is not None:
                soc[name] = level
            if name in self._costly:
                cost[name] = of_step
        trades = self._session.trades if self._session is not None else {}
        return StepReport(p_mw, q_mvar, soc, cost, trades, self._fallbacks)

    # -- its state ---------------------------------------------------------------------------------

    def get_state(self) -> Any:
        """Return all that the next step depends on; a value that ``set_state`` takes, and that pickles."""
        units = {
            name: (
                *(unit.device.spec, unit.device.state, unit.twin_p_mw, unit.p_available_mw),
                *(unit.response_delay_s, unit.end_p_mw),
            )
            for name, unit in self._units.items()
        }
        twins = {name: device.state for name, device in self._twins.items()}
        return units, twins, self._dt_s, self._load_mw, self._price, policy_states(self._deciders)

    def fits(self, state: Any) -> bool:
        """Whether a state is one of the same kinds of devices and the same policy."""
        units, *_, policies = state
        mine = {name: type(device.spec) for name, device in self.devices.items()}
        theirs = {name: type(spec) for name, (spec, *_) in units.items()}
        return mine == theirs and fit_policies(self._deciders, policies)

    def set_state(self, state: Any) -> None:
        """Go back to between the two steps in which the state was taken."""
        units, twins, self._dt_s, self._load_mw, self._price, policies = state
        put_policies_back(self._deciders, policies)
        for name, (spec, of_device, twin_p_mw, p_available_mw, delay_s, end_p_mw) in units.items():
            unit = self._units[name]
            if unit.device.spec != spec:
                unit.device = self.devices[name] = make_device(spec)
            unit.device.state, unit.twin_p_mw, unit.p_available_mw = of_device, twin_p_mw, p_available_mw
            unit.response_delay_s, unit.end_p_mw = delay_s, end_p_mw
            unit.done = None
            unit.want(0.0)
        self._twins = {name: copy.copy(self._units[name].device) for name in twins}
        for name, of_twin in twins.items():
            self._twins[name].state = of_twin
        self._commanded, self._session, self._fallbacks = {}, None, {}

    @property
    def _deciders(self) -> list[AgentPolicy]:
        return [] if self.decider is None else [self.decider]

    # -- policy ------------------------------------------------------------------------------------

    def _dispatch(self, export_value: float, import_value: float) -> None:
        """Run what is dispatched and not commanded where the step earns most, in the scenario's order."""
        commanded = self._commanded
        free = [unit for name, unit in self._dispatched.items() if name not in commanded]
        for unit in free:
            unit.want(0.0)  # what an earlier dispatch wanted counts for nothing
        for unit in free:
            need_mw = -self._planned_mw(without=unit)
            unit.want(*economic_setpoint(unit.device, need_mw, export_value, import_value, self._dt_s))

    def _planned_mw(self, without: _Unit | None = None) -> float:
        """Return the microgrid's net injection if every device (but one) does what is wanted of it, MW."""
        total, dt_s = self._load_mw, self._dt_s
        for unit in self._units.values():
            if unit is without:
                continue
            if (planned_mw := unit.planned_mw) is None:
                planned_mw = unit.device.project(unit.wanted_p_mw, dt_s, unit.p_available_mw)
                unit.planned_mw = planned_mw
            total += planned_mw
        return total

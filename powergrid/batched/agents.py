"""``GridAgent`` over many copies at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heron_mqtt.errors import ConfigError
from heron_mqtt.field.gateway.clearance import apply_clearance
from heron_mqtt.field.gateway.device_link import SetpointRequest
from heron_mqtt.messages import Clearance
from heron_mqtt.protocols.base import LEAST_TRADE_MWH, StepPosition
from powergrid.agents.policy import (
    AgentPolicy,
    PolicyContext,
    PolicyView,
    checked_setpoints,
    fit_policies,
    load_policy,
    make_policy,
    policy_states,
    put_policies_back,
)
from powergrid.batched.devices import DeviceArray, Measurements, make_device_array
from powergrid.devices import DEVICES, make_device
from powergrid.devices.base import hours
from powergrid.devices.draws import draw_delays, draw_device
from powergrid.devices.response import delayed_mean
from powergrid.scenario import Scenario

__all__ = ["AgentArray"]

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]


class AgentArray:
    """The agent of one microgrid in ``n`` copies: its devices and its policy, as in ``GridAgent``.

    Args:
        scenario: The scenario.
        agent: One of its microgrids.
        n: Number of copies.

    Attributes:
        policies: That the scenario names: one for all copies, one a copy, or none.
    """

    def __init__(self, scenario: Scenario, agent: str, n: int) -> None:
        microgrid = scenario.microgrids[agent]
        self.devices: dict[str, DeviceArray] = {
            name: make_device_array(table.spec, n, varies=scenario.randomisation.varies_nameplates)
            for name, table in microgrid.devices.items()
        }
        self._dispatched = {
            name for name, table in microgrid.devices.items() if DEVICES[table.spec.kind].is_dispatched
        }
        self._agent, self._randomisation = agent, scenario.randomisation
        self._delay_s: dict[str, Array] = {}
        self._end_p_mw: dict[str, Array] = {}
        if scenario.randomisation.varies_response:
            self._delay_s = {name: np.zeros(n) for name in self.devices}
            self._end_p_mw = {name: np.zeros(n) for name in self.devices}
        self._policy, self._dt_s = microgrid.policy, scenario.step_s
        self._protocol = scenario.protocol
        self._adder = scenario.market.import_adder_per_mwh
        self._nothing, self._n = np.zeros(n), n
        self.policies = _make_policies(scenario, agent, n)
        self._wanted_p: dict[str, Array] = {}
        self._wanted_q: dict[str, Array] = {}
        self._planned: dict[str, Array] = {}

    def reset(self, copies: NDArray[np.intp], episodes: Sequence[int], seeds: Sequence[int]) -> None:
        """Put the devices of copies into their initial states, or those that the episodes' seeds draw."""
        for name, device in self.devices.items():
            device.reset(copies)
            if self._randomisation.varies_devices:
                draws = [draw_device(self._randomisation, seed, self._agent, name) for seed in seeds]
                device.redraw(copies, draws)
            if name in self._delay_s:
                drawn = [draw_delays(self._randomisation, seed, self._agent, name) for seed in seeds]
                self._delay_s[name][copies] = [draw.response_delay_s for draw in drawn]
                self._end_p_mw[name][copies] = make_device(device.spec).state.p_mw
        if not self.policies:
            return
        if self.policies[0].decides_for_copies:
            self.policies[0].reset_copies(copies, episodes, seeds)
            return
        for copy, episode, seed in zip(copies, episodes, seeds, strict=True):
            self.policies[copy].reset(episode, seed)

    def get_state(self) -> dict[str, Any]:
        """Return the states of the devices, by name; copies."""
        policies = policy_states(self.policies)
        slow = {name: (self._delay_s[name].copy(), self._end_p_mw[name].copy()) for name in self._delay_s}
        devices = {name: device.get_state() for name, device in self.devices.items()}
        return {"": policies, "/slow": slow, **devices}

    def fits(self, state: Mapping[str, Any]) -> bool:
        """Whether a state is one of the same devices, dead times and policies."""
        return (
            state.keys() == {"", "/slow", *self.devices}
            and state["/slow"].keys() == self._delay_s.keys()
            and fit_policies(self.policies, state[""])
        )

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Put them back."""
        for name, device in self.devices.items():
            device.set_state(state[name])
        for name, (delay_s, end_p_mw) in state["/slow"].items():
            self._delay_s[name], self._end_p_mw[name] = delay_s.copy(), end_p_mw.copy()
        put_policies_back(self.policies, state[""])

    def decide(
        self,
        price: Array,
        p_load_mw: Array,
        p_available_mw: Mapping[str, Array],
        command: Mapping[str, Array],
        told: Mapping[str, Any] | None = None,
        informed: Flags | None = None,
        arrived: Flags | None = None,
    ) -> None:
        """Plan each device: commanded powers as they are, the rest by the policy.

        Args:
            price: (n,) $/MWh.
            p_load_mw: (n,) MW, negative = consuming.
            p_available_mw: (n,) MW of each PV device and of each load, as in ``Outlook``.
            command: (n,) setpoints ``p_<device>`` MW and ``q_<device>`` Mvar; a device that is not named
                follows the policy in all copies.
            told: What else a policy of the scenario gets, by name in ``PolicyView``.
            informed: (n,) copies whose policy is asked at all; None = all.
            arrived: (n,) copies in which the command has arrived; the others follow the policy. None = all.
        """
        self._price, self._p_load, self._available = price, p_load_mw, p_available_mw
        everywhere = arrived is None or bool(arrived.all())
        is_whole = all(f"p_{name}" in command for name in self.devices)
        own: Mapping[str, Array] = {}
        if self.policies and not (everywhere and is_whole):
            asked = np.ones(self._n, dtype=bool) if informed is None else informed
            if is_whole and arrived is not None:
                asked = asked & ~arrived
            own = self._decide(told or {}, asked)
        self._free: dict[str, Array | None] = {}
        self._arrived = arrived
        for name, device in self.devices.items():
            commanded, decided = command.get(f"p_{name}"), own.get(f"p_{name}")
            q_given, q_own = command.get(f"q_{name}"), own.get(f"q_{name}", self._nothing)
            self._wanted_q[name] = q_own if q_given is None else self._where_arrived(q_given, q_own)
            if commanded is not None and everywhere:
                self._want(name, commanded)
            elif decided is None and name in self._dispatched:
                self._free[name] = commanded
            else:
                if decided is None:
                    available = p_available_mw.get(name)
                    decided = device.usual_p_mw(price, self._policy, self._dt_s, available)
                self._want(name, decided if commanded is None else self._where_arrived(commanded, decided))
        self.dispatch(price, price + self._adder)

    def _where_arrived(self, commanded: Array | None, else_mw: Array) -> Array:
        """Return (n,) commanded values where the command has arrived, and others elsewhere."""
        if commanded is None:
            return else_mw
        return commanded if self._arrived is None else np.where(self._arrived, commanded, else_mw)

    def _decide(self, told: Mapping[str, Any], asked: Flags) -> dict[str, Array]:
        """Return (n,) setpoints that the scenario's policy decides, by name.

        Args:
            told: As in ``decide``.
            asked: (n,) copies that are asked; what stands in the others means nothing.

        Raises:
            ConfigError: A copy's policy decides for other devices than the first one's, or for none there is.
        """
        if not asked.any():
            return {}
        view = PolicyView(
            dt_s=self._dt_s,
            price=self._price,
            p_load_mw=self._p_load,
            p_available_mw=self._available,
            asked=None if asked.all() else asked,
            **told,
        )
        who = f"policy {type(self.policies[0]).__name__} of {self._agent}"
        if self.policies[0].decides_for_copies:
            decided = self.policies[0].decide(view)
            checked_setpoints({name: np.sum(values) for name, values in decided.items()}, self.devices, who)
            return {name: np.broadcast_to(values, (self._n,)).copy() for name, values in decided.items()}
        each = [
            checked_setpoints(self.policies[copy].decide(_of_copy(view, copy)), self.devices, who)
            for copy in np.flatnonzero(asked).tolist()
        ]
        if any(one.keys() != each[0].keys() for one in each):
            raise ConfigError(f"{who}: in a batch every copy decides for the same devices")
        decided = {name: np.zeros(self._n) for name in each[0]}
        for name, values in decided.items():
            values[asked] = [one[name] for one in each]
        return decided

    def dispatch(self, export_value: Array, import_value: Array) -> None:
        """Run each generator that is not commanded where the step earns most; (n,) $/MWh."""
        for name, commanded in self._free.items():
            self._want(name, self._where_arrived(commanded, self._nothing))
        for name, commanded in self._free.items():
            generator = self.devices[name]
            need_mw = -self._planned_mw(without=name)
            best_mw = economic_setpoints(generator, need_mw, export_value, import_value, self._dt_s)
            self._want(name, self._where_arrived(commanded, best_mw))

    def surplus_mwh(self) -> Array:
        """Return the (n,) net energy of the plan, MWh, positive = surplus."""
        return self._planned_mw() * hours(self._dt_s)

    def bid(self) -> tuple[Array, Array]:
        """Return (n,) quantity, MWh, positive = for sale, and (n,) price, $/MWh."""
        surplus = self.surplus_mwh()
        surplus[np.abs(surplus) < LEAST_TRADE_MWH] = 0.0
        share = np.where(surplus > 0.0, self._policy.ask_share, self._policy.bid_share)
        return surplus, self._price + share * self._adder

    def estimate(self) -> Array:
        """Return the (n,) values, $/MWh, with which consensus begins."""
        return self._price + np.where(self.surplus_mwh() <= -LEAST_TRADE_MWH, self._adder, 0.0)

    def positions(self, agent_id: str, peers: tuple[str, ...]) -> Iterator[StepPosition]:
        """Return what the agent of each copy brings into a negotiation."""
        for surplus_mwh, price in zip(self.surplus_mwh().tolist(), self._price.tolist(), strict=True):
            yield StepPosition(
                agent_id,
                peers,
                surplus_mwh,
                price,
                self._adder,
                self._policy.ask_share,
                self._policy.bid_share,
                self._protocol,
            )

    def dispatch_where(self, value: Array) -> None:
        """Dispatch by (n,) values of a MWh, $/MWh; where that is NaN, as the price says."""
        agreed = ~np.isnan(value)
        if agreed.any():
            price = self._price
            self.dispatch(np.where(agreed, value, price), np.where(agreed, value, price + self._adder))

    def plan(self) -> tuple[list[Array], list[Array]]:
        """Bound what is wanted, as a gateway does; return (n,) powers to expect by device, MW and Mvar."""
        p_mw, q_mvar = [], []
        for name, device in self.devices.items():
            available, rated = self._available.get(name), device.spec.rated_s_mva
            p = device.project(self._wanted_p[name], self._dt_s)
            held = p if available is None else np.minimum(p, available)
            room = np.sqrt(np.maximum((rated - held) * (rated + held), 0.0))
            q = np.minimum(np.maximum(np.clip(self._wanted_q[name], -rated, rated), -room), room)
            self._want(name, p)
            self._wanted_q[name] = q
            if available is not None and device.spec.profile_bounds:
                gives = (available > 0.0) | (p > 0.0)
                p = np.where(gives, np.minimum(p, available), np.maximum(p, available))
            p_mw.append(p)
            q_mvar.append(q)
        return p_mw, q_mvar

    def reduce(self, copy: int, clearance: Clearance | None) -> None:
        """Leave of a copy's planned setpoints what was cleared; None = nothing of them."""
        allowed = {
            name: SetpointRequest(
                float(self._wanted_p[name][copy]),
                float(self._wanted_q[name][copy]),
                None if (available := self._available.get(name)) is None else float(available[copy]),
                reach_mw=None
                if available is None or not device.spec.profile_bounds
                else float(available[copy]),
            )
            for name, device in self.devices.items()
        }
        apply_clearance(allowed, clearance)
        for name, setpoint in allowed.items():
            self._wanted_p[name][copy], self._wanted_q[name][copy] = setpoint.p_mw, setpoint.q_mvar

    def simulate(self, informed: Flags | None = None) -> dict[str, Measurements]:
        """Let the models take the step, in all copies or those that are informed; return what each did."""
        return {name: self._simulate(name, device, informed) for name, device in self.devices.items()}

    def _simulate(self, name: str, device: DeviceArray, informed: Flags | None) -> Measurements:
        before = None if informed is None or informed.all() else device.get_state()
        p, q, available = self._wanted_p[name], self._wanted_q[name], self._available.get(name)
        done = self._step(name, device, p, q, available, informed)
        if before is not None and informed is not None:
            device.put_back(before, ~informed)
        return done

    def _step(
        self,
        name: str,
        device: DeviceArray,
        p_mw: Array,
        q_mvar: Array,
        available: Array | None,
        informed: Flags | None,
    ) -> Measurements:
        """Let a device take the step, after its dead time if it has one."""
        dt_s = self._dt_s
        if name not in self._delay_s:
            return device.step(p_mw, q_mvar, dt_s, available)
        delay_s, before_mw = self._delay_s[name], self._end_p_mw[name]
        target_mw = device.project(p_mw, dt_s, available)
        dead_s = np.minimum(delay_s, dt_s)
        mean_mw = np.where(dead_s > 0.0, delayed_mean(before_mw, target_mw, dead_s, dt_s), target_mw)
        done = device.step(mean_mw, q_mvar, dt_s, available)
        end_mw = np.where(done.p_mw != mean_mw, done.p_mw, np.where(delay_s < dt_s, target_mw, before_mw))
        self._end_p_mw[name] = end_mw if informed is None else np.where(informed, end_mw, before_mw)
        return done

    def _want(self, name: str, p_mw: Array) -> None:
        self._wanted_p[name] = p_mw
        self._planned.pop(name, None)

    def _planned_mw(self, without: str | None = None) -> Array:
        total = self._p_load.copy()
        for name, device in self.devices.items():
            if name == without:
                continue
            if name not in self._planned:
                available = self._available.get(name)
                self._planned[name] = device.project(self._wanted_p[name], self._dt_s, available)
            total += self._planned[name]
        return total


def _make_policies(scenario: Scenario, agent: str, n: int) -> list[AgentPolicy]:
    """Return the policies that the scenario names for an agent: one for all copies, one a copy, or none."""
    table = scenario.microgrids[agent].policy
    if table.use is None:
        return []
    if load_policy(table.use).decides_for_copies:
        found = [make_policy(table, PolicyContext(agent, scenario, n))]
    else:
        found = [make_policy(table, PolicyContext(agent, scenario)) for _ in range(n)]
    return [policy for policy in found if policy is not None]


def _of_copy(view: PolicyView, copy: int) -> PolicyView:
    def one(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: one(part) for name, part in value.items()}
        if not isinstance(value, np.ndarray):
            return value
        return float(value[copy]) if value.ndim == 1 else value[copy].tolist()

    shown = None if view.observation is None else view.observation[copy]
    return PolicyView(*(one(value) for value in view))._replace(observation=shown, asked=None)


def economic_setpoints(
    generator: DeviceArray, need_mw: Array, export_value: Array, import_value: Array, dt_s: float
) -> Array:
    """Return the (n,) setpoints with which the step earns most; see ``economic_setpoint``."""
    low, high = generator.economic_p_mw(export_value), generator.economic_p_mw(import_value)
    at_margin = np.minimum(np.maximum(need_mw, low), high)

    def earned(asked_mw: Array) -> Array:
        p_mw, cost = generator.preview(asked_mw, dt_s)
        covered_mw = np.minimum(p_mw, np.maximum(need_mw, 0.0))
        return (covered_mw * import_value + (p_mw - covered_mw) * export_value) * hours(dt_s) - cost

    return np.where(earned(at_margin) > earned(np.zeros_like(at_margin)), at_margin, 0.0)

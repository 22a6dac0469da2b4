"""All agents of all copies: from what they know of a step to what they did in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from heron_mqtt.messages import Clearance
from powergrid.agents.policy import AgentPolicy
from powergrid.batched.agents import AgentArray
from powergrid.batched.message_arrivals import MessageArrivals
from powergrid.batched.negotiation import Settling, make_negotiation, nothing_traded
from powergrid.simulation.grid_simulation import GridSimulation

__all__ = ["Fleet", "FleetStep"]

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]


ClearBatch = Callable[[Array, Array, Flags], Mapping[int, Mapping[str, Clearance]]]
"""From plans, (n, n_devices) MW and Mvar, and whose are known, (n, n_agents), to the clearances of the copies
whose plan breaks a limit."""


class FleetStep(NamedTuple):
    """What happened in ``n`` copies.

    Attributes:
        p_mw, q_mvar: (n, n_devices) MW and Mvar, positive = injected.
        soc: (n, n_batteries) fraction.
        cost: (n, n_agents) generation cost, $.
        traded_mwh: (n, n_agents, n_agents) MWh that the row's agent sold to the column's, negative = bought.
        traded_usd: (n, n_agents) earned minus paid, $.
        reported: (n, n_agents) whose action is heard; None = everyone's.
    """

    p_mw: Array
    q_mvar: Array
    soc: Array
    cost: Array
    traded_mwh: Array
    traded_usd: Array
    reported: Flags | None = None


class Fleet:
    """The agents of ``n`` copies.

    Args:
        simulation: Names and order of agents and devices.
        n: Number of copies.
    """

    def __init__(self, simulation: GridSimulation, n: int) -> None:
        self._n, self._names = n, simulation.agents
        self._agents = {agent: AgentArray(simulation.scenario, agent, n) for agent in simulation.agents}
        self._negotiation = make_negotiation(simulation.agents, simulation.scenario.protocol)
        plants = [(device.agent, device.name) for device in simulation.devices if device.follows_profile]
        self._plants = {
            agent: {name: i for i, (owner, name) in enumerate(plants) if owner == agent}
            for agent in simulation.agents
        }

    @property
    def policies(self) -> dict[str, list[AgentPolicy]]:
        """The policies that the scenario names, by agent."""
        return {name: agent.policies for name, agent in self._agents.items() if agent.policies}

    def reset(self, copies: NDArray[np.intp], episodes: Sequence[int], seeds: Sequence[int]) -> None:
        """Put the devices of copies into their initial states, or those that the episodes' seeds draw."""
        for agent in self._agents.values():
            agent.reset(copies, episodes, seeds)

    def get_state(self) -> dict[str, dict[str, Any]]:
        """Return the states of all devices, by agent and name; copies."""
        return {name: agent.get_state() for name, agent in self._agents.items()}

    def unlike(self, state: Mapping[str, Mapping[str, Any]]) -> list[str]:
        """Return the agents that have other devices, policies or dead times than those of a state."""
        return [
            name for name, agent in self._agents.items() if name not in state or not agent.fits(state[name])
        ]

    def set_state(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        """Put them back."""
        for name, of_agent in state.items():
            self._agents[name].set_state(of_agent)

    def step(
        self,
        price: Array,
        p_load_mw: Array,
        p_available_mw: Array,
        commands: Mapping[str, Mapping[str, Array]],
        told: Callable[[str], Mapping[str, Any]],
        arrivals: MessageArrivals | None = None,
        check: ClearBatch | None = None,
        active: Flags | None = None,
    ) -> FleetStep:
        """Carry every agent of every copy through a step.

        Args:
            price: (n, 1) $/MWh.
            p_load_mw: (n, n_agents) MW, negative = consuming.
            p_available_mw: (n, n_profiled) MW.
            commands: By agent, (n,) setpoints by name, as ``AgentArray.decide`` takes them.
            told: What else an agent with a policy of the scenario gets.
            arrivals: Who hears what; None = everyone everything.
            check: Clears the plans; None = there is no clearance.
            active: (n,) copies that take part, as ``arrivals`` says already; what is returned of the others
                means nothing. None = all.
        """
        informed: list[Flags | None] = [active] * len(self._names)
        arrived: list[Flags | None] = [None] * len(self._names)
        if arrivals is not None:
            informed, arrived = list(arrivals.informed.T), list(arrivals.commanded.T)
        for i, (name, agent) in enumerate(self._agents.items()):
            available = {plant: p_available_mw[:, j] for plant, j in self._plants[name].items()}
            more = told(name) if agent.policies else None
            known = price[:, 0], p_load_mw[:, i], available
            agent.decide(*known, commands.get(name, {}), more, informed[i], arrived[i])
        settled = self._negotiate(arrivals)
        if check is not None:
            self._clear(check, arrivals)
        reported = None if arrivals is None else arrivals.links.report(arrivals.informed, arrivals.steps)
        traded_mwh, traded_usd = settled(reported)
        done = [agent.simulate(who) for agent, who in zip(self._agents.values(), informed, strict=True)]
        devices = [measured for of_agent in done for measured in of_agent.values()]
        soc = [measured.soc for measured in devices if measured.soc is not None]
        return FleetStep(
            p_mw=np.stack([measured.p_mw for measured in devices], axis=1),
            q_mvar=np.stack([measured.q_mvar for measured in devices], axis=1),
            soc=np.stack(soc, axis=1) if soc else np.empty((self._n, 0)),
            cost=np.stack([sum(m.cost for m in of_agent.values()) for of_agent in done], axis=1),
            traded_mwh=traded_mwh,
            traded_usd=traded_usd,
            reported=reported,
        )

    def _clear(self, check: ClearBatch, arrivals: MessageArrivals | None) -> None:
        """Have the plans checked together, and leave of each what was cleared."""
        p_mw, q_mvar = [], []
        for agent in self._agents.values():
            of_agent = agent.plan()
            p_mw += of_agent[0]
            q_mvar += of_agent[1]
        heard = np.ones((self._n, len(self._names)), dtype=bool)
        cleared = heard
        if arrivals is not None:
            heard, cleared = arrivals.links.clear(arrivals.informed, arrivals.steps)
            arrivals.missed += arrivals.informed & ~cleared
        reduced = check(np.stack(p_mw, axis=1), np.stack(q_mvar, axis=1), heard)
        for i, (name, agent) in enumerate(self._agents.items()):
            for copy, clearances in reduced.items():
                if cleared[copy, i]:
                    agent.reduce(copy, clearances[name])
            for lost in np.flatnonzero(~cleared[:, i]):
                agent.reduce(int(lost), None)

    def _negotiate(self, arrivals: MessageArrivals | None) -> Settling:
        """Run the horizontal protocol; return what can be settled."""
        if len(self._names) < 2:
            return lambda _: nothing_traded(self._n, len(self._names))
        return self._negotiation(self._agents, arrivals)

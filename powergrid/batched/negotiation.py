"""The horizontal protocol of a step, over many copies at once.

Every protocol works copy by copy with its own sessions. The shipped ones are written out over arrays for
speed; tests hold them to the sessions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from heron_mqtt.protocols.base import HorizontalProtocol, run_sessions
from heron_mqtt.protocols.consensus import ConsensusProtocol
from heron_mqtt.protocols.p2p import PeerToPeerProtocol, settle
from heron_mqtt.protocols.registry import PROTOCOLS, NoProtocol
from powergrid.batched.agents import AgentArray, Array
from powergrid.batched.trading import Trading, run_consensus
from powergrid.rewards import traded
from powergrid.scenario import ProtocolTable

__all__ = ["Negotiation", "make_negotiation", "nothing_traded"]

Negotiation = Callable[[Mapping[str, AgentArray]], tuple[Array, Array]]
"""From the agents, who have planned and may be dispatched anew, to what was traded in (n,) copies: MWh
(n, n_agents, n_agents), sold by the row's agent to the column's, and $ (n, n_agents), earned minus paid."""


def make_negotiation(names: Sequence[str], table: ProtocolTable) -> Negotiation:
    """Return the negotiation of the scenario's protocol between agents, in the order of their names."""
    protocol = PROTOCOLS[table.horizontal]
    written = ARRAY_FORMS.get(protocol)
    return _by_sessions(names, protocol()) if written is None else written(names, table)


def nothing_traded(n: int, n_agents: int) -> tuple[Array, Array]:
    """Return no trade in any copy."""
    return np.zeros((n, n_agents, n_agents)), np.zeros((n, n_agents))


def _by_sessions(names: Sequence[str], protocol: HorizontalProtocol) -> Negotiation:
    """Return the negotiation of any protocol: the sessions of one copy after the other."""
    peers = {name: tuple(sorted(set(names) - {name})) for name in names}

    def negotiate(agents: Mapping[str, AgentArray]) -> tuple[Array, Array]:
        trades_mwh, trades_usd, values = [], [], []
        for copy in zip(*(agents[name].positions(name, peers[name]) for name in names), strict=True):
            begun = {position.agent_id: protocol.begin(position) for position in copy}
            sessions = {name: session for name, session in begun.items() if session is not None}
            run_sessions(sessions)
            settlement = settle({name: session.trades for name, session in sessions.items()})
            mwh, usd = traded(names, settlement.trades)
            trades_mwh.append(mwh)
            trades_usd.append(usd)
            agreed = [session.dispatch_value if session is not None else None for session in begun.values()]
            values.append([np.nan if value is None else value for value in agreed])
        for name, value in zip(names, np.array(values).T, strict=True):
            agents[name].dispatch_where(value)
        return np.stack(trades_mwh), np.stack(trades_usd)

    return negotiate


def _p2p(names: Sequence[str], table: ProtocolTable) -> Negotiation:
    trading = Trading(names)

    def negotiate(agents: Mapping[str, AgentArray]) -> tuple[Array, Array]:
        quantity, price = zip(*(agent.bid() for agent in agents.values()), strict=True)
        return trading.settle(np.stack(quantity, axis=1), np.stack(price, axis=1))

    return negotiate


def _consensus(names: Sequence[str], table: ProtocolTable) -> Negotiation:
    def negotiate(agents: Mapping[str, AgentArray]) -> tuple[Array, Array]:
        begin = np.stack([agent.estimate() for agent in agents.values()], axis=1)
        for agent, value in zip(agents.values(), run_consensus(names, table, begin).T, strict=True):
            agent.dispatch(value, value)
        return nothing_traded(len(begin), len(names))

    return negotiate


def _none(names: Sequence[str], table: ProtocolTable) -> Negotiation:
    return lambda agents: nothing_traded(len(next(iter(agents.values())).surplus_mwh()), len(names))


ARRAY_FORMS: Mapping[type[HorizontalProtocol], Callable[[Sequence[str], ProtocolTable], Negotiation]] = {
    PeerToPeerProtocol: _p2p,
    ConsensusProtocol: _consensus,
    NoProtocol: _none,
}
"""Protocols whose form over arrays is written out for speed."""

"""The horizontal protocol of a step, over many copies at once.

Every protocol works copy by copy with its own sessions. The shipped ones are written out over arrays for
speed; tests hold them to the sessions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import compress

import numpy as np
from numpy.typing import NDArray

from heron_mqtt.protocols.base import (
    HorizontalProtocol,
    HorizontalSession,
    run_lossy_sessions,
    run_sessions,
)
from heron_mqtt.protocols.consensus import ConsensusProtocol
from heron_mqtt.protocols.order_book import OrderBookProtocol
from heron_mqtt.protocols.p2p import PeerToPeerProtocol, settle
from heron_mqtt.protocols.registry import PROTOCOLS, NoProtocol
from powergrid.batched.agents import AgentArray, Array
from powergrid.batched.message_arrivals import MessageArrivals
from powergrid.batched.trading import Market, OrderBook, Trading, run_consensus
from powergrid.rewards import traded
from powergrid.scenario import ProtocolTable

Flags = NDArray[np.bool_]

__all__ = ["Negotiation", "Settling", "make_negotiation", "nothing_traded"]

Settling = Callable[[Flags | None], tuple[Array, Array]]
"""Returns what was traded in (n,) copies. Its argument: whose actions arrived, (n, n_agents), None = all.

It returns MWh (n, n_agents, n_agents), sold by the row's agent to the column's, and $ (n, n_agents), earned
minus paid.
"""

Negotiation = Callable[[Mapping[str, AgentArray], MessageArrivals | None], Settling]
"""Negotiates a step; returns what can be settled at its end.

Its arguments: the agents, which have planned and may be dispatched again, and the messages that they receive
(None = all).
"""


def make_negotiation(names: Sequence[str], table: ProtocolTable) -> Negotiation:
    """Return the negotiation of the scenario's protocol between agents, in the order of their names."""
    protocol = PROTOCOLS[table.horizontal]
    written = ARRAY_FORMS.get(protocol)
    return _by_sessions(names, protocol()) if written is None else written(names, table)


def nothing_traded(n: int, n_agents: int) -> tuple[Array, Array]:
    """Return no trade in any copy."""
    return np.zeros((n, n_agents, n_agents)), np.zeros((n, n_agents))


class _Sessions:
    """The sessions of any protocol, of one copy after the other."""

    def __init__(self, names: Sequence[str], protocol: HorizontalProtocol) -> None:
        self._names, self._protocol = tuple(names), protocol
        self._peers = {name: tuple(sorted(set(names) - {name})) for name in names}

    def run(
        self, agents: Mapping[str, AgentArray], copies: Flags, arrivals: MessageArrivals | None
    ) -> tuple[Settling, Array]:
        """Return what can be settled of some copies, and (n_agents, n) values to dispatch by.

        Args:
            agents: Of all copies.
            copies: (n,) which.
            arrivals: What they hear; None = everything.
        """
        numbers = np.flatnonzero(copies)
        every: list[Mapping[str, HorizontalSession]] = []
        values = np.full((len(self._names), len(copies)), np.nan)
        each = zip(*(agents[name].positions(name, self._peers[name]) for name in self._names), strict=True)
        for copy, positions in zip(numbers, compress(each, copies), strict=True):
            begun = {
                position.agent_id: self._protocol.begin(position)
                for i, position in enumerate(positions)
                if arrivals is None or arrivals.informed[copy, i]
            }
            sessions = {name: session for name, session in begun.items() if session is not None}
            if arrivals is None:
                run_sessions(sessions)
            else:
                self._run_lossy(sessions, arrivals, int(copy))
            every.append(sessions)
            for i, name in enumerate(self._names):
                if name in sessions and (value := sessions[name].dispatch_value) is not None:
                    values[i, copy] = value

        def settled(reported: Flags | None) -> tuple[Array, Array]:
            mwh, usd = nothing_traded(len(numbers), len(self._names))
            for row, (copy, sessions) in enumerate(zip(numbers, every, strict=True)):
                heard = {
                    name: sessions[name].trades
                    for i, name in enumerate(self._names)
                    if name in sessions and (reported is None or reported[copy, i])
                }
                mwh[row], usd[row] = traded(self._names, settle(heard).trades)
            return mwh, usd

        return settled, values

    def _run_lossy(
        self, sessions: Mapping[str, HorizontalSession], arrivals: MessageArrivals, copy: int
    ) -> None:
        links, step = arrivals.links, int(arrivals.steps[copy])
        number = {name: i for i, name in enumerate(self._names)}

        def carry(sender: str, receiver: str) -> bool:
            return links.carry(copy, number[sender], number[receiver], step)

        begin_s = {name: float(links.elapsed_s[copy, number[name]]) for name in sessions}
        ends = run_lossy_sessions(sessions, carry, begin_s, links.peer_s)
        for name, (missed, end_s) in ends.items():
            arrivals.missed[copy, number[name]] += missed
            links.elapsed_s[copy, number[name]] = end_s


def _by_sessions(names: Sequence[str], protocol: HorizontalProtocol) -> Negotiation:
    """Return the negotiation of any protocol: the sessions of one copy after the other."""
    sessions = _Sessions(names, protocol)

    def negotiate(agents: Mapping[str, AgentArray], arrivals: MessageArrivals | None) -> Settling:
        every = np.ones(len(next(iter(agents.values())).surplus_mwh()), dtype=bool)
        settled, values = sessions.run(agents, every, arrivals)
        for name, value in zip(names, values, strict=True):
            agents[name].dispatch_where(value)
        return settled

    return negotiate


def _by_market(market: Market, sessions: _Sessions) -> Negotiation:
    """Return the negotiation of a market over arrays; of copies that lose a message, by sessions."""

    def negotiate(agents: Mapping[str, AgentArray], arrivals: MessageArrivals | None) -> Settling:
        bids = zip(*(agent.bid() for agent in agents.values()), strict=True)
        quantity, price = (np.stack(part, axis=1) for part in bids)
        if arrivals is None:
            return lambda reported: market.settle(quantity, price, reported)
        clear = arrivals.clear_copies(market.pairs, market.most_words)
        arrivals.pass_by(clear, market.message_counts(quantity, price))
        others = None if clear.all() else sessions.run(agents, ~clear, arrivals)[0]

        def settled(reported: Flags | None) -> tuple[Array, Array]:
            mwh, usd = market.settle(quantity, price, reported)
            if others is not None:
                mwh[~clear], usd[~clear] = others(reported)
            return mwh, usd

        return settled

    return negotiate


def _p2p(names: Sequence[str], table: ProtocolTable) -> Negotiation:
    return _by_market(Trading(names, table), _Sessions(names, PeerToPeerProtocol()))


def _order_book(names: Sequence[str], table: ProtocolTable) -> Negotiation:
    return _by_market(OrderBook(names), _Sessions(names, OrderBookProtocol()))


def _consensus(names: Sequence[str], table: ProtocolTable) -> Negotiation:
    by_sessions = _by_sessions(names, ConsensusProtocol())

    def negotiate(agents: Mapping[str, AgentArray], arrivals: MessageArrivals | None) -> Settling:
        if arrivals is not None:
            return by_sessions(agents, arrivals)
        begin = np.stack([agent.estimate() for agent in agents.values()], axis=1)
        for agent, value in zip(agents.values(), run_consensus(names, table, begin).T, strict=True):
            agent.dispatch(value, value)
        return lambda _: nothing_traded(len(begin), len(names))

    return negotiate


def _none(names: Sequence[str], table: ProtocolTable) -> Negotiation:
    def negotiate(agents: Mapping[str, AgentArray], _: MessageArrivals | None) -> Settling:
        n = len(next(iter(agents.values())).surplus_mwh())
        return lambda _: nothing_traded(n, len(names))

    return negotiate


ARRAY_FORMS: Mapping[type[HorizontalProtocol], Callable[[Sequence[str], ProtocolTable], Negotiation]] = {
    PeerToPeerProtocol: _p2p,
    OrderBookProtocol: _order_book,
    ConsensusProtocol: _consensus,
    NoProtocol: _none,
}
"""Protocols whose form over arrays is written out for speed."""

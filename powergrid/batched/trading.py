"""Peer-to-peer trading and consensus over many copies at once, when every message arrives.

What ``heron_mqtt.protocols`` comes to if nothing is lost: the same quantities at the same prices, without the
conversation.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from heron_mqtt.protocols.base import LEAST_TRADE_MWH, ProtocolSettings, neighbours
from heron_mqtt.protocols.consensus import metropolis_weights
from heron_mqtt.protocols.order_book import keeper_of

__all__ = ["Market", "OrderBook", "Trading", "run_consensus"]

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]


class Market(ABC):
    """A protocol in which all agents trade with each other or with their neighbours.

    Args:
        agents: Names, in the order of the last axes of all arrays.

    Attributes:
        pairs: Who may say something to whom: numbers of sender and receiver.
        most_words: From one agent to another in a step.
    """

    pairs: Sequence[tuple[int, int]]
    most_words: ClassVar[int]

    def __init__(self, agents: Sequence[str]) -> None:
        self._by_name = np.argsort(agents)
        self._rank = np.argsort(self._by_name)

    def settle(self, quantity_mwh: Array, price: Array, reported: Flags | None = None) -> tuple[Array, Array]:
        """Trade once in every copy.

        Args:
            quantity_mwh: (n, n_agents) positive = for sale, negative = wanted.
            price: (n, n_agents) $/MWh; the ask of those who sell, the bid of those who buy.
            reported: (n, n_agents) whose report is heard; trades of others are void. None = of all.

        Returns:
            (n, n_agents, n_agents) MWh that the row's agent sold to the column's, negative = bought from it;
            and (n, n_agents) $ earned minus paid.
        """
        # In the order of names, in which sessions settle ties.
        sold, agreed = self._match(quantity_mwh[:, self._by_name], price[:, self._by_name])
        if reported is not None:
            heard = reported[:, self._by_name]
            sold *= heard[:, :, np.newaxis] & heard[:, np.newaxis, :]
        earned = sold * agreed
        usd = earned.sum(axis=2) - earned.sum(axis=1)
        mwh = sold - sold.transpose(0, 2, 1)
        return mwh[:, self._rank[:, np.newaxis], self._rank], usd[:, self._rank]

    @abstractmethod
    def _match(self, quantity: Array, price: Array) -> tuple[Array, Array]:
        """Return (n, seller, buyer) MWh sold and the price, which broadcasts to it; in the order of names."""

    @abstractmethod
    def message_counts(self, quantity_mwh: Array, price: Array) -> NDArray[np.int64]:
        """Return (n, sender, receiver) how many messages ``settle`` stands for; the same arguments."""


class Trading(Market):
    """Offer, accept and confirm of ``P2PSession`` between neighbours.

    Args:
        agents: Names, in the order of the last axes of all arrays.
        protocol: Who trades with whom.
    """

    most_words = 2  # an offer, and an answer or a confirmation

    def __init__(self, agents: Sequence[str], protocol: ProtocolSettings) -> None:
        super().__init__(agents)
        number = {agent: i for i, agent in enumerate(agents)}
        self.pairs = tuple(
            (number[agent], number[peer])
            for agent in agents
            for peer in neighbours(agent, [other for other in agents if other != agent], protocol)
        )
        linked = np.zeros((len(agents), len(agents)), dtype=bool)
        for pair in self.pairs:
            linked[pair] = True
        self._linked = linked[self._by_name][:, self._by_name]
        apart = ~self._linked & ~np.eye(len(agents), dtype=bool)
        self._apart = apart if apart.any() else None

    def _match(self, quantity: Array, price: Array) -> tuple[Array, Array]:
        offered, wanted = np.maximum(quantity, 0.0), np.maximum(-quantity, 0.0)
        return _allot(_accept(offered, wanted, price, self._apart), offered), price[:, :, np.newaxis]

    def message_counts(self, quantity_mwh: Array, price: Array) -> NDArray[np.int64]:
        """Return (n, sender, receiver) how many messages ``settle`` stands for; the same arguments.

        Every agent offers; one that sells nothing answers each offer of something, and a seller confirms each
        accept of something.
        """
        quantity, price = quantity_mwh[:, self._by_name], price[:, self._by_name]
        offered, wanted = np.maximum(quantity, 0.0), np.maximum(-quantity, 0.0)
        sells = offered > 0.0
        answers = ~sells[:, :, np.newaxis] & sells[:, np.newaxis, :]
        confirms = _accept(offered, wanted, price, self._apart) > 0.0
        messages: NDArray[np.int64] = (1 + answers.astype(np.int64) + confirms) * self._linked
        return messages[:, self._rank[:, np.newaxis], self._rank]


class OrderBook(Market):
    """Orders and fills of ``OrderBookSession``.

    Args:
        agents: Names, in the order of the last axes of all arrays.
    """

    most_words = 1

    def __init__(self, agents: Sequence[str]) -> None:
        super().__init__(agents)
        keeper = list(agents).index(keeper_of(tuple(agents)))
        others = [i for i in range(len(agents)) if i != keeper]
        self.pairs = [*((i, keeper) for i in others), *((keeper, i) for i in others)]
        self._words = np.zeros((len(agents), len(agents)), dtype=np.int64)
        for pair in self.pairs:
            self._words[pair] = 1

    def _match(self, quantity: Array, price: Array) -> tuple[Array, Array]:
        """Match as ``match_orders`` does, pair after pair, in all copies at once: the same numbers."""
        n_copies, n_agents = quantity.shape
        copies, last = np.arange(n_copies), n_agents - 1
        asks, bids = quantity >= LEAST_TRADE_MWH, quantity <= -LEAST_TRADE_MWH
        sellers = np.argsort(np.where(asks, price, np.inf), axis=1, kind="stable")
        buyers = np.argsort(np.where(bids, -price, np.inf), axis=1, kind="stable")
        left, sold = np.abs(quantity), np.zeros((n_copies, n_agents, n_agents))
        agreed, i, j = np.zeros(n_copies), np.zeros(n_copies, dtype=int), np.zeros(n_copies, dtype=int)
        n_asks, n_bids = asks.sum(axis=1), bids.sum(axis=1)
        for _ in range(n_agents - 1):  # each match uses up an order, and the last one two or what is left
            seller, buyer = sellers[copies, np.minimum(i, last)], buyers[copies, np.minimum(j, last)]
            ask, bid = price[copies, seller], price[copies, buyer]
            going = (i < n_asks) & (j < n_bids) & (ask <= bid)
            if not going.any():
                break
            mwh = np.where(going, np.minimum(left[copies, seller], left[copies, buyer]), 0.0)
            sold[copies, seller, buyer] += mwh
            left[copies, seller] -= mwh
            left[copies, buyer] -= mwh
            middle = np.minimum(np.maximum(0.5 * ask + 0.5 * bid, ask), bid)
            np.copyto(agreed, middle, where=going)
            i += going & (left[copies, seller] < LEAST_TRADE_MWH)
            j += going & (left[copies, buyer] < LEAST_TRADE_MWH)
        return sold, agreed[:, np.newaxis, np.newaxis]

    def message_counts(self, quantity_mwh: Array, price: Array) -> NDArray[np.int64]:
        """Return (n, sender, receiver) how many messages ``settle`` stands for: always the same."""
        return np.broadcast_to(self._words, (len(quantity_mwh), *self._words.shape))


def _accept(offered: Array, wanted: Array, price: Array, apart: Flags | None) -> Array:
    """Return (n, seller, buyer) MWh: buyers take the cheapest offers within their bids.

    Args:
        offered: (n, n_agents) MWh.
        wanted: (n, n_agents) MWh.
        price: (n, n_agents) ask or bid, $/MWh.
        apart: (n_agents, n_agents) who does not trade with whom; None = all trade with all.
    """
    n_copies, n_agents = offered.shape
    copies = np.arange(n_copies)
    accepted = np.zeros((n_copies, n_agents, n_agents))
    need = wanted.copy()
    for seller in np.argsort(price, axis=1, kind="stable").T:  # the cheapest of each copy, then the next
        ask = price[copies, seller][:, np.newaxis]
        taken = np.minimum(offered[copies, seller][:, np.newaxis], need)
        taken[ask > price] = 0.0
        if apart is not None:
            taken[apart[seller]] = 0.0
        accepted[copies, seller] = taken
        need -= taken
    return accepted


def _allot(accepted: Array, offered: Array) -> Array:
    """Return (n, seller, buyer) MWh sold: what was accepted, or a share where more was than is offered."""
    buyers = range(offered.shape[1])
    total = np.zeros_like(offered)
    for buyer in buyers:  # one after the other, as the sessions sum
        total += accepted[:, :, buyer]
    share = np.divide(offered, total, out=np.ones_like(offered), where=total > offered)
    left, sold = offered.copy(), np.empty_like(accepted)
    for buyer in buyers:
        sold[:, :, buyer] = np.minimum(accepted[:, :, buyer] * share, left)
        left -= sold[:, :, buyer]
    return sold


def run_consensus(agents: Sequence[str], protocol: ProtocolSettings, value: Array) -> Array:
    """Run the rounds of ``ConsensusSession`` between all agents.

    Args:
        agents: Names, in the order of the columns.
        protocol: Who talks to whom, and how often.
        value: (n, n_agents) estimates to begin with.

    Returns:
        (n, n_agents) estimates at the end.
    """
    column = {agent: i for i, agent in enumerate(agents)}
    weights = []
    for agent in agents:
        peers = sorted(set(agents) - {agent})
        weights.append(metropolis_weights(neighbours(agent, peers, protocol)))
    for _ in range(protocol.consensus_rounds):
        moved = value.copy()
        for i, of_peer in enumerate(weights):
            for peer, weight in of_peer.items():
                moved[:, i] += weight * (value[:, column[peer]] - value[:, i])
        value = moved
    return value

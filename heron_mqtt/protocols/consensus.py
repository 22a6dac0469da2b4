"""Average consensus: agents agree on a number by talking to their neighbours only.

In each round every agent sends its estimate to its neighbours and moves to the weighted mean of the received
estimates: ``x_i <- x_i + sum_j w_ij (x_j - x_i)``. The Metropolis weights are
``w_ij = 1 / (1 + max(d_i, d_j))``, d = number of neighbours. The weights are symmetric, so the sum of all
estimates never changes. On a connected graph, each estimate tends to the initial mean.

Source: L. Xiao, S. Boyd, "Fast linear iterations for distributed averaging", Systems & Control Letters
53 (2004), sections 1 and 4. As a way to dispatch: Z. Zhang, M.-Y. Chow, "Convergence analysis of the
incremental cost consensus algorithm", IEEE Trans. Power Systems 27 (2012).
"""

from __future__ import annotations

from collections.abc import Mapping

from heron_mqtt.messages import Consensus, Message
from heron_mqtt.protocols.base import (
    LEAST_TRADE_MWH,
    HorizontalProtocol,
    HorizontalSession,
    StepPosition,
    neighbours,
)


def metropolis_weights(neighbours: Mapping[str, int]) -> dict[str, float]:
    """Return an agent's weight of each neighbour, in the order of their names.

    Args:
        neighbours: Those it talks to, with the number of *their* neighbours.
    """
    degree = len(neighbours)
    return {peer: 1.0 / (1.0 + max(degree, theirs)) for peer, theirs in sorted(neighbours.items())}


class ConsensusSession(HorizontalSession):
    """One agent's part in one step's consensus; see ``protocols.base.HorizontalSession``.

    A neighbour that misses a round's deadline is left out of that round; its silence costs accuracy of
    the mean, never a wrong sign or a stop.

    Args:
        agent_id: This agent.
        neighbours: Those it talks to, with the number of *their* neighbours.
        value: Its own estimate to begin with.
        rounds: How many rounds, > 0.
    """

    def __init__(self, agent_id: str, neighbours: Mapping[str, int], value: float, rounds: int) -> None:
        if rounds < 1:
            raise ValueError(f"consensus needs at least one round, got {rounds}")
        self.agent_id = agent_id
        self.value = value
        self._weights = metropolis_weights(neighbours)
        self._rounds = rounds
        self._round = 0
        self._heard: dict[int, dict[str, float]] = {}

    def outgoing(self) -> Mapping[str, Message]:
        """Return this round's estimate, for each neighbour."""
        if self._round >= self._rounds:
            return {}
        return dict.fromkeys(self._weights, Consensus(round=self._round, value=self.value))

    def receive(self, peer: str, message: Message) -> bool:
        """Take a neighbour's estimate; the first of a round counts."""
        if not isinstance(message, Consensus) or peer not in self._weights:
            return False
        if not self._round <= message.round < self._rounds:
            return False
        heard = self._heard.setdefault(message.round, {})
        if peer in heard:
            return False
        heard[peer] = message.value
        return True

    def waiting_for(self) -> set[str]:
        """Return the neighbours that have not sent in this round."""
        if self._round >= self._rounds:
            return set()
        return set(self._weights).difference(self._heard.get(self._round, ()))

    def advance(self) -> bool:
        """End the round and move the estimate; see ``protocols.base.HorizontalSession``."""
        heard = self._heard.pop(self._round, {})
        x = self.value
        for peer, weight in self._weights.items():  # sorted: the same sum in the same order everywhere
            if peer in heard:
                self.value += weight * (heard[peer] - x)
        self._round += 1
        return self._round < self._rounds

    @property
    def dispatch_value(self) -> float:
        """The estimate, $/MWh: what a MWh is worth whether it is fed in or not bought."""
        return self.value


class ConsensusProtocol(HorizontalProtocol):
    """Agree on one value of energy, and dispatch by it."""

    name = "consensus"

    def begin(self, position: StepPosition) -> ConsensusSession:
        """Begin with what a MWh is worth to this agent by its plan."""
        adder = position.import_adder if position.surplus_mwh <= -LEAST_TRADE_MWH else 0.0
        settings = position.settings
        return ConsensusSession(
            position.agent_id,
            neighbours(position.agent_id, position.peers, settings),
            position.price + adder,
            settings.consensus_rounds,
        )

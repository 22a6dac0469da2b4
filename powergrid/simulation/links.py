"""What an impaired network would do to the messages of each step, where none are sent.

Centralized environments and batches have no messages. If their configuration names ``networks``, each message
that the distributed run would send is impaired in the same way, by the sampler of ``ImpairedBroker`` from
(seed, channel, direction, n). With the seed of the episode, exactly the same messages are lost. A message
that is later than the deadline of its phase counts as lost. An agent that has waited for it sends its own
messages later by this time. As there, a message between two agents crosses the network twice, to the broker
and from it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from heron_mqtt.errors import ConfigError
from heron_mqtt.messaging import topics
from heron_mqtt.messaging.impaired.channel_queue import ChannelQueue
from heron_mqtt.messaging.impairment import Direction, ImpairmentTable
from powergrid.scenario import Scenario

__all__ = ["Links"]

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]
Steps = NDArray[np.int64]

DIRECTIONS: tuple[Direction, Direction] = ("out", "in")
LEAVES = ("observation", "command", "plan", "clearance", "action")
_CHOICE = 5  # stream of the episode's seed; the randomiser has those below


class Links:
    """The links between operator and agents, of one environment or of (n,) copies.

    Args:
        tables: The impaired networks, of which each episode has one.
        scenario: Deadlines and names.
        agents: In the order of every (n, n_agents) array.
        n: Number of copies.

    Attributes:
        upstream_s: How long an agent waits for price and command, s.
        peer_s: How long it waits in a round of the horizontal protocol, s.
        elapsed_s: (n, n_agents) how long after the beginning of the step each agent continues, because it has
            waited for messages that did not arrive, s. Between two steps it is the remainder of the step
            before.

    Raises:
        ConfigError: A network is cut off by the clock, which stands still here.
    """

    def __init__(
        self, tables: Sequence[ImpairmentTable], scenario: Scenario, agents: Sequence[str], n: int = 1
    ) -> None:
        for table in tables:
            if any(window.begin_s is not None for window in table.partitions):
                raise ConfigError(
                    f"networks: {table.name or 'network'}: partitions in seconds need messages; where none "
                    "are sent no time passes: give begin_step and end_step"
                )
        limits = scenario.deadlines
        self._plan_s, self._clearance_s, self._action_s = (
            limits.plan_s,
            limits.clearance_s,
            limits.action_s,
        )
        self.elapsed_s: Array = np.zeros((n, len(agents)))
        self._agents = tuple(agents)
        self._tables = tuple(tables)
        self.upstream_s, self.peer_s = limits.upstream_s, limits.peer_s
        limits_s = (limits.action_s, limits.upstream_s, limits.plan_s, limits.clearance_s, limits.action_s)
        channels = [topics.operator_price(scenario.operator_id)]
        self._at = {"price": slice(0, 1)}
        self._limit_s = {"price": limits.upstream_s, **dict(zip(LEAVES, limits_s, strict=True))}
        for leaf in LEAVES:
            self._at[leaf] = slice(len(channels), len(channels) + len(agents))
            channels += [topics.agent(agent, leaf) for agent in agents]
        self._channels = tuple(channels)
        self._copies = np.arange(n)[:, np.newaxis]
        self._count = np.zeros((n, len(channels), 2), dtype=np.int64)
        self._even = {leaf: [True] * n for leaf in self._at}
        self._fates: list[_Fates | None] = [None] * n
        self._seeds = [-1] * n
        self._peer_counts: list[dict[tuple[int, int], list[int]]] = [{} for _ in range(n)]
        self._peers_of: list[list[tuple[_Channel, list[int]]] | None] = [None] * n
        # Of the episodes under way, which copies of a batch often share; what no copy has any more is freed.
        self._known = WeakValueDictionary[int, _Fates]()
        self._price = np.full(n, np.nan)

    def begin(self, copies: Sequence[int] | NDArray[np.intp], seeds: Sequence[int]) -> None:
        """Begin the episodes of seeds in some copies; the price heard last stays known."""
        for copy, seed in zip(copies, seeds, strict=True):
            self._fates[copy], self._seeds[copy] = self._of_seed(seed), seed
            self._count[copy], self.elapsed_s[copy] = 0, 0.0
            for even in self._even.values():
                even[copy] = True
            self._peer_counts[copy], self._peers_of[copy] = {}, None

    # -- operator and agents -----------------------------------------------------------------------

    def send(self, leaf: str, sent: Flags, steps: Steps, after_s: Array | None = None) -> Flags:
        """Send at most one message a channel; return which arrive in time.

        Args:
            leaf: ``price``, or one of ``LEAVES``.
            sent: (n, n_agents) which are sent; (n, 1) of the price.
            steps: (n,) under way.
            after_s: Shape of ``sent``; how long after its deadline began to count each is sent, s. None = 0.
        """
        at = self._at[leaf]
        arrived = np.zeros(sent.shape, dtype=bool)
        limit_s, even = self._limit_s[leaf], self._even[leaf]
        whole = np.logical_and.reduce(sent, axis=1)
        if after_s is not None:
            whole &= ~after_s.any(axis=1)
        left_s = np.full(sent.shape, limit_s) if after_s is None else limit_s - after_s
        for copy, (fates, step) in enumerate(zip(self._fates, steps.tolist(), strict=True)):
            if fates is None:
                continue
            if whole[copy] and even[copy] and fates.all_pass(leaf, at, step, limit_s):
                arrived[copy] = True  # nearly always, as long as nothing has been lost
                continue
            mine, count = sent[copy], self._count[copy, at]
            if even[copy]:  # every message of every step has arrived so far
                even[copy] = False
                count[:] = step
            for i in np.flatnonzero(mine).tolist():
                arrived[copy, i] = fates.channel(at.start + i).send(count[i], step, left_s[copy, i])
        return arrived

    def clear(self, sent: Flags, steps: Steps) -> tuple[Flags, Flags]:
        """Send plans, and the clearances of those that arrive; agents wait for theirs.

        Plans are checked when all are there, and at their deadline if one is missing.

        Args:
            sent: (n, n_agents) whose plans.
            steps: (n,) under way.

        Returns:
            (n, n_agents) whose plans arrive in time, and who has its clearance in time.
        """
        heard = self.send("plan", sent, steps, self.elapsed_s)
        last_s = self.elapsed_s.max(axis=1)
        checked_s = np.where(heard.all(axis=1), last_s, self._plan_s)[:, np.newaxis]
        cleared = self.send("clearance", heard, steps, checked_s - self.elapsed_s)
        waited_s = np.where(cleared, checked_s, self.elapsed_s + self._clearance_s)
        np.copyto(self.elapsed_s, waited_s, where=sent)
        return heard, cleared

    def report(self, sent: Flags, steps: Steps) -> Flags:
        """Send the (n, n_agents) actions, with which the step ends; return which arrive in time."""
        reported = self.send("action", sent, steps, self.elapsed_s)
        # The step lasts until the deadline if one is missing; who is still busy then is late in the next.
        late_s = np.maximum(self.elapsed_s - self._action_s, 0.0)
        self.elapsed_s[:] = np.where(reported.all(axis=1, keepdims=True), 0.0, late_s)
        return reported

    def hear_price(self, price: Array, steps: Steps, sent: Flags) -> tuple[Array, Flags]:
        """Return the (n,) prices that agents know, $/MWh, and whether they are of this step.

        Args:
            price: (n,) $/MWh.
            steps: (n,) under way.
            sent: (n, 1) in which copies it is sent.
        """
        heard = self.send("price", sent, steps)[:, 0]
        self._price[heard] = price[heard]
        return np.where(np.isnan(self._price), 0.0, self._price), heard

    # -- agents among themselves -------------------------------------------------------------------

    def carry(self, copy: int, sender: int, receiver: int, step: int) -> bool:
        """Send a message from one agent to another; return whether it arrives in time."""
        count = self._peer_counts[copy].setdefault((sender, receiver), [0, 0])
        return self._peer(copy, sender, receiver).send(count, step, self.peer_s)

    def is_clear(self, copy: int, pairs: Sequence[tuple[int, int]], n_messages: int, step: int) -> bool:
        """Whether the next messages between agents of a copy arrive, up to ``n_messages`` of each pair.

        Args:
            copy: Which.
            pairs: Sender and receiver; the same ones at every call.
            n_messages: How many messages.
            step: That they belong to.
        """
        fates, limit_s = self._fates[copy], self.peer_s
        assert fates is not None, "begin() comes first"
        peers = self._peer_channels(copy, pairs)
        return all(channel.passes(count, n_messages, step, limit_s) for channel, count in peers)

    def _peer_channels(self, copy: int, pairs: Sequence[tuple[int, int]]) -> list[tuple[_Channel, list[int]]]:
        """Return the channels between agents of a copy, each with its counts."""
        found = self._peers_of[copy]
        if found is None:
            counts = self._peer_counts[copy]
            found = self._peers_of[copy] = [
                (self._peer(copy, *pair), counts.setdefault(pair, [0, 0])) for pair in pairs
            ]
        return found

    def pass_by(self, copy: int, n_messages: Sequence[Sequence[int]]) -> None:
        """Count messages between agents that ``is_clear`` has found to arrive, sender by receiver."""
        for pair, count in self._peer_counts[copy].items():
            for direction in (0, 1):
                count[direction] += n_messages[pair[0]][pair[1]]

    def _peer(self, copy: int, sender: int, receiver: int) -> _Channel:
        fates = self._fates[copy]
        assert fates is not None, "begin() comes first"
        return fates.peer(topics.p2p(self._agents[sender], self._agents[receiver]))

    # -- its state ---------------------------------------------------------------------------------

    def get_state(self) -> Mapping[str, Any]:
        """Return all that later fates depend on; a value."""
        peers = [{pair: list(count) for pair, count in counts.items()} for counts in self._peer_counts]
        return {
            "seeds": list(self._seeds),
            "count": self._count.copy(),
            "even": {leaf: list(even) for leaf, even in self._even.items()},
            "peers": peers,
            "price": self._price.copy(),
            "elapsed_s": self.elapsed_s.copy(),
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Put it back."""
        self._seeds = list(state["seeds"])
        self._fates = [None if seed < 0 else self._of_seed(seed) for seed in self._seeds]
        self._even = {leaf: list(even) for leaf, even in state["even"].items()}
        self._count[:], self._price[:] = state["count"], state["price"]
        self.elapsed_s[:] = state["elapsed_s"]
        self._peer_counts = [
            {pair: list(count) for pair, count in counts.items()} for counts in state["peers"]
        ]
        self._peers_of = [None] * len(self._peer_counts)

    def _of_seed(self, seed: int) -> _Fates:
        found = self._known.get(seed)
        if found is None:
            chosen = 0
            if len(self._tables) > 1:
                chosen = int(np.random.default_rng([seed, _CHOICE]).integers(len(self._tables)))
            found = self._known[seed] = _Fates(self._tables[chosen], seed, self._channels)
        return found


class _Fates:
    """What becomes of the messages of one episode; drawn as they are asked for, in order.

    Args:
        table: The network.
        seed: Of the episode.
        channels: Between operator and agents.
    """

    def __init__(self, table: ImpairmentTable, seed: int, channels: Sequence[str]) -> None:
        self.table = table
        self._seed = seed if table.seed is None else table.seed
        self._names = channels
        self._own: dict[int, _Channel] = {}
        self._peers: dict[str, _Channel] = {}
        self._all_pass: dict[tuple[str, int], bool] = {}

    def channel(self, number: int) -> _Channel:
        """Return a channel between operator and agents."""
        found = self._own.get(number)
        if found is None:
            found = self._own[number] = _Channel(self._names[number], self.table, self._seed)
        return found

    def peer(self, name: str) -> _Channel:
        """Return a channel between agents."""
        found = self._peers.get(name)
        if found is None:
            found = self._peers[name] = _Channel(name, self.table, self._seed)
        return found

    def all_pass(self, leaf: str, at: slice, step: int, limit_s: float) -> bool:
        """Whether message ``step`` of each channel arrives, if as many have gone before."""
        found = self._all_pass.get((leaf, step))
        if found is None:
            count = [step, step]
            channels = [self.channel(i) for i in range(at.start, at.stop)]
            found = all(channel.passes(count, 1, step, limit_s) for channel in channels)
            self._all_pass[leaf, step] = found
        return found


class _Channel:
    """One channel, to the broker and from it: the delay of each message, s; infinite = lost."""

    def __init__(self, name: str, table: ImpairmentTable, seed: int) -> None:
        self._queues = tuple(ChannelQueue(direction, name, table, seed) for direction in DIRECTIONS)
        self._delays: tuple[list[float], list[float]] = ([], [])
        self._is_cut = any(queue.partitions for queue in self._queues)
        self._passes: dict[tuple[int, int, int, float], bool] = {}

    def send(self, count: Any, step: int, limit_s: float) -> bool:
        """Send the next message, and count it in each direction it goes; return whether it is in time.

        Args:
            count: How many have gone out, and how many have come in.
            step: That it belongs to.
            limit_s: How long it may take, s.
        """
        total_s = 0.0
        for direction in (0, 1):
            delay_s = self._delay_s(direction, int(count[direction]), step)
            count[direction] += 1
            if delay_s == np.inf:
                return False
            total_s += delay_s
        return total_s <= limit_s

    def passes(self, count: Sequence[int], n_messages: int, step: int, limit_s: float) -> bool:
        """Whether each of the next ``n_messages`` messages would be in time; counts nothing."""
        sent, heard = count
        if self._is_cut:
            return all(
                self._delay_s(0, sent + i, step) + self._delay_s(1, heard + i, step) <= limit_s
                for i in range(n_messages)
            )
        key = sent, heard, n_messages, limit_s
        found = self._passes.get(key)
        if found is None:
            found = self._passes[key] = all(
                self._delay_s(0, sent + i, step) + self._delay_s(1, heard + i, step) <= limit_s
                for i in range(n_messages)
            )
        return found

    def _delay_s(self, direction: int, n: int, step: int) -> float:
        delays, queue = self._delays[direction], self._queues[direction]
        while n >= len(delays):
            impairment = queue.sampler(DIRECTIONS[direction]).sample()
            held_s = queue.rule.reorder_s if impairment.held_back and queue.rule is not None else 0.0
            delays.append(np.inf if impairment.lost else impairment.delay_s + held_s)
        return np.inf if self._is_cut and queue.cut(0.0, step) is not None else delays[n]

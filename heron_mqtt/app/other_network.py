"""What would have arrived in time over another network: drawn by its rules, as an impaired run draws."""

from __future__ import annotations

from heron_mqtt.agents.deadlines import Deadlines
from heron_mqtt.messaging import topics
from heron_mqtt.messaging.impaired.sampler import ImpairmentSampler
from heron_mqtt.messaging.impairment import Direction, ImpairmentTable

At = tuple[int, int]


class OtherNetwork:
    """Deliveries over an impaired network that the record did not have; see ``record.deliveries``.

    The n-th message of a channel is drawn as a run over this network draws it. What the dice cannot say is
    how messages wait for each other: a late one is late by its own delay alone.

    Args:
        table: The network.
        seed: Of the dice; the table's own wins.
        deadlines: How long each message may take.
    """

    def __init__(self, table: ImpairmentTable, seed: int, deadlines: Deadlines) -> None:
        self.unsure: list[str] = []
        self._table = table
        self._seed = seed if table.seed is None else table.seed
        self._deadlines = deadlines
        self._samplers: dict[tuple[Direction, str], ImpairmentSampler] = {}
        self._drawn: dict[tuple[At, str, str, int], float | None] = {}

    def told(self, at: At, agent: str, channel: str, kind: str) -> bool:
        """Whether the messages of a step reach the agent in time, or the agent's action the environment."""
        limit_s = self._deadlines.action_s if kind == "action" else self._deadlines.upstream_s
        return self._is_in_time(self._delay_s(at, channel, kind, 0, ("out", "in")), limit_s)

    def peer(self, at: At, sender: str, receiver: str, kind: str, number: int = 0) -> bool:
        """Whether a peer's message is in time for its round."""
        delay_s = self._delay_s(at, topics.p2p(sender, receiver), kind, number, ("out", "in"))
        return self._is_in_time(delay_s, self._deadlines.peer_s)

    def kept_silent(self, at: At, agent: str, device: str, device_s: float) -> bool:
        """Whether the network keeps a device from answering a step's setpoint in time."""
        there = self._delay_s(at, topics.device(agent, device, "setpoint"), "setpoint", 0, ("out",))
        back = self._delay_s(at, topics.device(agent, device, "telemetry"), "telemetry", 0, ("in",))
        return there is None or back is None or there + back > device_s

    @staticmethod
    def _is_in_time(delay_s: float | None, limit_s: float) -> bool:
        return delay_s is not None and delay_s <= limit_s

    def _delay_s(
        self, at: At, channel: str, kind: str, number: int, ways: tuple[Direction, ...]
    ) -> float | None:
        """Return how long a message takes, s; None = it is lost. Asked again, the answer is the same."""
        key = (at, channel, kind, number)
        if key not in self._drawn:
            total: float | None = 0.0
            for way in ways:
                sample = self._sampler(way, channel).sample()
                if sample.lost or self._is_cut(way, channel, at[1]):
                    total = None
                elif total is not None:
                    total += sample.delay_s
            self._drawn[key] = total
        return self._drawn[key]

    def _is_cut(self, way: Direction, channel: str, step: int) -> bool:
        """Whether a partition by steps is in force; those by seconds have no place in a record."""
        return any(
            partition.is_open(0.0, step)
            for partition in self._table.partitions
            if partition.begin_step is not None and partition.matches(way, channel)
        )

    def _sampler(self, way: Direction, channel: str) -> ImpairmentSampler:
        if (way, channel) not in self._samplers:
            rule = next((rule for rule in self._table.rules if rule.matches(way, channel)), None)
            self._samplers[way, channel] = ImpairmentSampler(rule, self._seed, f"{way}/{channel}")
        return self._samplers[way, channel]

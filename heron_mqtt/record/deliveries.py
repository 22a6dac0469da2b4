"""Which messages of a recorded run arrived in time, step by step; for replaying the run without its network.

Whether a message was in time follows from the order of messages in the process that received it. A message
from the operator counts if it arrived before the agent's first message in that step. A peer's message counts
if it arrived before the end of its round.
"""

from __future__ import annotations

from collections import defaultdict

from heron_mqtt.messaging import topics
from heron_mqtt.record.reader import RecordFile
from heron_mqtt.record.run_part import is_abandoned

At = tuple[int, int]  # episode, step

ROUNDS = {"offer": 0, "accept": 1, "confirm": 2, "order": 0, "fill": 1}
AFTER = 1_000_000  # more than there are rounds
CLOSE_S = 0.005
"""Nearer to the end of its round than this, whether a message was in time cannot be told from the record."""


class Deliveries:
    """What arrived in time.

    Args:
        record: The run.
        peer_s: How long a round of the horizontal protocol may take, s.
    """

    def __init__(self, record: RecordFile, peer_s: float) -> None:
        self.is_known = record.meta.get("keeps_messages") == "1"
        self.unsure: list[str] = []
        """Messages of which the record cannot tell whether they were in time, each in a few words."""
        self._peer_s = peer_s
        self._spoke_s: dict[tuple[At, str], float] = {}  # when an agent first spoke in a step
        self._began_s: dict[tuple[At, str], float] = {}  # when it sent its first message to a peer
        self._arrived_s: dict[tuple[At, str, str, int], float] = {}  # step, channel, type, which of its kind
        self._sent: set[tuple[At, str, str, int]] = set()
        self._stages_s: dict[tuple[At, str], dict[int, float]] = defaultdict(dict)
        """By step and agent, when it first spoke in each round, and (``AFTER``) after the last one."""
        self._lost: set[tuple[At, str]] = set()
        self._delay_s: dict[tuple[At, str], float] = defaultdict(float)
        if self.is_known:
            self._read(record)

    def told(self, at: At, agent: str, channel: str, kind: str) -> bool:
        """Whether an agent had what it was told of a step (price, observation, command) when it acted."""
        key = (at, channel, kind, 0)
        if key not in self._sent:  # nothing is known of it: the run had no broker, or went otherwise
            return True
        arrived_s = self._arrived_s.get(key)
        spoke_s = self._spoke_s.get((at, agent))
        return arrived_s is not None and (spoke_s is None or arrived_s <= spoke_s)

    def peer(self, at: At, sender: str, receiver: str, kind: str, number: int = 0) -> bool:
        """Whether a peer's message was in time for its round.

        Args:
            at: Episode and step.
            sender: Agent.
            receiver: Agent.
            kind: offer, accept, confirm, order, fill or consensus.
            number: Round, of a consensus message.
        """
        channel = topics.p2p(sender, receiver)
        key = (at, channel, kind, number)
        if key not in self._sent:
            return True
        arrived_s = self._arrived_s.get(key)
        if arrived_s is None:
            return False
        began_s = self._began_s.get((at, receiver))
        if began_s is None:
            return True
        stage = ROUNDS.get(kind, number)
        later = [t for s, t in self._stages_s[at, receiver].items() if s > stage]  # it had gone on by then
        ends_s = min(began_s + self._peer_s * (stage + 1), *later)
        if abs(arrived_s - ends_s) < CLOSE_S:
            self.unsure.append(f"step {at[1]}: {kind} from {sender} to {receiver}")
        return arrived_s <= ends_s

    def kept_silent(self, at: At, agent: str, device: str, device_s: float) -> bool:
        """Whether the network kept a device from answering a step's setpoint in time.

        Args:
            at: Episode and step.
            agent: Owner of the device.
            device: Its name.
            device_s: How long an answer may take, s.
        """
        channels = [topics.device(agent, device, leaf) for leaf in ("setpoint", "telemetry")]
        if any((at, channel) in self._lost for channel in channels):
            return True
        return sum(self._delay_s[at, channel] for channel in channels) >= 0.9 * device_s

    def _read(self, record: RecordFile) -> None:
        counts: dict[tuple[str, At, str, str], int] = defaultdict(int)
        parts = record.parts()
        for row in record.each(
            "SELECT at_s, direction, channel, type, episode, step, arrival, network, delay_s "
            "FROM message_row WHERE step IS NOT NULL AND type IS NOT NULL ORDER BY id"
        ):
            at, channel, kind = (row["episode"], row["step"]), row["channel"], row["type"]
            if is_abandoned(parts, row["at_s"], at):
                continue
            if row["network"] is not None:
                if {"lost", "partitioned"} & set(row["network"].split("+")):
                    self._lost.add((at, channel))
                else:
                    self._delay_s[at, channel] += row["delay_s"] or 0.0
            if row["direction"] == "out":
                number = counts["out", at, channel, kind]
                counts["out", at, channel, kind] += 1
                self._sent.add((at, channel, kind, number))
                self._note_speaker(at, channel, kind, number, row["at_s"])
            elif row["arrival"] == "none":  # lost on its way in: it keeps its number
                counts["in", at, channel, kind] += 1
            elif row["arrival"] in {"new", "late"}:
                number = counts["in", at, channel, kind]
                counts["in", at, channel, kind] += 1
                self._arrived_s.setdefault((at, channel, kind, number), row["at_s"])

    def _note_speaker(self, at: At, channel: str, kind: str, number: int, at_s: float) -> None:
        levels = topics.levels(channel)
        if levels[0] in {"p2p", "devices"} or (levels[0] == "agents" and levels[-1] in {"action", "plan"}):
            self._spoke_s.setdefault((at, levels[1]), at_s)
            stage = ROUNDS.get(kind, number) if levels[0] == "p2p" else AFTER
            self._stages_s[at, levels[1]].setdefault(stage, at_s)
        if levels[0] == "p2p":
            self._began_s.setdefault((at, levels[1]), at_s)

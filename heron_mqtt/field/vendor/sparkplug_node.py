"""What is known of one Sparkplug edge node and one device behind it: aliases, sequence, births and deaths."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from heron_mqtt.field.vendor.sparkplug_payload import decode, typed

TOPIC = re.compile(r"spBv1\.0/([^/+#]+)/([ND])DATA/([^/+#]+)(?:/([^/+#]+))?")
REBIRTH_S = 30.0
"""How often a birth is asked for, at most, s."""


def state_topic(host_id: str) -> str:
    """Return where a host application says, retained, whether it is online."""
    return f"spBv1.0/STATE/{host_id}"


@dataclass(frozen=True, slots=True)
class NodeNews:
    """What one message of a node brought.

    Attributes:
        values: Metric -> value, for those of the device; None = the message is not of the device.
        state: ``online`` at its birth, ``offline`` at its death; None = as it was.
        problems: What is wrong with it.
        needs_birth: Something is not known: a birth should be asked for.
    """

    values: dict[str, Any] | None = None
    state: str | None = None
    problems: tuple[str, ...] = ()
    needs_birth: bool = False


class SparkplugNode:
    """One edge node, and the device behind it whose data are read (or the node's own data).

    Args:
        topic: Of the data: spBv1.0/GROUP/DDATA/NODE/DEVICE or spBv1.0/GROUP/NDATA/NODE.

    Raises:
        ValueError: It is no topic of Sparkplug data.
    """

    def __init__(self, topic: str) -> None:
        found = TOPIC.fullmatch(topic)
        if found is None or (found[2] == "D") != (found[4] is not None):
            raise ValueError(
                f"{topic!r}: expected spBv1.0/GROUP/DDATA/NODE/DEVICE or spBv1.0/GROUP/NDATA/NODE"
            )
        self.topic = topic
        self.group, self.node, self.device = found[1], found[3], found[4]
        self._names: dict[tuple[str | None, int], str] = {}
        self._types: dict[tuple[str | None, str], int] = {}
        self._seq: int | None = None
        self._bd_seq: Any = None

    @property
    def is_born(self) -> bool:
        """Whether it has been heard since its last death."""
        return self._seq is not None

    @property
    def filters(self) -> tuple[str, str]:
        """What to subscribe to: all of the node, because its messages are numbered together."""
        return f"spBv1.0/{self.group}/+/{self.node}", f"spBv1.0/{self.group}/+/{self.node}/+"

    @property
    def rebirth_topic(self) -> str:
        """Where a birth is asked for."""
        return f"spBv1.0/{self.group}/NCMD/{self.node}"

    def take(self, topic: str, payload: bytes) -> NodeNews:
        """Take one message of the node in.

        Raises:
            MessageError: Its payload is not Sparkplug's.
        """
        levels = topic.split("/")
        kind, device = levels[2], levels[4] if len(levels) > 4 else None
        if kind not in {"NBIRTH", "DBIRTH", "NDATA", "DDATA", "NDEATH", "DDEATH"}:
            return NodeNews()  # commands to it
        found = decode(payload)
        problems = list(found.problems)
        if kind == "NDEATH":
            died = next((m.value for m in found.metrics if m.name == "bdSeq"), None)
            if self._bd_seq is not None and died is not None and died != self._bd_seq:
                return NodeNews(problems=(f"a death of an earlier session (bdSeq {died}) is ignored",))
            self._seq = None
            return NodeNews(state="offline")
        gap = self._follow(kind, found.seq, problems)
        if kind == "NBIRTH":
            self._bd_seq = next((m.value for m in found.metrics if m.name == "bdSeq"), None)
        values: dict[str, Any] = {}
        unknown = False
        for metric in found.metrics:
            name = metric.name
            if kind.endswith("BIRTH"):
                if metric.alias is not None:
                    self._names[device, metric.alias] = name
                self._types[device, name] = metric.datatype
            elif not name and metric.alias is not None:
                name = self._names.get((device, metric.alias), "")
            if not name:
                unknown = True
                continue
            if not metric.is_historical:
                values[name] = typed(metric.value, metric.datatype or self._types.get((device, name)))
        if unknown:
            problems.append("metrics by alias that no birth has named: a birth is asked for")
        is_ours = device == self.device
        state = None
        if is_ours and kind.endswith("BIRTH"):
            state = "online"
        elif is_ours and kind == "DDEATH":
            state = "offline"
        is_data = is_ours and not kind.endswith("DEATH")
        return NodeNews(values if is_data else None, state, tuple(problems), (unknown and is_ours) or gap)

    def _follow(self, kind: str, seq: int | None, problems: list[str]) -> bool:
        """Follow the numbers of the node; returns whether some are missing."""
        if kind == "NBIRTH" or self._seq is None or seq is None:
            self._seq = seq if seq is not None else self._seq
            return False
        expected = (self._seq + 1) % 256
        self._seq = seq
        if seq == expected:
            return False
        problems.append(f"seq is {seq} instead of {expected}: messages were lost; a birth is asked for")
        return True

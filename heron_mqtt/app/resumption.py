"""Resumption: how far an interrupted run had come, as plain data for the program that resumes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from heron_mqtt.messaging.base import Received
from heron_mqtt.record.run_part import ResumedRecord, RunPart
from powergrid.envs.copies import EnvState

__all__ = ["Resumption"]


@dataclass(frozen=True)
class Resumption:
    """How far an interrupted run had come.

    Attributes:
        path: Its record.
        record: The file in which it continues.
        keeps_messages: Whether it has the messages.
        state: After the last finished step; None = there is none.
        observations: What the agents saw before each finished step, for a policy that remembers.
        finished: Rewards, infos and duration (ms) of each finished step.
        stops: What was heard on ``estop``, in order; the last one is a stop if one was in force.
        parts: Of the run so far.
        modules: The modules of people's own that it had loaded, by name: SHA-256, hex.
        notes: What the user should know.
    """

    path: Path
    record: ResumedRecord
    keeps_messages: bool
    state: EnvState | None = None
    observations: Sequence[Mapping[str, Any]] = ()
    finished: Sequence[tuple[Mapping[str, float], Mapping[str, Any], float]] = ()
    stops: tuple[Received, ...] = ()
    parts: Sequence[RunPart] = ()
    modules: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

"""What a run and a step amount to, as plain data: handed to the recorder by the code that runs them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What is known of a run at its beginning. No address, no login: records are passed on.

    Attributes:
        scenario: The scenario's name.
        scenario_json: The whole scenario, every key with its value.
        scenario_text: Its file as it was written, with comments; empty where it was no file.
        mode: ``centralized`` or ``distributed``.
        broker: Kind of broker: embedded, memory, mqtt or none.
        seed: Of the run.
        step_s: Length of a step, s.
        devices: For devices whose authority the scenario leaves open: emulated or simulated.
        agents: Names of the microgrids.
        options: Other options of the run, as plain JSON.
        inputs: Files that are kept whole, by the key of the scenario that names them (``profiles.file``).
        files: Every file that the scenario names and that decides what happens, by its key: of these a hash
            is kept.
        role: ``environment``, or the agents whose remote proxies these are.
    """

    scenario: str
    scenario_json: str
    scenario_text: str = ""
    mode: str = "distributed"
    broker: str = "none"
    seed: int = 0
    step_s: float = 900.0
    devices: str = "simulated"
    agents: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, Path] = field(default_factory=dict)
    files: Mapping[str, Path] = field(default_factory=dict)
    role: str = "environment"


@dataclass(frozen=True, slots=True)
class StepFacts:
    """One step as the environment made it.

    Attributes:
        episode, step: Which.
        row: Of the time series.
        clock: Simulated time at which it begins, UTC, RFC 3339.
        price: $/MWh.
        phases_s: How long each phase took, by name, wall-clock s.
        observations: What each agent was told at its beginning: the fields of its ``observation`` message.
        commands: By agent, setpoints from the caller: ``p_<device>``, ``q_<device>``; others follow their
            own policy.
        rewards: By agent, $.
        infos: By agent, as ``step`` of the environment returns them.
        seed: Of the episode, where it changes more than its agents; None = it does not.
    """

    episode: int
    step: int
    row: int
    clock: str
    price: float
    phases_s: Mapping[str, float]
    observations: Mapping[str, Mapping[str, Any]]
    commands: Mapping[str, Mapping[str, float]]
    rewards: Mapping[str, float]
    infos: Mapping[str, Mapping[str, Any]]
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class NamedFile:
    """A file that a scenario names, as it was when the run began.

    Attributes:
        name: Of the file, without its folder.
        sha256: Of its content, hex.
    """

    name: str
    sha256: str


def digest(path: Path) -> str:
    """Return the SHA-256 of a file, hex.

    Raises:
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

"""A suite: scenarios times networks times faults times seeds, with budgets; as a file says it."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from heron_mqtt.config import Table, read_toml, validate
from heron_mqtt.errors import ConfigError
from heron_mqtt.input_files import is_file
from heron_mqtt.messaging.impairment import load_impairment
from powergrid.scenario import FaultTable, LoadedScenario, Scenario, load_scenario

NONE = "none"
"""Name of the network that is perfect, and of the faults that are none."""
MAX_CASES = 10_000


class SuiteLimits(Table):
    """What a run may cost and do; what is left out is not looked at."""

    fallbacks: int | None = Field(None, ge=0, description="Most fallbacks.")
    missed: int | None = Field(None, ge=0, description="Most missed deadlines.")
    lost: int | None = Field(None, ge=0, description="Most lost messages.")
    overruns: int | None = Field(None, ge=0, description="Most steps that came late.")
    p99_ms: float | None = Field(None, gt=0, description="Step time that 99 % of the steps keep, ms.")
    max_ms: float | None = Field(None, gt=0, description="Longest step, ms.")
    vm_min_pu: float | None = Field(None, description="Lowest voltage allowed at any bus, pu.")
    vm_max_pu: float | None = Field(None, description="Highest voltage allowed at any bus, pu.")
    loading_max_percent: float | None = Field(None, ge=0, description="Highest loading allowed, %.")
    cost: float | None = Field(None, description="Highest cost of all microgrids together, $.")
    reward: float | None = Field(None, description="Lowest reward of all agents together.")


class SuiteBudget(SuiteLimits):
    """Limits for a part of the suite; of several that apply, the last one wins, name by name."""

    scenarios: list[str] | None = Field(None, description="For these scenarios; left out: for all.")
    networks: list[str] | None = Field(None, description="For these networks; left out: for all.")
    faults: list[str] | None = Field(None, description="For these faults; left out: for all.")


class SuiteFile(Table):
    """A suite of runs of one controller."""

    name: str = Field("suite", min_length=1, max_length=64, description="For people.")
    policy: str | None = Field(None, description="module:Class that decides; left out: the agents' own rule.")
    broker: Literal["memory", "embedded", "centralized"] = Field(
        "memory", description="What carries the messages; faults of devices need embedded."
    )
    steps: int | None = Field(None, ge=1, description="Left out: as each scenario says.")
    scenarios: list[str] = Field(min_length=1, description="Files beside this one, or shipped scenarios.")
    networks: list[str] = Field([NONE], min_length=1, description="Files, shipped networks, or none.")
    seeds: list[int] = Field([0], min_length=1, description="One run for each, >= 0.")
    faults: dict[str, list[FaultTable]] = Field(
        {}, description="By name; each case has the faults of one name. Left out: none."
    )
    parallel: int = Field(2, ge=1, le=64, description="Runs at a time, each a process of its own.")
    timeout_s: float = Field(600.0, gt=0, description="A run that takes longer is ended, and fails; s.")
    budgets: list[SuiteBudget] = Field([], description="What a run may cost and do.")

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        if any(seed < 0 for seed in self.seeds):
            raise ValueError("seeds: expected numbers >= 0")
        for name, values in (("scenarios", self.scenarios), ("networks", self.networks)):
            if len(set(values)) < len(values):
                raise ValueError(f"{name}: one stands there twice")
        if self.broker != "embedded" and any(self.faults.values()):
            raise ValueError("faults are had by emulated devices: they need broker = 'embedded'")
        if self.broker == "centralized" and self.networks != [NONE]:
            raise ValueError("networks: broker = 'centralized' has no network")
        known = {"networks": self.networks, "scenarios": self.scenarios, "faults": self.fault_names}
        for i, budget in enumerate(self.budgets):
            for key, names in known.items():
                for name in getattr(budget, key) or []:
                    if name not in names:
                        raise ValueError(f"budgets[{i}].{key}: {name!r} is not among {', '.join(names)}")
        if self.size > MAX_CASES:
            raise ValueError(f"{self.size} runs: at most {MAX_CASES}")
        return self

    @property
    def fault_names(self) -> list[str]:
        """Names of the faults; ``none`` where no faults are named."""
        return list(self.faults) or [NONE]

    @property
    def size(self) -> int:
        """How many runs it has."""
        return len(self.scenarios) * len(self.networks) * len(self.fault_names) * len(self.seeds)

    def limits(self, scenario: str, network: str, faults: str) -> dict[str, float]:
        """Return what applies to a run, by name."""
        found: dict[str, float] = {}
        place = {"scenarios": scenario, "networks": network, "faults": faults}
        for budget in self.budgets:
            if all(
                getattr(budget, key) is None or name in getattr(budget, key) for key, name in place.items()
            ):
                given = budget.model_dump(exclude_none=True, exclude=set(place))
                found |= given
        return found


@dataclass(frozen=True, slots=True)
class SuiteCase:
    """One run of a suite.

    Attributes:
        scenario: As the suite names it.
        network: As the suite names it; ``none`` = perfect.
        faults: Name of its faults.
        seed: Of the run.
        limits: Its budget by name.
    """

    scenario: str
    network: str
    faults: str
    seed: int
    limits: dict[str, float]

    @property
    def name(self) -> str:
        """What it is called in tables and reports."""
        return f"{self.scenario} / {self.network} / {self.faults} / seed {self.seed}"


@dataclass(frozen=True, slots=True)
class LoadedSuite:
    """A suite with the place that it came from, to which its file names are relative."""

    suite: SuiteFile
    path: Path

    def cases(self) -> list[SuiteCase]:
        """Return its runs, in the order of the file."""
        suite = self.suite
        product = itertools.product(suite.scenarios, suite.networks, suite.fault_names, suite.seeds)
        return [
            SuiteCase(scenario, network, faults, seed, suite.limits(scenario, network, faults))
            for scenario, network, faults, seed in product
        ]

    def scenario(self, case: SuiteCase) -> LoadedScenario:
        """Return the scenario of a case, with the faults of the case.

        Raises:
            ConfigError: There is no such scenario, or a fault is of no device of it.
        """
        beside = self.path.parent / case.scenario
        loaded = load_scenario(beside if is_file(beside) else case.scenario)
        faults = [fault.model_dump() for fault in self.suite.faults.get(case.faults, [])]
        if not faults:
            return loaded
        data = {**json.loads(loaded.scenario.model_dump_json(exclude_none=True)), "faults": faults}
        source = f"{self.path}: faults.{case.faults} in {case.scenario}"
        return loaded.model_copy(update={"scenario": validate(Scenario, data, source)})

    def network(self, case: SuiteCase) -> str | None:
        """Return the file or name of a case's network; None = perfect."""
        if case.network == NONE:
            return None
        beside = self.path.parent / case.network
        return str(beside) if is_file(beside) else case.network


def load_suite(path: str | Path) -> LoadedSuite:
    """Read a suite, with everything that it names.

    Raises:
        ConfigError: One line for each problem.
    """
    path = Path(path)
    loaded = LoadedSuite(validate(SuiteFile, read_toml(path), str(path)), path)
    problems: list[str] = []
    seen: set[tuple[str, str]] = set()
    for case in loaded.cases():
        if (case.scenario, case.faults) in seen:
            continue
        seen.add((case.scenario, case.faults))
        try:
            loaded.scenario(case)
        except ConfigError as exc:
            problems += [f"{path}: {problem}" for problem in exc.problems if problem not in problems]
    for name in loaded.suite.networks:
        if name != NONE:
            try:
                load_impairment(loaded.network(SuiteCase("", name, "", 0, {})) or name)
            except ConfigError as exc:
                problems += [f"{path}: networks: {problem}" for problem in exc.problems]
    if problems:
        raise ConfigError(*dict.fromkeys(problems))
    return loaded

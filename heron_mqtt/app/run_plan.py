"""What a run will be: decided from the scenario and the options before anything is started."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from heron_mqtt.app.policies import policy_maker
from heron_mqtt.app.run_time import MAX_DAYS, MAX_REALTIME_S, chosen_time
from heron_mqtt.errors import ConfigError
from heron_mqtt.input_files import is_file
from heron_mqtt.messaging.impairment import ImpairmentTable, load_impairment
from heron_mqtt.messaging.schemes import BrokerScheme, open_broker, scheme_of, without_login
from heron_mqtt.messaging.settings import EVERYWHERE
from heron_mqtt.scheduling import priority_problem

if TYPE_CHECKING:
    from heron_mqtt.app.resumption import Resumption
    from heron_mqtt.field.gateway.succession import StateFolder
    from powergrid.scenario import LoadedScenario

Devices = Literal["emulated", "simulated"]


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What the command line says beside the scenario.

    Attributes:
        broker: ``embedded``, ``memory``, the URL of an MQTT broker, or another that ``open_broker`` knows;
            None = the scenario's, or else ``embedded``.
        devices: None = emulated where devices can connect, else simulated.
        realtime_s: Wall-clock length of a step, s; None = the scenario's, or as fast as it goes.
        record: The file that the run is recorded in; ``auto`` = a new one in the default directory; None =
            not recorded.
        record_messages: Whether the record holds every message; None = where others can take part.
        publish_record: Publish the record's hash on ``run/record`` at the end.
        policy: ``module:Class`` that decides in place of the agents' rule; None = none.
        csv: A CSV file for the results, a row an agent and step.
        network: A file that says how the network misbehaves; None = the scenario's, or not at all.
        days: Length of the run, simulated days; in place of ``steps``.
        start: Simulated time of the first step, ISO 8601; None = the scenario's ``profiles.start_row``.
        until: Simulated time at which the run ends, ISO 8601; in place of ``steps``.
        watch: Read mappings again that are changed during the run.
        priority: Real-time priority while it takes steps, of the programs that it starts for them, too (see
            ``real_time_priority``); None = none.
    """

    steps: int | None = None
    days: float | None = None
    start: str | None = None
    until: str | None = None
    seed: int | None = None
    broker: str | None = None
    centralized: bool = False
    devices: Devices | None = None
    realtime_s: float | None = None
    network: str | None = None
    take_over: bool = False
    state: StateFolder | None = None
    accept_broker_limits: bool = False
    record: str | None = None
    record_messages: bool | None = None
    publish_record: bool = False
    csv: str | None = None
    policy: str | None = None
    watch: bool = False
    priority: int | None = None

    @property
    def url(self) -> str:
        """Which broker; what is not said yet counts as ``embedded``."""
        return self.broker or "embedded"

    @property
    def is_reachable(self) -> bool:
        """Whether anything outside this process can take part."""
        return not self.centralized and (self.scheme is None or self.scheme.is_external)

    @property
    def starts_broker(self) -> bool:
        """Whether the broker is the run's own process."""
        return self.url == "embedded" and not self.centralized

    @property
    def scheme(self) -> BrokerScheme | None:
        """The kind of broker; None if there is no such kind, which is one of the ``problems``."""
        try:
            return scheme_of(self.url)
        except ConfigError:
            return None

    @property
    def _because(self) -> str:
        return f" ({self.scheme.lacks})" if self.scheme is not None and self.scheme.lacks else ""

    def problems(self) -> list[str]:
        """Return one line for each option that is wrong by itself, or beside another one."""
        found = []
        if self.steps is not None and self.steps < 1:
            found.append(f"--steps {self.steps}: expected a number of at least 1")
        if self.days is not None and not 0.0 < self.days <= MAX_DAYS:
            found.append(f"--days {self.days:g}: expected a number of days, more than 0, at most {MAX_DAYS}")
        lengths = {"--steps": self.steps, "--days": self.days, "--until": self.until}
        given = [name for name, value in lengths.items() if value is not None]
        if len(given) > 1:
            found.append(f"{' and '.join(given)}: each sets the length of the run; give one of them")
        if self.seed is not None and self.seed < 0:
            found.append(f"--seed {self.seed}: expected a number of at least 0")
        if self.realtime_s is not None and not 0.0 < self.realtime_s <= MAX_REALTIME_S:
            expected = f"expected seconds per step, more than 0, at most {MAX_REALTIME_S:g}"
            found.append(f"--realtime {self.realtime_s}: {expected}")
        try:
            open_broker(self.url)  # nothing is connected: only the URL is looked at
        except ConfigError as exc:
            found += [
                f"--{problem}"
                if problem.startswith("broker ")
                else problem  # it names a setting itself
                if problem.partition(" ")[0] in EVERYWHERE
                else f"--broker: {problem}"
                for problem in (re.sub(r"^\w+Broker: ", "", problem) for problem in exc.problems)
            ]
        if self.centralized and self.url != "embedded":
            found.append("--centralized: uses no broker; leave it or --broker out")
        if self.centralized and self.network is not None:
            found.append("--centralized: uses no network; leave it or --network out")
        if self.publish_record and (self.centralized or self.record is None):
            why = "--centralized uses no broker" if self.centralized else "the run is not recorded"
            found.append(f"--publish-record: {why}; leave it out")
        if self.devices == "emulated" and not self.is_reachable:
            why = (
                "--centralized uses no broker"
                if self.centralized
                else f"nothing can connect to --broker {self.url}{self._because}"
            )
            found.append(f"--devices emulated: {why}; leave it out, or use --broker embedded")
        if self.priority is not None and (problem := priority_problem(self.priority)) is not None:
            found.append(problem)
        return found


@dataclass(frozen=True, slots=True)
class RunPlan:
    """A run with everything decided and nothing started.

    Attributes:
        resumed: The position of an interrupted run that it continues; None = it is a new one.
    """

    loaded: LoadedScenario
    options: RunOptions
    devices: Devices
    steps: int
    seed: int
    realtime_s: float | None = None
    impairment: ImpairmentTable | None = None
    resumed: Resumption | None = None

    @property
    def mode(self) -> str:
        """``centralized`` or ``distributed``."""
        return "centralized" if self.options.centralized else "distributed"

    @property
    def broker(self) -> str:
        """Kind of broker, without address or credentials."""
        if self.options.centralized:
            return "none"
        scheme = self.options.scheme
        return "mqtt" if scheme is None or scheme.name in {"mqtts", "ws", "wss"} else scheme.name

    @property
    def is_disturbed(self) -> bool:
        """Whether the scenario or the options disturb it on purpose: faults, an impaired network."""
        return bool(self.loaded.scenario.faults) or self.impairment is not None

    @property
    def remote_agents(self) -> tuple[str, ...]:
        """Agents that run elsewhere."""
        return remote_agents(self.loaded)


def remote_agents(loaded: LoadedScenario) -> tuple[str, ...]:
    """Return the agents of a scenario that run elsewhere."""
    return tuple(agent for agent, table in loaded.scenario.microgrids.items() if table.remote)


def _hardware_problems(loaded: LoadedScenario, options: RunOptions) -> list[str]:
    """Return why the devices that the scenario does not simulate cannot be driven over this broker."""
    if options.scheme is None or not options.scheme.lacks or options.centralized:
        return []
    grids = loaded.scenario.microgrids
    driven = ", ".join(
        f"{agent}/{name}"
        for agent, grid in grids.items()
        for name, table in grid.devices.items()
        if table.authority not in {None, "simulated"}
    )
    if not driven:
        return []
    return [
        f"{loaded.source}: {driven}: cannot be driven over --broker {without_login(options.url)}"
        f"{options._because}; simulate them (authority), or use --broker mqtt://host:port"
    ]


def _mapping_problems(loaded: LoadedScenario) -> tuple[str, ...]:
    if not loaded.scenario.mapped_devices:
        return ()
    from heron_mqtt.app.vendor_adapters import load_mappings  # 0.15 s, for those who have a vendor's device

    try:
        load_mappings(loaded)
    except ConfigError as exc:
        return tuple(exc.problems)
    return ()


def plan_run(scenario: str | Path | LoadedScenario, options: RunOptions) -> RunPlan:
    """Decide what the options leave open, and refuse what does not go together.

    Args:
        scenario: A file, the name of a shipped scenario, or a scenario that is loaded already.
        options: Win over the scenario.

    Raises:
        ConfigError: One line for each problem of options and scenario.
    """
    from powergrid.scenario import load_scenario

    try:
        loaded = load_scenario(scenario) if isinstance(scenario, str | Path) else scenario
    except ConfigError as exc:
        raise ConfigError(*options.problems(), *exc.problems) from None
    if options.broker is None and not options.centralized:
        options = replace(options, broker=loaded.scenario.broker.url or "embedded")
    problems = options.problems()
    remote = remote_agents(loaded)
    if remote and not options.is_reachable:
        problems.append(
            f"{loaded.source}: microgrids.{remote[0]}.remote = true: its agent must be able to connect"
            f"{options._because}; use --broker embedded or mqtt://host:port"
        )
    problems += _hardware_problems(loaded, options)
    if options.watch:
        problems += watch_problems(
            loaded, [agent for agent in loaded.scenario.microgrids if agent not in remote], options
        )
    problems += _mapping_problems(loaded)
    realtime_s = options.realtime_s or loaded.scenario.realtime_s
    if options.priority is not None and realtime_s is None:
        problems.append(
            f"--priority {options.priority}: a run without a clock never waits, and would leave no CPU time "
            "to other programs; give --realtime SECONDS_PER_STEP with it"
        )
    steps = options.steps or loaded.scenario.steps
    try:
        loaded, steps = chosen_time(loaded, options.start, options.until, options.days, steps)
    except ConfigError as exc:
        problems += exc.problems
    impairment = None
    try:
        impairment = _impairment(loaded, options)
    except ConfigError as exc:
        problems += exc.problems
    if options.policy is not None:
        try:
            policy_maker(options.policy)
        except ConfigError as exc:
            problems += exc.problems
    if problems:
        raise ConfigError(*problems)
    devices = options.devices or ("emulated" if options.is_reachable else "simulated")
    seed = loaded.scenario.seed if options.seed is None else options.seed
    return RunPlan(loaded, options, devices, steps, seed, realtime_s, impairment)


def watch_problems(
    loaded: LoadedScenario, agents: Sequence[str], options: RunOptions | None = None
) -> list[str]:
    """Return why there is nothing to watch for the devices of some agents; empty if there is."""
    if options is not None and not options.is_reachable:
        return ["--watch: devices with a mapping need a broker that they can reach; leave it out"]
    if not any(agent in agents for agent, _ in loaded.scenario.mapped_devices):
        return [f"--watch: no device that {loaded.source} has here has a mapping; leave it out"]
    return []


def _impairment(loaded: LoadedScenario, options: RunOptions) -> ImpairmentTable | None:
    """Return how the network misbehaves: as the options say, else as the scenario says."""
    if options.centralized:
        return None
    named = options.network or loaded.scenario.impairment
    if isinstance(named, str):
        beside = loaded.path(named)
        return load_impairment(beside if options.network is None and is_file(beside) else named)
    return named

"""What people write to decide for a microgrid: a policy, named in the scenario, that runs in every mode.

    [microgrids.MG1]
    policy = "my_package.my_module:MyPolicy"

See docs/agents.md.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import math
import sys
import zlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from heron_mqtt.errors import ConfigError
from heron_mqtt.input_files import is_file
from powergrid.scenario import PolicyTable, Scenario

__all__ = [
    "AgentPolicy",
    "PolicyContext",
    "PolicyView",
    "checked_setpoints",
    "fit_policies",
    "load_policy",
    "make_policy",
    "observing_agents",
    "policy_states",
    "put_policies_back",
]


class PolicyContext(NamedTuple):
    """What a policy is made for.

    Attributes:
        agent_id: The microgrid.
        scenario: With its devices, market and step.
        n: Number of copies that it decides for; None = one microgrid, by numbers.
    """

    agent_id: str
    scenario: Scenario
    n: int | None = None


class PolicyView(NamedTuple):
    """What an agent knows when it decides; powers are positive when injected.

    In a batch every number is an (n,) array, and every forecast (n, horizon).

    Attributes:
        dt_s: Length of the step, s.
        price: Of the step, $/MWh.
        clock_s: Seconds since local midnight at which it begins; None = not known.
        p_load_mw, q_load_mvar: Sum of the microgrid's loads in the step, MW and Mvar, negative = consuming.
        p_available_mw: By device with a profile, MW.
        p_mw: By device, of the last step, MW.
        soc: By storage device, fraction.
        vm_min_pu, vm_max_pu: Extreme voltages of the last step, pu; None = not known.
        loading_max_percent: Highest loading of the last step, %; None likewise.
        forecast: Of the steps after this one: ``price``, ``p_load_mw``, ``p_available_<device>``; empty =
            no forecast.
        observation: What a learner sees as the agent's ``local`` observation, (n_entries,) flat, or
            (n, n_entries); None = not told, or the policy does not ask for it (``takes_observation``).
        asked: (n,) bool, the copies that decide in this step; None = all. The others have not heard of the
            step, or follow a command: what is decided for them is not used, and a policy that remembers
            leaves what it remembers of them as it is.
    """

    dt_s: float
    price: Any
    clock_s: Any
    p_load_mw: Any
    q_load_mvar: Any
    p_available_mw: Mapping[str, Any]
    p_mw: Mapping[str, Any]
    soc: Mapping[str, Any]
    vm_min_pu: Any
    vm_max_pu: Any
    loading_max_percent: Any
    forecast: Mapping[str, Any]
    observation: Any = None
    asked: Any = None


class AgentPolicy(ABC):
    """Decides for one microgrid.

    Values that it does not decide follow the agent's own rules (docs/models.md, "Who decides"). A command
    from upstream has priority over the policy. Every setpoint is bounded on its way to a device.

    Args:
        context: What it is made for.
        arguments: Of the scenario's ``policy.arguments``, by keyword.

    Attributes:
        decides_for_copies: ``decide`` also takes a view of (n,) arrays, and returns such; else a batch makes
            one policy a copy. With memory it heeds ``view.asked``.
        takes_observation: ``view.observation`` is wanted: the environment then sends it with the message.
    """

    decides_for_copies: ClassVar[bool] = False
    takes_observation: ClassVar[bool] = False

    def __init__(self, context: PolicyContext, **arguments: Any) -> None:
        if arguments:
            raise ConfigError(f"{type(self).__name__} takes no argument {', '.join(sorted(arguments))}")
        self.context = context

    def reset(self, episode: int, seed: int | None) -> None:  # noqa: B027
        """Begin an episode.

        Args:
            episode: Its number.
            seed: For everything that is random in it; the same in every mode. None = it was not told.
        """

    def reset_copies(self, copies: Any, episodes: Sequence[int], seeds: Sequence[int]) -> None:  # noqa: B027
        """Begin an episode in some copies of a batch, which asks one policy for all (``decides_for_copies``).

        Args:
            copies: (k,) their indices, of ``context.n``; the others continue.
            episodes: (k,) the numbers of their episodes.
            seeds: (k,) as ``seed`` of ``reset``.
        """

    def get_state(self) -> Any:
        """Return what ``decide`` depends on beside its view; a value. For copies of environments."""
        return None

    def set_state(self, state: Any) -> None:  # noqa: B027
        """Put it back."""

    @abstractmethod
    def decide(self, view: PolicyView) -> Mapping[str, Any]:
        """Return setpoints for the step: ``p_<device>`` MW and ``q_<device>`` Mvar; others are left alone."""


def load_policy(name: str, directory: Path | None = None) -> type[AgentPolicy]:
    """Import the class that a user names, and nothing else.

    Args:
        name: ``module:Class``, or ``file.py:Class`` with a file relative to ``directory``.
        directory: None = the working directory.

    Raises:
        ConfigError: No such module, file or class, or it is not a ``AgentPolicy``; or its import fails.
    """
    module_name, _, class_name = name.rpartition(":")
    if not module_name or not class_name.isidentifier():
        raise ConfigError(f"policy {name!r}: expected module:Class or file.py:Class")
    try:
        module = (
            _from_file((directory or Path()) / module_name)
            if module_name.endswith(".py")
            else (importlib.import_module(module_name))
        )
    except Exception as exc:  # whatever a user's module raises is about that module
        raise ConfigError(f"policy {name!r}: cannot be imported: {exc}") from exc
    found = getattr(module, class_name, None)
    if not (isinstance(found, type) and issubclass(found, AgentPolicy)):
        raise ConfigError(
            f"policy {name!r}: {module_name} has no class {class_name} derived from AgentPolicy"
        )
    return found


def observing_agents(scenario: Scenario) -> frozenset[str]:
    """Return the agents whose policy wants what a learner sees.

    Raises:
        ConfigError: As ``load_policy``.
    """
    return frozenset(
        agent
        for agent, table in scenario.microgrids.items()
        if table.policy.use is not None and load_policy(table.policy.use).takes_observation
    )


def check_policy(table: PolicyTable) -> type[AgentPolicy] | None:
    """Return the class that a scenario names, which takes the arguments beside it; None = the own rules.

    Raises:
        ConfigError: As ``load_policy``, or an argument is missing, or is none of the class.
    """
    if table.use is None:
        return None
    kind = load_policy(table.use)
    taken = list(inspect.signature(kind).parameters.values())[1:]
    names = [p.name for p in taken if p.kind in {p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY}]
    takes_any = any(p.kind is p.VAR_KEYWORD for p in taken) and kind.__init__ is not AgentPolicy.__init__
    unknown = [] if takes_any else sorted(set(table.arguments) - set(names))
    needed = [p.name for p in taken if p.name in names and p.default is p.empty]
    missing = [name for name in needed if name not in table.arguments]
    if unknown or missing:
        what = f"no argument {unknown[0]!r}" if unknown else f"argument {missing[0]!r} is missing"
        raise ConfigError(
            f"policy {table.use!r}: arguments: {what}; {kind.__name__} takes {', '.join(names) or 'none'}"
        )
    return kind


def make_policy(table: PolicyTable, context: PolicyContext) -> AgentPolicy | None:
    """Return the policy that a scenario names; None = the agent's own rules.

    Raises:
        ConfigError: As ``load_policy``, or its arguments do not fit.
    """
    kind = check_policy(table)
    if kind is None:
        return None
    try:
        return kind(context, **table.arguments)
    except TypeError as exc:
        raise ConfigError(f"policy {table.use!r}: arguments: {exc}") from exc


def policy_states(policies: Sequence[AgentPolicy]) -> list[tuple[str, Any]]:
    """Return what each policy remembers, with the name of its class."""
    return [(type(policy).__qualname__, policy.get_state()) for policy in policies]


def fit_policies(policies: Sequence[AgentPolicy], states: Sequence[tuple[str, Any]]) -> bool:
    """Whether states are those of as many policies of the same classes."""
    return [type(policy).__qualname__ for policy in policies] == [name for name, _ in states]


def put_policies_back(policies: Sequence[AgentPolicy], states: Sequence[tuple[str, Any]]) -> None:
    """Have each policy remember what it did; the states fit."""
    for policy, (_, state) in zip(policies, states, strict=True):
        policy.set_state(state)


def checked_setpoints(decided: Mapping[str, Any], devices: Mapping[str, Any], who: str) -> dict[str, float]:
    """Return what a policy decided as numbers, by ``p_<device>`` and ``q_<device>``.

    Raises:
        ConfigError: Not a mapping, a device that there is not, or no finite number; names the policy.
    """
    if not isinstance(decided, Mapping):
        raise ConfigError(f"{who} decided {repr(decided)[:80]}: expected a dict of setpoints by p_<device>")
    found = {}
    for name, value in decided.items():
        if name[:2] not in {"p_", "q_"} or name[2:] not in devices:
            known = ", ".join(f"p_{device}" for device in devices)
            raise ConfigError(f"{who} decided {name!r}: no such setpoint; there are {known} and q_ of them")
        try:
            number = math.nan if isinstance(value, str | bytes | bool) else float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not math.isfinite(number):
            raise ConfigError(
                f"{who} decided {name} = {repr(value)[:80]}: expected a finite number, MW or Mvar"
            )
        found[name] = number
    return found


def _from_file(path: Path) -> Any:
    path = path.resolve()
    # The same name in every process: what a policy remembers may be of a class of its file, and is pickled.
    name = f"policy_of_{path.stem}_{zlib.crc32(str(path).encode()):08x}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not is_file(path):
        raise FileNotFoundError(f"no such file: {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module

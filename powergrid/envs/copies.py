"""Taking an environment's state, putting it back, and copies made of the two."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

from powergrid.envs.grid_state import GridState
from powergrid.powerflow.results import Array
from powergrid.scenario import LoadedScenario
from powergrid.simulation.build import Blueprint, build
from powergrid.simulation.grid_cache import GridCache
from powergrid.simulation.grid_simulation import GridSimulation

__all__ = ["BatchState", "CopiedByState", "EnvState", "check_place", "check_state"]


@dataclass(frozen=True, eq=False)
class EnvState:
    """All that the coming steps of a ``MultiAgentMicrogrids`` depend on; a value, which pickles.

    Attributes:
        scenario: Name of the scenario that it belongs to.
        position: Where in which episode.
        agents: Those whose episode is under way.
        rewards: Of the last step, by agent, $.
        grid: Of ``GridState``.
        bills: Cost and trades of the last step, (n_agents,) $ each.
        exchange: Of each agent, and the price that it has heard.
        format: Number of this form of a state; one that was pickled in another form is refused.
    """

    scenario: str
    position: Mapping[str, Any]
    agents: tuple[str, ...]
    rewards: Mapping[str, float]
    grid: tuple[Array, Array]
    bills: tuple[Array, Array]
    exchange: Mapping[str, Any]
    format: int = 4


@dataclass(frozen=True, eq=False)
class BatchState:
    """All that the coming steps of a ``BatchedMicrogrids`` depend on; a value, which pickles.

    Attributes:
        scenario: Name of the scenario that it belongs to.
        num_envs: Number of copies.
        position: Where in which episode each copy is, and the generator of the next ones.
        grid: Of ``GridState``.
        fleet: Of the devices, by agent and name.
        format: As in ``EnvState``.
    """

    scenario: str
    num_envs: int
    position: Mapping[str, Any]
    grid: tuple[Array, Array]
    fleet: Mapping[str, Mapping[str, Any]]
    format: int = 5


def check_state(state: Any, kind: type[Any], scenario: str, grid: GridState) -> None:
    """Refuse a state that is not one, or of another scenario.

    Raises:
        ValueError: Says which.
    """
    if not isinstance(state, kind):
        raise ValueError(f"set_state: expected what get_state returned, got a {type(state).__name__}")
    if vars(state).get("format") != getattr(kind, "format", None):
        raise ValueError("set_state: the state was made by another version of this package; make it again")
    mine, given = [[a.shape for a in arrays] for arrays in (grid.get_state(), state.grid)]
    if state.scenario != scenario or mine != given:
        raise ValueError(
            f"set_state: the state is one of scenario {state.scenario!r} with other arrays or another number "
            f"of copies than here ({scenario!r})"
        )


def check_place(unlike: Iterable[str], fits_episode: bool) -> None:
    """Refuse a state of a variant of the scenario.

    Args:
        unlike: Agents whose devices, policies or dead times are not those of the state.
        fits_episode: Whether the episode is long enough for where the state is.

    Raises:
        ValueError: Says which.
    """
    for agent in unlike:
        raise ValueError(
            f"set_state: the state is one of a variant of the scenario in which {agent} has other devices, "
            "another policy, or response_delay_s where it has none here, or the reverse: put it back where "
            "the scenario is the same"
        )
    if not fits_episode:
        raise ValueError(
            "set_state: the state is one of longer episodes: put it back where max_episode_steps is the same"
        )


class _Recipe(NamedTuple):
    """What a pickled environment is made from."""

    config: Any
    loaded: LoadedScenario
    prices: Array


class CopiedByState:
    """Copies an environment by making another one and putting the state there.

    Arrays of an environment are views of one another, and its solver is not Python's: neither survives a
    copy attribute by attribute. A subclass has ``config`` and ``loaded``, makes everything else in
    ``_assemble``, and has ``get_state`` and ``set_state``. What a class derived from it adds to its
    instances is copied attribute by attribute.
    """

    config: Any
    loaded: LoadedScenario
    simulation: GridSimulation
    _made_here: frozenset[str]

    def _assemble(self, blueprint: Blueprint) -> None:
        """Make everything but ``config`` and ``loaded``."""
        raise NotImplementedError

    def get_state(self) -> Any:
        """Return the state."""
        raise NotImplementedError

    def set_state(self, state: Any) -> None:
        """Put a state back."""
        raise NotImplementedError

    def _make(self, blueprint: Blueprint) -> None:
        """Assemble, and note what that made."""
        before = set(self.__dict__) - {"config", "loaded"}
        self._assemble(blueprint)
        self._made_here = frozenset((set(self.__dict__) | {"_made_here"}) - before)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return an environment of its own that continues from the same state; not over a broker."""
        state, series = self.get_state(), self.simulation.series
        recipe = _Recipe(_without_recorder(self.config), self.loaded, series.prices)
        made: Self = _from(type(self), recipe, self.simulation.blueprint)
        memo[id(self)] = made
        made.__dict__.update({name: copy.deepcopy(value, memo) for name, value in self._added().items()})
        made.set_state(state)
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle its arguments, its state, and the attributes of a derived class."""
        state = self.get_state(), self._added()
        recipe = _Recipe(_without_recorder(self.config), self.loaded, self.simulation.series.prices)
        return _from, (type(self), recipe), state

    def __setstate__(self, state: tuple[Any, Mapping[str, Any]]) -> None:
        """Put what was pickled into a new environment."""
        of_environment, added = state
        self.__dict__.update(added)
        self.set_state(of_environment)

    def _added(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in self._made_here}


def _without_recorder(config: Any) -> Any:
    """Return the configuration of a copy: a recorder records one environment."""
    return config.model_copy(update={"recorder": None}) if getattr(config, "recorder", None) else config


def _from(kind: type[Any], recipe: _Recipe, blueprint: Blueprint | None = None) -> Any:
    made = object.__new__(kind)
    made.config, made.loaded = recipe.config, recipe.loaded
    made._make(blueprint or build(recipe.loaded, GridCache.of_this_user()))
    made.simulation.series.prices = recipe.prices
    return made

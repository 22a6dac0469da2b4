"""BatchedMicrogrids: many copies of a scenario, stepped together in numpy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
from gymnasium.spaces import Box, Dict
from gymnasium.vector import AutoresetMode
from numpy.typing import ArrayLike, NDArray

from heron_mqtt.messages import Clearance
from powergrid.agents.policy import AgentPolicy, observing_agents
from powergrid.batched.clearing import PlanCheck
from powergrid.batched.fleet import Fleet, FleetStep
from powergrid.batched.flow import BatchFlow
from powergrid.batched.freed_memory import keep_freed_memory
from powergrid.batched.message_arrivals import MessageArrivals
from powergrid.devices import make_device
from powergrid.envs.config import load_batch_config
from powergrid.envs.copies import BatchState, CopiedByState, check_place, check_state
from powergrid.envs.grid_state import GridState, check_length, no_beginning
from powergrid.envs.observation_form import AgentObservation
from powergrid.envs.reset_arguments import check_options, checked_seed
from powergrid.envs.spaces import ActionMap
from powergrid.rewards import total
from powergrid.simulation.build import Blueprint, build
from powergrid.simulation.forecaster import Forecaster
from powergrid.simulation.grid_cache import GridCache
from powergrid.simulation.grid_simulation import GridSimulation
from powergrid.simulation.links import Links
from powergrid.simulation.randomiser import EpisodeSeeds, Randomiser, drawn_socs

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]
Observations = dict[str, AgentObservation]
BatchInfos = dict[str, dict[str, Any]]
BatchStepResult = tuple[Observations, dict[str, Array], dict[str, Flags], dict[str, Flags], BatchInfos]


class _Before(NamedTuple):
    """What a step changes in every copy, as it was before."""

    grid: tuple[Array, Array]
    own_p: Array
    own_soc: Array
    elapsed_s: Array | None


class BatchedMicrogrids(CopiedByState):
    """``num_envs`` copies of a scenario: as many ``MultiAgentMicrogrids`` in centralized mode, but faster.

    In the manner of ``gymnasium.vector``: every array has the copies in its first axis, here (n,). Each copy
    has its own place in the time series, its own devices and its own end.

    Copies whose episode has ended are reset within the same step (``AutoresetMode.SAME_STEP``). Rewards,
    terminations and truncations are those of the step that ended it; the observation is the first one of the
    next episode. ``infos[agent]["final_obs"]`` and ``["final_state"]`` contain the last ones of every copy.
    ``["start_row"]`` is the row where each copy's episode began (if it has just ended: the next episode).

    Args:
        config: See ``powergrid.envs.config.BatchConfig``.

    Attributes:
        num_envs: Number of copies.
        agents: Names of the microgrids; the keys of every dict.
        single_state_space: Of one copy's row of ``state()``.

    Raises:
        ConfigError: One line for each problem; also where the network cannot be compiled.
    """

    metadata: ClassVar[dict[str, Any]] = {
        "name": "batched_microgrids_v0",
        "autoreset_mode": AutoresetMode.SAME_STEP,
    }

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config, self.loaded = load_batch_config(config)
        self._make(build(self.loaded, GridCache.of_this_user()))

    def _assemble(self, blueprint: Blueprint) -> None:
        keep_freed_memory()
        self.scenario = scenario = self.loaded.scenario
        self.num_envs = n = self.config.num_envs
        self.max_episode_steps = self.config.max_episode_steps or scenario.steps
        self.simulation = GridSimulation(blueprint)
        check_length(self.simulation, self.max_episode_steps, type(self).__name__)
        self.agents = list(self.simulation.agents)
        self._flow = BatchFlow(self.simulation)
        self._plan_check = PlanCheck(self.simulation, self._flow) if scenario.envelope.grid_check else None
        self._fleet = Fleet(self.simulation, n)
        kind = self.config.observation or scenario.observation or "full"
        self._randomiser = Randomiser(self.simulation, self.max_episode_steps)
        self._forecaster = Forecaster(self.simulation, self._randomiser)
        self._state = GridState(
            self.simulation,
            full=kind == "full",
            shape=(n,),
            horizon=self._forecaster.horizon,
            scale=self.config.observation_scale or scenario.observation_scale,
            named=self.config.observation_form == "dict",
        )
        self.single_state_space = self._state.whole.flat_space
        self._observing = observing_agents(scenario)
        tables = self.config.impairments()
        self._links = Links(tables, scenario, self.agents, n) if tables else None
        devices = self.simulation.devices
        owner = [self.agents.index(device.agent) for device in devices]
        self._owner = np.array(owner, dtype=np.intp)
        storage = [device for device in devices if device.has_soc]
        self._columns, self._storage_columns = (
            {
                agent: [(device.name, i) for i, device in enumerate(columns) if device.agent == agent]
                for agent in self.agents
            }
            for columns in (devices, storage)
        )
        self._storage_owner = np.array([self.agents.index(one.agent) for one in storage], dtype=np.intp)
        self._initial_p = [make_device(device.spec).state.p_mw for device in devices]
        self._own_p, self._own_soc = self._state.p_mw.copy(), self._state.soc.copy()
        self._actions = {agent: ActionMap(agent, table) for agent, table in scenario.microgrids.items()}
        self._spaces = {
            agent: Box(-1.0, 1.0, (n, len(m.names)), np.float32) for agent, m in self._actions.items()
        }
        self._rng = np.random.default_rng(scenario.seed)
        self._seeds = [EpisodeSeeds(scenario.seed + copy) for copy in range(n)]
        self._episode_seeds = [seeds.state[0] for seeds in self._seeds]
        self._noise = self._randomiser.noises(self._episode_seeds)
        self._draws_rows = self.config.start_rows == "random" or (
            self.config.start_rows is None and scenario.randomisation.start == "fixed"
        )
        self._fixed_rows: NDArray[np.int64] | None = None
        self._start_rows, self._copies = np.zeros(n, dtype=np.int64), np.arange(n)
        self._steps, self._episodes = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.int64)
        self._ended = np.zeros(n, dtype=bool)  # copies that stay at the end of their episode
        self._is_reset = False

    # -- spaces ------------------------------------------------------------------------------------

    def single_observation_space(self, agent: str) -> Box | Dict:
        """Return the space of an agent's observation in one copy."""
        return self._state.space(agent)

    def single_action_space(self, agent: str) -> Box:
        """Return the space of an agent's action in one copy, [-1, 1] per quantity."""
        return self._actions[agent].space

    def action_space(self, agent: str) -> Box:
        """Return the space of an agent's actions in all copies, (n, n_actions); always the same object."""
        return self._spaces[agent]

    def action_names(self, agent: str) -> tuple[str, ...]:
        """Return what each entry of an agent's action sets: ``p_<device>`` or ``q_<device>``."""
        return self._actions[agent].names

    def observation_names(self, agent: str) -> tuple[str, ...]:
        """Return what each entry of an agent's flat observation is."""
        return self._state.names(agent)

    def state(self) -> NDArray[np.float32]:
        """Return (n, n_entries) the whole grid of each copy, for critics of all agents; see ``state_names``.

        A copy that was reset within the step is at the beginning of its next episode.
        """
        return self._state.everything()

    def state_names(self) -> tuple[str, ...]:
        """Return what each entry of a row of ``state()`` is."""
        return self._state.whole.names

    # -- episodes and steps --------------------------------------------------------------------------

    def reset(
        self, seed: int | Sequence[int] | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[Observations, BatchInfos]:
        """Begin an episode in every copy.

        Args:
            seed: Copy i has the episodes of a single environment with seed ``seed + i``, or with entry i if
                (n,) seeds are given. None = each copy continues its sequence of episodes.
            options: ``start_rows``, (n,) rows of the time series with which the copies begin, from now on;
                default: as in the configuration. ``reset_mask``, (n,) bool: the copies that begin a new
                episode; the others continue.

        Returns:
            Observations by agent, (n, n_observations) float32, and infos with ``start_row``, (n,).

        Raises:
            ValueError: A seed below 0, another option, or start rows of wrong shape or beyond the series.
            PowerFlowDiverged: With every device at rest an episode's first loads have no solution.
        """
        chosen = check_options(options, "start_rows", "reset_mask")
        which = self.checked_mask(chosen.get("reset_mask"))
        if seed is not None:
            seeds = self._checked_seeds(seed)
            self._rng = np.random.default_rng(seeds[0])
            for copy in np.flatnonzero(which):
                self._seeds[copy].restart(seeds[copy])
        given = chosen.get("start_rows")
        self._fixed_rows = None if given is None else self._checked_rows(given)
        self._restart(which)
        self._is_reset = True
        rows = self._start_rows.copy()
        return self._observe(), {agent: {"start_row": rows} for agent in self.agents}

    def step(
        self,
        actions: Mapping[str, ArrayLike] | None = None,
        *,
        reset_mask: Flags | None = None,
        autoreset: bool = True,
    ) -> BatchStepResult:
        """Take one step in every copy.

        Args:
            actions: By agent, (n, n_actions); an agent left out follows its own policy in all copies.
            reset_mask: (n,) bool, copies that begin their next episode instead of taking the step. Their
                rewards and reward terms are 0, they are neither terminated nor truncated, and infos has
                ``start_row``. None = no copy.
            autoreset: Copies whose episode ends are reset within the step. False = they stay at its end until
                ``reset`` or ``reset_mask``: the observation is the last one, and there is no ``final_obs``.

        Returns:
            Observations (n, n_observations) float32, rewards (n,), terminations (n,) bool, truncations (n,)
            bool (time limit), and infos, each by agent. A copy is terminated if its power flow diverged; its
            results in infos are then NaN.

        Raises:
            ValueError: An unknown agent, or actions or ``reset_mask`` of wrong shape or with NaN; the state
                has not changed.
            RuntimeError: Before ``reset``, or of copies that have ended and are not reset.
            PowerFlowDiverged: As ``reset``, for the next episode of a copy that ended; call ``reset`` to
                begin again.
        """
        if not self._is_reset:
            raise RuntimeError("step() without an episode under way: call reset() first")
        state, commands = self._state, self._commands(actions or {})
        active = self._active(reset_mask)
        if (late := self._ended if active is None else self._ended & active).any():
            raise RuntimeError(
                f"step() of copies whose episode has ended ({np.flatnonzero(late).tolist()}): begin them "
                'with reset(options={"reset_mask": terminated | truncated}) first'
            )
        before = None if active is None else self._begin(~active)
        done, arrivals = self._carry(commands, active)
        diverged, kept = self._solve(active)
        terms = state.reward_terms(done.cost, done.traded_usd)
        terms[diverged] = np.nan
        if before is not None and active is not None:
            self._put_back(before, ~active)
            terms[~active] = 0.0
        infos = self._infos(terms)
        if arrivals is not None and done.reported is not None:
            for i, info in enumerate(infos.values()):
                info["fallback"] = ~done.reported[:, i]
                info["missed"] = np.where(done.reported[:, i], arrivals.missed[:, i], 0)
        rewards = total(np.moveaxis(terms, 1, 0)).T.copy()
        table = self.scenario.reward
        if diverged.any():
            for info in infos.values():
                info["diverged"] = diverged.copy()
            if table.on_divergence == "penalty":
                rewards[:, diverged] = -table.divergence_penalty
                state.put_results(kept, diverged)
        self._steps += 1 if active is None else active
        truncated = (self._steps >= self.max_episode_steps) & ~diverged
        observations = self._observe()
        ended = diverged | truncated
        if active is not None:
            for info in infos.values():
                info["start_row"] = self._start_rows.copy()
        if not autoreset:
            self._ended |= ended
        elif ended.any():
            state_then = self._state.everything()
            for agent, last in observations.items():
                infos[agent]["final_obs"], infos[agent]["final_state"] = last, state_then
            self._restart(ended)
            observations, rows = self._observe(), self._start_rows.copy()
            for info in infos.values():
                info["start_row"] = rows
        return (
            observations,
            dict(zip(self.agents, rewards, strict=True)),
            {agent: diverged.copy() for agent in self.agents},
            {agent: truncated.copy() for agent in self.agents},
            infos,
        )

    @property
    def ended(self) -> Flags:
        """The (n,) copies that stay at the end of their episode: ``autoreset`` of ``step`` was False."""
        return self._ended.copy()

    def close(self) -> None:
        """End the episodes: ``step`` asks for ``reset`` then, as in a single environment. Idempotent."""
        self._is_reset = False

    @property
    def policies(self) -> dict[str, list[AgentPolicy]]:
        """The policies that the scenario names, by agent: one for all copies, or one a copy."""
        return self._fleet.policies

    def states_of_charge(self) -> dict[tuple[str, str], Array]:
        """Return the (n,) states of charge of storage at the beginning of the coming step, by device."""
        storage = [(d.agent, d.name) for d in self.simulation.devices if d.has_soc]
        return {place: self._state.soc[:, i].copy() for i, place in enumerate(storage)}

    # -- its state -----------------------------------------------------------------------------------

    def get_state(self) -> BatchState:
        """Return all that the coming steps depend on; ``set_state`` goes back there, as often as wanted.

        The state pickles, and fits every batch of the same scenario and size.
        """
        return BatchState(
            scenario=self.scenario.name,
            num_envs=self.num_envs,
            position={
                "start_rows": self._start_rows.copy(),
                "steps": self._steps.copy(),
                "ended": self._ended.copy(),
                "episodes": self._episodes.copy(),
                "fixed_rows": None if self._fixed_rows is None else self._fixed_rows.copy(),
                "generator": self._rng.bit_generator.state,
                "seeds": [seeds.state for seeds in self._seeds],
                "episode_seeds": list(self._episode_seeds),
                "noise": [None if part is None else part.copy() for part in self._noise],
                "is_reset": self._is_reset,
                "links": None if self._links is None else self._links.get_state(),
                "own": (self._own_p.copy(), self._own_soc.copy()),
            },
            grid=self._state.get_state(),
            fleet=self._fleet.get_state(),
        )

    def set_state(self, state: BatchState) -> None:
        """Go back to where ``get_state`` was called, here or in another batch of the same kind.

        Raises:
            ValueError: The state is of another scenario or number of copies, or of a variant of the scenario
                with other devices, policies, dead times or episode length. Nothing has changed.
        """
        check_state(state, BatchState, self.scenario.name, self._state)
        position = state.position
        shapes = [
            [None if part is None else part.shape for part in of] for of in (self._noise, position["noise"])
        ]
        lengths = position["steps"] + ~position["ended"]  # at its end a copy has taken all steps
        is_long = bool((lengths <= self.max_episode_steps).all()) and shapes[0] == shapes[1]
        check_place(self._fleet.unlike(state.fleet), is_long)
        self._start_rows[:], self._steps[:] = position["start_rows"], position["steps"]
        self._ended[:] = position["ended"]
        self._episodes[:] = position["episodes"]
        fixed = position["fixed_rows"]
        self._fixed_rows = None if fixed is None else fixed.copy()
        self._rng.bit_generator.state = position["generator"]
        for seeds, of_copy in zip(self._seeds, position["seeds"], strict=True):
            seeds.state = of_copy
        self._episode_seeds = list(position["episode_seeds"])
        for mine, given in zip(self._noise, position["noise"], strict=True):
            if mine is not None:
                mine[...] = given
        self._is_reset = position["is_reset"]
        self._own_p[:], self._own_soc[:] = position["own"]
        if self._links is not None:
            if position["links"] is None:  # of a batch in which everything arrives
                self._links.begin(range(self.num_envs), self._episode_seeds)
            else:
                self._links.set_state(position["links"])
        self._state.set_state(state.grid)
        self._fleet.set_state(state.fleet)

    # -- one step ------------------------------------------------------------------------------------

    def _carry(
        self, commands: Mapping[str, Mapping[str, Array]], active: Flags | None
    ) -> tuple[FleetStep, MessageArrivals | None]:
        """Let the agents take the step; return what is known of it, and who heard what."""
        state = self._state
        price, arrivals = state.price, None
        if self._links is not None:
            price, arrivals = self._hear(self._links, commands, active)
        done = self._fleet.step(
            *(price, state.p_load_mw, state.p_available_mw),
            commands,
            self._told,
            arrivals,
            None if self._plan_check is None else self._clear,
            active,
        )
        if arrivals is None or done.reported is None:
            self._own_p[:], self._own_soc[:] = done.p_mw, done.soc
        else:
            done = self._as_reported(done, arrivals.informed, ~done.reported)
        state.p_mw[:], state.q_mvar[:], state.soc[:] = done.p_mw, done.q_mvar, done.soc
        state.traded_mwh[:] = done.traded_mwh
        state.account()
        return done, arrivals

    def _solve(self, active: Flags | None) -> tuple[Flags, tuple[Array, ...]]:
        """Solve the grids; return where there is no solution, (n,), and what was known there before."""
        state, factor = self._state, self._noise.load_at((self._copies, self._steps))
        result, converged = self._flow.solve(self._rows(), state.p_mw, state.q_mvar, factor)
        diverged: Flags = ~converged if active is None else ~converged & active
        if converged.all():
            state.apply(result)
        else:
            state.apply(result.at(converged), converged)
        kept = state.results(diverged)
        state.forget_results(diverged)
        return diverged, kept

    def _told(self, agent: str) -> dict[str, Any]:
        """Return what an agent's policy gets besides price, load and sun."""
        told = self._state.views[agent].told(self._state.snapshot(), self.num_envs)
        if agent in self._observing:
            told["observation"] = self._state.own(agent)
        # An agent knows its own devices, whatever was heard of them; copies, which a policy may remember.
        told["p_mw"] = {name: self._own_p[:, column].copy() for name, column in self._columns[agent]}
        told["soc"] = {name: self._own_soc[:, column].copy() for name, column in self._storage_columns[agent]}
        return told

    def _clear(self, p_mw: Array, q_mvar: Array, heard: Flags) -> Mapping[int, Mapping[str, Clearance]]:
        assert self._plan_check is not None
        factor = self._noise.load_at((self._copies, self._steps))
        return self._plan_check.clear(self._rows(), p_mw, q_mvar, heard, factor)

    def _hear(
        self, links: Links, commands: Mapping[str, Any], active: Flags | None
    ) -> tuple[Array, MessageArrivals]:
        """Return the (n, 1) prices that agents know, and who hears what in the step."""
        n, steps = self.num_envs, self._steps
        takes_part = np.ones((n, 1), dtype=bool) if active is None else active[:, np.newaxis]
        known, is_priced = links.hear_price(self._state.price[:, 0], steps, takes_part)
        sent = takes_part & [agent in commands for agent in self.agents]
        informed = links.send("observation", takes_part & np.ones_like(sent), steps)
        commanded = links.send("command", sent, steps)
        waited = ~is_priced[:, np.newaxis] | (sent & ~commanded)
        links.elapsed_s[waited & informed] += links.upstream_s
        return known[:, np.newaxis], MessageArrivals(
            links, steps, informed, commanded, waited.astype(np.int64)
        )

    def _active(self, reset_mask: Flags | None) -> Flags | None:
        """Return the (n,) copies that take the step; None = all."""
        if reset_mask is None:
            return None
        mask = np.asarray(reset_mask)
        if mask.shape != (self.num_envs,) or mask.dtype != np.bool_:
            raise ValueError(f"reset_mask: expected {self.num_envs} of True and False, got {reset_mask!r}")
        return ~mask if mask.any() else None

    def _begin(self, which: Flags) -> _Before:
        """Begin an episode in some copies; return where they are, to be put back after the others' step."""
        self._restart(which)
        self._observe()  # takes the load, sun and price of the coming step
        links_s = None if self._links is None else self._links.elapsed_s.copy()
        return _Before(self._state.get_state(), self._own_p.copy(), self._own_soc.copy(), links_s)

    def _put_back(self, before: _Before, which: Flags) -> None:
        """Undo in some copies what the others' step has done to what is not masked in it."""
        self._state.put_back(before.grid, which)
        self._own_p[which], self._own_soc[which] = before.own_p[which], before.own_soc[which]
        if self._links is not None and before.elapsed_s is not None:
            self._links.elapsed_s[which] = before.elapsed_s[which]

    def _as_reported(self, done: FleetStep, informed: Flags, silent: Flags) -> FleetStep:
        """Return what is known of the step: devices of agents that are silent count as safe."""
        state, devices = self._state, self.simulation.devices
        np.copyto(self._own_p, done.p_mw, where=informed[:, self._owner])
        np.copyto(self._own_soc, done.soc, where=informed[:, self._storage_owner])
        safe = np.zeros_like(done.p_mw)
        plants = [column for column, device in enumerate(devices) if device.follows_profile]
        for available, column in zip(state.p_available_mw.T, plants, strict=True):
            for copy in np.flatnonzero(silent[:, self._owner[column]]):
                safe[copy, column] = devices[column].spec.safe_p_mw(float(available[copy]))
        of_device = silent[:, self._owner]
        return done._replace(
            p_mw=np.where(of_device, safe, done.p_mw),
            q_mvar=np.where(of_device, 0.0, done.q_mvar),
            soc=np.where(silent[:, self._storage_owner], state.soc, done.soc),
            cost=np.where(silent, 0.0, done.cost),
        )

    def _commands(self, actions: Mapping[str, ArrayLike]) -> dict[str, dict[str, Array]]:
        unknown = [agent for agent in actions if agent not in self._actions]
        if unknown:
            raise ValueError(
                f"unknown agent {unknown[0]!r} in step(); the agents are {', '.join(self.agents)}"
            )
        return {
            agent: self._actions[agent].setpoints(given, self.num_envs) for agent, given in actions.items()
        }

    def _rows(self) -> NDArray[np.int64]:
        """Return the (n,) rows of the time series that the coming step takes."""
        return self._start_rows + self._steps

    def _restart(self, which: Flags) -> None:
        """Begin an episode in some copies."""
        state, copies = self._state, np.flatnonzero(which)
        seeds = [self._seeds[copy].draw() for copy in copies]
        for copy, seed in zip(copies, seeds, strict=True):
            self._episode_seeds[copy] = seed
        self._start_rows[which] = (
            self._draw_rows(seeds) if self._fixed_rows is None else (self._fixed_rows[which])
        )
        for all_copies, drawn in zip(self._noise, self._randomiser.noises(seeds), strict=True):
            if all_copies is not None:
                all_copies[which] = drawn
        self._steps[which], self._ended[which] = 0, False
        self._episodes[which] += 1
        self._fleet.reset(copies, self._episodes[which].tolist(), seeds)
        socs = [drawn_socs(self.simulation, seed) for seed in seeds]
        state.reset(which, None if socs[0] is None else np.array(socs))
        self._own_p[which], self._own_soc[which] = self._initial_p, state.soc[which]
        if self._links is not None:
            self._links.begin(copies, seeds)
        factor = self._noise.load_at((copies, 0))
        result, converged = self._flow.solve(
            self._rows()[which], state.p_mw[which], state.q_mvar[which], factor
        )
        if not converged.all():
            self._is_reset, first = False, int(copies[~converged][0])
            raise no_beginning(self._episode_seeds[first], int(self._rows()[first]), f"copy {first}")
        state.apply(result, which)

    def _draw_rows(self, seeds: Sequence[int]) -> NDArray[np.int64]:
        if not self._draws_rows:
            return np.array([self._randomiser.start_row(seed) for seed in seeds], dtype=np.int64)
        last = self.simulation.series.last_start(self.max_episode_steps)
        return self._rng.integers(0, last + 1, len(seeds))

    def _checked_seeds(self, seed: int | Sequence[int]) -> list[int]:
        if isinstance(seed, int | np.integer):
            return [checked_seed(seed) + copy for copy in range(self.num_envs)]
        if isinstance(seed, str) or not isinstance(seed, Sequence | np.ndarray) or len(seed) != self.num_envs:
            raise ValueError(f"seed: expected a whole number of at least 0, or {self.num_envs}, got {seed!r}")
        return [checked_seed(one) for one in seed]

    def checked_mask(self, given: Any) -> Flags:
        """Return a ``reset_mask`` as (n,) bool; None = all copies.

        Raises:
            ValueError: It is none, or no copy is in it.
            RuntimeError: Some copies before all have begun once.
        """
        if given is None:
            return np.ones(self.num_envs, dtype=bool)
        mask = np.asarray(given)
        if mask.shape != (self.num_envs,) or mask.dtype != np.bool_ or not mask.any():
            raise ValueError(
                f"reset_mask: expected {self.num_envs} of True and False, at least one True, got {given!r}"
            )
        if not (self._is_reset or mask.all()):
            raise RuntimeError("reset_mask before the first reset(): begin all copies first")
        return mask

    def _checked_rows(self, given: ArrayLike) -> NDArray[np.int64]:
        rows = np.asarray(given)
        last = self.simulation.series.last_start(self.max_episode_steps)
        if rows.shape != (self.num_envs,) or rows.dtype.kind not in "iu":
            raise ValueError(
                f"start_rows: expected {self.num_envs} whole numbers, got {rows.dtype} {rows.shape}"
            )
        if rows.min() < 0 or rows.max() > last:
            raise ValueError(f"start_rows: expected rows from 0 to {last}, got {rows.min()} to {rows.max()}")
        return rows.astype(np.int64)

    def _observe(self) -> Observations:
        series, rows = self.simulation.series, self._rows()
        # Past the end of series that do not repeat the last values stay, as in a single environment.
        known = rows if series.repeats else np.minimum(rows, series.n_rows - 1)
        at = self._copies, np.where(known < rows, self._steps - 1, self._steps)
        outlook = self._randomiser.outlook(series.outlook(known), self._noise, at)
        self._state.look_ahead(outlook, series.clock_s(rows))
        if self._forecaster.horizon:
            self._state.look_further(self._forecaster.outlook(rows, self._noise, self._steps, self._copies))
        return self._state.observations(self.agents)

    def _infos(self, terms: Array) -> BatchInfos:
        """Return what happened in each copy: as in a single environment, with (n,) arrays for numbers."""
        now, infos = self._state.snapshot(), {}
        for i, (agent, view) in enumerate(self._state.views.items()):
            infos[agent] = view.info(now)
            infos[agent]["traded_mwh"] = view.traded_mwh(now)
            infos[agent]["reward_terms"] = {
                name: terms[:, t, i] for t, name in enumerate(self._state.reward_names)
            }
        return infos

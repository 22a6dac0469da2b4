"""Microgrids on one grid, their agents reached directly or over a broker; without PettingZoo."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from heron_mqtt.agents.base import StepReport
from heron_mqtt.errors import PowerFlowDiverged
from heron_mqtt.field.gateway.hand_back import Unreturned
from heron_mqtt.messages import Clearance, EmergencyStop, SetpointPlan
from heron_mqtt.messaging.base import MessageBroker, Received
from heron_mqtt.messaging.core.background_loop import run_sync, running_loop
from heron_mqtt.messaging.memory import InMemoryBroker
from heron_mqtt.protocols.p2p import settle
from heron_mqtt.record.facts import StepFacts
from powergrid.agents import GridAgent
from powergrid.agents.policy import AgentPolicy, observing_agents
from powergrid.devices.base import make_tuple
from powergrid.envs.config import load_config
from powergrid.envs.copies import CopiedByState, EnvState, check_place, check_state
from powergrid.envs.exchange import BrokerExchange, DirectExchange, StepInput, make_broker_exchange
from powergrid.envs.grid_state import GridState, check_length, no_beginning
from powergrid.envs.observation_form import AgentObservation
from powergrid.envs.reset_arguments import check_options, checked_seed
from powergrid.envs.spaces import ActionMap
from powergrid.envs.step_records import StepRecords
from powergrid.powerflow import Loadings
from powergrid.rewards import total
from powergrid.scenario import RandomisationTable
from powergrid.simulation.build import Blueprint, build
from powergrid.simulation.forecaster import Forecaster
from powergrid.simulation.grid_cache import GridCache
from powergrid.simulation.grid_check import GridCheck
from powergrid.simulation.grid_messages import results_fields
from powergrid.simulation.grid_simulation import GridSimulation
from powergrid.simulation.links import Links
from powergrid.simulation.randomiser import EpisodeSeeds, Noise, Randomiser, drawn_socs
from powergrid.simulation.time_series import Outlook

if TYPE_CHECKING:
    from gymnasium.spaces import Box, Dict

NOT_RANDOM = RandomisationTable()

Observations = dict[str, AgentObservation]
Infos = dict[str, dict[str, Any]]
StepResult = tuple[Observations, dict[str, float], dict[str, bool], dict[str, bool], Infos]


class MicrogridEnvironment(CopiedByState):
    """All of ``MultiAgentMicrogrids`` that a run needs; see there.

    ``import gymnasium`` and ``import pettingzoo`` take nearly as long as numpy, and a run has no use for
    them. Here spaces are made when they are asked for.
    """

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        self.config, self.loaded = load_config(config)
        self._make(build(self.loaded, GridCache.of_this_user()))

    def _assemble(self, blueprint: Blueprint) -> None:
        self.scenario = self.loaded.scenario
        self.render_mode = self.config.render_mode
        self.simulation = GridSimulation(blueprint)
        self.max_episode_steps = self.config.max_episode_steps or self.scenario.steps
        check_length(self.simulation, self.max_episode_steps, type(self).__name__)
        self.possible_agents = list(self.simulation.agents)
        self.agents: list[str] = []
        self.centralized = self.config.centralized
        self.env_id = self.config.env_id or self.scenario.topic_env_id
        kind = (
            self.config.observation or self.scenario.observation or ("full" if self.centralized else "local")
        )
        self._rewards: dict[str, float] = {}
        self._episode = 0
        self._start_row = self.scenario.profiles.start_row
        self._step = 0
        self._seeds = EpisodeSeeds(self.scenario.seed)
        self._episode_seed = self.scenario.seed
        self._randomiser = Randomiser(self.simulation, self.max_episode_steps)
        self._noise = Noise()
        self._forecaster = Forecaster(self.simulation, self._randomiser)
        self._actions = {agent: ActionMap(agent, table) for agent, table in self.scenario.microgrids.items()}
        self._state = GridState(
            self.simulation,
            full=kind == "full",
            horizon=self._forecaster.horizon,
            scale=self.config.observation_scale or self.scenario.observation_scale,
            named=self.config.observation_form == "dict",
        )
        self._records = StepRecords(self.simulation, self._state, observing_agents(self.scenario))
        check = self._clear if self.scenario.envelope.grid_check else None
        self._grid_check = GridCheck(self.simulation, self.scenario.envelope)
        tables = self.config.impairments()
        self._links = Links(tables, self.scenario, self.possible_agents) if tables else None
        self._direct: DirectExchange | None = None
        self._exchange: BrokerExchange | None = None
        self._own_broker: MessageBroker | None = None
        self._own_broker_is_closed = False
        self._recorder = self.config.recorder
        if self.centralized:
            self._direct = DirectExchange(
                {agent: GridAgent.from_scenario(self.scenario, agent) for agent in self.possible_agents},
                check,
                self._links,
            )
        else:
            self._connect()

    def _connect(self) -> None:
        """Make operator and proxies, and the broker if none was given."""
        broker = self.config.message_broker
        if broker is None:
            broker = self._own_broker = InMemoryBroker()
        self._broker = broker
        self._exchange = make_broker_exchange(
            self.scenario,
            broker,
            env_id=self.env_id,
            devices=self.config.devices,
            check=self._clear if self.scenario.envelope.grid_check else None,
            take_over=self.config.take_over,
            successions=self.config.successions,
        )
        if self.config.publish_grid:
            self._exchange.operator.network = self.simulation.blueprint.grid.drawing()
        if self._recorder is not None:
            self._recorder.attach(broker, self._exchange.proxies)

    # -- PettingZoo --------------------------------------------------------------------------------

    def observation_space(self, agent: str) -> Box | Dict:
        """Return an agent's observation space; the same object at every call."""
        return self._state.space(agent)

    def action_space(self, agent: str) -> Box:
        """Return an agent's action space, [-1, 1] per quantity; the same object at every call."""
        return self._actions[agent].space

    def action_names(self, agent: str) -> tuple[str, ...]:
        """Return what each entry of an agent's action sets: ``p_<device>`` or ``q_<device>``."""
        return self._actions[agent].names

    def observation_names(self, agent: str) -> tuple[str, ...]:
        """Return what each entry of an agent's flat observation is."""
        return self._state.names(agent)

    def state(self) -> NDArray[np.float32]:
        """Return the whole grid as a flat observation, for critics of all agents; see ``state_names``."""
        return self._state.everything()

    def state_names(self) -> tuple[str, ...]:
        """Return what each entry of ``state()`` is."""
        return self._state.whole.names

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observations, Infos]:
        """Begin an episode.

        Args:
            seed: Of this episode, and of those that follow without one; None = the next episode of the last
                seed given, at first of the scenario's.
            options: ``start_row``, the row of the time series with which the episode begins; without it as
                the scenario says (``profiles.start_row``, ``[randomisation]``).

        Raises:
            ValueError: A seed below 0, another option, or a start row beyond the time series; nothing has
                happened.
            PowerFlowDiverged: With every device at rest the episode's first loads have no solution.
            NotReady: An agent or a device did not appear in time.
            BrokerError: The broker is not there.
        """
        if self._direct is None:
            self._refuse_own_loop()
            return run_sync(self.reset_async(seed, options))
        seed = self._begin_episode(seed, options)
        self._direct.reset(self._episode, seed)
        return self._first_observations()

    def step(self, actions: Mapping[str, ArrayLike]) -> StepResult:
        """Take one step.

        Args:
            actions: By agent, shape as its action space; an agent left out follows its own policy.

        Raises:
            ValueError: An unknown agent, or an action of wrong shape or with NaN; nothing has happened.
            RuntimeError: Before ``reset``, or after the episode has ended.
        """
        if self._direct is None:
            self._refuse_own_loop()
            return run_sync(self.step_async(actions))
        given = self._begin_step(actions)
        return self._end_step(given, self._direct.step(given))

    def close(self) -> None:
        """Leave the broker; one of the environment's own is closed. Idempotent.

        In every mode the episode is over then: ``step`` asks for ``reset``, which begins again.
        """
        self.agents = []
        if self._exchange is not None:
            self._refuse_own_loop()
            run_sync(self.close_async())

    def render(self) -> str | None:
        """Return the last step as text, in render mode ``ansi``."""
        return self._records.render(self._step, self._rewards) if self.render_mode == "ansi" else None

    def device_reports(self) -> dict[str, dict[str, Any]]:
        """Return what happened to the devices that local agents reach over the broker, by AGENT/DEVICE."""
        proxies = self._exchange.proxies if self._exchange is not None else ()
        return {
            f"{proxy.agent.agent_id}/{name}": report
            for proxy in proxies
            for name, report in proxy.gateway.report().items()
        }

    @property
    def let_go_s(self) -> float:
        """How long ``close`` may wait for devices to show their release, s."""
        proxies = self._exchange.proxies if self._exchange is not None else ()
        return max((proxy.let_go_s for proxy in proxies), default=0.0)

    def unreturned(self) -> dict[str, Unreturned]:
        """Return, after ``close``, which devices do not show their release, by AGENT/DEVICE."""
        proxies = self._exchange.proxies if self._exchange is not None else ()
        return {
            f"{proxy.agent.agent_id}/{name}": left
            for proxy in proxies
            for name, left in proxy.gateway.unreturned().items()
        }

    # -- its state -----------------------------------------------------------------------------------

    def get_state(self) -> EnvState:
        """Return all that the coming steps depend on; ``set_state`` goes back there, as often as wanted.

        Centralized mode only. The state pickles, and fits every environment of the same scenario.

        Raises:
            TypeError: The agents are reached over a broker: their state, and that of devices, is elsewhere.
        """
        if not isinstance(self._direct, DirectExchange):
            raise TypeError(
                "an environment over a broker cannot be copied, pickled or set back: its agents and devices "
                'are elsewhere; use {"centralized": True}'
            )
        return EnvState(
            scenario=self.scenario.name,
            position={
                "episode": self._episode,
                "step": self._step,
                "start_row": self._start_row,
                "seed": self._episode_seed,
                "seeds": self._seeds.state,
                "links": self._links.get_state() if self._links is not None else None,
            },
            agents=tuple(self.agents),
            rewards=dict(self._rewards),
            grid=self._state.get_state(),
            bills=(np.array(self._records.cost), np.array(self._records.traded_usd)),
            exchange=self._direct.get_state(),
        )

    def set_state(self, state: EnvState) -> None:
        """Go back to where ``get_state`` was called, here or in another environment of the same scenario.

        Raises:
            TypeError: As ``get_state``.
            ValueError: The state is of another scenario, or of a variant of it with other devices, policies
                or a longer episode; nothing has happened.
        """
        if not isinstance(self._direct, DirectExchange):
            self.get_state()
        assert self._direct is not None
        self._put_back(state)
        self._direct.set_state(state.exchange)

    def remember_stops(self, heard: Iterable[Received]) -> None:
        """Take what was heard on ``estop`` before an interruption; a stop in force is said again.

        Before ``reset_async`` or ``resume_async``, over a broker; without one no message can stop a run.
        """
        if self._exchange is not None:
            self._exchange.operator.remember_stops(heard)

    async def resume_async(self, state: EnvState) -> Observations:
        """Continue from a state, also over a broker: agents here get this state, their devices are asked.

        Args:
            state: Of an environment of the same scenario in centralized mode, in which agents are to act.

        Returns:
            What the agents see.

        Raises:
            ValueError: As ``set_state``, or an agent runs elsewhere; nothing has happened.
            NotReady: An agent or a device did not appear in time.
            BrokerError: The broker is not there.
        """
        if elsewhere := [name for name, table in self.scenario.microgrids.items() if table.remote]:
            raise ValueError(f"resume: agent {elsewhere[0]} runs elsewhere: its state is not known here")
        self._put_back(state)
        agents, self.agents = self.agents, []  # until everyone is ready
        if self._direct is not None:
            self._direct.set_state(state.exchange)
        elif self._exchange is not None:
            clock = self.simulation.series.clock.moment(self._row)
            await self._exchange.resume(self._episode, self._episode_seed, clock, state.exchange)
        self.agents = agents
        return self._state.observations(agents)

    def _put_back(self, state: EnvState) -> None:
        """Put everything back but the agents."""
        check_state(state, EnvState, self.scenario.name, self._state)
        position, told = state.position, state.exchange
        unlike = [
            name
            for name, agent in self._agents_here().items()
            if name not in told or not agent.fits(told[name][0])
        ]
        # An episode under way has a step left.
        check_place(unlike, position["step"] + bool(state.agents) <= self.max_episode_steps)
        self._episode, self._step = position["episode"], position["step"]
        self._start_row = position["start_row"]
        self._episode_seed, self._seeds.state = position["seed"], position["seeds"]
        self._noise = self._randomiser.noise(self._episode_seed)
        if self._links is not None:
            if position["links"] is None:  # of an environment in which everything arrives
                self._links.begin([0], [self._episode_seed])
            else:
                self._links.set_state(position["links"])
        self.agents = list(state.agents)
        self._rewards = dict(state.rewards)
        self._state.set_state(state.grid)
        self._records.cost, self._records.traded_usd = (bill.tolist() for bill in state.bills)

    def _agents_here(self) -> dict[str, GridAgent]:
        """Return the agents that run here."""
        if self._direct is not None:
            return self._direct.agents
        proxies = self._exchange.proxies if self._exchange is not None else ()
        return {proxy.agent.agent_id: proxy.agent for proxy in proxies if isinstance(proxy.agent, GridAgent)}

    @property
    def policies(self) -> dict[str, AgentPolicy]:
        """The policies that the scenario names, by agent; in centralized mode."""
        agents = self._direct.agents if self._direct is not None else {}
        return {name: agent.decider for name, agent in agents.items() if agent.decider is not None}

    def states_of_charge(self) -> dict[tuple[str, str], float]:
        """Return the state of charge of each storage device at the beginning of the coming step."""
        storage = [(d.agent, d.name) for d in self.simulation.devices if d.has_soc]
        return dict(zip(storage, self._state.soc.tolist(), strict=True))

    def episode_outlook(self) -> Outlook:
        """Return what will be in each step of the episode, (n_steps, ...): for perfect foresight."""
        rows = self._start_row + np.arange(self.max_episode_steps)
        series = self.simulation.series
        return self._randomiser.outlook(series.outlook(rows), self._noise, slice(self.max_episode_steps))

    # -- the same, asynchronous ----------------------------------------------------------------------

    async def reset_async(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observations, Infos]:
        """Begin an episode; see ``reset``."""
        seed = self._begin_episode(seed, options)
        if self._direct is not None:
            self._direct.reset(self._episode, seed)
        elif self._exchange is not None:
            if self._own_broker_is_closed:  # what was closed does not open again
                self._own_broker_is_closed = False
                self._connect()
            await self._exchange.reset(self._episode, seed, self.simulation.series.clock.moment(self._row))
        return self._first_observations()

    async def step_async(self, actions: Mapping[str, ArrayLike]) -> StepResult:
        """Take one step; see ``step``."""
        given = self._begin_step(actions)
        if self._direct is not None:
            return self._end_step(given, self._direct.step(given))
        assert self._exchange is not None
        clock = self.simulation.series.clock.text(self._row)
        return self._end_step(given, await self._exchange.step(given, clock))

    async def rest_async(self, duration_s: float) -> None:
        """Wait between two steps, s.

        Devices in the field hold what they were told only while the environment is known to be alive.
        Between two steps this call keeps it so; an environment that is silent for longer than the
        scenario's ``lease_s`` counts as dead.
        """
        if self._exchange is not None:
            await self._exchange.rest(duration_s)
        else:
            await asyncio.sleep(duration_s)

    def rest(self, duration_s: float) -> None:
        """Wait between two steps, s; see ``rest_async``."""
        if self._exchange is None:
            time.sleep(duration_s)
        else:
            self._refuse_own_loop()
            run_sync(self.rest_async(duration_s))

    @property
    def estop(self) -> EmergencyStop | None:
        """The emergency stop in force, if there is one."""
        return self._exchange.operator.estop if self._exchange is not None else None

    async def close_async(self) -> None:
        """Leave the broker; see ``close``."""
        self.agents = []
        if self._exchange is not None:
            await self._exchange.close()
        if self._own_broker is not None:
            await self._own_broker.close()
            self._own_broker_is_closed = True

    # -- one step ------------------------------------------------------------------------------------

    @property
    def _row(self) -> int:
        """The row of the time series that the coming step takes."""
        return self._start_row + self._step

    def _begin_episode(self, seed: int | None, options: Mapping[str, Any] | None) -> int:
        row = check_options(options, "start_row").get("start_row")
        last = self.simulation.series.last_start(self.max_episode_steps)
        is_row = isinstance(row, int | np.integer) and not isinstance(row, bool)
        if row is not None and not (is_row and 0 <= row <= last):
            raise ValueError(f"start_row: expected a row from 0 to {last}, got {row!r}")
        if seed is not None:
            self._seeds.restart(checked_seed(seed))
        self._episode_seed = self._seeds.draw()
        self._start_row = self._randomiser.start_row(self._episode_seed) if row is None else int(row)
        self._noise = self._randomiser.noise(self._episode_seed)
        if self._links is not None:
            self._links.begin([0], [self._episode_seed])
        self._episode += 1
        self._step = 0
        self.agents = []  # until everyone is ready
        return self._episode_seed

    def _first_observations(self) -> tuple[Observations, Infos]:
        state = self._state
        state.reset(soc=drawn_socs(self.simulation, self._episode_seed))
        self._rewards = {}
        try:
            state.apply(self._solve())
        except PowerFlowDiverged as exc:
            raise no_beginning(self._episode_seed, self._row, exc.reason) from None
        self.agents = list(self.possible_agents)
        return self._observe(), {agent: {} for agent in self.agents}

    def _solve(self) -> Loadings:
        factor = self._noise.load_at(self._step)
        return self.simulation.solve(self._row, self._state.p_mw, self._state.q_mvar, factor)

    def _observe(self) -> Observations:
        series, row = self.simulation.series, self._row
        outlook: Outlook | NDArray[np.float64] | None = None
        if series.has(row):
            if self._noise.changes_steps:
                outlook = self._randomiser.outlook(series.outlook(row), self._noise, self._step)
            else:
                outlook = series.vector(row)
        self._state.look_ahead(outlook, series.clock_s(row))
        if self._forecaster.horizon:
            self._state.look_further(self._forecaster.outlook(row, self._noise, self._step))
        return self._state.observations(self.agents)

    def _begin_step(self, actions: Mapping[str, ArrayLike]) -> StepInput:
        if not self.agents:
            raise RuntimeError("step() without an episode under way: call reset() first")
        unknown = [agent for agent in actions if agent not in self.agents]
        if unknown:
            raise ValueError(
                f"unknown agent {unknown[0]!r} in step(); the agents are {', '.join(self.agents)}"
            )
        episode, step = self._episode, self._step
        commands = {
            agent: self._actions[agent].command(action, episode, step) for agent, action in actions.items()
        }
        clock_s = self.simulation.series.clock_s(self._start_row + step)
        told = self._records.local_states(commands, clock_s)
        return make_tuple(StepInput, (episode, step, self._state.price.item(), told, commands))

    def _clear(self, step: int, plans: Mapping[str, SetpointPlan]) -> Mapping[str, Clearance]:
        p_mw = {agent: plan.values("p_") for agent, plan in plans.items()}
        q_mvar = {agent: plan.values("q_") for agent, plan in plans.items()}
        return self._grid_check.clear(self._row, p_mw, q_mvar, self._noise.load_at(self._step))

    def _record(self, given: StepInput, infos: Infos, solve_s: float) -> None:
        """Tell the recorder of the step that was just done."""
        if self._recorder is None:
            return
        row = self._start_row + given.step
        phases_s = self._exchange.phases_s if self._exchange is not None else {}
        self._recorder.step(
            StepFacts(
                episode=given.episode,
                step=given.step,
                row=row,
                clock=self.simulation.series.clock.text(row),
                price=given.price,
                phases_s={**phases_s, "solve": solve_s},
                observations={agent: told.to_fields() for agent, told in given.observations.items()},
                commands={agent: command.setpoints() for agent, command in given.commands.items()},
                rewards=self._rewards,
                infos=infos,
                seed=self._episode_seed if self.scenario.randomisation != NOT_RANDOM else None,
            )
        )

    def _publish_results(self, result: Loadings | str) -> None:
        if self._exchange is not None and self._exchange.operator.network is not None:
            self._exchange.operator.publish_results(results_fields(result))

    def _end_step(self, given: StepInput, reports: Mapping[str, StepReport]) -> StepResult:
        begun_s = time.perf_counter()
        state, records = self._state, self._records
        settlement = settle({agent: report.trades for agent, report in reports.items()})
        records.record(reports, settlement)
        diverged: str | None = None
        try:
            result = self._solve()
            state.apply(result)
        except PowerFlowDiverged as exc:
            diverged = exc.reason
            last = state.results()
            state.forget_results()
        self._publish_results(result if diverged is None else diverged)
        terms = state.terms_by_agent(records.cost, records.traded_usd)
        if diverged is not None:
            terms = [[math.nan] * len(of_agent) for of_agent in terms]
        infos = records.infos(reports, settlement, terms)
        if diverged is not None:
            for info in infos.values():
                info["diverged"] = diverged
        self._step += 1
        rewards = list(map(total, terms))
        if diverged is not None and (table := self.scenario.reward).on_divergence == "penalty":
            rewards = [-table.divergence_penalty] * len(rewards)
            state.put_results(last)
        self._rewards = dict(zip(self.agents, rewards, strict=True))
        agents, observations = self.agents, self._observe()
        self._record(given, infos, time.perf_counter() - begun_s)
        is_over = self._step >= self.max_episode_steps
        if is_over or diverged is not None:
            self.agents = []
        return (
            observations,
            dict(self._rewards),
            dict.fromkeys(agents, diverged is not None),
            dict.fromkeys(agents, is_over and diverged is None),
            infos,
        )

    def _refuse_own_loop(self) -> None:
        """Say so instead of waiting for ever, where a synchronous call would block the loop it waits for."""
        loop = running_loop()
        if loop is None or self._exchange is None:
            return
        if loop in {getattr(self._broker, "home_loop", None), self._exchange.loop}:
            raise RuntimeError(
                "this call would block the event loop that serves its broker or its agents: await "
                "reset_async(), step_async() and close_async(), or neither connect() the broker nor use "
                "the _async calls in this loop"
            )

"""One step's conversation between the environment and its agents: directly, or over a broker."""

from __future__ import annotations

import asyncio
import functools
import time
import weakref
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import datetime
from typing import Any, NamedTuple

import numpy as np

from heron_mqtt.agents.base import LocalState, StepReport
from heron_mqtt.agents.operator import SystemOperator
from heron_mqtt.agents.proxy import Proxy
from heron_mqtt.errors import NotReady
from heron_mqtt.field.gateway.clearance import apply_clearance, make_plan
from heron_mqtt.field.gateway.succession import Succession
from heron_mqtt.field.gateway.twins import clamp_setpoints
from heron_mqtt.messages import Clearance, SetpointPlan
from heron_mqtt.messaging.base import MessageBroker
from heron_mqtt.messaging.core.background_loop import running_loop
from heron_mqtt.protocols.base import run_lossy_sessions, run_sessions
from heron_mqtt.protocols.setpoint import StepCommand
from powergrid.agents import GridAgent
from powergrid.agents.proxies import LevelWithoutHardware, make_proxy
from powergrid.scenario import Scenario
from powergrid.simulation.links import Links

SIGNS_PER_LEASE = 4  # of life from the environment; gateways need three, and one may be lost
STOP_POLL_S = 0.01  # how often to look whether gateways have heard a stop that is said again

ClearPlans = Callable[[int, Mapping[str, SetpointPlan]], Mapping[str, Clearance]]
"""From a step and the agents' plans to their clearances."""


class StepInput(NamedTuple):
    """What the environment tells its agents in one step."""

    episode: int
    step: int
    price: float
    observations: Mapping[str, LocalState]
    commands: Mapping[str, StepCommand]


class DirectExchange:
    """Centralized mode: the same agents and trading sessions, driven by calls; no broker, no event loop.

    Args:
        agents: By name.
        check: Clears plans; None = no agent asks for clearance.
        links: What would become of messages; None = all of them arrive in time. As in a distributed run an
            agent without observation takes no part in the step, and one whose action is not heard does, but
            has no report.
    """

    def __init__(
        self, agents: Mapping[str, GridAgent], check: ClearPlans | None = None, links: Links | None = None
    ) -> None:
        self.agents = dict(agents)
        self._check = check
        self._links = links
        self._number = {name: i for i, name in enumerate(self.agents)}
        self._prices: dict[str, float | None] = dict.fromkeys(agents)  # the newest that each has heard

    def reset(self, episode: int, seed: int | None) -> None:
        """Begin an episode."""
        for agent in self.agents.values():
            agent.reset(episode, seed)

    def get_state(self) -> dict[str, Any]:
        """Return, by agent, its state and the price that it has heard."""
        return {name: (agent.get_state(), self._prices[name]) for name, agent in self.agents.items()}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Put it back."""
        for name, (of_agent, price) in state.items():
            self.agents[name].set_state(of_agent)
            self._prices[name] = price

    def step(self, given: StepInput) -> Mapping[str, StepReport]:
        """Carry every agent through the step, round by round, and return what each reports.

        A message of a step arrives in that step or not at all, so agents keep no messages for other steps.
        """
        missed = self._tell(given) if self._links is None else self._tell_over(self._links, given)
        informed = missed.keys()
        self._negotiate(informed, given.step, missed)
        bounds = self._drive_devices(informed, given.step, missed)
        reports = {}
        for name, missed_by in missed.items():
            report = reports[name] = self.agents[name].report()
            report.missed = missed_by
            if name in bounds:
                report.bounds = bounds[name]
        if self._links is None:
            return reports
        sent = self._flags(reports)
        return {name: reports[name] for name in self._names(self._links.report(sent, np.array([given.step])))}

    def _tell(self, given: StepInput) -> dict[str, int]:
        """Have every agent observe and decide; return, by agent, the phases it missed: none."""
        agents, price, told, command = self.agents, given.price, given.observations, given.commands.get
        self._prices = dict.fromkeys(agents, price)
        for name, agent in agents.items():
            agent.observe(told[name], price)
            agent.decide(command(name))
        return dict.fromkeys(agents, 0)

    def _tell_over(self, links: Links, given: StepInput) -> dict[str, int]:
        """Have the agents whose observation arrives do the same, with what else arrives; see ``_tell``."""
        commands, step = given.commands, np.array([given.step])
        is_priced = bool(links.send("price", np.array([[True]]), step)[0, 0])
        informed = self._arrived(links, "observation", given.step, self.agents)
        commanded = self._arrived(links, "command", given.step, commands)
        if is_priced:
            self._prices = dict.fromkeys(self.agents, given.price)
        missed = {}
        for name in informed:
            agent = self.agents[name]
            missed[name] = int(not is_priced or (name in commands and name not in commanded))
            if missed[name]:
                links.elapsed_s[0, self._number[name]] += links.upstream_s
            agent.observe(given.observations[name], self._prices[name])
            agent.decide(commands[name] if name in commanded else None)
        return missed

    def _arrived(self, links: Links, leaf: str, step: int, senders: Collection[str]) -> list[str]:
        """Return of the agents that a message is sent to, or by, those whose message arrives in time."""
        return self._names(links.send(leaf, self._flags(senders), np.array([step])))

    def _flags(self, names: Collection[str]) -> Any:
        """Return (1, n_agents) which agents are named."""
        return np.array([[name in names for name in self.agents]])

    def _names(self, flags: Any) -> list[str]:
        """Return which agents (1, n_agents) flags name."""
        return [name for name, is_there in zip(self.agents, flags[0], strict=True) if is_there]

    def _clear(
        self, check: ClearPlans, step: int, plans: Mapping[str, SetpointPlan]
    ) -> Mapping[str, Clearance]:
        """Have the plans that arrive checked together; return the clearances that arrive."""
        if self._links is None:
            return check(step, plans)
        heard, cleared = self._links.clear(self._flags(plans), np.array([step]))
        clearances = check(step, {name: plans[name] for name in self._names(heard)})
        return {name: clearances[name] for name in self._names(cleared)}

    def _drive_devices(
        self, names: Collection[str], step: int, missed: dict[str, int]
    ) -> dict[str, dict[str, str]]:
        """Let the models take the step; return what changed their setpoints, by agent and device."""
        if self._check is None:
            for name in names:
                agent = self.agents[name]
                agent.simulate_each(agent.conclude())
            return {}
        agents = {name: self.agents[name] for name in names}
        for agent in agents.values():
            agent.conclude()
        allowed = {name: clamp_setpoints(agent, agent.wanted())[0] for name, agent in agents.items()}
        cleared = self._clear(self._check, step, {name: make_plan(allowed[name]) for name in allowed})
        bounds = {}
        for name, agent in agents.items():
            setpoints = allowed[name]
            missed[name] += name not in cleared
            bounds[name] = apply_clearance(setpoints, cleared.get(name))
            for device, setpoint in setpoints.items():
                agent.simulate(device, setpoint=setpoint)
        return bounds

    def _negotiate(self, names: Iterable[str], step: int, missed: dict[str, int]) -> None:
        sessions = {}
        for name in names:
            if (session := self.agents[name].negotiate()) is not None:
                sessions[name] = session
        links, number = self._links, self._number
        if links is None:
            run_sessions(sessions)
            return

        def carry(sender: str, receiver: str) -> bool:
            return links.carry(0, number[sender], number[receiver], step)

        begin_s = {name: float(links.elapsed_s[0, number[name]]) for name in sessions}
        for name, (rounds, end_s) in run_lossy_sessions(sessions, carry, begin_s, links.peer_s).items():
            missed[name] += rounds
            links.elapsed_s[0, number[name]] = end_s


class BrokerExchange:
    """Distributed mode: an operator and proxies that only share a broker.

    Args:
        operator: The upstream end.
        proxies: Of the agents that run in this process; the others are remote.
        check: Clears plans; None = no agent asks for clearance.
        plan_s: How long to wait for the plans of a step, wall-clock s.
        action_s: How long to wait for the actions of a step, wall-clock s.
        ready_s: How long to wait for agents and devices at the start of an episode, wall-clock s.
    """

    def __init__(
        self,
        operator: SystemOperator,
        proxies: Iterable[Proxy],
        *,
        action_s: float,
        ready_s: float,
        check: ClearPlans | None = None,
        plan_s: float = 0.0,
    ) -> None:
        self.operator = operator
        self.proxies = tuple(proxies)
        self._action_s = action_s
        self._ready_s = ready_s
        self._check = check
        self._plan_s = plan_s
        self._tasks: list[asyncio.Task[None]] = []
        self._leave: weakref.finalize[Any, Any] | None = None
        self.phases_s: dict[str, float] = {}
        """How long the phases of the last step took, wall-clock s: inform, plans, check, actions."""
        self.loop: asyncio.AbstractEventLoop | None = None
        """The event loop in which it was started; None before, and after ``close``."""

    async def start(self) -> None:
        """Start operator and proxies in the running loop. Idempotent.

        Raises:
            RuntimeError: It was started in another loop.
        """
        here = asyncio.get_running_loop()
        if self.loop not in {None, here}:
            raise RuntimeError(
                "this environment belongs to another event loop: use either its synchronous calls or, in one "
                "loop, reset_async(), step_async() and close_async(); close() it before you change"
            )
        if self.loop is here:
            return
        await self.operator.start()
        for proxy in self.proxies:
            await proxy.start()
        self._tasks = [
            asyncio.create_task(proxy.run(), name=f"proxy {proxy.agent_id}") for proxy in self.proxies
        ]
        for task in self._tasks:
            task.add_done_callback(functools.partial(_hand_on, self.operator))
        self.loop = here
        # Nothing below refers to the environment, so that one that is dropped unclosed is collected, and
        # then leaves; at the end of the process the background loop cancels what is left.
        self._leave = weakref.finalize(self, _abandon, here, tuple(self._tasks), self.proxies, self.operator)
        self._leave.atexit = False

    async def reset(self, episode: int, seed: int | None, clock: datetime) -> None:
        """Begin an episode; returns when every agent and device is ready.

        Raises:
            NotReady: Names who is not, or has not heard the stop that was in force at an interruption.
        """
        await self.start()
        if self.operator.say_remembered_stop():
            await self._until_stopped()
        await self.operator.begin_episode(episode, seed, clock, self._ready_s)

    async def _until_stopped(self) -> None:
        """Wait until every gateway here knows of the stop: nothing but 0 is sent from then on."""
        try:
            async with asyncio.timeout(self._ready_s):
                while self._unstopped():  # noqa: ASYNC110 - gateways have no event for it
                    await asyncio.sleep(STOP_POLL_S)
        except TimeoutError:
            names = ", ".join(self._unstopped())
            raise NotReady(
                f"the emergency stop that was in force when the run was interrupted has not reached {names} "
                f"within {self._ready_s:g} s; nothing was sent to devices"
            ) from None

    def _unstopped(self) -> list[str]:
        return [proxy.agent_id for proxy in self.proxies if proxy.gateway.estop is None]

    async def resume(
        self, episode: int, seed: int | None, clock: datetime, agents: Mapping[str, Any]
    ) -> None:
        """Continue within an episode, as ``reset`` begins one; real devices are asked for their state.

        Args:
            episode: Which.
            seed: Of the episode.
            clock: The simulated time at which it continues, UTC.
            agents: Their states, as ``DirectExchange`` gives them.

        Raises:
            NotReady: Names who is not.
        """
        for proxy in self.proxies:
            state, _ = agents[proxy.agent.agent_id]
            proxy.resume(episode, functools.partial(_put_back, proxy, state))
        await self.reset(episode, seed, clock)

    async def step(self, given: StepInput, clock: datetime | str) -> Mapping[str, StepReport]:
        """Publish the step and gather the actions that came before the deadline.

        Args:
            given: What the agents receive.
            clock: The simulated time at which the step begins, UTC; or as a text.
        """
        if self.loop is None or self.loop is not running_loop():
            await self.start()
        assert self.loop is not None  # it was started in this one
        operator, clock_s = self.operator, time.perf_counter
        await operator.caught_up()  # an operator that was displaced meanwhile publishes nothing more
        marks = [clock_s()]
        operator.begin_step(given.episode, given.step, given.price, clock)
        for agent, command in given.commands.items():
            operator.command(agent, command.to_fields())
        for agent, observation in given.observations.items():
            operator.publish_observation(agent, observation.to_fields())
        begun = self.loop.time()
        marks.append(clock_s())
        if self._check is not None:
            plans = await operator.gather_plans(self._plan_s)
            marks.append(clock_s())
            for agent, clearance in self._check(given.step, plans).items():
                operator.clear(agent, clearance)
            marks.append(clock_s())
        reports = await operator.gather(begun + self._action_s - self.loop.time())
        marks.append(clock_s())
        names = ("inform", "plans", "check", "actions") if self._check is not None else ("inform", "actions")
        self.phases_s = {name: end - start for name, start, end in zip(names, marks, marks[1:], strict=False)}
        return reports

    async def close(self) -> None:
        """End proxies and operator. Idempotent."""
        if self._leave is not None:
            self._leave.detach()
        tasks, self._tasks = self._tasks, []
        loop, self.loop = self.loop, None
        if loop is asyncio.get_running_loop():
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks)
        elif loop is not None and not loop.is_closed():  # started elsewhere
            for task in tasks:
                loop.call_soon_threadsafe(task.cancel)
        await asyncio.gather(*(proxy.close() for proxy in self.proxies))  # each waits for its devices
        await self.operator.close()

    async def rest(self, duration_s: float) -> None:
        """Wait between two steps; devices keep what they were told meanwhile."""
        await self.start()
        await self.operator.rest(duration_s)


def _put_back(proxy: Proxy, state: Any) -> None:
    assert isinstance(proxy.agent, GridAgent)
    proxy.agent.set_state(state)


def _hand_on(operator: SystemOperator, task: asyncio.Task[None]) -> None:
    """Hand on what ended a proxy, which does not end by itself, to where its action is awaited."""
    if not task.cancelled() and (error := task.exception()) is not None:
        operator.fail(error)


def _abandon(
    loop: asyncio.AbstractEventLoop,
    tasks: Iterable[asyncio.Task[None]],
    proxies: Iterable[Proxy],
    operator: SystemOperator,
) -> None:
    """Close what an environment has left behind that was collected without ``close``."""

    async def close() -> None:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        for proxy in proxies:
            await proxy.close()
        await operator.close()

    if loop.is_running():
        asyncio.run_coroutine_threadsafe(close(), loop)


def make_broker_exchange(
    scenario: Scenario,
    broker: MessageBroker,
    *,
    env_id: str,
    devices: LevelWithoutHardware,
    check: ClearPlans | None = None,
    take_over: bool = False,
    successions: Mapping[str, Succession],
) -> BrokerExchange:
    """Return the operator and the proxies of all agents that are not remote."""
    operator = SystemOperator(
        scenario.operator_id,
        scenario.microgrids,
        broker,
        env_id=env_id,
        scenario=scenario.name,
        alive_every_s=scenario.lease_s / SIGNS_PER_LEASE,
        take_over=take_over,
    )
    local = [agent for agent, table in scenario.microgrids.items() if not table.remote]
    return BrokerExchange(
        operator,
        [
            make_proxy(
                scenario,
                agent,
                broker,
                env_id=env_id,
                devices=devices,
                take_over=take_over,
                succession=successions.get(agent),
            )
            for agent in local
        ],
        action_s=scenario.deadlines.action_s,
        ready_s=scenario.deadlines.ready_s,
        check=check,
        plan_s=scenario.deadlines.plan_s,
    )

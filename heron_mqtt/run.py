"""The composition root: scenario -> broker, environment, proxies, devices; one run of it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar, cast

from heron_mqtt.errors import ConfigError
from heron_mqtt.messages import Fault
from heron_mqtt.messaging import topics
from heron_mqtt.messaging.base import MessageBroker
from heron_mqtt.messaging.embedded import EmbeddedBroker
from heron_mqtt.messaging.memory import InMemoryBroker
from heron_mqtt.messaging.mqtt import MqttBroker
from heron_mqtt.messaging.outbox import Outbox
from heron_mqtt.processes import Children
from heron_mqtt.summary import MESSAGE_COUNTS, AgentTotals, Summary
from powergrid.proxies import emulated_devices, make_proxy
from powergrid.scenario import LoadedScenario, Scenario

if TYPE_CHECKING:
    from powergrid.envs import MultiAgentMicrogrids

log = logging.getLogger("heron_mqtt.run")

T = TypeVar("T")
Devices = Literal["emulated", "simulated"]


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What the command line says beside the scenario.

    Attributes:
        broker: ``embedded``, ``memory`` or the URL of an MQTT broker.
        devices: None = emulated where devices can connect, else simulated.
        realtime_s: Wall-clock length of a step, s; None = as fast as it goes.
    """

    steps: int | None = None
    seed: int | None = None
    broker: str = "embedded"
    centralized: bool = False
    devices: Devices | None = None
    realtime_s: float | None = None


class Progress(Protocol):
    """Shows a run while it goes on."""

    def note(self, text: str) -> None:
        """Say something once."""

    def step(self, summary: Summary, price: float, infos: dict[str, dict[str, Any]]) -> None:
        """Show the step that was just done."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A run with everything decided and nothing started."""

    loaded: LoadedScenario
    options: RunOptions
    devices: Devices
    steps: int
    seed: int

    @property
    def mode(self) -> str:
        """``centralized`` or ``distributed``."""
        return "centralized" if self.options.centralized else "distributed"

    @property
    def broker(self) -> str:
        """Kind of broker, without address or credentials."""
        if self.options.centralized:
            return "none"
        return self.options.broker if self.options.broker in {"embedded", "memory"} else "mqtt"


def plan_run(loaded: LoadedScenario, options: RunOptions) -> Plan:
    """Decide what the options leave open, and refuse what does not go together.

    Raises:
        ConfigError: One line for each problem.
    """
    problems = []
    broker = options.broker
    if broker not in {"embedded", "memory"} and not broker.startswith(("mqtt://", "mqtts://")):
        problems.append(f"--broker {broker}: expected embedded, memory or mqtt://host:port")
    reachable = not options.centralized and broker != "memory"
    if options.devices == "emulated" and not reachable:
        why = (
            "--centralized uses no broker"
            if options.centralized
            else "nothing can connect to --broker memory"
        )
        problems.append(f"--devices emulated: {why}; leave it out, or use --broker embedded")
    remote = [agent for agent, table in loaded.scenario.microgrids.items() if table.remote]
    if remote and not reachable:
        problems.append(
            f"{loaded.source}: microgrids.{remote[0]}.remote = true: its agent must be able to connect; "
            "use --broker embedded or mqtt://host:port"
        )
    if options.steps is not None and options.steps < 1:
        problems.append(f"--steps {options.steps}: expected a number of at least 1")
    if options.realtime_s is not None and not options.realtime_s > 0.0:
        problems.append(f"--realtime {options.realtime_s}: expected seconds per step, more than 0")
    if problems:
        raise ConfigError(*problems)
    devices = options.devices or ("emulated" if reachable else "simulated")
    scenario = loaded.scenario
    seed = scenario.seed if options.seed is None else options.seed
    return Plan(loaded, options, devices, options.steps or scenario.steps, seed)


async def run(plan: Plan, progress: Progress, summary: Summary) -> None:
    """Run a plan to its end; ``summary`` always holds what ran so far, also when this is cancelled.

    Raises:
        HeronError: The broker, an agent or a device is not there.
    """
    async with AsyncExitStack() as stack:
        broker = await stack.enter_async_context(_broker(plan, progress))
        env = await _build_environment(plan, broker)
        stack.push_async_callback(env.close_async)
        try:
            await env.reset_async(seed=plan.seed)
            await _steps(plan, env, broker, progress, summary)
        finally:
            if broker is not None:
                counts = broker.stats.counts()
                summary.messages = {name: counts[name] for name in MESSAGE_COUNTS}
                summary.devices = env.device_reports()


def new_summary(plan: Plan) -> Summary:
    """Return the empty summary of a run."""
    scenario = plan.loaded.scenario
    return Summary(
        scenario=scenario.name,
        mode=plan.mode,
        broker=plan.broker,
        seed=plan.seed,
        step_s=scenario.step_s,
        agents={agent: AgentTotals() for agent in scenario.microgrids},
    )


async def _steps(
    plan: Plan,
    env: MultiAgentMicrogrids,
    broker: MessageBroker | None,
    progress: Progress,
    summary: Summary,
) -> None:
    faults = _FaultPlan(plan.loaded.scenario, broker)
    realtime_s = plan.options.realtime_s
    begin = time.monotonic()
    while env.agents:
        if realtime_s is not None:
            wait_s = begin + summary.steps * realtime_s - time.monotonic()
            if wait_s > 0.0:
                await asyncio.sleep(wait_s)
            elif wait_s < -realtime_s:
                summary.overruns += 1
                begin = time.monotonic() - summary.steps * realtime_s  # never two steps at once to catch up
        await faults.begin(summary.steps)
        started = time.perf_counter()
        _, rewards, _, _, infos = await env.step_async({})
        summary.add_step(rewards, infos, (time.perf_counter() - started) * 1e3)
        progress.step(summary, next(iter(infos.values()))["price"], infos)


class _FaultPlan:
    """The scenario's faults, told to the emulators when their step comes."""

    def __init__(self, scenario: Scenario, broker: MessageBroker | None) -> None:
        self._broker = broker
        self._outbox = Outbox("scenario", scenario.topic_env_id)
        self._faults = scenario.faults if broker is not None else []

    async def begin(self, step: int) -> None:
        """Publish the faults that begin with a step."""
        for fault in self._faults:
            if fault.at_step == step and self._broker is not None:
                agent, _, name = fault.device.rpartition("/")
                channel = topics.device(agent, name, "fault")
                told = Fault(kind=fault.kind, steps=fault.steps, value=fault.value)
                await self._broker.publish(channel, self._outbox.stamp(channel, told, step=step))


@asynccontextmanager
async def _broker(plan: Plan, progress: Progress) -> AsyncIterator[MessageBroker | None]:
    """Start broker and devices; end them in the opposite order."""
    options, env_id = plan.options, plan.loaded.scenario.topic_env_id
    if options.centralized:
        yield None
        return
    if options.broker == "memory":
        progress.note("broker: in memory; nothing can connect from outside, devices are simulated in process")
        async with InMemoryBroker() as broker:
            yield broker
        return
    async with AsyncExitStack() as stack:
        url = options.broker
        if url == "embedded":
            server = await stack.enter_async_context(EmbeddedBroker(on_exit=log.error))
            url = server.url
        mqtt = MqttBroker(url, env_id=env_id)
        children = Children()
        stack.push_async_callback(children.close)
        await stack.enter_async_context(mqtt)
        progress.note(f"broker: {mqtt.options.address}  topics: {mqtt.topic_map.prefix}#")
        await _start_devices(plan, mqtt, children, progress)
        yield mqtt


async def _start_devices(plan: Plan, mqtt: MqttBroker, children: Children, progress: Progress) -> None:
    from devices import SCRIPTS

    url = mqtt.options.address
    login = mqtt.options.login_environment()  # not in the arguments, which everyone on the machine can read

    count = 0
    for agent, table in plan.loaded.scenario.microgrids.items():
        for name in emulated_devices(plan.loaded.scenario, agent, plan.devices):
            script = SCRIPTS[table.devices[name].spec.kind]
            arguments = ["--agent", agent, "--name", name, "--broker", url, "--scenario", plan.loaded.source]
            await children.start(f"{agent}/{name}", f"devices.{script}", arguments, login)
            count += 1
    progress.note(f"devices: {count} emulated, in processes of their own" if count else "devices: simulated")


async def _build_environment(plan: Plan, broker: MessageBroker | None) -> MultiAgentMicrogrids:
    """Build the environment on a thread: pandapower takes seconds to import, and Ctrl-C must not wait."""

    def build() -> MultiAgentMicrogrids:
        from powergrid.envs import MultiAgentMicrogrids

        return MultiAgentMicrogrids(
            {
                "centralized": plan.options.centralized,
                "message_broker": broker,
                "scenario": plan.loaded,
                "max_episode_steps": plan.steps,
                "devices": plan.devices,
            }
        )

    return await in_daemon_thread(build)


async def in_daemon_thread(work: Callable[[], T]) -> T:
    """Run blocking work on a thread that does not keep the process alive if we do not wait for it."""
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if outcome.done():
            return
        if error is None:
            outcome.set_result(cast("T", result))
        else:
            outcome.set_exception(error)

    def target() -> None:
        result, error = None, None
        try:
            result = work()
        except BaseException as exc:  # handed to who waits, traceback and all
            error = exc
        with contextlib.suppress(RuntimeError):  # the loop has ended: nobody waits any more
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=target, name="build environment", daemon=True).start()
    return await outcome


async def serve_proxy(loaded: LoadedScenario, agent: str, url: str, ready: Callable[[str], None]) -> None:
    """Run one agent's proxy against a broker until cancelled.

    Raises:
        ConfigError: The scenario has no such agent.
        BrokerError: The broker is not there or refuses.
    """
    scenario = loaded.scenario
    if agent not in scenario.microgrids:
        raise ConfigError(f"--agent {agent}: not in {loaded.source}; it has {', '.join(scenario.microgrids)}")
    if not scenario.microgrids[agent].remote:
        raise ConfigError(
            f"{loaded.source}: microgrids.{agent}.remote = false: the environment runs this agent itself; "
            "set remote = true to run it here"
        )
    env_id = scenario.topic_env_id
    async with MqttBroker(url, env_id=env_id) as broker:
        proxy = make_proxy(scenario, agent, broker, env_id=env_id, devices="simulated")
        try:
            await proxy.start()
            ready(f"agent {agent} online at {broker.options.address}, topics {broker.topic_map.prefix}#")
            await proxy.run()
        finally:
            await proxy.close()

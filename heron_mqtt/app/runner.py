"""The composition root: plan -> broker, devices, environment with its proxies; one run of it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from heron_mqtt.app.daemon_thread import in_daemon_thread
from heron_mqtt.app.fault_plan import FaultPlan
from heron_mqtt.app.files_read import FilesRead
from heron_mqtt.app.gc_freeze import frozen_gc
from heron_mqtt.app.infrastructure import (
    NO_FORKS,
    THE_ENVIRONMENT,
    Forks,
    Infrastructure,
    all_emulated,
    impaired,
    mqtt_infrastructure,
    unless,
    until_away,
)
from heron_mqtt.app.loaded_modules import LoadedModules
from heron_mqtt.app.named_files import named_files
from heron_mqtt.app.policies import Policy, actions_of, load_policy
from heron_mqtt.app.recording import Recording
from heron_mqtt.app.run_plan import RunOptions, RunPlan
from heron_mqtt.app.run_summary import AgentTotals, Summary
from heron_mqtt.app.step_clock import StepClock
from heron_mqtt.end_times import LEAVE_S, RECORD_HEAD_S
from heron_mqtt.errors import BrokerError, HeronError, NotReady
from heron_mqtt.importing import importing
from heron_mqtt.messages import RecordHead
from heron_mqtt.messaging import topics
from heron_mqtt.messaging.base import MessageBroker
from heron_mqtt.messaging.mqtt.session_broker import SessionBroker
from heron_mqtt.messaging.schemes import open_broker, without_login
from heron_mqtt.messaging.stamping import MessageStamper
from heron_mqtt.scheduling import real_time_priority
from heron_mqtt.service_manager import THE_SERVICE

if TYPE_CHECKING:
    from heron_mqtt.app.mapping_watch import MappingWatch
    from powergrid.envs.microgrid_environment import MicrogridEnvironment
    from powergrid.scenario import Scenario


class Progress(Protocol):
    """Shows a run while it lasts."""

    def note(self, text: str) -> None:
        """Say something once."""

    def step(self, summary: Summary, price: float, infos: dict[str, dict[str, Any]]) -> None:
        """Show the step that was just done."""

    def opened(self, url: str) -> None:
        """Take the address of the broker, once it is there and others can reach it; no login in it."""


def has_emulated_devices(plan: RunPlan) -> bool:
    """Whether a run has devices in processes beside it."""
    options, scenario = plan.options, plan.loaded.scenario
    return options.is_reachable and bool(all_emulated(scenario, _local_agents(plan), plan.devices))


async def run(plan: RunPlan, progress: Progress, summary: Summary, forks: Forks = NO_FORKS) -> None:
    """Run a plan to its end; ``summary`` always holds what ran so far, also when this is cancelled.

    Args:
        plan: What to run.
        progress: Shows it.
        summary: Counts.
        forks: Programs that were forked already.

    Raises:
        ConfigError: Something that the scenario names is wrong; nothing ran.
        HeronError: The broker, an agent or a device is not there, or the broker is gone for good.
    """
    importing = asyncio.ensure_future(in_daemon_thread(_import_environment))  # while the broker starts
    recording = Recording(plan, progress.note)
    try:
        async with _infrastructure(plan, progress, forks) as infrastructure:
            mappings = _mapping_watch(plan, infrastructure, progress, recording)
            await unless(
                _run_in(infrastructure, importing, recording, plan, progress, summary, mappings),
                *infrastructure.throughout,
                *([] if mappings is None else [mappings.run]),
            )
    except HeronError as exc:
        recording.event("error", summary.scenario, str(exc))
        raise
    finally:
        importing.cancel()
        summary.record = recording.close(summary.as_dict())
        summary.csv = recording.csv_told


def _mapping_watch(
    plan: RunPlan, infrastructure: Infrastructure, progress: Progress, recording: Recording
) -> MappingWatch | None:
    if not plan.options.watch or infrastructure.adapters is None:
        return None
    from heron_mqtt.app.mapping_watch import MappingWatch  # with the mappings: see run_plan

    return MappingWatch(plan.loaded.source, infrastructure.adapters, progress.note, recording.event)


def new_summary(plan: RunPlan) -> Summary:
    """Return the summary of a run: empty, or with the finished steps of a resumed one."""
    scenario = plan.loaded.scenario
    summary = Summary(
        scenario=scenario.name,
        mode=plan.mode,
        broker=plan.broker,
        seed=plan.seed,
        step_s=scenario.step_s,
        agents={agent: AgentTotals() for agent in scenario.microgrids},
        realtime_s=plan.realtime_s,
        priority=plan.options.priority,
    )
    if plan.resumed is not None:
        for rewards, infos, step_ms in plan.resumed.finished:
            summary.add_step(rewards, infos, step_ms)
        summary.carry_on(plan.resumed.parts)
    return summary


@asynccontextmanager
async def _infrastructure(plan: RunPlan, progress: Progress, forks: Forks) -> AsyncIterator[Infrastructure]:
    broker = plan.options.url
    if plan.options.centralized:
        yield Infrastructure()
    elif not plan.options.is_reachable:
        named = "in memory" if broker == "memory" else without_login(broker)
        scheme = plan.options.scheme
        why = scheme.lacks if scheme is not None and scheme.lacks else "nothing can connect from outside"
        progress.note(f"broker: {named}; {why}; devices are simulated in process")
        options: dict[str, Any] = {}
        if scheme is not None and scheme.lacks:  # it is at an address: there is something to log in to
            options["defaults"] = plan.loaded.broker_settings()
        opened = open_broker(broker, env_id=plan.loaded.scenario.topic_env_id, **options)
        async with impaired(opened, plan.impairment, plan.seed) as inside:
            longest_s = plan.loaded.scenario.deadlines.ready_s
            watches = (partial(until_away, opened, longest_s),) if isinstance(opened, SessionBroker) else ()
            yield Infrastructure(inside, throughout=watches)
    else:
        async with mqtt_infrastructure(
            broker,
            plan.loaded,
            _local_agents(plan),
            plan.devices,
            progress.note,
            plan.impairment,
            plan.seed,
            names=[THE_ENVIRONMENT],
            take_over=plan.options.take_over,
            accept_broker_limits=plan.options.accept_broker_limits,
            resume=None if plan.resumed is None else plan.resumed.path,
            state=plan.options.state,
            forks=forks,
        ) as infrastructure:
            if infrastructure.url is not None:
                progress.opened(infrastructure.url)
                await _announce(plan, infrastructure.url if broker == "embedded" else broker, progress.note)
            yield infrastructure


def _local_agents(plan: RunPlan) -> list[str]:
    """Return the agents whose proxies and devices this process serves."""
    return [agent for agent in plan.loaded.scenario.microgrids if agent not in plan.remote_agents]


async def _announce(plan: RunPlan, url: str, note: Callable[[str], None]) -> None:
    """Tell other programs of the run, where the scenario asks for it; the run does not depend on them."""
    if plan.loaded.scenario.integrations.home_assistant is None:
        return
    from heron_mqtt.app.home_assistant import announce

    try:
        count = await announce(plan.loaded, url)
    except (BrokerError, NotReady) as exc:
        note(f"Home Assistant: NOT announced: {exc}")
    else:
        note(f"Home Assistant: {count} entities announced")


async def _run_in(
    infrastructure: Infrastructure,
    importing: asyncio.Future[None],
    recording: Recording,
    plan: RunPlan,
    progress: Progress,
    summary: Summary,
    mappings: MappingWatch | None = None,
) -> None:
    await importing
    read = FilesRead(plan.loaded.directory, Path())

    def make() -> MicrogridEnvironment:
        with read.watching():
            return _make_environment(plan, infrastructure, recording)

    env = await in_daemon_thread(make)
    try:
        with frozen_gc():
            with read.watching():
                policy = None if plan.options.policy is None else load_policy(plan.options.policy, env)
            if policy is not None and plan.resumed is not None:
                await in_daemon_thread(partial(_catch_up, policy, plan.resumed.observations))
            modules = _loaded_modules(plan, recording, read)
            modules.note()  # before anything is sent
            first = await _begin(env, infrastructure, plan, progress)
            THE_SERVICE.tell_ready(f"{summary.scenario}: every agent and device is ready")
            faults = FaultPlan(plan.loaded.scenario, infrastructure.broker)
            in_step = None if mappings is None else mappings.between_steps
            # Only now: what is imported and built before would hold others up, and threads inherit it.
            prior = real_time_priority(plan.options.priority, infrastructure.groups)
            with prior, frozen_gc():  # the devices, too, that are here by now
                await _steps(
                    env, faults, plan, progress, summary, in_step, policy=policy, first=first, modules=modules
                )
        if plan.is_disturbed:
            summary.undisturbed = await in_daemon_thread(lambda: _undisturbed(plan))
    finally:
        infrastructure.expect_end()
        if infrastructure.broker is not None:
            summary.note_messages(infrastructure.broker.stats.counts())
            summary.devices = env.device_reports()
            summary.note_stop(env.estop)
            if plan.impairment is not None:
                summary.impairment = _impairment_told(infrastructure.broker)
        with contextlib.suppress(TimeoutError):  # a broker that is gone has the wills to say it for us
            async with asyncio.timeout(env.let_go_s + LEAVE_S):
                await env.close_async()
        summary.unreturned = env.unreturned()
        if infrastructure.adapters is not None:
            await infrastructure.adapters.end()
            summary.unreturned |= infrastructure.adapters.unreturned()
        for name, left in summary.unreturned.items():
            recording.event("hand_back", name, left.why)
        summary.record = recording.close(summary.as_dict())
        summary.csv = recording.csv_told
        if plan.options.publish_record and summary.record is not None and infrastructure.broker is not None:
            await _publish_head(infrastructure.broker, plan.loaded.scenario, summary.record)


def _loaded_modules(plan: RunPlan, recording: Recording, read: FilesRead) -> LoadedModules:
    resumed = plan.resumed
    return LoadedModules(
        (*named_files(plan.loaded, plan.options.policy).values(), Path(plan.loaded.source)),
        {} if resumed is None else resumed.modules,
        None if recording.file is None else recording.event,
        None if resumed is None else resumed.path,
        read,
    )


def _impairment_told(broker: MessageBroker) -> dict[str, Any] | None:
    """Return what an impaired network did to messages; None if the broker is not behind one."""
    from heron_mqtt.messaging.impaired import ImpairedBroker

    if not isinstance(broker, ImpairedBroker):
        return None
    return {"name": broker.impairment.name, **asdict(broker.record.totals())}


async def _publish_head(broker: MessageBroker, scenario: Scenario, record: Mapping[str, Any]) -> None:
    """Publish the hash of the record, so that a later change of the file can be detected by it."""
    if record["head"] is None:
        return  # there is no file any more
    head = RecordHead(head=record["head"], rows=sum(record["rows"].values()), lost=record["lost"])
    stamped = MessageStamper(scenario.operator_id, scenario.topic_env_id).presence(head)
    retain = {"retain": True} if broker.features.retain else {}
    with contextlib.suppress(TimeoutError, BrokerError):  # it stands in the summary as well
        async with asyncio.timeout(RECORD_HEAD_S):
            await broker.publish(topics.RUN_RECORD, stamped, **retain)


async def _begin(
    env: MicrogridEnvironment, infrastructure: Infrastructure, plan: RunPlan, progress: Progress
) -> Mapping[str, Any]:
    """Begin the episode; returns what the agents see, when every agent and device is ready."""
    remote = plan.remote_agents
    who = f"--agent {remote[0]}" if len(remote) == 1 else "--all"
    how = f"heron-mqtt proxy {who} --broker {infrastructure.url} {plan.loaded.source}"
    if len(remote) == 1:
        progress.note(f"waiting for a remote agent: {how}")
    elif remote:
        progress.note(f"waiting for {len(remote)} remote agents: {how}")
    resumed = plan.resumed
    for note in resumed.notes if resumed is not None else ():
        progress.note(note)
    env.remember_stops(resumed.stops if resumed is not None else ())
    if infrastructure.names is not None:
        await infrastructure.names.hand_over()
    try:
        if resumed is None or resumed.state is None:
            observations, _ = await unless(env.reset_async(seed=plan.seed), *infrastructure.while_starting)
        else:
            observations = await unless(env.resume_async(resumed.state), *infrastructure.while_starting)
    except NotReady as exc:
        if not remote:
            raise
        started = "a remote agent is" if len(remote) == 1 else "remote agents are"
        raise NotReady(f"{exc}; {started} started by: {how}") from None
    return observations


async def _steps(
    env: MicrogridEnvironment,
    faults: FaultPlan,
    plan: RunPlan,
    progress: Progress,
    summary: Summary,
    in_step: asyncio.Lock | None = None,
    *,
    policy: Policy | None,
    first: Mapping[str, Any],
    modules: LoadedModules,
) -> None:
    """Take every step.

    Args:
        env: Has begun.
        faults: To be told before the step that they belong to.
        plan: Of the run.
        progress: Shows it.
        summary: Counts.
        policy: Decides in place of the agents' rule; None = none.
        first: What the agents see before the first step.
        modules: Notes what a step has loaded.
        in_step: Held during each step: what must not happen within one waits for it.
    """
    clock = None if plan.realtime_s is None else StepClock(plan.realtime_s, env.rest_async)
    observations = first
    while env.agents:
        await asyncio.sleep(0)  # else a centralized run awaits nothing: a signal would wait for its last step
        if clock is not None and await clock.next_step():
            summary.overruns += 1
        async with in_step or contextlib.nullcontext():
            await faults.begin(summary.steps)
            started = time.perf_counter()
            actions = actions_of(policy, env, observations)
            observations, rewards, _, _, infos = await env.step_async(actions)
        summary.add_step(rewards, infos, (time.perf_counter() - started) * 1e3)
        summary.note_stop(env.estop)
        modules.note()
        progress.step(summary, next(iter(infos.values()))["price"], infos)
        THE_SERVICE.tell_status(f"{summary.scenario}: step {summary.steps} of {plan.steps}")


# -- on a thread: pandapower takes seconds to import, and Ctrl-C must not wait -----------------------


def _catch_up(policy: Policy, observations: Iterable[Mapping[str, Any]]) -> None:
    """Show a policy what it saw before the interruption, so that it remembers; its actions were taken."""
    for seen in observations:
        for agent, observation in seen.items():
            policy.act(agent, observation)


def _undisturbed(plan: RunPlan) -> dict[str, Any]:
    """Run the same steps of the same seed by direct calls with models alone, and return what that gave."""
    calm_plan = replace(plan, options=RunOptions(centralized=True), resumed=None)  # every step, once
    calm = new_summary(replace(plan, resumed=None))
    seen = plan.loaded.scenario.observation or ("full" if plan.options.centralized else "local")
    env = _make_environment(calm_plan, Infrastructure(), observation=seen)  # a policy sees what it saw
    policy = None if plan.options.policy is None else load_policy(plan.options.policy, env)
    observations, _ = env.reset(seed=plan.seed)
    while env.agents:
        observations, rewards, _, _, infos = env.step(actions_of(policy, env, observations))
        calm.add_step(rewards, infos, 0.0)
    told = calm.as_dict()
    return {name: told[name] for name in ("rewards", "cost", "vm_pu", "loading_max_percent")}


def _import_environment() -> None:
    with importing():
        import powergrid.envs.microgrid_environment  # noqa: F401


def _make_environment(
    plan: RunPlan,
    infrastructure: Infrastructure,
    recording: Recording | None = None,
    observation: str | None = None,
) -> MicrogridEnvironment:
    from powergrid.envs.microgrid_environment import MicrogridEnvironment

    return MicrogridEnvironment(
        {
            "centralized": plan.options.centralized,
            "message_broker": infrastructure.broker,
            "scenario": plan.loaded,
            "max_episode_steps": plan.steps,
            "observation": observation,
            "devices": plan.devices,
            "take_over": plan.options.take_over,
            "successions": dict(infrastructure.successions),
            "publish_grid": plan.options.is_reachable,
            "recorder": None if recording is None else recording.recorder,
        }
    )

"""Agents with their proxies and devices in a process of their own, for an environment that runs elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from heron_mqtt.agents.proxy import Proxy
from heron_mqtt.app.gc_freeze import frozen_gc
from heron_mqtt.app.infrastructure import SoleName, mqtt_infrastructure, unless
from heron_mqtt.app.recording import note_lost_rows, open_record, run_facts
from heron_mqtt.app.run_plan import Devices, remote_agents, watch_problems
from heron_mqtt.cancellation import end_tasks
from heron_mqtt.errors import ConfigError, Displaced, NameTaken, NotHandedBack
from heron_mqtt.field.gateway.gateway import NOT_HANDED_BACK
from heron_mqtt.field.gateway.succession import Succession
from heron_mqtt.messaging import topics
from heron_mqtt.scheduling import real_time_priority, require_priority
from heron_mqtt.service_manager import THE_SERVICE
from powergrid.agents.proxies import make_proxy

if TYPE_CHECKING:
    from heron_mqtt.field.gateway.succession import StateFolder
    from powergrid.scenario import LoadedScenario


def chosen_agents(loaded: LoadedScenario, agents: Sequence[str], *, everyone: bool) -> tuple[str, ...]:
    """Return the agents that one process shall serve, in the order of the scenario.

    Args:
        loaded: The scenario that the environment runs too.
        agents: By name; each marked ``remote`` in it.
        everyone: All that are marked ``remote``; then no agent is named.

    Raises:
        ConfigError: There is no such agent, it is not remote, or no agent is left to serve.
    """
    if everyone and agents:
        raise ConfigError("--all: serves every remote agent; leave it or --agent out")
    remote, source = remote_agents(loaded), loaded.source
    if everyone:
        if not remote:
            raise ConfigError(f"--all: no agent of {source} is remote; set microgrids.<agent>.remote = true")
        return remote
    if not agents:
        raise ConfigError("--agent: expected an agent, once or more, or --all for every remote agent")
    known = loaded.scenario.microgrids
    problems = [
        f"--agent {agent}: not in {source}; it has {', '.join(known)}"
        if agent not in known
        else f"{source}: microgrids.{agent}.remote = false: the environment runs this agent itself; "
        "set remote = true to run it here"
        for agent in dict.fromkeys(agents)
        if agent not in remote
    ]
    if problems:
        raise ConfigError(*problems)
    return tuple(agent for agent in remote if agent in agents)


async def serve_proxies(
    loaded: LoadedScenario,
    agents: Sequence[str],
    url: str,
    devices: Devices,
    note: Callable[[str], None],
    *,
    take_over: bool = False,
    accept_broker_limits: bool = False,
    record: str | None = None,
    watch: bool = False,
    state: StateFolder | None = None,
    priority: int | None = None,
) -> None:
    """Serve one run after another, each agent by itself, until cancelled.

    An agent that is displaced by another process stops and reports it; the others continue.

    Args:
        loaded: The scenario that the environment runs too.
        agents: See ``chosen_agents``. They share one connection to the broker, whose login needs the
            rights of each.
        url: The MQTT broker that both reach.
        devices: For devices whose authority the scenario leaves open; emulated ones are started here.
        note: Takes a line for the user.
        take_over: Displace other proxies of these agents.
        accept_broker_limits: Continue with a broker that does not do what safety depends on.
        record: The file that this side is recorded in; ``auto`` = a new one in the default directory.
        watch: Read mappings again that are changed meanwhile.
        state: Folder that tells a later start which leases were ours; None = it waits until they are over.
        priority: Real-time priority once the agents are online, of their emulated devices, too; None = none.

    Raises:
        ConfigError: There is no mapping to watch, or the system does not allow the priority.
        NameTaken: Another proxy of one of them lives, or may: nothing was begun. A line for each.
        Displaced: Every one was taken over, also while this process started; then a line for each.
        NotHandedBack: At the end a device in a fault did not show its release.
        BrokerError: The broker is not there, or refuses.
    """
    scenario = loaded.scenario
    require_priority(priority)
    if watch and (problems := watch_problems(loaded, agents)):
        raise ConfigError(*problems)
    names = {
        agent: SoleName(topics.agent(agent, "owner").removesuffix("/owner"), f"agent {agent}")
        for agent in agents
    }
    async with mqtt_infrastructure(
        url,
        loaded,
        agents,
        devices,
        note,
        names=list(names.values()),
        take_over=take_over,
        accept_broker_limits=accept_broker_limits,
        state=state,
    ) as infrastructure:
        assert infrastructure.broker is not None
        proxies = {
            agent: make_proxy(
                scenario,
                agent,
                infrastructure.broker,
                env_id=scenario.topic_env_id,
                devices=devices,
                take_over=take_over,
                succession=infrastructure.successions.get(agent),
            )
            for agent in agents
        }
        recorder = None
        if record is not None:
            facts = run_facts(
                loaded,
                role=", ".join(agents),
                broker="mqtt",
                devices=devices,
                options={"priority": priority},
            )
            recorder = open_record(record, facts, note, keeps_messages=True)
        if recorder is not None:
            recorder.attach(infrastructure.broker, proxies.values())
        watches = []
        if watch and infrastructure.adapters is not None:
            from heron_mqtt.app.mapping_watch import MappingWatch  # with the mappings: see run_plan

            event = None if recorder is None else recorder.event
            watches = [MappingWatch(loaded.source, infrastructure.adapters, note, event).run]
        try:
            if infrastructure.names is None:
                await _together([proxy.start() for proxy in proxies.values()])
            else:
                lost = await infrastructure.names.hand_over()
                theirs = {agent: lost[name] for agent, name in names.items() if name in lost}
                await start_each(proxies, theirs, infrastructure.successions, note)
            for agent in proxies:
                note(f"agent {agent} online")
            THE_SERVICE.tell_ready(f"online: {', '.join(proxies)}")
            with real_time_priority(priority, infrastructure.groups), frozen_gc():
                await unless(_run_each(proxies, infrastructure.successions, note), *watches)
        finally:
            infrastructure.expect_end()
            await _together([proxy.close() for proxy in proxies.values()])
            unreturned = {
                f"{agent}/{name}": left
                for agent, proxy in proxies.items()
                for name, left in proxy.gateway.unreturned().items()
            }
            if infrastructure.adapters is not None:
                await infrastructure.adapters.end()
                unreturned |= infrastructure.adapters.unreturned()
            if recorder is not None:
                for name, left in unreturned.items():
                    recorder.event("hand_back", name, left.why)
                told = recorder.close()
                note_lost_rows(told, note)
                note(f"record: {told['file']}  head {told['head']}")
            faults = [
                f"{name}: {NOT_HANDED_BACK}: {left.why}" for name, left in unreturned.items() if left.is_fault
            ]
            if faults:
                raise NotHandedBack("\n".join(faults))


async def start_each(
    proxies: dict[str, Proxy],
    theirs: Mapping[str, Displaced],
    successions: Mapping[str, Succession],
    note: Callable[[str], None],
) -> None:
    """Start every proxy whose name is still ours, and leave the others out of ``proxies``.

    A name was held here until now: who has it now has taken it over.

    Args:
        proxies: By agent.
        theirs: Agents that others have taken over while this process started, each with the reason.
        successions: What each agent knew of its earlier starts.
        note: Takes a line for the user.

    Raises:
        Displaced: All of them were; a line each.
    """
    gone = dict(theirs)
    ours = [agent for agent in proxies if agent not in theirs]
    starts = await asyncio.gather(*(proxies[agent].start() for agent in ours), return_exceptions=True)
    for agent, end in zip(ours, starts, strict=True):
        if isinstance(end, NameTaken):
            gone[agent] = Displaced(f"{end}; it has taken the name while this one started")
        elif isinstance(end, BaseException):
            raise end
    if len(gone) == len(proxies):
        raise Displaced("\n".join(map(str, gone.values())))
    for agent, error in gone.items():
        note(f"{error}; the others continue")
        await _leave(proxies.pop(agent), successions)


async def _leave(proxy: Proxy, successions: Mapping[str, Succession]) -> None:
    """Close a proxy that was displaced; its earlier starts are a later start's to know."""
    await proxy.close()
    if (known := successions.get(proxy.agent.agent_id)) is not None:
        known.close()


async def _run_each(
    proxies: dict[str, Proxy], successions: Mapping[str, Succession], note: Callable[[str], None]
) -> None:
    """Run every proxy until cancelled, or until no one is left.

    What a displaced one knew of its earlier starts is left to a later start: its gateway is as good as dead.

    Raises:
        Displaced: The last one was taken over.
    """
    going = {
        asyncio.create_task(proxy.run(), name=f"proxy of {agent}"): proxy for agent, proxy in proxies.items()
    }
    try:
        while going:
            done, _ = await asyncio.wait(going, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                proxy = going.pop(task)
                try:
                    task.result()
                except Displaced as exc:
                    if not going:
                        raise
                    note(f"{exc}; the others continue")
                    await _leave(proxy, successions)
    finally:
        await end_tasks(going)


async def _together(work: Sequence[Coroutine[Any, Any, object]]) -> None:
    """Do everything at once and to its end; then raise the first error that there was."""
    results = await asyncio.gather(*work, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result

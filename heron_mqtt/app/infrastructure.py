"""What a run or a remote proxy stands on: a broker and emulated devices, and a notice when one is gone."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from heron_mqtt.app.emulator_processes import SHARED, DeviceProcesses, DeviceProgram
from heron_mqtt.app.run_plan import Devices
from heron_mqtt.errors import BrokerError, BrokerUnavailable, ConfigError, Displaced, NameTaken
from heron_mqtt.field.gateway.succession import StateFolder, Succession, machine_run
from heron_mqtt.messaging.base import MessageBroker
from heron_mqtt.messaging.core.stats import Report
from heron_mqtt.messaging.embedded import EmbeddedBroker
from heron_mqtt.messaging.impairment import ImpairmentTable
from heron_mqtt.messaging.mqtt import MqttBroker
from heron_mqtt.messaging.mqtt.session_broker import SessionBroker
from heron_mqtt.messaging.ownership import NameOwnership
from heron_mqtt.messaging.schemes import open_broker, without_login
from heron_mqtt.messaging.settings import topics_begin
from heron_mqtt.messaging.stamping import MessageStamper
from powergrid.agents.proxies import emulated_devices

if TYPE_CHECKING:
    from heron_mqtt.app.vendor_adapters import VendorAdapters
    from heron_mqtt.forked_program import ForkedProgram
    from powergrid.scenario import LoadedScenario, Scenario

log = logging.getLogger("heron_mqtt.gateway")

T = TypeVar("T")
WatchTask = Callable[[], Coroutine[Any, Any, None]]


@dataclass(frozen=True, slots=True)
class SoleName:
    """What a process stands for, and there must be one of.

    Attributes:
        parent: Channel below which its ``owner`` stands: ``run``, or ``agents/<agent>``.
        what: For messages: what it is within the environment; empty = the environment itself.
    """

    parent: str
    what: str


THE_ENVIRONMENT = SoleName("run", "")


class HeldNames:
    """Names that a process holds while it starts, so that another one can displace it there, too.

    A later holder takes the name again, with a boot of its own: it is released for that.

    Args:
        broker: Carries the messages.
        names: What there must be one of each.
        starter: Stamps what is published.
        take_over: Displace another process that holds one.
    """

    def __init__(
        self, broker: MessageBroker, names: Sequence[SoleName], starter: MessageStamper, *, take_over: bool
    ) -> None:
        self._all_displaced: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._lost: dict[SoleName, Displaced] = {}
        self._held = {
            name: NameOwnership(
                broker,
                f"{name.parent}/owner",
                starter,
                what=f"{name.what} in environment {starter.env_id!r}".removeprefix(" in "),
                on_displaced=partial(self._on_displaced, name),
                take_over=take_over,
            )
            for name in names
        }

    async def acquire(self) -> None:
        """Take the names; with ``take_over``, displace who holds them.

        Raises:
            NameTaken: Says of each by whom it is held, a line each; none is held then.
        """
        owners = self._held.values()
        results = await asyncio.gather(*(owner.acquire() for owner in owners), return_exceptions=True)
        failed = [error for error in results if isinstance(error, BaseException)]
        if not failed:
            return
        await self.release()
        for error in failed:
            if not isinstance(error, NameTaken):
                raise error
        raise NameTaken("\n".join(map(str, failed)))

    async def release(self) -> None:
        """Give the names back, where they are held still. Idempotent."""
        for owner in self._held.values():
            with contextlib.suppress(BrokerError):
                await owner.release()

    async def hand_over(self) -> dict[SoleName, Displaced]:
        """Give the names to those of this process that stand for them from now on.

        Returns:
            The names that other processes have taken meanwhile, each with the message that shows it.

        Raises:
            Displaced: They have taken all of them; a line each.
        """
        if self._all_displaced.done():
            self._all_displaced.result()
        await self.release()
        return dict(self._lost)

    async def until_displaced(self) -> None:
        """Return never, unless others take every name that is held here.

        Raises:
            Displaced: They have.
        """
        await asyncio.shield(self._all_displaced)

    def _on_displaced(self, name: SoleName, error: Displaced) -> None:
        self._lost[name] = error
        if not self._all_displaced.done() and len(self._lost) == len(self._held):
            self._all_displaced.set_exception(Displaced("\n".join(map(str, self._lost.values()))))


@dataclass(frozen=True, slots=True)
class Infrastructure:
    """What is there for as long as a run lasts.

    Attributes:
        broker: None in centralized mode.
        url: Where others reach the same broker; None = nowhere.
        while_starting: Each raises once the run cannot begin any more.
        throughout: Each raises once the run cannot continue.
        adapters: Of the vendors' devices; None = there are none.
        successions: Earlier starts of the gateways here, by agent; empty = none are to be known.
        expect_end: Called once the run ends: what ends from then on has not ended by itself.
        names: Held while the run starts; None = no other program could hold them.
        groups: Ids of the process groups of programs that were started for it: a step waits for each.
    """

    broker: MessageBroker | None = None
    url: str | None = None
    while_starting: tuple[WatchTask, ...] = ()
    throughout: tuple[WatchTask, ...] = ()
    adapters: VendorAdapters | None = None
    successions: Mapping[str, Succession] = field(default_factory=dict)
    expect_end: Callable[[], None] = lambda: None
    names: HeldNames | None = None
    groups: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Forks:
    """Programs of a run that were forked at its beginning; None = they are started when they are needed.

    Attributes:
        broker: The embedded broker's process (``forked_child``).
        emulators: The program of the emulated devices (``forked_emulators``).
    """

    broker: ForkedProgram | None = None
    emulators: ForkedProgram | None = None


NO_FORKS = Forks()


def all_emulated(scenario: Scenario, agents: Sequence[str], devices: Devices) -> list[tuple[str, str]]:
    """Return agent and name of each device of some agents that is to be emulated, outside this process."""
    return [(agent, name) for agent in agents for name in emulated_devices(scenario, agent, devices)]


@asynccontextmanager
async def mqtt_infrastructure(
    url: str,
    loaded: LoadedScenario,
    agents: Sequence[str],
    devices: Devices,
    note: Callable[[str], None],
    impairment: ImpairmentTable | None = None,
    seed: int = 0,
    *,
    names: Sequence[SoleName],
    take_over: bool = False,
    accept_broker_limits: bool = False,
    resume: Path | None = None,
    state: StateFolder | None = None,
    forks: Forks = NO_FORKS,
) -> AsyncIterator[Infrastructure]:
    """Connect to an MQTT broker and start the emulated devices of some agents; end them on leaving.

    Args:
        url: Of the broker; ``embedded`` starts one.
        loaded: Names the environment and the devices.
        agents: Whose devices to start.
        devices: For devices whose authority the scenario leaves open.
        note: Takes a line for the user.
        impairment: How the network between us and the broker misbehaves; None = not at all.
        seed: Of what the network does.
        names: What there must be one of each: nothing is started while another process holds one. The
            broker is tried out below the first.
        take_over: Displace another process that holds one.
        accept_broker_limits: Continue with a broker that does not do what safety depends on.
        resume: The record of an interrupted run that continues: emulated devices are where they were in it.
        state: Folder that tells a later start which leases were ours; None = it waits until they are over.
        forks: Programs that were forked already.

    Raises:
        ConfigError: ``state`` was asked for, and cannot be used.
        BrokerError: The broker is not there, refuses, or does not do what safety depends on.
        NameTaken: Another process holds one of the names, or has ``state`` for one of the agents.
    """
    scenario = loaded.scenario
    emulated = all_emulated(scenario, agents, devices)
    async with AsyncExitStack() as stack:
        is_ours, given_url = url == "embedded", url
        held: HeldNames | None = None
        if is_ours and state is not None and state.variable is not None:
            state = None  # a service's folder: a run with a broker of its own has no service's devices
        successions = _successions(stack, state, scenario.topic_env_id, agents, note)
        processes = DeviceProcesses(forks.emulators)
        throughout: list[WatchTask] = []
        groups: list[int] = []
        if emulated:  # first of all: devices import while the broker starts
            stack.push_async_callback(processes.close)
            await processes.open()
            groups.append(processes.group)
        if is_ours:
            prefix = topics_begin(scenario.broker.topic_prefix)
            url = await _start_embedded(stack, throughout, groups, prefix, forks.broker)
        mqtt = open_broker(
            url, env_id=scenario.topic_env_id, at_address=True, defaults=loaded.broker_settings()
        )
        if not isinstance(mqtt, MqttBroker):
            raise ConfigError(f"broker {without_login(url)}: devices and agents connect to MQTT brokers only")
        broker = await stack.enter_async_context(impaired(mqtt, impairment, seed))
        url = mqtt.options.address
        note(f"broker: {url}  topics: {mqtt.options.topic_prefix}{mqtt.topic_map.prefix}#")
        starter = MessageStamper(f"start-{names[0].parent.replace('/', '-')}", scenario.topic_env_id)
        if not is_ours:
            from heron_mqtt.app.broker_probe import require_broker_features

            await require_broker_features(
                mqtt,
                partial(
                    MqttBroker,
                    given_url,
                    env_id=scenario.topic_env_id,
                    defaults=loaded.broker_settings(),
                ),
                names[0].parent,
                starter.boot,
                accept_limits=accept_broker_limits,
                note=note,
            )
            held = HeldNames(mqtt, names, starter, take_over=take_over)
            # A broker that is lost meanwhile answers nothing: what waits for it would wait for ever.
            await unless(held.acquire(), partial(until_away, mqtt, scenario.deadlines.ready_s))
            stack.push_async_callback(held.release)
            throughout.append(held.until_displaced)
        if impairment is not None:
            note(f"network: {impairment.name or 'impaired'}")
        throughout.append(partial(until_away, mqtt, scenario.deadlines.ready_s))
        if emulated:
            stack.push_async_callback(processes.close)  # before the broker: they disconnect from it
            programs = _programs(loaded, emulated, url, take_over=take_over, resume=resume)
            processes.start(programs, mqtt.options.login_environment())
            note(f"devices: {len(emulated)} emulated, {_where(programs)}")
        adapters = None
        if scenario.mapped_devices:
            from heron_mqtt.app.vendor_adapters import vendor_devices  # see run_plan

            speaking = vendor_devices(mqtt, loaded, agents, take_over=take_over)
            if adapters := await stack.enter_async_context(speaking):
                note(f"vendor devices: {len(adapters)} by their own topics or registers")
        starting = (processes.until_lost,) if emulated else ()
        yield Infrastructure(
            *(broker, url, starting, tuple(throughout), adapters, successions),
            expect_end=processes.expect_end,
            names=held,
            groups=tuple(groups),
        )


def _successions(
    stack: AsyncExitStack,
    state: StateFolder | None,
    env_id: str,
    agents: Sequence[str],
    note: Callable[[str], None],
) -> dict[str, Succession]:
    """Return the earlier starts of the agents' gateways, and make sure that they are dead.

    A folder that was not asked for, and cannot be used, is reported and left out.

    Raises:
        ConfigError: The folder that was asked for cannot be used.
        NameTaken: One of them lives.
    """
    if state is None:
        return {}
    found: dict[str, Succession] = {}
    unusable: dict[str, ConfigError] = {}
    machine = machine_run()
    for agent in agents:
        try:
            known = Succession(state.path, env_id, agent, machine)
        except ConfigError as exc:
            if state.variable is None:
                raise ConfigError(f"--state {exc}") from exc
            unusable[agent] = exc
            continue
        found[agent] = known
        stack.callback(known.close)
        if known.why_none:
            note(f"state: {known.path}: {known.why_none}; leases of earlier starts of {agent} are waited for")
    if unusable:
        why = next(iter(unusable.values()))
        log.warning(
            "%s=%s; without it, after a kill the next start of %s waits for the end of its leases",
            state.variable,
            why,
            ", ".join(unusable),
        )
    return found


def impaired(broker: MessageBroker, impairment: ImpairmentTable | None, seed: int) -> MessageBroker:
    """Return the broker as it is, or behind a network that misbehaves."""
    if impairment is None:
        return broker
    from heron_mqtt.messaging.impaired import ImpairedBroker

    return ImpairedBroker(broker, impairment, seed=seed)


async def until_away(broker: SessionBroker, longest_s: float) -> None:
    """Return never, unless the connection stays away for too long.

    Raises:
        BrokerUnavailable: It was lost and not made again within ``longest_s``.
    """
    trouble = asyncio.Event()
    trouble.set()  # it may have been lost before

    def on_report(report: Report) -> None:
        if report.kind == "connection":
            trouble.set()

    broker.stats.listeners.append(on_report)
    try:
        while True:
            await trouble.wait()
            trouble.clear()
            if not broker.connected:
                await broker.wait_connected(longest_s)
    finally:
        broker.stats.listeners.remove(on_report)


async def unless(work: Coroutine[Any, Any, T], *watches: WatchTask) -> T:
    """Return what ``work`` returns, unless a watch raises first: then work is cancelled and that raised."""
    main = asyncio.ensure_future(work)
    watching = [asyncio.ensure_future(watch()) for watch in watches]
    try:
        done, _ = await asyncio.wait([main, *watching], return_when=asyncio.FIRST_COMPLETED)
        for watch in done.intersection(watching):
            watch.result()  # a broker that is gone says more than what fails because of it
        return await main
    finally:
        for task in (main, *watching):
            task.cancel()
        await asyncio.gather(main, *watching, return_exceptions=True)  # until they have cleaned up


async def _start_embedded(
    stack: AsyncExitStack,
    throughout: list[WatchTask],
    groups: list[int],
    topic_prefix: str,
    child: ForkedProgram | None,
) -> str:
    ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    server = await stack.enter_async_context(
        EmbeddedBroker(topic_prefix=topic_prefix, on_exit=ended.set_result, child=child)
    )

    async def until_ended() -> None:
        raise BrokerUnavailable(await asyncio.shield(ended))

    throughout.append(until_ended)
    if server.pid is not None:  # it leads a process group
        groups.append(server.pid)
    return server.url


def _programs(
    loaded: LoadedScenario,
    emulated: Sequence[tuple[str, str]],
    url: str,
    *,
    take_over: bool,
    resume: Path | None,
) -> list[DeviceProgram]:
    from powergrid.emulators import emulators

    scripts = emulators()
    tables = {at: loaded.scenario.microgrids[at[0]].devices[at[1]] for at in emulated}
    return [
        DeviceProgram(
            f"{agent}/{name}",
            scripts[tables[agent, name].spec.kind],
            # as one argument each: an agent's id may begin with a dash
            [
                f"--agent={agent}",
                f"--name={name}",
                f"--broker={url}",
                f"--scenario={loaded.source}",
                "--supervised",
                *(["--take-over"] if take_over else []),
                *([f"--resume={resume}"] if resume is not None else []),
            ],
            f"{agent}/{name}" if tables[agent, name].has_own_process else SHARED,
        )
        for agent, name in emulated
    ]


def _where(programs: Sequence[DeviceProgram]) -> str:
    """Return in which processes devices are."""
    n = len({program.process for program in programs})
    return "in a process of their own" if n == 1 else f"in {n} processes of their own"

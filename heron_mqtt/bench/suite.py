"""Which rows there are, and how each is measured."""

from __future__ import annotations

import contextlib
import math
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from heron_mqtt.bench.agent_exchange import Exchange, RawExchange
from heron_mqtt.bench.commands import CommandRunner
from heron_mqtt.bench.cpu import machine, one_core
from heron_mqtt.bench.environment import ENV_ID, make_env, one_way, whole_step
from heron_mqtt.bench.outbox import AT_ONCE, publishing, write_all
from heron_mqtt.bench.processes import TUNED, Hop, find_mosquitto, module, mosquitto, next_line, relay
from heron_mqtt.bench.rounds import BenchCase, Sample, interleave
from heron_mqtt.bench.rows import BenchReport, BenchRow, ratio
from heron_mqtt.bench.telemetry import take_telemetry
from heron_mqtt.bench.whole_runs import SAME_CPU, clock_rows, device_rows, process_rows, startup_rows
from heron_mqtt.messaging.embedded import EmbeddedBroker
from heron_mqtt.messaging.memory import InMemoryBroker
from heron_mqtt.messaging.mqtt import MqttBroker

HOPS = 5  # of a trading step, one after another: observation, offer, accept, confirm, action
NAGLE_S = 0.038
PROCESS_ROUNDS = 3  # of half a minute each
MUST_AIM = {3: (3.5, 2.0), 30: (4.0, 2.0), 300: (5.0, 2.5)}
DELAYS_MS: dict[int, tuple[float | None, float | None]] = {1_000: (25.0, 10.0), 10_000: (50.0, 10.0)}
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured.

    Attributes:
        rounds: Interleaved rounds.
        agents: Numbers of agents.
        messages: Of each contestant's round, about.
        sentinel_steps: Steps looked at for one that waits for a delayed acknowledgement.
        devices, device_s: Numbers of devices that send telemetry, and for how long, s.
        fleet: Numbers of agents between which memory is compared.
        stored: Messages that an outbox has to write.
        clock_steps: Steps on a clock of 100 Hz.
        processes, process_steps: Agents that get a process each, and their steps.
    """

    rounds: int
    agents: tuple[int, ...]
    messages: int
    sentinel_steps: int
    devices: tuple[int, ...]
    device_s: int
    fleet: tuple[int, int]
    stored: int
    clock_steps: int = 0
    processes: int = 0
    process_steps: int = 0


FULL = Effort(
    5, (3, 10, 30, 100, 300), 2_000, 10_000, (1_000, 10_000), 10, (100, 300), 50_000, 6_000, 30, 204
)
QUICK = Effort(3, (3, 30), 250, 300, (1_000,), 2, (20, 60), 10_000, 200)


async def run_suite(effort: Effort, url: str | None, say: Say) -> BenchReport:
    """Measure every row that this machine allows.

    Args:
        effort: How much.
        url: A broker to measure instead of a mosquitto started here.
        say: Called with what is under way.

    Raises:
        ConfigError: ``url`` is none of a broker.
        BrokerError: The broker at ``url`` is not there, or a process did not start.
    """
    if url is not None:
        async with MqttBroker(url, env_id=ENV_ID):
            pass  # what is wrong with it is said before a minute of measuring
    settings = {
        "rounds": effort.rounds,
        "agents": list(effort.agents),
        "sentinel_steps": effort.sentinel_steps,
        "broker": url,
    }
    report = BenchReport(machine(), settings)
    await _whole_runs(report, effort, say, url)
    external = url is not None or find_mosquitto() is not None
    name = url or "mosquitto"
    if not external:
        report.skipped.append("everything over mosquitto: it is not installed (PATH, /usr/sbin)")
    with one_core() as core:
        report.machine["measured_on_core"] = core
        async with contextlib.AsyncExitStack() as stack:
            tuned = await stack.enter_async_context(_external(url)) if external else None
            stock = await stack.enter_async_context(mosquitto()) if external and url is None else None
            server = await stack.enter_async_context(EmbeddedBroker())
            embedded = Hop(server.url, server.pid)
            await _exchanges(report, effort, say, name, tuned, stock, embedded)
            await _whole_steps(report, effort, say, embedded)
    if external:
        async with _external(url) as hop:
            await _sentinel(report, effort, say, name, hop)
            await _telemetry(report, effort, say, name, hop)
            await _outbox(report, effort, say, hop)
    await _memory(report, effort, say)
    return report


async def _whole_runs(report: BenchReport, effort: Effort, say: Say, url: str | None) -> None:
    with tempfile.TemporaryDirectory(prefix="heron-bench-") as folder:
        commands = CommandRunner(Path(folder))
        say("start-up")
        report.rows += await startup_rows(commands, effort.rounds)
        say("emulated devices")
        report.rows += await device_rows(commands, effort.rounds)
        if effort.clock_steps:
            say(f"{effort.clock_steps} steps on a clock")
            report.rows += await clock_rows(commands, effort.clock_steps)
        if effort.processes and (url is not None or find_mosquitto() is not None):
            say(f"{effort.processes} agents, a process each")
            async with _external(url) as hop:
                found = await process_rows(
                    commands, hop.url, effort.processes, effort.process_steps, PROCESS_ROUNDS
                )
            report.rows += found
            if not found:
                report.skipped.append(
                    f"{effort.processes} agents, a process each: {effort.process_steps} steps took no more "
                    "CPU time than starting them varies by"
                )


def _external(url: str | None) -> contextlib.AbstractAsyncContextManager[Hop]:
    return mosquitto(*TUNED) if url is None else contextlib.nullcontext(Hop(url))


async def _exchange(stack: contextlib.AsyncExitStack, hop: Hop, n: int) -> BenchCase:
    env_id = f"bench-{n}"
    broker = await stack.enter_async_context(MqttBroker(hop.url, env_id=env_id))
    exchange = await stack.enter_async_context(Exchange.open(broker, n, env_id))
    return BenchCase(exchange.step, hop.pids)


async def _floor(stack: contextlib.AsyncExitStack, n: int, *, shared: bool = False) -> BenchCase:
    hop = await stack.enter_async_context(relay())
    floor = await stack.enter_async_context(RawExchange.open(hop.port, n, shared=shared))
    return BenchCase(floor.step, hop.pids)


async def _exchanges(
    report: BenchReport,
    effort: Effort,
    say: Say,
    name: str,
    tuned: Hop | None,
    stock: Hop | None,
    embedded: Hop,
) -> None:
    growth: dict[int, Sample] = {}
    for n in effort.agents:
        say(f"exchange of {n} agents")
        async with contextlib.AsyncExitStack() as stack:
            contestants = {"R": await _floor(stack, n), "burst": await _floor(stack, n, shared=True)}
            if tuned is not None:
                contestants[name] = await _exchange(stack, tuned, n)
            if n == min(effort.agents):
                if stock is not None:
                    contestants["default config"] = await _exchange(stack, stock, n)
                contestants["embedded"] = await _exchange(stack, embedded, n)
            steps = max(5, effort.messages // (2 * n + 2))
            found = await interleave(contestants, rounds=effort.rounds, steps=steps)
        for label in [label for label in contestants if label not in {"R", "burst"}]:
            must, aim = MUST_AIM.get(n, (None, None)) if label != "embedded" else (10.0, 5.0)
            report.rows += _exchange_rows(label, n, found, must, aim)
        if tuned is not None:
            growth[n] = found[name]
    if len(growth) > 1:
        report.rows += _growth(growth, name)


def _exchange_rows(
    label: str, n: int, found: dict[str, Sample], must: float | None, aim: float | None
) -> list[BenchRow]:
    ours, floor, burst = found[label], found["R"], found["burst"]
    raw = {
        "ms": ours.wall_ms,
        "R ms": floor.wall_ms,
        "CPU ms": ours.cpu_ms,
        "R CPU ms": floor.cpu_ms,
        "burst relay ms": burst.wall_ms,
    }
    over = f"over mosquitto, {label}" if label == "default config" else f"over {label}"
    if label == "default config":
        must = aim = None
    return [
        ratio(f"exchange N = {n} {over}", "R", ours.wall_s, floor.wall_s, must=must, aim=aim, raw=raw),
        ratio(SAME_CPU, "R", ours.cpu_s, floor.cpu_s),
    ]


def _growth(found: dict[int, Sample], name: str) -> list[BenchRow]:
    sizes = sorted(found)
    x = [math.log(n) for n in sizes]

    def slope(times_s: list[float]) -> float:
        return statistics.linear_regression(x, [math.log(t) for t in times_s]).slope

    by_wall = [slope(list(times)) for times in zip(*(found[n].wall_s for n in sizes), strict=True)]
    by_cpu = [slope(list(times)) for times in zip(*(found[n].cpu_s for n in sizes), strict=True)]
    raw = {f"N={n} ms": found[n].wall_ms for n in sizes}
    raw_cpu = {f"N={n} CPU ms": found[n].cpu_ms for n in sizes}
    what = f"growth exponent of the step, N = {sizes[0]} to {sizes[-1]}, over {name}"
    return [
        BenchRow(what, statistics.median(by_wall), "", min(by_wall), max(by_wall), 1.1, 1.05, raw),
        BenchRow(SAME_CPU, statistics.median(by_cpu), "", min(by_cpu), max(by_cpu), raw=raw_cpu),
    ]


async def _whole_steps(report: BenchReport, effort: Effort, say: Say, embedded: Hop) -> None:
    say("whole steps of the default scenario")
    async with contextlib.AsyncExitStack() as stack:
        memory = await stack.enter_async_context(InMemoryBroker())
        broker = MqttBroker(embedded.url, env_id=ENV_ID)
        envs = [make_env(None), make_env(memory), make_env(broker)]  # before a sign of life is waited for
        await stack.enter_async_context(broker)
        other = await stack.enter_async_context(MqttBroker(embedded.url, env_id="bench-hop"))
        central, in_memory, distributed = [await stack.enter_async_context(whole_step(env)) for env in envs]
        steps = {
            "central": BenchCase(central),
            "memory": BenchCase(in_memory),
            "embedded": BenchCase(distributed, embedded.pids),
            "hop": BenchCase(await stack.enter_async_context(one_way(other)), embedded.pids),
        }
        found = await interleave(steps, rounds=effort.rounds, steps=max(10, effort.messages // 40))
    direct, hop = found["central"], found["hop"]
    floor_s = [c + HOPS * h for c, h in zip(direct.wall_s, hop.wall_s, strict=True)]
    floor_cpu_s = [c + HOPS * h for c, h in zip(direct.cpu_s, hop.cpu_s, strict=True)]
    raw = {
        "ms": found["embedded"].wall_ms,
        "centralized ms": direct.wall_ms,
        "one-way ms": hop.wall_ms,
        "CPU ms": found["embedded"].cpu_ms,
        "centralized CPU ms": direct.cpu_ms,
        "one-way CPU ms": hop.cpu_ms,
    }
    report.rows.append(
        ratio(
            "whole step with trading over embedded / (centralized + 5 one-way hops)",
            "x",
            found["embedded"].wall_s,
            floor_s,
            must=2.0,
            aim=1.3,
            raw=raw,
        )
    )
    report.rows.append(ratio(SAME_CPU, "x", found["embedded"].cpu_s, floor_cpu_s))
    raw = {
        "ms": found["memory"].wall_ms,
        "centralized ms": direct.wall_ms,
        "CPU ms": found["memory"].cpu_ms,
        "centralized CPU ms": direct.cpu_ms,
    }
    report.rows.append(
        ratio(
            "whole step over InMemoryBroker / centralized",
            "x",
            found["memory"].wall_s,
            direct.wall_s,
            must=2.8,
            aim=2.0,
            raw=raw,
        )
    )
    report.rows.append(ratio(SAME_CPU, "x", found["memory"].cpu_s, direct.cpu_s))


async def _sentinel(report: BenchReport, effort: Effort, say: Say, name: str, hop: Hop) -> None:
    say(f"{effort.sentinel_steps} steps for the Nagle sentinel")
    async with contextlib.AsyncExitStack() as stack:
        contestant = await _exchange(stack, hop, 3)
        times_s = sorted([await contestant.step() for _ in range(effort.sentinel_steps)])
    late = sum(t > NAGLE_S for t in times_s)
    raw = {
        "median ms": statistics.median(times_s) * 1e3,
        "p99 ms": times_s[int(0.99 * len(times_s))] * 1e3,
        "max ms": times_s[-1] * 1e3,
    }
    what = f"steps above 38 ms in {effort.sentinel_steps:,} (N = 3, {name}, all cores)"
    report.rows.append(BenchRow(what, late, "", late, late, 0.0, 0.0, raw))


async def _telemetry(report: BenchReport, effort: Effort, say: Say, name: str, hop: Hop) -> None:
    for devices in effort.devices:
        say(f"telemetry of {devices} devices")
        taken = await take_telemetry(hop.url, devices, effort.device_s)
        what = f"{devices:,} devices at 1 Hz to one gateway over {name}, {effort.device_s} s"
        lost, p99_ms = float(taken.sent - taken.taken), taken.delay_ms(0.99)
        raw = {"sent": taken.sent, "taken": taken.taken}
        delays = {
            "median ms": taken.delay_ms(0.5),
            "max ms": taken.delay_ms(1.0),
            "longest collection ms": taken.collected_s * 1e3,
            "sender late, max ms": taken.late_s * 1e3,
        }
        must, aim = DELAYS_MS.get(devices, (None, None))
        each_us = taken.cpu_s / max(1, taken.taken) * 1e6
        report.rows += [
            BenchRow(f"{what}: lost", lost, "", lost, lost, 0.0, 0.0, raw),
            BenchRow("  the same: p99 delay", p99_ms, "ms", p99_ms, p99_ms, must, aim, delays),
            BenchRow(
                "  the same: CPU of the gateway, a message", each_us, "us", each_us, each_us, 80.0, 50.0,
                {"CPU s": taken.cpu_s},
            ),
        ]  # fmt: skip


async def _outbox(report: BenchReport, effort: Effort, say: Say, hop: Hop) -> None:
    say("outbox")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with contextlib.AsyncExitStack() as stack:
            contestants = {
                "without": await publishing(stack, hop.url, None, hop.pids),
                "with": await publishing(stack, hop.url, folder / "outbox", hop.pids),
            }
            steps = max(10, effort.messages // 20)
            found = await interleave(contestants, rounds=effort.rounds, steps=steps)
        written = [await write_all(folder, effort.stored) for _ in range(effort.rounds)]
    ours, bare = found["with"], found["without"]
    raw = {"us a message": ours.wall_ms * 1e3 / AT_ONCE, "without us": bare.wall_ms * 1e3 / AT_ONCE}
    per_us = [took_s * 1e6 / effort.stored for took_s, _, _ in written]
    cpu_us = [cpu_s * 1e6 / effort.stored for _, cpu_s, _ in written]
    size = {"file bytes a message": written[0][2] / effort.stored}
    report.rows += [
        ratio(
            "telemetry that leaves at once, with an outbox / without", "x", ours.wall_s, bare.wall_s,
            raw=raw,
        ),
        ratio(SAME_CPU, "x", ours.cpu_s, bare.cpu_s),
        _figure(f"outbox, {effort.stored:,} messages on the disk, each", "us", per_us, size),
        _figure("  the same, CPU time of our process", "us", cpu_us, {}),
    ]  # fmt: skip


def _figure(what: str, unit: str, values: list[float], raw: dict[str, float]) -> BenchRow:
    return BenchRow(what, statistics.median(values), unit, min(values), max(values), raw=raw)


async def _memory(report: BenchReport, effort: Effort, say: Say) -> None:
    say("memory of simulated agents")
    rss = []
    for n in effort.fleet:
        async with module("heron_mqtt.bench.memory_use", str(n)) as child:
            rss.append(int(await next_line(child, 120.0)))
    if not all(rss):
        report.skipped.append("memory: this system does not report the resident memory of a process")
        return
    few, many = effort.fleet
    each_kb = (rss[1] - rss[0]) / (many - few) / 1e3
    raw = {f"N={n} MB": size / 1e6 for n, size in zip(effort.fleet, rss, strict=True)}
    what = f"memory per additional simulated agent, N = {few} to {many}"
    report.rows.append(BenchRow(what, each_kb, "kB", each_kb, each_kb, 300.0, 100.0, raw))

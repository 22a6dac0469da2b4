"""The benchmark measures what it says it measures; how fast that is, is no matter of tests."""

from __future__ import annotations

import asyncio
import math

import pytest
from rich.console import Console

from heron_mqtt.bench import suite
from heron_mqtt.bench.agent_exchange import Exchange, RawExchange
from heron_mqtt.bench.cpu import cpu_s, machine, one_core, rss_bytes
from heron_mqtt.bench.environment import make_env, one_way, whole_step
from heron_mqtt.bench.memory_use import rss_of
from heron_mqtt.bench.processes import find_mosquitto, relay
from heron_mqtt.bench.relay import Framed, frame
from heron_mqtt.bench.rounds import BenchCase, interleave
from heron_mqtt.bench.rows import BenchReport, BenchRow, print_report, ratio
from heron_mqtt.bench.telemetry import take_telemetry
from heron_mqtt.errors import BrokerUnavailable, ConfigError
from heron_mqtt.messaging.embedded import EmbeddedBroker
from heron_mqtt.messaging.memory import InMemoryBroker

TINY = suite.Effort(2, (2, 4), 12, 5, (20,), 1, (2, 4), 200, 3, 2, 8)


async def _nothing(*_: object) -> None:
    """Measure nothing."""


def silent(_what: str) -> None:
    """Report no progress."""


async def test_the_relay_forwards_every_message_to_its_address_and_in_order() -> None:
    got: dict[int, list[bytes]] = {0: [], 1: []}
    all_there = asyncio.Event()
    named: asyncio.Queue[int] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    sent = [(i % 2, f"message {i}".encode() * (i + 1)) for i in range(50)]

    def listener(number: int) -> Framed:
        def on_frame(_link: Framed, address: int, whole: bytes) -> None:
            assert address == number
            if whole == frame(number, b""):
                named.put_nowait(number)
                return
            got[number].append(whole)
            if sum(map(len, got.values())) == len(sent):
                all_there.set()

        return Framed(on_frame)

    async with relay() as hop:
        links = []
        for number in got:
            _, link = await loop.create_connection(lambda n=number: listener(n), "127.0.0.1", hop.port)
            link.transport.write(frame(number, b""))
            links.append(link)
        for address, payload in sent:
            links[address].transport.write(frame(address, payload))
        await asyncio.wait_for(all_there.wait(), 10)
        for link in links:
            link.transport.abort()
    for number, frames in got.items():
        assert frames == [frame(address, payload) for address, payload in sent if address == number]


@pytest.mark.parametrize("shared", [False, True])
async def test_the_floor_moves_as_many_messages_as_the_exchange(shared: bool) -> None:
    async with relay() as hop, RawExchange.open(hop.port, 5, shared=shared) as floor:
        for _ in range(3):
            assert await asyncio.wait_for(floor.step(), 10) > 0
            assert floor.arrived == 5


async def test_an_exchange_publishes_each_message_once() -> None:
    async with InMemoryBroker() as broker, Exchange.open(broker, 4, "bench-4") as exchange:
        before = broker.stats.published
        await exchange.step()
        await exchange.step()
        assert broker.stats.published - before == 2 * (
            1 + 1 + 4 + 4
        )  # run state, price, observations, actions
        assert broker.stats.lost == broker.stats.duplicated == broker.stats.rejected == 0


async def test_contestants_take_turns() -> None:
    turns: list[str] = []

    def contestant(name: str) -> BenchCase:
        async def step() -> float:
            turns.append(name)
            return 0.25

        return BenchCase(step)

    found = await interleave({"a": contestant("a"), "b": contestant("b")}, rounds=3, steps=2)
    assert "".join(turns) == "aabb" + 3 * "aabb"  # the first ones do not count
    assert found["a"].wall_s == [0.25] * 3
    assert found["a"].wall_ms == 250
    assert len(found["b"].cpu_s) == 3


def test_a_ratio_is_taken_within_each_round() -> None:
    row = ratio("x", "R", [2.0, 30.0, 8.0], [1.0, 10.0, 2.0])
    assert (row.value, row.low, row.high) == (3.0, 2.0, 4.0)


async def test_whole_steps_go_on_over_the_end_of_an_episode() -> None:
    async with whole_step(make_env(None)) as step:
        for _ in range(98):
            assert await step() > 0


async def test_one_way_waits_for_the_message() -> None:
    async with InMemoryBroker() as broker, one_way(broker) as step:
        assert await step() > 0
        assert broker.stats.received == 1


async def test_telemetry_of_many_devices_arrives_and_is_counted() -> None:
    async with EmbeddedBroker() as broker:
        taken = await take_telemetry(broker.url, 20, 1)
    assert (taken.sent, taken.taken) == (20, 20)
    assert 0 <= taken.delay_ms(0.5) <= taken.delay_ms(0.99) <= taken.delay_ms(1.0)
    assert 0 < taken.cpu_s / taken.taken < 0.1
    assert 0 < taken.late_s < 10, "the first message is due when the clock begins"


async def test_memory_is_measured_with_agents_that_take_steps() -> None:
    assert await rss_of(2) == pytest.approx(rss_bytes(), rel=0.5)


def test_one_core_is_given_back() -> None:
    before = cpu_s()
    with one_core() as core, one_core() as again:
        assert core == again
    assert cpu_s() >= before
    assert machine()["cores"] >= 1


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.skipif(find_mosquitto() is None, reason="mosquitto is not installed")
async def test_the_suite_fills_every_row() -> None:
    report = await suite.run_suite(TINY, None, silent)
    # So few steps of two agents may take less than what starting them varies by, and then no row says so.
    assert all("a process each" in reason for reason in report.skipped)
    named = " | ".join((*(row.what for row in report.rows), *report.skipped))
    for what in (
        "N = 2 over mosquitto",
        "N = 4 over",
        "embedded",
        "default config",
        "exponent",
        "38 ms",
        "kB",
        "import numpy",
        "nine emulated devices / with simulated",
        "begun late",
        "2 agents, a process each",
    ):
        assert what in named or any(row.unit == what for row in report.rows), what
    for row in report.rows:
        assert all(math.isfinite(x) for x in (row.value, row.low, row.high, *row.raw.values())), row
        assert row.unit != "x" or row.value > 0.0
        assert row.low <= row.value <= row.high


@pytest.mark.slow
async def test_without_mosquitto_the_rest_is_measured_and_the_reader_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(suite, "find_mosquitto", lambda: None)
    monkeypatch.setattr(suite, "_memory", _nothing)
    monkeypatch.setattr(suite, "_whole_runs", _nothing)
    report = await suite.run_suite(TINY, None, silent)
    assert any("mosquitto" in line for line in report.skipped)
    assert {"R", "x"} <= {row.unit for row in report.rows}
    assert not any("mosquitto" in row.what for row in report.rows)


def test_the_table_shows_value_spread_and_raw_numbers() -> None:
    report = BenchReport(
        machine(), {}, [BenchRow("a step", 2.5, "R", 2.0, 3.0, 3.5, 2.0, {"ms": 0.125})], ["the moon"]
    )
    console = Console(width=180)
    with console.capture() as shown:
        print_report(console, report)
    for text in ("a step", "2.5 R", "2 .. 3", "3.5", "ms 0.125", "not measured: the moon"):
        assert text in shown.get()


async def test_a_url_that_is_none_is_refused_before_anything_is_measured() -> None:
    with pytest.raises(ConfigError, match="'http://x' is no MQTT address"):
        await suite.run_suite(TINY, "http://x", lambda _: pytest.fail("it measures"))
    with pytest.raises(BrokerUnavailable, match=r"no answer at mqtt://127\.0\.0\.1:1 "):
        await suite.run_suite(TINY, "mqtt://127.0.0.1:1", lambda _: pytest.fail("it measures"))

"""What a record says of the network comes back out of it, as rules that a run takes."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import numpy as np
import pytest

from heron_mqtt.app.calibrate.network import ChannelFit, NetworkFit, fit_delay, fit_network
from heron_mqtt.app.recording import run_facts
from heron_mqtt.errors import DataError
from heron_mqtt.messages import Telemetry
from heron_mqtt.messaging.impaired import ImpairedBroker
from heron_mqtt.messaging.impairment import ImpairmentTable, load_impairment
from heron_mqtt.messaging.impairment_kinds import JITTERS
from heron_mqtt.messaging.memory import InMemoryBroker
from heron_mqtt.messaging.stamping import MessageStamper
from heron_mqtt.record.reader import RecordFile
from heron_mqtt.record.recorder import RunRecorder
from powergrid.scenario import scenario_from_dict
from support.recorded_runs import record_run
from support.small_grid import scenario
from support.virtual import run_virtual, virtual_now


def measured(path: Path, rule: dict[str, object], messages: int) -> NetworkFit:
    """Send telemetry of a hundred devices through a network, record both ends, and fit."""
    table = ImpairmentTable.model_validate({"rules": [{"direction": "in", **rule}]})

    async def send() -> None:
        facts = run_facts(scenario_from_dict(scenario()), mode="distributed", seed=3)
        recorder = RunRecorder(path, facts, elapsed=virtual_now)
        async with ImpairedBroker(InMemoryBroker(), table, seed=3) as broker:
            recorder.attach(broker)
            stamper = MessageStamper("MG1/ess", "small")
            broker.subscribe("devices/#", lambda message: None)
            for n in range(messages):
                channel = f"devices/MG1/d{n % 100}/telemetry"
                broker.publish(channel, stamper.stamp(channel, Telemetry(p_mw=0.0), step=n))
                if n % 100 == 99:
                    await asyncio.sleep(0.5)  # longer than the jitter: nothing waits for what was sent before
            await asyncio.sleep(2.5)  # what was sent in the last two seconds does not count
            ending = stamper.stamp("devices/MG1/end/telemetry", Telemetry(p_mw=0.0))
            broker.publish("devices/MG1/end/telemetry", ending)
            await asyncio.sleep(0.3)
            recorder.close({})

    run_virtual(send())  # in real time the machine's own delay would be fitted, too
    with RecordFile(path) as record:
        return fit_network(record)


@pytest.fixture(scope="module")
def poor(tmp_path_factory: pytest.TempPathFactory) -> NetworkFit:
    rule = {"delay_s": 0.05, "jitter": "uniform", "jitter_s": 0.04, "loss": 0.05, "duplicate": 0.03}
    return measured(tmp_path_factory.mktemp("network") / "run.heron", rule, 800)


@pytest.fixture(scope="module")
def bursty(tmp_path_factory: pytest.TempPathFactory) -> NetworkFit:
    rule = {
        "delay_s": 0.02,
        "jitter": "lognormal",
        "jitter_s": 0.01,
        "jitter_shape": 0.6,
        "burst": {"enter": 0.02, "leave": 0.25, "loss": 1.0},
    }
    return measured(tmp_path_factory.mktemp("network") / "run.heron", rule, 1_500)


def median_s(channel: ChannelFit) -> float:
    """Return the delay that half of the messages do not exceed."""
    shape = channel.jitter_shape or 0.0
    return channel.delay_s + JITTERS[channel.jitter].quantile(0.5, channel.jitter_s, shape)


@pytest.mark.slow  # of one: test_delay_loss_and_copies_come_back
@pytest.mark.parametrize("name", ["uniform", "normal", "lognormal", "pareto"])
def test_each_distribution_is_told_from_the_others(name: str) -> None:
    rng, jitter = random.Random(1), JITTERS[name]
    shape = {"lognormal": 0.6, "pareto": 2.5}.get(name, 0.0)
    delays = np.array([0.02 + jitter.quantile(rng.random(), 0.01, shape) for _ in range(2_000)])
    found = fit_delay(delays)
    assert found.jitter == name
    assert found.least_s == pytest.approx(0.02, abs=0.001)
    assert found.scale_s == pytest.approx(0.01, rel=0.15)
    assert found.distance < 0.03


def only(found: NetworkFit) -> ChannelFit:
    (channel,) = found.channels
    assert channel.pattern == "devices/+/+/telemetry"
    assert channel.source == "one way"
    return channel


def test_delay_loss_and_copies_come_back(poor: NetworkFit) -> None:
    channel = only(poor)
    assert median_s(channel) == pytest.approx(0.07, abs=0.002)
    assert channel.delay_s == pytest.approx(0.05, abs=0.002)
    assert channel.loss == pytest.approx(0.05, abs=0.015)
    assert channel.duplicate == pytest.approx(0.03, abs=0.015)
    assert channel.burst is None


@pytest.mark.slow
def test_bursts_and_a_long_tail_come_back(bursty: NetworkFit) -> None:
    channel = only(bursty)
    assert channel.burst is not None
    enter, leave = channel.burst
    assert leave == pytest.approx(0.25, abs=0.1)
    assert channel.lost_share == pytest.approx(0.02 / 0.27, abs=0.03)
    assert enter == pytest.approx(0.02, abs=0.012)
    assert median_s(channel) == pytest.approx(0.03, abs=0.002)


def test_the_file_is_a_network_for_a_run(poor: NetworkFit, tmp_path: Path) -> None:
    file = tmp_path / "site.toml"
    file.write_text(poor.file())
    table = load_impairment(file)
    (rule,) = table.rules
    assert rule.delay_s == pytest.approx(poor.channels[0].delay_s, abs=1e-6)
    assert table.name == "measured, small"


@pytest.mark.slow
def test_one_side_alone_sees_the_round_trip_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "run.heron"
    record_run(path, steps=12, emulated=True)
    with RecordFile(path) as record:
        found = fit_network(record)  # both ends are in this one
        assert {channel.source for channel in found.channels} == {"one way"}
    with RecordFile(path) as record:
        record.meta["keeps_messages"] = "0"
        with pytest.raises(DataError, match="run with --record-messages"):
            fit_network(record)

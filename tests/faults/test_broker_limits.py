"""What safety depends on is tried before a run begins: a broker that cannot do it is refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from heron_mqtt.app.broker_probe import probe_features
from heron_mqtt.messaging.mqtt import MqttBroker
from support.heron_command import run_heron
from support.mosquitto_server import Mosquitto
from support.observer import Observer, PlainDevice
from support.rabbitmq_wire import rabbit_node
from support.safety_runs import run, write


@pytest.fixture
async def forgetful(own_mosquitto: Callable[..., Mosquitto]) -> AsyncIterator[str]:
    """A broker that acknowledges what it is to keep, and does not: a node for what came to another one."""
    async with rabbit_node(own_mosquitto().port, keeps=False) as url:
        yield url


async def test_a_broker_that_keeps_nothing_is_refused_before_anything_is_sent(
    tmp_path: Path, forgetful: str
) -> None:
    def attempt() -> None:
        with Observer(forgetful, ["heron/small/#"]) as observer, PlainDevice(forgetful, "small"):
            ended = run(write(tmp_path), forgetful).wait()
            assert ended.code == 1
            assert "an emergency stop would not reach a device that connects later" in ended.errors[-1]
            assert "--accept-broker-limits" in ended.errors[-1]
            assert observer.setpoints() == []

    await asyncio.to_thread(attempt)


@pytest.mark.slow
async def test_it_is_taken_where_that_is_accepted_and_said(tmp_path: Path, forgetful: str) -> None:
    scenario = write(tmp_path, {"authority": "simulated"}, steps=4)
    arguments = ("run", str(scenario), "--broker", forgetful, "--accept-broker-limits", "--json")
    ended = await asyncio.to_thread(run_heron, *arguments)
    assert "an emergency stop would not reach a device that connects later (accepted)" in ended.err
    assert ended.code == 0, ended.err


@pytest.mark.parametrize("limits", [(), ("--accept-broker-limits",)])
def test_a_missing_right_is_no_limit_of_the_broker_and_cannot_be_accepted(
    tmp_path: Path, own_mosquitto: Callable[..., Mosquitto], limits: tuple[str, ...]
) -> None:
    (tmp_path / "acl").write_text("topic readwrite #\ntopic deny heron/+/run/probe\n")
    url = own_mosquitto("allow_anonymous true", f"acl_file {tmp_path / 'acl'}").url
    scenario = write(tmp_path, {"authority": "simulated"}, steps=2)
    with Observer(url, ["heron/small/#"]) as observer:
        ended = run_heron("run", str(scenario), "--broker", url, *limits)
        assert observer.setpoints() == []
    assert ended.code == 1
    assert "may this user publish and read there? heron-mqtt acl names the rights" in ended.errors[-1]


@pytest.mark.parametrize("look", [4, 5])
@pytest.mark.parametrize("times", [1, 99])
async def test_a_probe_that_another_start_has_removed_is_no_limit_of_the_broker(
    own_mosquitto: Callable[..., Mosquitto], look: int, times: int
) -> None:
    """Runs that start together try the same channel; one that is done removes what the other looks for."""
    url = own_mosquitto().url
    made = 0

    with Observer(url) as other:

        def another(**options: Any) -> MqttBroker:
            """The fourth and fifth connection look for what is kept; then one publishes it again."""
            nonlocal made
            made += 1
            if made in range(look, look + 2 * times, 2):
                other.publish("heron/small/run/probe", b"", retain=True)
            return MqttBroker(url, env_id="small", **options)

        async with MqttBroker(url, env_id="small") as broker:
            probes = await probe_features(broker, another, "run", "0123abcd")
    problems = [one.feature for one in probes if one.problem is not None]
    assert problems == ([] if times == 1 else [{4: "retained by name", 5: "retained by wildcard"}[look]])

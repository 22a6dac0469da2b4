"""A site that wants all of its topics below a prefix gets it: every program, nothing beside it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from heron_mqtt.app.acl_files import acl_file
from heron_mqtt.app.live_view.view import LiveView
from heron_mqtt.errors import ConfigError
from heron_mqtt.messaging.mqtt import MqttBroker
from heron_mqtt.messaging.schemes import open_broker
from heron_mqtt.messaging.settings import variable_of
from powergrid.scenario import scenario_from_dict
from support.heron_command import heron, run_heron
from support.mosquitto_server import Mosquitto
from support.observer import Observer
from support.small_grid import scenario
from support.small_runs import write_scenario

PREFIX = "sites/7"


async def test_topics_have_it_at_the_broker_and_nobody_else_sees_it(
    own_mosquitto: Callable[..., Mosquitto],
) -> None:
    server = own_mosquitto()
    heard: list[tuple[str, Any]] = []
    will = ("agents/MG1/status", {"state": "offline"})
    with Observer(server.url, ["#"]) as plain:
        broker = MqttBroker(server.url, env_id="site", topic_prefix=f"{PREFIX}/", will=will)
        async with broker:
            await broker.subscribe("devices/+/+/telemetry", lambda m: heard.append((m.channel, m["p_mw"])))
            await broker.publish("devices/MG1/ess/telemetry", {"p_mw": 0.001})
            await broker.publish("price", {"value": 1}, retain=True)
            assert await broker.consume("price") == {"value": 1}
            broker._session.drop()  # without a goodbye: the will is published
        plain.wait("the will", lambda: any(m.topic.endswith("agents/MG1/status") for m in plain.seen))
        assert {m.topic.rsplit("/site/", 1)[0] for m in plain.seen} == {f"{PREFIX}/heron"}
    assert heard == [("devices/MG1/ess/telemetry", 0.001)]


async def test_what_only_watches_reads_below_it(
    own_mosquitto: Callable[..., Mosquitto], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = own_mosquitto()
    monkeypatch.setenv(variable_of("topic_prefix"), PREFIX)
    telemetry = {"type": "telemetry", "p_mw": 0.001, "sender": "MG1/ess", "boot": "a"}
    async with MqttBroker(server.url, env_id="site") as broker, LiveView(server.url) as view:
        for seq in range(20):
            await broker.publish("devices/MG1/ess/telemetry", {**telemetry, "seq": seq})
        async with asyncio.timeout(10.0):
            while not (seen := view.environments.get("site")) or "MG1/ess" not in seen.devices:
                await asyncio.sleep(0.02)
    assert list(view.environments) == ["site"]
    assert seen.devices["MG1/ess"].telemetry is not None


def test_a_run_its_devices_and_every_command_have_it(
    own_mosquitto: Callable[..., Mosquitto], tmp_path: Path
) -> None:
    server = own_mosquitto()
    file = str(write_scenario(tmp_path, {"broker.topic_prefix": PREFIX}))
    at = ("--broker", server.url)
    with Observer(server.url, ["#"]) as plain:
        with heron("run", file, "--realtime", "0.5", "--steps", "40", *at) as program:
            program.wait_for(f"topics: {PREFIX}/heron/")
            program.wait_for("step ")
            found = json.loads(run_heron("status", *at, "--topic-prefix", PREFIX, "--json").out)
            assert run_heron("status", *at).code == 1, "nothing of it stands beside the prefix"
            pressed = run_heron("estop", "on", *at, "--topic-prefix", PREFIX)
        assert {m.topic.partition("/heron/")[0] for m in plain.seen} == {PREFIX}
        assert any(m.topic.endswith("/ess/telemetry") for m in plain.seen), "the emulated device"
    assert [one["env_id"] for one in found["environments"]] == ["small"]
    assert pressed.code == 0, pressed.out + pressed.err


def test_a_denied_stop_is_named_with_it(own_mosquitto: Callable[..., Mosquitto], tmp_path: Path) -> None:
    acl = tmp_path / "acl"
    acl.write_text(f"topic read {PREFIX}/heron/#\n")
    server = own_mosquitto("allow_anonymous true", f"acl_file {acl}")
    at = ("--broker", server.url, "--topic-prefix", PREFIX, "--env-id", "site")
    done = run_heron("estop", "on", *at, "--wait", "0.5")
    assert done.code == 1
    assert f"may this user publish on {PREFIX}/heron/site/estop?" in done.err


def test_rights_are_below_it() -> None:
    site = scenario_from_dict({**scenario(), "broker": {"topic_prefix": PREFIX}})
    rows = [line for line in acl_file(site, "mosquitto").splitlines() if line.startswith("topic ")]
    assert rows
    assert all(row.split()[2].startswith((f"{PREFIX}/heron/", "$SYS/")) for row in rows)
    assert '"sites.7.heron.' in acl_file(site, "nats")


@pytest.mark.parametrize("wrong", ["a//b", "/a", "/", "a//", "a/+", "#", "$SYS", "a\n", "x" * 501])
def test_what_cannot_begin_a_topic_is_refused(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="topic_prefix"):
        MqttBroker("mqtt://127.0.0.1", topic_prefix=wrong)
    with pytest.raises(ConfigError, match="topic_prefix"):
        scenario_from_dict({**scenario(), "broker": {"topic_prefix": wrong}})
    monkeypatch.setenv(variable_of("topic_prefix"), wrong)
    with pytest.raises(ConfigError, match="topic_prefix"):
        MqttBroker("mqtt://127.0.0.1")
    with pytest.raises(ConfigError, match="HERON_MQTT_TOPIC_PREFIX: topic_prefix"):
        acl_file(scenario_from_dict(scenario()), "mosquitto")
    monkeypatch.delenv(variable_of("topic_prefix"))
    done = run_heron("status", "--broker", "mqtt://127.0.0.1:1", "--topic-prefix", wrong)
    assert done.code == 2
    assert done.errors[0].startswith("heron-mqtt: --topic-prefix ")


def test_only_mqtt_has_it() -> None:
    for url in ("nats://127.0.0.1", "kafka://127.0.0.1"):
        with pytest.raises(ConfigError, match="topic_prefix"):
            open_broker(url, defaults={"topic_prefix": PREFIX})

"""Topics below a prefix: the embedded broker gives the same rights and keeps the same promises there."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from heron_mqtt.errors import ConfigError
from heron_mqtt.messaging.embedded import EmbeddedBroker, Limits
from heron_mqtt.messaging.embedded.auth.credentials import add_credentials
from heron_mqtt.messaging.hosted import HostedBroker
from heron_mqtt.messaging.schemes import open_broker
from heron_mqtt.messaging.settings import variable_of
from support.heron_command import heron, run_heron
from support.raw_mqtt import RawClient, connected

PREFIX = "sites/7"
PLANT = f"{PREFIX}/heron/plant"
LIMITS = Limits(max_user_retained_messages=3, max_user_environments=2)
DEVICE = {"user": "MG1/ess", "password": "pw"}
OPERATOR = {"user": "so", "password": "pw"}


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[EmbeddedBroker]:
    files: dict[str, Any] = {"users_file": tmp_path / "users", "acl_file": tmp_path / "acl"}
    for name, role in [("so", "operator"), ("MG1/ess", "device")]:
        add_credentials(name, role, b"pw", **files, before=f"{PREFIX}/")
    async with EmbeddedBroker(**files, topic_prefix=PREFIX, limits=LIMITS, in_process=True) as server:
        yield server


async def kept(client: RawClient, topic_filter: str = f"{PREFIX}/heron/#") -> set[str]:
    await client.subscribe((topic_filter, 0))
    return {message.topic for message in await client.arrived()}


async def test_rights_are_those_below_it_and_no_others(broker: EmbeddedBroker) -> None:
    inside, beside = f"{PLANT}/devices/MG1/ess/status", "heron/plant/devices/MG1/ess/status"
    async with connected(broker.port, "a", **DEVICE) as device, connected(broker.port, "b", **OPERATOR) as so:
        assert await device.subscribe((f"{PLANT}/estop", 1), ("heron/plant/estop", 1)) == [1, 0x80]
        for topic in (inside, beside, f"sites/8/heron/plant/{inside.rsplit('/plant/', 1)[1]}"):
            await device.publish(topic, b"born", qos=1, retain=True)
        assert await kept(so) == {inside}
    assert (await broker.read_stats()).denied == 2


async def test_what_safety_depends_on_is_kept_before_everything_else(broker: EmbeddedBroker) -> None:
    plain = [f"{PLANT}/session/MG1%2Fess/{i}/probe" for i in range(4)]
    birth = f"{PLANT}/devices/MG1/ess/status"
    async with connected(broker.port, "a", **DEVICE) as device, connected(broker.port, "b", **OPERATOR) as so:
        for topic in [*plain, birth]:
            await device.publish(topic, b"x", qos=1, retain=True)
        assert await kept(so) == {*plain[1:3], birth}


async def test_who_may_stop_everything_has_no_bounds_of_a_user(broker: EmbeddedBroker) -> None:
    topics = {f"{PREFIX}/heron/env{i}/estop" for i in range(5)}
    async with connected(broker.port, "b", **OPERATOR) as so:
        for topic in topics:
            await so.publish(topic, b"x", qos=1, retain=True)
        assert await kept(so) == topics


async def test_environments_of_a_user_are_counted_below_it(broker: EmbeddedBroker) -> None:
    topics = [f"{PREFIX}/heron/env{i}/devices/MG1/ess/status" for i in range(3)]
    async with connected(broker.port, "a", **DEVICE) as device, connected(broker.port, "b", **OPERATOR) as so:
        for topic in topics:
            await device.publish(topic, b"x", qos=1, retain=True)
        assert await kept(so) == set(topics[:2])


@pytest.mark.parametrize("by", ["option", "defaults"])
async def test_a_broker_of_ones_own_keeps_births_first_below_the_prefix_of_its_connection(by: str) -> None:
    """The environment says nothing of it: a scenario does, or who opens the connection."""
    options: dict[str, Any] = {"topic_prefix": PREFIX}
    broker = open_broker("embedded", env_id="plant", **(options if by == "option" else {"defaults": options}))
    assert isinstance(broker, HostedBroker)
    birth = f"{PLANT}/devices/MG1/ess/status"
    async with broker, connected(broker._server.port, "a") as device:
        await device.publish(birth, b"born", qos=1, retain=True)
        for i in range(Limits().max_user_retained_messages):
            await device.publish(f"{PLANT}/session/MG1%2Fess/{i}/probe", b"x", retain=True)
        await device.publish(f"{PLANT}/session/MG1%2Fess/last/probe", b"x", qos=1, retain=True)
        assert await kept(device, birth) == {birth}


@pytest.mark.parametrize("by", ["option", "environment"])
def test_the_command_writes_the_rights_below_it(tmp_path: Path, by: str) -> None:
    words = ["credentials", "add", "MG1", "--role", "agent", "--users", str(tmp_path / "u")]
    option = ["--topic-prefix", PREFIX] if by == "option" else []
    environment = {variable_of("topic_prefix"): "other" if option else PREFIX}
    acl = tmp_path / "acl"
    with heron(*words, "--acl", str(acl), *option, environment=environment) as program:
        program.process.stdin.write("pw\n")
        program.process.stdin.close()
        done = program.wait()
    assert done.code == 0, done.err
    rows = [line for line in acl.read_text().splitlines() if line.startswith("topic ")]
    assert rows
    assert all(row.split(" ", 2)[2].startswith(f"{PREFIX}/heron/") for row in rows)


def test_a_prefix_that_topics_cannot_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="topic_prefix 'a/#': expected topic levels"):
        EmbeddedBroker(topic_prefix="a/#")
    done = run_heron("broker", "--port", "0", "--topic-prefix", "a/#")
    assert (done.code, len(done.errors)) == (2, 1)
    assert "--topic-prefix 'a/#': expected topic levels" in done.errors[0]

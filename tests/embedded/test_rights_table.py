"""The table of the wire contract, against what two brokers let each role do: not one right more or less.

Every kind of channel is tried by every role, for itself and for others, on the embedded broker and on
mosquitto with the same generated file. Nothing here names a channel: the table is the only source.
"""

from __future__ import annotations

import contextlib
import getpass
import itertools
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from heron_mqtt.messaging import topics
from heron_mqtt.messaging.embedded import EmbeddedBroker, Limits
from heron_mqtt.messaging.embedded.auth.credentials import acl_section, add_credentials
from heron_mqtt.messaging.topics import RULES, ChannelRule
from support.other_brokers import mosquitto
from support.raw_mqtt import Ended, RawClient, connected

USERS = {"so": "operator", "eye": "observer", "MG1": "agent", "MG1/ess": "device"}
ENV = "plant"
LEVELS = {"agent": ["MG1", "MG2"], "peer": ["MG1", "MG2"], "device": ["ess", "pv"], "operator": ["so"]}
LEVELS |= {"client": ["c1"], "user": ["MG1", "MG1/ess", "MG2"]}


def channels(rule: ChannelRule) -> list[dict[str, str]]:
    """The levels of every channel of a kind: of ourselves and of others."""
    names = re.findall(r"\{(\w+)\}", rule.pattern)
    return [dict(zip(names, found, strict=True)) for found in itertools.product(*(LEVELS[n] for n in names))]


def expected(rule: ChannelRule, levels: dict[str, str], user: str, right: str) -> bool:
    """What the table says, worked out channel by channel, without filters."""
    role = USERS[user]
    if role == "operator":
        return True
    if role == "observer":
        return right == "read"
    named = rule.writers if right == "write" else rule.readers
    mine = {"agent": "MG1", "device": "ess"}
    for one in named:
        if one == "user":
            if levels["user"] == user:
                return True
        elif one in {"agents", "devices"}:
            if role == "agent" or one == "devices":
                return True
        elif one == "agent":
            if role == "agent" and levels["agent"] == mine["agent"]:
                return True
        elif one == "device":
            own_agent = levels["agent"] == mine["agent"]
            if own_agent and (role == "agent" or levels["device"] == mine["device"]):
                return True
        elif one == "peer" and role == "agent" and levels["peer"] == mine["agent"]:
            return True
    return False


def all_cases(user: str, right: str) -> dict[str, bool]:
    """Every channel -> whether the user has the right to it."""
    return {
        topics.fill(rule.pattern, levels): expected(rule, levels, user, right)
        for rule in RULES
        for levels in channels(rule)
    }


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The files of all logins, which no test changes: a password's hash takes its time by intention."""
    folder = tmp_path_factory.mktemp("site")
    files = {"users_file": folder / "users", "acl_file": folder / "acl"}
    for name, role in USERS.items():
        add_credentials(name, role, b"pw", **files)
    return files


@pytest.fixture(params=["embedded", "mosquitto"])
async def port(request: pytest.FixtureRequest, site: dict[str, Path], tmp_path: Path) -> AsyncIterator[int]:
    if request.param == "embedded":
        async with EmbeddedBroker(**site, in_process=True, limits=Limits(max_log_lines_per_s=1)) as broker:  # type: ignore[arg-type]
            yield broker.port
        return
    request.getfixturevalue("mosquitto_port")  # skips where it is not installed
    with mosquitto(tmp_path, f"user {getpass.getuser()}\nacl_file {site['acl_file']}\n") as made:
        yield made


@pytest.mark.parametrize("user", USERS)
async def test_each_role_publishes_what_the_table_says_and_nothing_else(port: int, user: str) -> None:
    cases = all_cases(user, "write") | {"agents/MG1/anything": False, "anything": False, "estop/x/y/z": False}
    async with connected(port, "eye", user="eye", password="pw") as everything:
        await everything.subscribe(("heron/#", 0))
        for channel in cases:
            async with connected(port, f"c-{user}", user=user, password="pw") as client:
                with contextlib.suppress(Ended):  # what mosquitto may do to who has no right
                    await client.publish(f"heron/{ENV}/{channel}", b"", qos=1)
        arrived = {message.topic.removeprefix(f"heron/{ENV}/") for message in await everything.arrived()}
    assert arrived == {channel for channel, may in cases.items() if may}


@pytest.mark.parametrize("user", USERS)
async def test_each_role_reads_what_the_table_says_and_nothing_else(port: int, user: str) -> None:
    cases = all_cases(user, "read") | {"agents/MG1/anything": USERS[user] in {"operator", "observer"}}
    async with connected(port, f"c-{user}", user=user, password="pw") as client:
        for channel in cases:
            await client.subscribe((f"heron/{ENV}/{channel}", 0))
        async with connected(port, "so-too", user="so", password="pw") as operator:
            for channel in cases:
                if channel != "agents/MG1/anything":
                    await operator.publish(f"heron/{ENV}/{channel}", b"", qos=1)
        arrived = await _channels(client)
    assert arrived == {c for c, may in cases.items() if may and c != "agents/MG1/anything"}


async def _channels(client: RawClient) -> set[str]:
    return {message.topic.removeprefix(f"heron/{ENV}/") for message in await client.arrived()}


def test_rights_can_be_given_for_one_environment() -> None:
    for name, role in USERS.items():
        for row in acl_section(name, role, "my/plant")[2:]:
            assert re.fullmatch(r"topic (read|write|readwrite) (heron/my%2Fplant/.+|\$SYS/#)", row)


def test_a_name_that_needs_escaping_is_escaped_as_in_topics() -> None:
    assert topics.agent("50%", "action") in {
        f.removeprefix("heron/+/") for f in topics.rights("agent", "50%")
    }


def test_every_channel_that_is_retained_for_safety_is_vital() -> None:
    for rule in RULES:
        for levels in channels(rule):
            assert topics.is_vital(f"heron/{ENV}/{rule.pattern.format(**levels)}") == rule.vital
    assert not topics.is_vital("heron/plant/estop/x")
    assert not topics.is_vital("other/plant/estop")

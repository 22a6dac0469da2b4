"""Who may publish, subscribe and receive what; and what ``heron-mqtt credentials`` writes."""

from __future__ import annotations

import contextlib
import getpass
import io
import stat
import string
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heron_mqtt.errors import ConfigError, DataError
from heron_mqtt.messaging.embedded import EmbeddedBroker, Limits
from heron_mqtt.messaging.embedded.auth.acl import Acl
from heron_mqtt.messaging.embedded.auth.credentials import (
    ROLES,
    add_credentials,
    read_password,
    remove_credentials,
)
from heron_mqtt.messaging.embedded.auth.users import hash_password, load_users
from heron_mqtt.messaging.embedded.protocol.topic_filters import FilterTree, TopicTree, covers, overlap
from heron_mqtt.messaging.mqtt import MqttBroker
from heron_mqtt.messaging.topics import rights
from support.other_brokers import mosquitto
from support.raw_mqtt import Ended, Will, connected, publish_packet

if TYPE_CHECKING:
    from pathlib import Path

LEVELS = st.sampled_from(["a", "b", "$x", ""])
TOPICS = st.lists(LEVELS, min_size=1, max_size=4).map("/".join)
FILTERS = st.tuples(
    st.lists(st.sampled_from(["a", "b", "$x", "", "+"]), min_size=1, max_size=4), st.booleans()
).map(lambda made: "/".join([*made[0], *["#"] * made[1]]))


def matches(topic_filter: str, topic: str) -> bool:
    """The standard's rules once more, written for clarity alone."""
    if topic.startswith("$") and topic_filter[0:1] in ("+", "#"):
        return False
    wanted, levels = topic_filter.split("/"), topic.split("/")
    if wanted[-1] == "#":
        wanted = wanted[:-1]
        if len(levels) < len(wanted):
            return False
        levels = levels[: len(wanted)]
    return len(wanted) == len(levels) and all(
        one in ("+", level) for one, level in zip(wanted, levels, strict=True)
    )


@given(FILTERS, TOPICS)
def test_both_trees_match_as_the_standard_says(topic_filter: str, topic: str) -> None:
    subscribers: FilterTree[str, int] = FilterTree()
    subscribers.put(topic_filter, "client", 1)
    retained: TopicTree[str] = TopicTree()
    retained.put(topic, None, "message")
    expected = matches(topic_filter, topic)
    assert list(subscribers.match(topic)) == [("client", 1)] * expected
    assert retained.match(topic_filter) == ["message"] * expected
    assert covers(topic_filter, topic) == expected


@given(
    st.lists(st.tuples(FILTERS, st.integers(0, 3))), st.lists(st.tuples(FILTERS, st.integers(0, 3))), TOPICS
)
def test_a_tree_after_removals_is_the_tree_of_what_is_left(
    added: list[tuple[str, int]], removed: list[tuple[str, int]], topic: str
) -> None:
    tree: FilterTree[int, int] = FilterTree()
    left: dict[tuple[str, int], int] = {}
    for number, (topic_filter, client) in enumerate(added):
        tree.put(topic_filter, client, number)
        left[topic_filter, client] = number
    for topic_filter, client in removed:
        assert tree.discard(topic_filter, client) == left.pop((topic_filter, client), None)
    expected = sorted((client, number) for (one, client), number in left.items() if matches(one, topic))
    assert sorted(tree.match(topic)) == expected
    assert len(tree) == len(left)


@given(FILTERS, FILTERS, TOPICS)
def test_a_filter_that_is_covered_matches_nothing_more(granted: str, asked: str, topic: str) -> None:
    if covers(granted, asked) and matches(asked, topic):
        assert matches(granted, topic)


@pytest.mark.parametrize(
    ("granted", "asked", "expected"),
    [("cmd/+", "cmd/#", False), ("cmd/+", "cmd/+", True), ("cmd/+/set", "cmd/#", False), ("#", "#", True),
     ("cmd/#", "cmd/#", True), ("cmd/#", "cmd/+/x/#", True), ("cmd/#", "cmd", True), ("cmd/#", "#", False),
     ("+/x", "#", False), ("#", "$SYS/#", False), ("$SYS/#", "$SYS/#", True), ("a/+", "a/b/c", False),
     ("+", "#", False), ("+/+", "+/#", False)],
)  # fmt: skip
def test_a_plus_never_grants_a_hash(granted: str, asked: str, *, expected: bool) -> None:
    assert covers(granted, asked) is expected


def acl_of(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "acl"
    path.write_text(text)
    return path


async def test_publish_subscribe_and_receive_are_ruled_one_by_one_and_refusals_are_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    acl = acl_of(
        tmp_path,
        "topic publish in/#\ntopic publish out/#\ntopic subscribe #\ntopic receive out/#\n"
        "topic deny in/secret\n",
    )
    async with EmbeddedBroker(in_process=True, acl_file=acl) as broker, connected(broker.port, "c") as client:
        assert await client.subscribe(("#", 1), ("in/secret", 1)) == [1, 0x80]
        for topic in ("in/x", "in/secret", "elsewhere", "out/x"):
            await client.publish(topic, b"", qos=1)
        assert [message.topic for message in await client.arrived()] == ["out/x"]
        assert broker.stats.denied == 2
        assert broker.stats.refusals == 1
    assert 'subscription_refused client="c" user="" filter="in/secret"' in caplog.text
    assert 'publish_denied client="c" user="" topic="elsewhere"' in caplog.text


async def test_retained_messages_and_wills_are_ruled_too(tmp_path: Path) -> None:
    acl = acl_of(
        tmp_path, "topic publish open/#\ntopic publish hidden/#\ntopic subscribe #\ntopic receive open/#\n"
    )
    async with EmbeddedBroker(in_process=True, acl_file=acl) as broker, connected(broker.port) as client:
        await client.publish("hidden/x", b"kept", qos=1, retain=True)
        await client.publish("open/x", b"kept", qos=1, retain=True)
        await client.subscribe(("#", 1))
        assert [message.topic for message in await client.arrived()] == ["open/x"]
        async with connected(broker.port, will=Will("forbidden/will", b"", retain=True)) as device:
            device.drop()
            while broker.stats.wills == 0:
                await client.arrived()
        assert broker.stats.denied == 1


def test_names_are_filled_in_and_cannot_widen_a_row(tmp_path: Path) -> None:
    acl = Acl.load(
        acl_of(tmp_path, "pattern write own/%u/x\npattern write client/%c\npattern write both/%u/%c\n")
    )
    grant = acl.grant("MG1", "c1")
    assert grant.may_publish("own/MG1/x")
    assert grant.may_publish("client/c1")
    assert grant.may_publish("both/MG1/c1")
    assert not grant.may_publish("own/MG2/x")
    for user, client_id in [("+", "+"), ("#", "#"), (None, "a/b"), ("%c", "x"), ("", "")]:
        grant = acl.grant(user, client_id)
        for topic in ("own/MG1/x", "client/c1", "client/a/b", "own/x/x", "own//x", "client/"):
            assert not grant.may_publish(topic)
        assert not grant.may_subscribe("own/#")
    assert acl.grant("%c", "x").may_publish("own/%c/x")


def test_rows_before_the_first_user_are_for_anonymous_clients(tmp_path: Path) -> None:
    acl = Acl.load(
        acl_of(tmp_path, "topic read a\nuser MG1\ntopic b/#\n# a comment\n\nuser MG2\ntopic write c d\n")
    )
    assert acl.grant(None, "x").may_subscribe("a")
    assert not acl.grant("MG1", "x").may_subscribe("a")
    assert acl.grant("MG1", "x").may_publish("b/c")
    assert acl.grant("MG2", "x").may_publish("c d")
    assert not acl.grant("nobody", "x").may_subscribe("a")


def test_every_wrong_row_is_named(tmp_path: Path) -> None:
    path = acl_of(tmp_path, "topic read a/#/b\nusers x\ntopic\nuser\ntopic write ok\npattern deny +a\n")
    with pytest.raises(DataError) as caught:
        Acl.load(path)
    assert [line.split(": ")[1] for line in caught.value.problems] == [
        "row 1",
        "row 2",
        "row 3",
        "row 4",
        "row 6",
    ]


@pytest.fixture
def site(tmp_path: Path) -> dict[str, Path]:
    files = {"users_file": tmp_path / "users", "acl_file": tmp_path / "acl"}
    for name, role in [
        ("MG1", "agent"),
        ("MG2", "agent"),
        ("MG1/ess", "device"),
        ("so", "operator"),
        ("eye", "observer"),
    ]:
        add_credentials(name, role, f"pw-{name}".encode(), **files)
    return files


MAY_PUBLISH = {
    "MG1": ["agents/MG1/action", "agents/MG1/status", "p2p/MG1/MG2", "devices/MG1/ess/setpoint",
            "devices/MG1/ess/telemetry", "agents/MG1/plan", "devices/MG1/ess/authority_state"],
    "MG1/ess": ["devices/MG1/ess/telemetry", "devices/MG1/ess/status"],
    "so": ["operators/so/price", "agents/MG1/observation", "agents/MG1/command", "run/state", "estop"],
    "eye": [],
}  # fmt: skip
MAY_NOT_PUBLISH = {
    "MG1": ["agents/MG2/action", "p2p/MG2/MG1", "operators/so/price", "agents/MG1/observation", "estop",
            "devices/MG2/ess/telemetry", "devices/MG2/ess/setpoint", "agents/MG1/clearance",
            "devices/MG1/ess/authority", "devices/MG1/ess/take", "run/owner", "anything"],
    "MG1/ess": ["devices/MG1/ess/setpoint", "devices/MG1/pv/telemetry", "devices/MG2/ess/telemetry",
                "estop"],
    "so": ["anything", "devices/MG1/ess/anything"],
    "eye": ["agents/MG1/action", "estop"],
}  # fmt: skip


async def test_mosquitto_reads_the_same_rights_from_the_same_file(
    site: dict[str, Path], tmp_path: Path, mosquitto_port: int
) -> None:
    assert mosquitto_port  # it is installed
    ourselves = f"user {getpass.getuser()}\n"  # or else root's mosquitto becomes a user who may not read
    with mosquitto(tmp_path, f"{ourselves}acl_file {site['acl_file']}\n") as port:
        async with connected(port, "everything", user="so") as everything:
            await everything.subscribe(("heron/#", 1))
            for user, allowed in MAY_PUBLISH.items():
                for topic in allowed + MAY_NOT_PUBLISH[user]:
                    async with connected(port, user=user) as client:
                        await client.send(publish_packet(f"heron/env/{topic}", b""))
                        with contextlib.suppress(Ended):  # what mosquitto may do to who has no right
                            await client.arrived()
                arrived = [message.topic.removeprefix("heron/env/") for message in await everything.arrived()]
                assert arrived == allowed


async def test_each_role_can_do_its_part_of_the_wire_contract_and_no_more(site: dict[str, Path]) -> None:
    subscriptions = {
        "MG1": {"agents/MG1/command": 1, "agents/MG1/#": 0x80, "operators/so/price": 1,
                "p2p/+/MG1": 1, "devices/MG1/+/telemetry": 1,
                "agents/MG2/observation": 0x80, "p2p/+/MG2": 0x80, "#": 0x80, "p2p/#": 0x80},
        "MG1/ess": {"devices/MG1/ess/setpoint": 1, "estop": 1, "devices/MG1/pv/setpoint": 0x80,
                    "agents/+/action": 0x80},
        "so": {"#": 1},
        "eye": {"#": 1, "agents/+/action": 1},
    }  # fmt: skip
    async with (
        EmbeddedBroker(in_process=True, **site, limits=Limits(max_log_lines_per_s=0)) as broker,  # type: ignore[arg-type]
        connected(broker.port, "everything", user="so", password="pw-so") as everything,
    ):
        await everything.subscribe(("heron/#", 1))
        for user, allowed in MAY_PUBLISH.items():
            async with connected(broker.port, f"c-{user}", user=user, password=f"pw-{user}") as client:
                for topic in allowed + MAY_NOT_PUBLISH[user]:
                    await client.publish(f"heron/env/{topic}", b"", qos=1)
                arrived = [message.topic.removeprefix("heron/env/") for message in await everything.arrived()]
                assert arrived == allowed
                wanted = subscriptions[user]
                codes = await client.subscribe(*((f"heron/env/{topic_filter}", 1) for topic_filter in wanted))
                assert codes == list(wanted.values())


def test_files_are_for_their_owner_and_hold_no_password(site: dict[str, Path]) -> None:
    for path in site.values():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert "pw-" not in path.read_text()
        assert [other.name for other in path.parent.iterdir() if other.name.startswith(".")] == []


def test_adding_again_replaces_one_user_and_keeps_the_rest(site: dict[str, Path]) -> None:
    acl, users = site["acl_file"], site["users_file"]
    acl.write_text("# by hand\ntopic read public/#\n" + acl.read_text() + "\npattern read all/%u\n")
    before = dict(line.split(":", 1) for line in users.read_text().splitlines())
    add_credentials("MG1", "observer", b"new", **site)  # type: ignore[arg-type]
    after = dict(line.split(":", 1) for line in users.read_text().splitlines())
    assert before["MG1"] != after["MG1"]
    assert {name: one for name, one in before.items() if name != "MG1"} == {
        name: one for name, one in after.items() if name != "MG1"
    }
    text = acl.read_text()
    assert text.startswith("# by hand\ntopic read public/#\n")
    assert "pattern read all/%u" in text
    assert text.count("user MG1\n") == 1
    rights = Acl.load(acl)
    assert not rights.grant("MG1", "c").may_publish("heron/e/agents/MG1/action")
    assert rights.grant("MG2", "c").may_publish("heron/e/agents/MG2/action")
    assert rights.grant("MG2", "c").may_subscribe("all/MG2")
    remove_credentials("MG1", **site)  # type: ignore[arg-type]
    assert "MG1:" not in users.read_text()
    assert not Acl.load(acl).grant("MG1", "c").may_subscribe("heron/e/agents/MG1/action")
    with pytest.raises(ConfigError, match="no user 'MG1'"):
        remove_credentials("MG1", **site)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "role"),
    [("", "agent"), ("a:b", "agent"), ("a+", "agent"), ("#", "agent"), ("a/b", "agent"), ("a", "device"),
     ("a/b/c", "device"), ("a/", "device"), (" a", "agent"), ("a\nb", "agent"), ("a" * 129, "agent"),
     ("a%u", "agent"), ("a", "admin"), ("-", "agent"), ("-", "operator"), ("e\u0301", "agent"),
     ("a\x00b", "operator"), ("a\u200b", "agent")],
)  # fmt: skip
def test_names_and_roles_that_cannot_work_change_nothing(tmp_path: Path, name: str, role: str) -> None:
    with pytest.raises(ConfigError, match="expected"):
        add_credentials(name, role, b"pw", users_file=tmp_path / "users", acl_file=tmp_path / "acl")
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_stands_for_clients_without_a_login_is_refused_where_it_is_read(tmp_path: Path) -> None:
    """``-`` would share the session topics of clients without a login."""
    users, acl = tmp_path / "users", tmp_path / "acl"
    users.write_text(f"-:{hash_password(b'pw')}\n")
    with pytest.raises(DataError, match="row 1: user '-': '-' stands in topics for clients without a login"):
        load_users(users)
    acl.write_text("topic read x\nuser -\ntopic read y\n")
    with pytest.raises(DataError, match="row 2: user '-': '-' stands in topics"):
        Acl.load(acl)
    with pytest.raises(ConfigError, match="username '-': '-' stands in topics"):
        MqttBroker("mqtt://-:pw@127.0.0.1:1883")


def test_an_agent_with_a_slash_in_its_name_has_no_rights_of_another_agent() -> None:
    """``MG1/ess`` as an agent is not MG1, and a device's agent may have a slash in its name."""
    agent = rights("agent", "MG1/ess")
    assert "heron/+/agents/MG1%2Fess/action" in agent
    assert not any("/MG1/" in topic for topic in agent)
    device = rights("device", "MG1/north/ess")
    assert device["heron/+/devices/MG1%2Fnorth/ess/telemetry"] == "write"


@given(one=FILTERS, other=FILTERS, topic=TOPICS)
def test_filters_overlap_if_a_topic_is_matched_by_both(one: str, other: str, topic: str) -> None:
    assert overlap(one, other) == overlap(other, one)
    assert overlap(topic, one) == covers(one, topic)
    if covers(one, topic) and covers(other, topic):
        assert overlap(one, other)


def test_rights_of_a_mapping_on_topics_of_ours_are_refused_and_change_nothing(tmp_path: Path) -> None:
    site = {"users_file": tmp_path / "users", "acl_file": tmp_path / "acl"}
    for topic, before in (
        ("heron/plant/devices/MG1/ess/telemetry", ""),
        ("heron/#", ""),
        ("+/plant/#", ""),
        ("#", ""),
        ("sites/7/heron/plant/estop", "sites/7/"),
    ):
        with pytest.raises(ConfigError, match="reaches topics of ours"):
            add_credentials("MG1", "agent", b"pw", foreign={topic: "write"}, before=before, **site)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []
    assert add_credentials("MG1", "agent", b"pw", foreign={"box/#": "readwrite"}, **site) == []  # type: ignore[arg-type]


def test_rows_for_every_user_that_change_the_rights_of_a_role_are_named(tmp_path: Path) -> None:
    acl = tmp_path / "acl"
    acl.write_text(
        "pattern readwrite heron/+/estop\npattern deny heron/+/agents/%u/#\npattern read own/%u/#\n"
    )
    notes = add_credentials("MG1", "agent", b"pw", users_file=tmp_path / "users", acl_file=acl)
    more, less = notes
    assert more == "'pattern readwrite heron/+/estop' gives MG1 more than its role on heron/+/estop"
    assert less.startswith(
        "'pattern deny heron/+/agents/%u/#' takes from MG1 what its role may do on heron/+/ag"
    )


def test_a_password_comes_from_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("sécret\nmore\n"))
    assert read_password("MG1") == "sécret".encode()
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n"))
    with pytest.raises(ConfigError, match="empty"):
        read_password("MG1")


def test_roles_are_those_of_the_command_line() -> None:
    assert ROLES == ("agent", "device", "operator", "observer")
    assert set("".join(ROLES)) <= set(string.ascii_lowercase)

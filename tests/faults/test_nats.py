"""A NATS server that dies, refuses, or does not read; and what is not a NATS server."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Callable
from pathlib import Path

import nats
import paho.mqtt.client as paho
import pytest

from heron_mqtt.errors import (
    BrokerOverflow,
    BrokerRefused,
    BrokerUnavailable,
    ConfigError,
    MessageExpired,
    UnsupportedFeature,
)
from heron_mqtt.messaging.base import Received
from heron_mqtt.messaging.nats import NatsBroker
from heron_mqtt.messaging.nats_subjects import subjects_of
from heron_mqtt.testing.loopback_server import free_port
from support.certificates import Certificates, key_of
from support.heron_command import heron, run_heron
from support.nats_server import NatsServer
from support.refused_hardware import REFUSED, assert_bridge_refused, assert_refused
from support.waiting import until

Make = Callable[..., NatsServer]
USERS = """
authorization { users = [
  {user: plant, password: "pa55 wort", permissions: {
    publish: {deny: "heron.default.agents.>"}, subscribe: {deny: "heron.default.operators.>"}}}
] }
"""


def now_s() -> float:
    return asyncio.get_running_loop().time()


# -- the connection is lost ----------------------------------------------------------------------------


async def test_what_was_published_while_the_server_was_dead_arrives_when_it_is_back(
    own_nats_server: Make,
) -> None:
    server = own_nats_server()
    got: list[int] = []
    async with NatsBroker(server.url) as broker, NatsBroker(server.url) as reader:
        await reader.subscribe("c", lambda m: got.append(m["seq"]))
        await broker.publish("c", {"sender": "a", "boot": "b", "seq": 0})
        await until(lambda: got == [0])  # a gap is counted from what was heard first
        server.kill()
        await until(lambda: not broker.connected and not reader.connected)
        late = [broker.publish("c", {"sender": "a", "boot": "b", "seq": i}) for i in range(1, 4)]
        server.start()
        await reader.wait_connected(10)
        await reader.subscribe("other", lambda _: None)  # in force: so are those before it
        for delivery in late:
            await delivery
        # the writer may have been back before the reader: what it sent then is lost, and said to be
        await broker.publish("c", {"sender": "a", "boot": "b", "seq": 4})
        await until(lambda: 4 in got)
        assert got == sorted(got)
        assert reader.stats.lost == 5 - len(got)
        assert broker.stats.reconnects == reader.stats.reconnects == 1


async def test_nothing_with_a_time_limit_waits_for_a_server(own_nats_server: Make) -> None:
    server = own_nats_server()
    async with NatsBroker(server.url) as broker:
        server.kill()
        await until(lambda: not broker.connected)
        with pytest.raises(MessageExpired, match="there is no connection"):
            await broker.publish("c", {}, not_after=now_s() + 60.0)
        assert broker.stats.expired == 1
        assert broker.stats.undelivered == 0


async def test_a_server_that_stands_still_is_given_up_and_nothing_late_is_sent(own_nats_server: Make) -> None:
    server = own_nats_server()
    assert server.process is not None
    async with NatsBroker(server.url, keepalive_s=1) as broker:
        await broker.publish("c", {})
        server.process.send_signal(19)  # SIGSTOP
        await until(lambda: server.is_stopped)
        try:
            filler = "x" * 1_000_000
            for _ in range(30):
                broker.publish("fill", {"filler": filler})
            await asyncio.sleep(0.05)
            with pytest.raises(MessageExpired):
                await broker.publish("c", {"late": True}, not_after=now_s() + 0.2)
            await until(lambda: not broker.connected)
        finally:
            server.process.send_signal(18)  # SIGCONT


async def test_a_full_queue_drops_its_oldest_message_and_says_so(own_nats_server: Make) -> None:
    server = own_nats_server()
    async with NatsBroker(server.url, max_pending=2) as broker:
        server.kill()
        await until(lambda: not broker.connected)
        first, *_ = [broker.publish("c", {"i": i}) for i in range(3)]
        with pytest.raises(BrokerOverflow):
            await first
        assert broker.stats.overflowed == 1


async def test_the_next_server_is_taken_when_one_is_lost(own_nats_server: Make) -> None:
    first, second = own_nats_server(), own_nats_server()
    url = f"nats://127.0.0.1:{first.port},127.0.0.1:{second.port}"
    got: list[Received] = []
    async with NatsBroker(url) as broker:
        await broker.subscribe("c", got.append)
        first.kill()
        await until(lambda: broker.stats.reconnects == 1)
        await broker.publish("c", {"i": 1})
        await until(lambda: got)


# -- refused -------------------------------------------------------------------------------------------


async def test_a_wrong_password_is_refused_at_once_and_shown_nowhere(own_nats_server: Make) -> None:
    server = own_nats_server(USERS)
    broker = NatsBroker(server.url, username="plant", password="wr0ng", patience_s=60)
    with pytest.raises(BrokerRefused, match="refuses user 'plant'") as caught:
        await broker.connect()
    assert "wr0ng" not in str(caught.value) + repr(broker)


async def test_a_missing_right_is_named_and_nothing_else_is_harmed(own_nats_server: Make) -> None:
    server = own_nats_server(USERS)
    url = server.url.replace("//", "//plant:pa55%20wort@")
    got: list[Received] = []
    async with NatsBroker(url) as broker:
        with pytest.raises(BrokerRefused, match=r"'heron/default/operators/op/price'.*access rights"):
            await broker.subscribe("operators/op/price", got.append)
        with pytest.raises(BrokerRefused, match="heron/default/agents/MG1/action"):
            await broker.publish("agents/MG1/action", {})
        await broker.subscribe("c", got.append)
        await broker.publish("c", {"i": 1})
        await until(lambda: got)
        assert broker.connected
        assert broker.stats.undelivered == 1


async def test_a_message_over_the_limit_of_the_server_is_refused_before_it_is_sent(
    own_nats_server: Make,
) -> None:
    server = own_nats_server("max_payload: 1000")
    async with NatsBroker(server.url) as broker:
        with pytest.raises(BrokerRefused, match="1000"):
            await broker.publish("c", {"text": "x" * 1000})
        with pytest.raises(BrokerRefused, match="subject"):
            await broker.publish("c" * 5000, {})
        await broker.publish("c", {})
        assert broker.stats.reconnects == 0


async def test_nobody_there_and_somebody_else_there_are_told_apart(embedded_url: str) -> None:
    with pytest.raises(BrokerUnavailable, match=r"no answer at nats://127.0.0.1:.*NATS server"):
        await NatsBroker(f"nats://127.0.0.1:{free_port()}").connect()
    with pytest.raises(BrokerUnavailable, match=r"does not answer as a NATS server within 0\.5 s"):
        await NatsBroker(embedded_url.replace("mqtt", "nats"), connect_timeout_s=0.5).connect()
    with socket.create_server(("127.0.0.1", 0)) as server:
        asyncio.get_running_loop().run_in_executor(None, _say, server, b"220 mail.example ESMTP\r\n")
        with pytest.raises(BrokerUnavailable, match="is no NATS server"):
            await NatsBroker(f"nats://127.0.0.1:{server.getsockname()[1]}").connect()


def _say(server: socket.socket, text: bytes) -> None:
    connection, _ = server.accept()
    with connection:
        connection.sendall(text)
        connection.recv(1000)


async def test_tls_is_used_and_the_certificate_is_checked(own_nats_server: Make, tmp_path: Path) -> None:
    folder = tmp_path / "tls"
    folder.mkdir()
    certificates = Certificates(folder)
    cert, key = certificates.server, key_of(certificates.server)
    server = own_nats_server(f'tls {{ cert_file: "{cert}", key_file: "{key}" }}', scheme="nats+tls")
    got: list[Received] = []
    async with NatsBroker(server.url, ca=certificates.ca) as broker:
        await broker.subscribe("c", got.append)
        await broker.publish("c", {"i": 1})
        await until(lambda: got)
    with pytest.raises(BrokerRefused, match="is not trusted"):
        await NatsBroker(server.url).connect()


async def test_tls_that_was_asked_for_and_is_not_there_is_refused(nats_server: NatsServer) -> None:
    with pytest.raises(BrokerRefused, match="offers no TLS"):
        await NatsBroker(nats_server.url.replace("nats://", "nats+tls://")).connect()


# -- other clients -------------------------------------------------------------------------------------


async def test_garbage_of_another_client_is_counted_and_stops_nothing(
    nats_server: NatsServer, env_id: str
) -> None:
    got: list[Received] = []
    foreign = await nats.connect(nats_server.url)
    async with NatsBroker(nats_server.url, env_id=env_id) as broker:
        await broker.subscribe("#", got.append)
        for payload in (b"\xff\xfe", b"[1]", b'{"p_mw": NaN}'):
            await foreign.publish(f"heron.{env_id}.c", payload)
        await foreign.publish("heron.another.c", b'{"i": 0}')
        await foreign.publish(f"heron.{env_id}.c", b'{"i": 1}', headers={"trace": "1"})
        await until(lambda: got)
        assert got == [{"i": 1}]
        assert broker.stats.rejected == 3
    await foreign.close()


async def test_mqtt_clients_of_the_same_server_see_the_same_topics(
    own_nats_server: Make, tmp_path: Path
) -> None:
    port = free_port()
    server = own_nats_server(
        f'server_name: one\njetstream {{ store_dir: "{tmp_path}/js" }}\n'
        f"mqtt {{ host: 127.0.0.1, port: {port} }}"
    )
    seen: list[tuple[str, bytes]] = []
    granted = asyncio.Event()
    loop = asyncio.get_running_loop()
    client = paho.Client(paho.CallbackAPIVersion.VERSION2)
    client.on_message = lambda c, d, m: seen.append((m.topic, m.payload))
    client.on_subscribe = lambda *_: loop.call_soon_threadsafe(granted.set)
    client.connect("127.0.0.1", port)
    client.loop_start()
    client.subscribe("heron/#", qos=1)
    await asyncio.wait_for(granted.wait(), 30)
    got: list[Received] = []
    async with NatsBroker(server.url, env_id="site.1") as broker:
        await broker.subscribe("devices/#", got.append)
        await broker.publish("agents/MG%2F1/action", {"p_gen": 1.5})
        await until(lambda: seen)
        client.publish("heron/site.1/devices/MG1/ess/telemetry", b'{"p_mw": 1}', qos=1)
        await until(lambda: got)
    client.disconnect()
    client.loop_stop()
    assert seen[0] == ("heron/site.1/agents/MG%2F1/action", b'{"p_gen":1.5}')
    assert got[0].channel == "devices/MG1/ess/telemetry"


# -- a run ---------------------------------------------------------------------------------------------


def test_a_run_over_it_earns_what_direct_calls_earn(nats_server: NatsServer) -> None:
    over_nats = run_heron("run", "--steps", "4", "--broker", nats_server.url, "--json").result
    direct = run_heron("run", "--steps", "4", "--centralized", "--json").result
    assert over_nats["rewards"] == pytest.approx(direct["rewards"], abs=1e-9)
    assert over_nats["broker"] == "nats"


@pytest.mark.slow_but("hardware", "an agent elsewhere")
@pytest.mark.parametrize("what", REFUSED)
def test_hardware_and_agents_elsewhere_are_refused_in_one_line(
    nats_server: NatsServer, what: str, tmp_path: Path
) -> None:
    assert_refused(nats_server.url, tmp_path, what, "core NATS keeps no message")


async def test_a_bridge_to_hardware_is_refused_before_it_has_written_anything(
    nats_server: NatsServer,
) -> None:
    """A stop that is not kept would not reach one that starts later, and a death would not be published."""
    said = "core NATS keeps no message for clients that connect later and no last will"
    await assert_bridge_refused(nats_server.url, said)


def test_a_second_run_of_one_environment_ends_before_it_acts(nats_server: NatsServer) -> None:
    with heron("run", "--realtime", "5", "--broker", nats_server.url) as first:
        first.wait_for("step ")
        second = run_heron("run", "--steps", "2", "--broker", nats_server.url)
        assert second.code == 1
        assert "environment 'three_microgrids'" in second.errors[0]


async def test_retained_messages_are_refused_where_nothing_keeps_them(nats_server: NatsServer) -> None:
    async with NatsBroker(nats_server.url) as broker:
        with pytest.raises(UnsupportedFeature, match="core NATS keeps no message"):
            broker.publish("c", {}, retain=True)
        assert broker.stats.published == 0


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("nats://", "is no NATS address"),
        ("mqtt://h", "is no NATS address"),
        ("nats://h:x", "no valid port"),
        ("nats://h/path", "something after host and port"),
    ],
)
def test_an_address_that_is_none_is_refused(url: str, said: str) -> None:
    with pytest.raises(ConfigError, match=f"NatsBroker: .*{said}"):
        NatsBroker(url)


async def test_rights_that_acl_writes_are_those_that_are_needed(own_nats_server: Make) -> None:
    """An identifier with a dot, and a right to everything below a level."""
    acl = run_heron("acl", "three_microgrids", "--format", "nats").out
    for name in set(re.findall(r"\$(\w+_PASSWORD)", acl)):
        acl = acl.replace(f"password: ${name},", "password: secret,")
    server = own_nats_server(acl)
    assert subjects_of("heron/site.1/#") == ("heron.site//1", "heron.site//1.>")
    got: list[Received] = []
    async with (
        NatsBroker(server.url, env_id="three_microgrids", username="operator", password="secret") as operator,
        NatsBroker(server.url, env_id="three_microgrids", username="MG1", password="secret") as agent,
    ):
        await operator.subscribe("#", got.append)
        await agent.publish("agents/MG1/action", {"i": 1})
        with pytest.raises(BrokerRefused, match="agents/MG2/action"):
            await agent.publish("agents/MG2/action", {"i": 2})
        await until(lambda: got)
    assert got == [{"i": 1}]

"""Who gets in: passwords, certificates, anonymous clients, WebSockets; and what sessions see of it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import ssl
import threading
import time
from typing import TYPE_CHECKING

import pytest
from websockets.asyncio.client import connect as websocket_connect
from websockets.exceptions import ConnectionClosed, InvalidMessage, InvalidStatus

from heron_mqtt.errors import ConfigError, DataError
from heron_mqtt.messaging.embedded import BrokerOptions, EmbeddedBroker, Limits
from heron_mqtt.messaging.embedded.auth import authenticator as identity
from heron_mqtt.messaging.embedded.auth.authenticator import Admitted, Authenticator, Refused
from heron_mqtt.messaging.embedded.auth.credentials import hash_password
from heron_mqtt.messaging.embedded.event_log import EventLog
from heron_mqtt.messaging.embedded.protocol import packets
from support.certificates import Certificates, key_of
from support.raw_mqtt import CONNACK, Ended, Will, connect_packet, connected, opened, publish_packet

if TYPE_CHECKING:
    from pathlib import Path

PAYLOAD = random.Random(1).randbytes(50_000)
BAD_CREDENTIALS, NOT_AUTHORISED, IDENTIFIER_REJECTED = 4, 5, 2


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def users(tmp_path: Path) -> Path:
    path = tmp_path / "users"
    path.write_text(f"MG1:{hash_password(b'one')}\nMG2:{hash_password(b'two')}\n")
    return path


def with_users(users: Path, **options: object) -> EmbeddedBroker:
    options.setdefault("limits", Limits(login_delay_s=0))
    return EmbeddedBroker(in_process=True, users_file=users, **options)  # type: ignore[arg-type]


async def try_login(port: int, client_id: str = "", **fields: object) -> int:
    async with opened(port) as client:
        return await client.connect(client_id, **fields)


async def test_only_the_right_password_gets_in(users: Path) -> None:
    async with with_users(users) as broker:
        assert await try_login(broker.port, user="MG1", password="one") == 0
        assert await try_login(broker.port, user="MG1", password="two") == BAD_CREDENTIALS
        assert await try_login(broker.port, user="MG1", password="") == BAD_CREDENTIALS
        assert await try_login(broker.port, user="MG1") == BAD_CREDENTIALS
        assert await try_login(broker.port, user="nobody", password="one") == BAD_CREDENTIALS
        assert await try_login(broker.port) == NOT_AUTHORISED
        assert broker.stats.failed_logins == broker.stats.refusals == 5


async def test_anonymous_beside_users_only_when_allowed(users: Path) -> None:
    async with with_users(users, allow_anonymous=True) as broker:
        assert await try_login(broker.port) == 0
        assert await try_login(broker.port, user="MG1", password="two") == BAD_CREDENTIALS


@pytest.mark.parametrize(
    ("peer", "remote", "expected"),
    [("127.0.0.1:5", False, Admitted(None)), ("::1:5", False, Admitted(None)),
     ("::ffff:127.0.0.1:5", False, Admitted(None)), ("192.0.2.7:5", True, Admitted(None)),
     ("192.0.2.7:5", False, None), ("2001:db8::1:5", False, None)],
)  # fmt: skip
def test_anonymous_clients_come_from_loopback_only(
    peer: str, expected: Admitted | None, *, remote: bool
) -> None:
    options = BrokerOptions(allow_remote_anonymous=remote)
    who = Authenticator(options, EventLog(0, time.monotonic), time.monotonic)
    connect = packets.Connect(
        "c", clean_session=True, keep_alive_s=0, will=None, username=None, password=None
    )
    verdict = who.decide(connect, peer, None)
    assert verdict == expected if expected else isinstance(verdict, Refused)


async def test_another_user_cannot_take_over_a_session(users: Path) -> None:
    async with (
        with_users(users) as broker,
        connected(broker.port, "device", clean=False, user="MG1", password="one") as device,
    ):
        await device.subscribe(("x", 1))
        for clean in (True, False):
            code = await try_login(broker.port, "device", clean=clean, user="MG2", password="two")
            assert code == IDENTIFIER_REJECTED
        await device.publish("x", b"still mine", qos=1)
        assert (await device.received()).payload == b"still mine"
        device.drop()
        assert (
            await try_login(broker.port, "device", clean=True, user="MG2", password="two")
            == IDENTIFIER_REJECTED
        )
        async with connected(broker.port, "device", clean=False, user="MG1", password="one") as again:
            assert again.session_present


async def test_while_a_password_is_checked_others_are_served(
    users: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checking, go_on = threading.Event(), threading.Event()

    def slow(stored: str | None, password: bytes) -> bool:
        checking.set()
        assert go_on.wait(5)
        return True

    async with with_users(users) as broker, connected(broker.port, user="MG1", password="one") as client:
        monkeypatch.setattr(identity, "password_matches", slow)
        login = asyncio.create_task(try_login(broker.port, user="MG2", password="two"))
        await asyncio.to_thread(checking.wait, 5)
        await client.publish("x", b"served meanwhile", qos=1)
        assert not login.done()
        go_on.set()
        assert await login == 0


async def test_packets_sent_while_the_password_is_checked_are_taken_afterwards(users: Path) -> None:
    async with with_users(users) as broker, opened(broker.port) as client:
        await client.send(connect_packet("c", user="MG1", password="one") + publish_packet("x", b"", qos=1))
        assert (await client.expect(CONNACK))[1] == 0
        await client.expect(4)


async def test_a_password_that_was_right_is_not_computed_again(
    users: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with with_users(users) as broker:
        assert await try_login(broker.port, user="MG1", password="one") == 0
        monkeypatch.setattr(identity, "password_matches", lambda *_: pytest.fail("computed again"))
        assert await try_login(broker.port, user="MG1", password="one") == 0


async def test_failed_logins_are_slowed_more_each_time_and_nobody_else_is(users: Path) -> None:
    async with with_users(users, limits=Limits(login_delay_s=0.1, max_login_delay_s=0.3)) as broker:
        assert await try_login(broker.port, user="MG2", password="two") == 0
        for expected_s in (0.1, 0.2, 0.3, 0.3):
            began_s = time.monotonic()
            wrong = asyncio.create_task(try_login(broker.port, user="MG1", password="wrong"))
            assert await wrong == BAD_CREDENTIALS
            assert expected_s <= time.monotonic() - began_s < expected_s + 0.5
        began_s = time.monotonic()
        assert await try_login(broker.port, user="MG2", password="two") == 0
        assert time.monotonic() - began_s < 0.09


async def test_users_are_read_again_when_the_file_changes(users: Path) -> None:
    async with with_users(users) as broker:
        assert await try_login(broker.port, user="MG3", password="three") == BAD_CREDENTIALS
        async with connected(broker.port, "two", user="MG2", password="two", will=Will("w", b"")) as removed:
            users.write_text(f"MG1:{hash_password(b'new')}\nMG3:{hash_password(b'three')}\n")
            assert await try_login(broker.port, user="MG3", password="three") == 0
            await removed.expect_end()
        assert await try_login(broker.port, user="MG1", password="one") == BAD_CREDENTIALS
        assert await try_login(broker.port, user="MG1", password="new") == 0


async def test_a_file_that_became_wrong_is_reported_and_the_old_one_kept(
    users: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with with_users(users) as broker:
        users.write_text("no hash here\n")
        assert await try_login(broker.port, user="MG1", password="one") == 0
        assert await try_login(broker.port, user="MG1", password="one") == 0
    assert "credentials_not_reloaded" in caplog.text


@pytest.mark.parametrize("line", ["MG1", "MG1:plain", ":$argon2id$x", "MG1:$argon2id$x\nMG1:$argon2id$y"])
async def test_a_wrong_users_file_says_which_row(tmp_path: Path, line: str) -> None:
    users = tmp_path / "users"
    users.write_text(f"# a comment\n{line}\n")
    with pytest.raises(DataError, match=r"row [23]:") as caught:
        await with_users(users).start()
    assert "$x" not in str(caught.value)


async def test_no_password_appears_in_the_log_or_in_repr(
    users: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with with_users(users) as broker:
        await try_login(broker.port, user="MG1", password="s3cret-wrong")
        await try_login(broker.port, user="MG1", password="one")
    assert "s3cret" not in caplog.text
    connect = packets.read_connect(connect_packet("c", user="u", password="s3cret")[2:])
    assert connect.password == b"s3cret"
    assert "s3cret" not in repr(connect)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])
async def test_another_interface_needs_credentials_or_an_explicit_flag(host: str, users: Path) -> None:
    with pytest.raises(ConfigError, match="reachable from other machines"):
        await EmbeddedBroker(host, in_process=True).start()
    if host == "0.0.0.0":
        async with with_users(users, host=host) as broker:
            assert await try_login(broker.port, user="MG1", password="one") == 0
        async with EmbeddedBroker(host, in_process=True, allow_remote_anonymous=True) as broker:
            assert await try_login(broker.port) == 0


async def test_tls(certificates: Certificates) -> None:
    tls = {"tls_cert": certificates.server, "tls_key": key_of(certificates.server)}
    async with (
        EmbeddedBroker(in_process=True, **tls) as broker,  # type: ignore[arg-type]
        connected(broker.port, tls=certificates.client_context()) as client,
    ):
        assert broker.url == f"mqtts://127.0.0.1:{broker.port}"
        await client.subscribe(("x", 1))
        for number in range(50):  # records and reads do not coincide
            payload = random.Random(number).randbytes(1_000 * number)
            await client.publish("x", payload, qos=1)
            assert (await client.received()).payload == payload
        async with opened(broker.port) as plain:
            await plain.send(connect_packet("no TLS"))
            await plain.reader.read(100)  # at most an alert
            assert plain.reader.at_eof() or await plain.reader.read(100) == b""


async def test_what_comes_with_the_end_of_the_tls_handshake_is_not_lost(certificates: Certificates) -> None:
    tls = {"tls_cert": certificates.server, "tls_key": key_of(certificates.server)}
    async with EmbeddedBroker(in_process=True, **tls) as broker:  # type: ignore[arg-type]
        for _ in range(20):
            reader, writer = await asyncio.open_connection("127.0.0.1", broker.port)
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            client = certificates.client_context().wrap_bio(incoming, outgoing, server_hostname="localhost")
            while True:
                try:
                    client.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    writer.write(outgoing.read())
                    incoming.write(await asyncio.wait_for(reader.read(65_536), 5))
            client.write(connect_packet("eager") + publish_packet("x", b"", qos=1, packet_id=7))
            writer.write(outgoing.read())  # the end of the handshake and two packets in one segment
            answer = b""
            async with asyncio.timeout(5):
                while len(answer) < 8:
                    incoming.write(await reader.read(65_536))
                    with contextlib.suppress(ssl.SSLWantReadError):
                        answer += client.read()
            assert answer == b"\x20\x02\x00\x00\x40\x02\x00\x07"
            writer.transport.abort()


async def test_connections_in_their_tls_handshake_count_and_do_not_wait_for_ever(
    certificates: Certificates,
) -> None:
    async with (
        EmbeddedBroker(
            in_process=True,
            tls_cert=certificates.server,
            tls_key=key_of(certificates.server),
            limits=Limits(max_connections=2, connect_timeout_s=0.5),
        ) as broker,
        opened(broker.port) as one,
        opened(broker.port) as two,
        opened(broker.port) as three,
    ):
        began_s = time.monotonic()
        await three.expect_end(0.4)
        await one.expect_end()
        await two.expect_end()
        assert 0.4 < time.monotonic() - began_s < 2
        async with connected(broker.port, tls=certificates.client_context()):
            assert broker.stats.refusals == 3


async def test_close_does_not_wait_for_a_tls_handshake(certificates: Certificates) -> None:
    tls = {"tls_cert": certificates.server, "tls_key": key_of(certificates.server)}
    async with EmbeddedBroker(in_process=True, **tls) as broker, opened(broker.port) as client:  # type: ignore[arg-type]
        await client.send(b"\x16\x03\x01")
        await asyncio.sleep(0.05)
        began_s = time.monotonic()
        await broker.close()
        assert time.monotonic() - began_s < 1


async def test_mutual_tls_takes_the_user_name_from_the_certificate(
    certificates: Certificates, tmp_path: Path
) -> None:
    acl = tmp_path / "acl"
    acl.write_text("pattern readwrite own/%u\n")
    async with EmbeddedBroker(
        in_process=True,
        tls_cert=certificates.server,
        tls_key=key_of(certificates.server),
        client_ca=certificates.ca,
        acl_file=acl,
    ) as broker:
        tls = certificates.client_context(certificates.issue("mg1", "/CN=MG1"))
        async with connected(broker.port, "a", tls=tls) as client:
            assert await client.subscribe(("own/MG1", 1), ("own/MG2", 1)) == [1, 0x80]
        async with opened(broker.port, tls) as liar:
            assert await liar.connect("b", user="MG2", password="x") == NOT_AUTHORISED
        nameless = certificates.client_context(certificates.issue("nameless", "/O=Somebody"))
        async with opened(broker.port, nameless) as client:
            assert await client.connect("c") == NOT_AUTHORISED


@pytest.mark.parametrize("which", ["none", "stranger"])
async def test_mutual_tls_refuses_everybody_else_and_says_so(
    certificates: Certificates, which: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with EmbeddedBroker(
        in_process=True,
        tls_cert=certificates.server,
        tls_key=key_of(certificates.server),
        client_ca=certificates.ca,
    ) as broker:
        tls = certificates.client_context(certificates.stranger() if which == "stranger" else None)
        admitted = False
        try:
            async with connected(broker.port, tls=tls):
                admitted = True
        except (Ended, OSError):
            pass
        assert not admitted
        async with asyncio.timeout(5):
            while broker.stats.refusals == 0:
                await asyncio.sleep(0.01)
        assert broker.stats.connects == 0
    assert 'reason="TLS handshake: ' in caplog.text


async def test_websocket_clients_and_tcp_clients_meet() -> None:
    async with EmbeddedBroker(in_process=True, websocket_port=0) as broker, connected(broker.port) as client:
        assert broker.websocket_url is not None
        await client.subscribe(("to/tcp", 1))
        async with websocket_connect(broker.websocket_url, subprotocols=["mqtt"]) as socket:  # type: ignore[list-item]
            everything = connect_packet("web") + publish_packet("to/tcp", PAYLOAD, qos=1, packet_id=3)
            for start in range(0, len(everything), 7_001):  # packets and frames need not coincide
                await socket.send(everything[start : start + 7_001])
            answer = b""
            while len(answer) < 8:
                frame = await asyncio.wait_for(socket.recv(), 5)
                assert isinstance(frame, bytes)
                answer += frame
            assert answer == b"\x20\x02\x00\x00\x40\x02\x00\x03"
            assert (await client.received()).payload == PAYLOAD


async def test_a_will_is_sent_when_a_websocket_breaks() -> None:
    async with EmbeddedBroker(in_process=True, websocket_port=0) as broker, connected(broker.port) as watcher:
        await watcher.subscribe(("will", 0))
        socket = await websocket_connect(broker.websocket_url, subprotocols=["mqtt"])  # type: ignore[arg-type,list-item]
        await socket.send(connect_packet("web", will=Will("will", b"gone")))
        await socket.recv()
        socket.transport.abort()
        assert (await watcher.received()).payload == b"gone"
        await socket.wait_closed()


async def test_a_text_frame_ends_the_websocket() -> None:
    async with (
        EmbeddedBroker(in_process=True, websocket_port=0) as broker,
        websocket_connect(broker.websocket_url, subprotocols=["mqtt"]) as socket,  # type: ignore[arg-type,list-item]
    ):
        await socket.send("MQTT is binary")
        with pytest.raises(ConnectionClosed):
            await asyncio.wait_for(socket.recv(), 5)


async def test_a_websocket_without_the_mqtt_subprotocol_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    async with EmbeddedBroker(in_process=True, websocket_port=0) as broker:
        with pytest.raises(InvalidStatus):
            await websocket_connect(broker.websocket_url)  # type: ignore[arg-type]
    assert "Traceback" not in caplog.text


async def test_a_web_page_is_let_in_only_if_its_origin_is_listed() -> None:
    async with EmbeddedBroker(
        in_process=True, websocket_port=0, websocket_origins=("https://lab.example",)
    ) as broker:
        url = broker.websocket_url
        with pytest.raises(InvalidStatus):
            await websocket_connect(url, subprotocols=["mqtt"], origin="https://evil.example")  # type: ignore[arg-type,list-item]
        async with websocket_connect(url, subprotocols=["mqtt"], origin="https://lab.example") as socket:  # type: ignore[arg-type,list-item]
            await socket.send(connect_packet("page"))
            assert await socket.recv() == b"\x20\x02\x00\x00"


async def test_websockets_speak_tls_too_and_demand_certificates(certificates: Certificates) -> None:
    async with EmbeddedBroker(
        in_process=True,
        websocket_port=0,
        tls_cert=certificates.server,
        tls_key=key_of(certificates.server),
        client_ca=certificates.ca,
    ) as broker:
        url = str(broker.websocket_url).replace("127.0.0.1", "localhost")
        assert url.startswith("wss://")
        tls = certificates.client_context(certificates.issue("web", "/CN=MG1"))
        async with websocket_connect(url, subprotocols=["mqtt"], ssl=tls) as socket:  # type: ignore[list-item]
            await socket.send(connect_packet("web"))
            assert await socket.recv() == b"\x20\x02\x00\x00"
            assert [session.owner for session, _ in broker._server._sessions.values()] == ["MG1"]  # type: ignore[union-attr]
        with pytest.raises((OSError, ConnectionClosed, InvalidMessage)):
            await websocket_connect(url, subprotocols=["mqtt"], ssl=certificates.client_context())  # type: ignore[list-item]

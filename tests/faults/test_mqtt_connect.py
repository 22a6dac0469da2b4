"""Connecting where it cannot work: each failure is one clear line, in time, wherever it surfaces."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from mosquitto_server import Mosquitto
from waiting import until

from heron_mqtt.errors import BrokerClosed, BrokerError, BrokerRefused, BrokerUnavailable
from heron_mqtt.messaging.background import run_sync
from heron_mqtt.messaging.base import Received
from heron_mqtt.messaging.embedded import EmbeddedBroker
from heron_mqtt.messaging.mqtt import MqttBroker

SECRET = "s3cr3t-p%40ss"


@pytest.fixture
def nobody() -> str:
    """An address where nothing listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return f"mqtt://127.0.0.1:{sock.getsockname()[1]}"


@contextlib.asynccontextmanager
async def listener(answer: bytes) -> AsyncIterator[str]:
    """A port that accepts, and answers a CONNECT with some bytes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(answer)
        await reader.read(100)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"mqtt://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


async def test_nobody_there_is_said_at_once(nobody: str) -> None:
    broker = MqttBroker(nobody)
    start = time.monotonic()
    with pytest.raises(BrokerUnavailable) as caught:
        await broker.connect()
    assert time.monotonic() - start < 1.0
    assert nobody in str(caught.value)
    assert "\n" not in str(caught.value)
    assert broker.home_loop is None
    await broker.close()


@pytest.mark.parametrize("use", ["publish", "subscribe", "consume", "announce", "wait_connected"])
async def test_nobody_there_reaches_whoever_waits_without_connecting(nobody: str, use: str) -> None:
    broker = MqttBroker(nobody)

    async def run() -> None:
        if use == "publish":
            await broker.publish("c", {})
        elif use == "subscribe":
            await broker.subscribe("c", lambda _: None)
        elif use == "consume":
            await broker.consume("c")
        elif use == "announce":
            await broker.announce("c", {"state": "online"}, {"state": "offline"})
        else:
            await broker.wait_connected(0.2)

    with pytest.raises(BrokerUnavailable, match=nobody):
        await asyncio.wait_for(run(), 5)
    await broker.close()


async def test_an_ignored_publish_that_never_left_is_counted_and_reported(nobody: str) -> None:
    broker = MqttBroker(nobody)
    for _ in range(3):
        broker.publish("c", {})
    await until(lambda: broker.stats.undelivered == 3)
    assert {r.kind for r in broker.stats.reports} == {"connection", "delivery"}
    await broker.close()


async def test_the_next_use_tries_again(own_mosquitto: Callable[..., Mosquitto]) -> None:
    server = own_mosquitto()
    server.stop()
    broker = MqttBroker(server.url)
    got: list[Received] = []
    broker.subscribe("c", got.append)
    with pytest.raises(BrokerUnavailable):
        await broker.publish("c", {"i": 1})
    server.start()
    await broker.publish("c", {"i": 2})
    await until(lambda: got)
    assert got == [{"i": 2}]
    await broker.close()


async def test_connect_may_be_tried_again(own_mosquitto: Callable[..., Mosquitto]) -> None:
    server = own_mosquitto()
    server.stop()
    broker = MqttBroker(server.url)
    with pytest.raises(BrokerUnavailable):
        await broker.connect()
    server.start()
    async with broker:
        await broker.publish("c", {})


async def test_a_port_that_says_nothing_is_given_up_in_time() -> None:
    async with listener(b"") as url:
        broker = MqttBroker(url, connect_timeout_s=0.2)
        start = time.monotonic()
        with pytest.raises(BrokerUnavailable, match=r"did not answer as an MQTT broker within 0\.2 s"):
            await broker.connect()
        assert time.monotonic() - start < 1.0
        await broker.close()


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\x00" * 50,
        b"\xff" * 50,
        b"\x20\x7f",
        b"\x30\x02\x00\x09",
        b"\x40\x01\x00",
    ],
    ids=["http", "zeros", "ones", "long-connack", "bad-publish", "short-puback"],
)
async def test_a_port_that_speaks_something_else_is_no_mqtt_broker(answer: bytes) -> None:
    async with listener(answer) as url:
        broker = MqttBroker(url, connect_timeout_s=0.5)
        with pytest.raises(BrokerUnavailable, match=url):
            await broker.connect()
        await broker.close()


async def test_an_unknown_host_is_named() -> None:
    broker = MqttBroker("mqtt://no-such-host.invalid", connect_timeout_s=2)
    with pytest.raises(BrokerUnavailable, match=r"no-such-host\.invalid:1883"):
        await broker.connect()
    await broker.close()


async def test_giving_up_connect_leaves_nothing_behind() -> None:
    async with listener(b"") as url:
        before = asyncio.all_tasks()
        broker = MqttBroker(url, connect_timeout_s=60)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(broker.connect(), 0.1)
        await until(lambda: not any(t.get_name().startswith("mqtt") for t in asyncio.all_tasks() - before))
        await broker.close()


async def test_wrong_credentials_are_refused_without_naming_the_password(
    own_mosquitto: Callable[..., Mosquitto], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    passwords = tmp_path / "passwords"
    subprocess.run(["mosquitto_passwd", "-b", "-c", str(passwords), "ops", "s3cr3t-p@ss"], check=True)
    server = own_mosquitto("allow_anonymous false", f"password_file {passwords}")
    host = server.url.removeprefix("mqtt://")
    async with MqttBroker(f"mqtt://ops:{SECRET}@{host}") as broker:
        await broker.publish("c", {})
        assert "s3cr3t" not in repr(broker) + repr(broker.options) + broker.options.address
    for url, kwargs in [
        (f"mqtt://ops:{SECRET}x@{host}", {}),
        (server.url, {}),
        (server.url, {"username": "ops", "password": "s3cr3t-wrong"}),
    ]:
        broker = MqttBroker(url, **kwargs)  # type: ignore[arg-type]
        with pytest.raises(BrokerRefused, match="HERON_MQTT_USERNAME") as caught:
            await broker.connect()
        assert server.url in str(caught.value)
        assert "s3cr3t" not in str(caught.value)
        await broker.close()
    assert "s3cr3t" not in caplog.text


async def test_credentials_come_from_the_environment(
    own_mosquitto: Callable[..., Mosquitto], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passwords = tmp_path / "passwords"
    subprocess.run(["mosquitto_passwd", "-b", "-c", str(passwords), "ops", "pw"], check=True)
    server = own_mosquitto("allow_anonymous false", f"password_file {passwords}")
    monkeypatch.setenv("HERON_MQTT_USERNAME", "ops")
    monkeypatch.setenv("HERON_MQTT_PASSWORD", "pw")
    async with MqttBroker(server.url) as broker:
        await broker.publish("c", {})


async def test_mqtt_5_at_a_broker_without_it_says_which_to_choose(embedded_url: str) -> None:
    broker = MqttBroker(embedded_url, protocol="5", connect_timeout_s=2)
    with pytest.raises(BrokerError) as caught:
        await broker.connect()
    await broker.close()
    assert isinstance(caught.value, BrokerRefused)
    assert "protocol='3.1.1'" in str(caught.value)


@pytest.fixture
async def guarded(tmp_path: Path) -> AsyncIterator[str]:
    """A broker with access rights that are enforced at the subscription, which mosquitto does not do."""
    rights = tmp_path / "acl"
    rights.write_text("topic readwrite heron/default/mine/#\ntopic write heron/default/other\n")
    async with EmbeddedBroker(in_process=True, acl_file=rights) as server:
        yield server.url


async def test_a_refused_subscription_raises_and_is_reported(guarded: str) -> None:
    async with MqttBroker(guarded) as broker:
        got: list[Received] = []
        with pytest.raises(BrokerRefused, match=r"heron/default/theirs/#.*access rights"):
            await broker.subscribe("theirs/#", lambda _: None)
        assert "heron/default/theirs/#" in [r.where for r in broker.stats.reports]
        await broker.subscribe("mine/a", got.append)
        await broker.publish("mine/a", {"i": 1})
        await until(lambda: got)


async def test_a_refused_wide_filter_does_not_take_narrow_ones_with_it(guarded: str) -> None:
    async with MqttBroker(guarded) as broker:
        got: list[Received] = []
        wide = broker.subscribe("#", lambda _: None)
        narrow = broker.subscribe("mine/a", got.append)
        await narrow
        with pytest.raises(BrokerRefused):
            await wide
        await broker.publish("mine/a", {"i": 1})
        await until(lambda: got)
        assert got == [{"i": 1}]


async def test_a_refused_consumer_says_so(guarded: str) -> None:
    async with MqttBroker(guarded) as broker:
        with pytest.raises(BrokerRefused, match="heron/default/theirs/a"):
            await broker.consume("theirs/a")


async def test_a_loop_that_ended_without_close_says_so(mosquitto: Mosquitto) -> None:
    broker = MqttBroker(mosquitto.url)
    await asyncio.to_thread(lambda: asyncio.run(broker.connect()))
    for use in (lambda: broker.publish("c", {}), lambda: broker.subscribe("c", lambda _: None)):
        with pytest.raises(BrokerClosed, match=r"event loop .* has ended"):
            use()
    with pytest.raises(BrokerClosed, match=r"event loop .* has ended"):
        await broker.consume("c")
    await broker.close()


def _certificates(folder: Path) -> dict[str, Path]:
    """Make an authority and a certificate for 127.0.0.1 with the openssl program."""
    if shutil.which("openssl") is None:
        pytest.skip("the openssl program is not installed")
    files = {name: folder / f"{name}.pem" for name in ("ca", "ca_key", "cert", "key", "csr", "ext")}

    def openssl(*args: object) -> None:
        subprocess.run(["openssl", *map(str, args)], check=True, capture_output=True)

    ec = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    ca = ("-keyout", files["ca_key"], "-out", files["ca"], "-subj", "/CN=Test CA", "-days", 2)
    openssl("req", "-x509", *ec, *ca)
    openssl("req", *ec, "-keyout", files["key"], "-out", files["csr"], "-subj", "/CN=127.0.0.1")
    files["ext"].write_text("subjectAltName=IP:127.0.0.1\n")
    signed_by = ("-CA", files["ca"], "-CAkey", files["ca_key"], "-CAcreateserial", "-days", 2)
    openssl("x509", "-req", "-in", files["csr"], *signed_by, "-out", files["cert"], "-extfile", files["ext"])
    return files


async def test_tls_with_and_without_the_right_authority(
    own_mosquitto: Callable[..., Mosquitto], tmp_path: Path
) -> None:
    files = _certificates(tmp_path)
    server = own_mosquitto("allow_anonymous true", f"certfile {files['cert']}", f"keyfile {files['key']}")
    url = server.url.replace("mqtt://", "mqtts://")
    got: list[int] = []
    async with MqttBroker(url, ca=files["ca"]) as broker:
        await broker.subscribe("c", lambda m: got.append(m["i"]))
        for i in range(2_000):
            broker.publish("c", {"i": i, "fill": "x" * 200})
        await until(lambda: len(got) == 2_000)
    assert got == list(range(2_000))
    stranger = MqttBroker(url)
    with pytest.raises(BrokerRefused, match=r"is not trusted.*ca="):
        await stranger.connect()
    plain = MqttBroker(server.url, connect_timeout_s=2)
    with pytest.raises(BrokerUnavailable):
        await plain.connect()
    await asyncio.gather(stranger.close(), plain.close())


async def test_a_client_certificate_is_shown_where_it_is_required(
    own_mosquitto: Callable[..., Mosquitto], tmp_path: Path
) -> None:
    files = _certificates(tmp_path)
    server = own_mosquitto(
        "allow_anonymous true",
        f"cafile {files['ca']}",
        f"certfile {files['cert']}",
        f"keyfile {files['key']}",
        "require_certificate true",
    )
    url = server.url.replace("mqtt://", "mqtts://")
    async with MqttBroker(url, ca=files["ca"], cert=files["cert"], key=files["key"]) as broker:
        await broker.publish("c", {})
    stranger = MqttBroker(url, ca=files["ca"])
    with pytest.raises(BrokerUnavailable, match=r"client certificate \(cert=, key=\)"):
        await stranger.connect()
    await stranger.close()


async def test_tls_at_a_port_without_it_says_so(mosquitto: Mosquitto) -> None:
    broker = MqttBroker(mosquitto.url.replace("mqtt://", "mqtts://"), connect_timeout_s=2)
    with pytest.raises(BrokerUnavailable, match=r"TLS|nobody answers|no answer"):
        await broker.connect()
    await broker.close()


def test_a_synchronous_script_gets_no_traceback_from_the_background(nobody: str) -> None:
    broker = MqttBroker(nobody)
    delivery: Any = broker.publish("c", {})

    async def wait() -> None:
        await delivery

    with pytest.raises(BrokerUnavailable):
        run_sync(wait())
    run_sync(broker.close())


def test_there_is_a_default_for_certificates() -> None:
    broker = MqttBroker("mqtts://example.invalid")
    assert broker.options.tls is not None
    assert broker.options.tls.verify_mode is ssl.CERT_REQUIRED
    assert broker.options.tls.check_hostname

"""Passwords and certificates: the right ones work, the wrong ones are refused in clear words."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from heron_mqtt.errors import BrokerRefused, BrokerUnavailable
from heron_mqtt.messaging.mqtt import MqttBroker
from support.mosquitto_server import Mosquitto
from support.waiting import until

SECRET = "s3cr3t-p%40ss"


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


def _certificates(folder: Path) -> dict[str, Path]:
    """Make an authority and a certificate for 127.0.0.1 with the openssl program."""
    if shutil.which("openssl") is None:
        pytest.skip("the openssl program is not installed")
    files = {name: folder / f"{name}.pem" for name in ("ca", "ca_key", "cert", "key", "csr", "ext")}

    def openssl(*args: object) -> None:
        subprocess.run(["openssl", *map(str, args)], check=True, capture_output=True)

    ec = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    ca = ("-keyout", files["ca_key"], "-out", files["ca"], "-subj", "/CN=Test CA", "-days", 2)
    usage = ("-addext", "keyUsage=critical,keyCertSign")
    openssl("req", "-x509", *ec, *ca, *usage)
    openssl("req", *ec, "-keyout", files["key"], "-out", files["csr"], "-subj", "/CN=127.0.0.1")
    files["ext"].write_text("subjectAltName=IP:127.0.0.1\nauthorityKeyIdentifier=keyid\n")
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
    with pytest.raises(BrokerUnavailable, match=r"TLS|no answer"):
        await broker.connect()
    await broker.close()


def test_there_is_a_default_for_certificates() -> None:
    broker = MqttBroker("mqtts://example.invalid")
    assert broker.options.tls is not None
    assert broker.options.tls.verify_mode is ssl.CERT_REQUIRED
    assert broker.options.tls.check_hostname

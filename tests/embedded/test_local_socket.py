"""Clients of the same user reach the broker by its local socket; everything is as over TCP."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from pathlib import Path
from typing import Any

import pytest

from heron_mqtt.errors import BrokerRefused
from heron_mqtt.messaging.embedded import EmbeddedBroker, Limits
from heron_mqtt.messaging.embedded.auth.credentials import hash_password
from heron_mqtt.messaging.local_socket import listen_locally
from heron_mqtt.messaging.mqtt import MqttBroker
from support.certificates import Certificates, key_of
from support.waiting import until

IP = {socket.AF_INET, socket.AF_INET6}


def family(client: MqttBroker) -> int:
    """Return by what a client is connected."""
    return client._session._connection._stream._sock.family  # type: ignore[union-attr]


async def round_trip(client: MqttBroker, n: int = 1, size: int = 10) -> None:
    """Publish messages and wait until all have come back, in their order."""
    got: list[Any] = []
    await client.subscribe("probe", lambda message: got.append(message["n"]))
    for i in range(n):
        client.publish("probe", {"type": "probe", "n": i, "pad": "x" * size})
    await until(lambda: len(got) == n, "all of them")
    assert got == list(range(n))


@pytest.mark.parametrize("in_process", [True, False], ids=["in_process", "child"])
async def test_a_client_of_the_same_user_comes_by_the_local_socket(*, in_process: bool) -> None:
    async with EmbeddedBroker(in_process=in_process) as broker, MqttBroker(broker.url) as client:
        await round_trip(client)
        assert family(client) == socket.AF_UNIX


async def test_its_log_names_the_process(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "heron_mqtt.broker")
    async with EmbeddedBroker(in_process=True) as broker, MqttBroker(broker.url) as client:
        await round_trip(client)
    assert f"127.0.0.1:process-{os.getpid()}" in caplog.text


async def test_more_than_the_kernel_takes_at_once_comes_whole_and_in_order() -> None:
    async with EmbeddedBroker() as broker, MqttBroker(broker.url) as client:
        await round_trip(client, n=400, size=20_000)
        assert family(client) == socket.AF_UNIX


async def test_by_a_name_it_is_tcp() -> None:
    async with (
        EmbeddedBroker(in_process=True) as broker,
        MqttBroker(f"mqtt://localhost:{broker.port}") as client,
    ):
        await round_trip(client)
        assert family(client) in IP


async def test_with_tls_there_is_no_way_round_it(tmp_path: Path) -> None:
    made = Certificates(tmp_path)
    async with EmbeddedBroker(in_process=True, tls_cert=made.server, tls_key=key_of(made.server)) as broker:
        free = listen_locally("127.0.0.1", broker.port, 1)
        assert free is not None, "the broker has not taken the name"
        with free:
            async with MqttBroker(broker.url, ca=made.ca) as client:
                await round_trip(client)
                assert family(client) in IP


async def test_if_another_program_has_the_name_there_is_tcp(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as chosen:
        port = chosen.getsockname()[1]
    squatter = listen_locally("127.0.0.1", port, 1)
    assert squatter is not None
    with squatter:
        async with EmbeddedBroker(port=port, in_process=True) as broker:
            another = os.geteuid() + 1
            monkeypatch.setattr(os, "geteuid", lambda: another)  # the squatter is somebody else's
            async with MqttBroker(broker.url) as client:
                await round_trip(client)
                assert family(client) in IP


async def test_a_login_is_needed_and_checked_there_too(tmp_path: Path) -> None:
    users = tmp_path / "users"
    users.write_text(f"MG1:{hash_password(b'one')}\n")
    async with EmbeddedBroker(in_process=True, users_file=users, limits=Limits(login_delay_s=0)) as broker:
        for login in ({}, {"username": "MG1", "password": "two"}):
            with pytest.raises(BrokerRefused):
                await MqttBroker(broker.url, **login).__aenter__()  # type: ignore[arg-type]
        async with MqttBroker(broker.url, username="MG1", password="one") as client:
            await round_trip(client)
            assert family(client) == socket.AF_UNIX
        assert broker.stats.failed_logins == 2


async def test_a_broker_that_is_killed_is_noticed_and_the_next_one_at_its_port_found() -> None:
    first = EmbeddedBroker()
    await first.start()
    async with MqttBroker(first.url) as client:
        await round_trip(client)
        assert first.pid is not None
        os.kill(first.pid, signal.SIGKILL)
        await until(lambda: not client.connected, "the loss")
        await first.close()
        async with EmbeddedBroker(port=first.port):
            async with asyncio.timeout(10.0):
                await client.wait_connected(10.0)
            await round_trip(client)
            assert family(client) == socket.AF_UNIX

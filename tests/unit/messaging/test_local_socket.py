"""The Unix socket beside the TCP port of a broker on this machine: preferred, and never instead of TCP."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator

import pytest

from heron_mqtt.messaging.local_socket import connect_locally, listen_locally, peer_of


@pytest.fixture
def port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as tcp:  # nobody else has its name meanwhile
        yield tcp.getsockname()[1]


@contextlib.contextmanager
def listening(host: str, port: int, backlog: int = 8) -> Iterator[socket.socket]:
    bound = listen_locally(host, port, backlog)
    assert bound is not None
    with bound:
        yield bound


def test_who_listens_and_who_connects_find_each_other_by_the_tcp_address(port: int) -> None:
    with listening("127.0.0.1", port) as bound:
        near = connect_locally("127.0.0.1", port)
        assert near is not None
        far, _ = bound.accept()
        with near, far:
            near.send(b"ping")
            assert far.recv(10) == b"ping"
            assert near.getblocking() is bound.getblocking() is False
            assert peer_of(far) == peer_of(near) == (os.getpid(), os.geteuid())


def test_where_nobody_listens_or_at_another_address_it_is_tcp(port: int) -> None:
    assert connect_locally("127.0.0.1", port) is None
    with listening("127.0.0.1", port):
        assert connect_locally("127.0.0.2", port) is None
        assert connect_locally("::1", port) is None
        assert connect_locally("127.0.0.1", port - 1) is None
    assert connect_locally("127.0.0.1", port) is None, "it is gone with the broker"


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "localhost", "::", "", "broker.example"])
def test_it_is_for_addresses_of_this_machine_alone(host: str, port: int) -> None:
    assert listen_locally(host, port, 8) is None
    assert connect_locally(host, port) is None


def test_one_address_written_in_two_ways_is_one(port: int) -> None:
    with listening("0:0:0:0:0:0:0:1", port):
        near = connect_locally("::1", port)
        assert near is not None
        near.close()


def test_a_name_that_is_taken_leaves_tcp(port: int) -> None:
    with listening("127.0.0.1", port):
        assert listen_locally("127.0.0.1", port, 8) is None


def test_what_listens_for_another_user_is_not_trusted(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with listening("127.0.0.1", port) as bound:
        another = os.geteuid() + 1
        monkeypatch.setattr(os, "geteuid", lambda: another)
        assert connect_locally("127.0.0.1", port) is None
        far, _ = bound.accept()
        with far:
            far.setblocking(True)
            assert far.recv(10) == b"", "it is told nothing"


def test_where_too_many_wait_it_is_tcp_and_not_a_connection_that_never_comes(port: int) -> None:
    with listening("127.0.0.1", port, backlog=0), contextlib.ExitStack() as stack:
        while (near := connect_locally("127.0.0.1", port)) is not None:
            stack.enter_context(near)
        assert connect_locally("127.0.0.1", port) is None

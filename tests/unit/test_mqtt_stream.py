"""The buffered socket under the MQTT client: every byte, in order, in bounded memory."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heron_mqtt.messaging._mqtt.stream import MAX_PACKET_BYTES, MAX_UNSENT_BYTES, PacketTooLarge, Stream


@pytest.fixture
def ends() -> Iterator[tuple[Stream, socket.socket]]:
    near, far = socket.socketpair()
    near.setblocking(False)
    yield Stream(near), far
    near.close()
    far.close()


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=8), st.integers(1, 50))
def test_bytes_come_in_order_however_they_arrive_and_are_read(chunks: list[bytes], size: int) -> None:
    near, far = socket.socketpair()
    with near, far:
        near.setblocking(False)
        stream = Stream(near)
        got = b""
        for chunk in chunks:
            far.sendall(chunk)
            stream.fill()
            got += stream.recv(size)  # the rest waits, and more comes behind it
        while stream.pending():
            got += stream.recv(size)
        assert got == b"".join(chunks)
        assert not stream.readable()


def test_nothing_there_blocks_like_a_socket(ends: tuple[Stream, socket.socket]) -> None:
    stream, _ = ends
    stream.fill()
    assert not stream.readable()
    with pytest.raises(BlockingIOError):
        stream.recv(1)


def test_the_end_comes_after_the_bytes_before_it(ends: tuple[Stream, socket.socket]) -> None:
    stream, far = ends
    far.sendall(b"last")
    far.close()
    stream.fill()
    assert stream.recv(10) == b"last"
    stream.fill()
    assert stream.readable()
    assert stream.recv(10) == b""
    assert stream.why() == "the broker closed the connection"


def test_what_is_sent_goes_out_with_one_flush(ends: tuple[Stream, socket.socket]) -> None:
    stream, far = ends
    assert stream.send(b"one ") == 4
    assert stream.send(bytearray(b"two")) == 3
    far.setblocking(False)
    with pytest.raises(BlockingIOError):
        far.recv(10)
    assert stream.flush()
    assert far.recv(10) == b"one two"


@settings(max_examples=20)
@given(st.integers(1, 3 * MAX_UNSENT_BYTES))
def test_a_slow_reader_gets_every_byte(size: int) -> None:
    near, far = socket.socketpair()
    with near, far:
        near.setblocking(False)
        stream = Stream(near)
        data = bytes(i % 251 for i in range(size))
        assert stream.send(data) == size
        got = b""
        while not stream.flush():
            got += far.recv(50_000)
        near.shutdown(socket.SHUT_WR)
        while piece := far.recv(1 << 20):
            got += piece
        assert got == data


def test_a_stream_that_nobody_reads_takes_no_more(ends: tuple[Stream, socket.socket]) -> None:
    stream, _ = ends

    def send_for_ever() -> None:
        for _ in range(100):
            stream.send(b"x" * MAX_UNSENT_BYTES)
            stream.flush()

    with pytest.raises(BlockingIOError):
        send_for_ever()


def test_a_broken_connection_is_kept_for_the_reader(ends: tuple[Stream, socket.socket]) -> None:
    stream, far = ends
    far.close()
    stream.send(b"x")
    assert stream.flush()
    assert stream.error is not None
    with pytest.raises(ConnectionError):
        stream.recv(1)
    assert "pipe" in stream.why().lower()


def test_a_packet_beyond_the_limit_is_refused_before_it_is_read(ends: tuple[Stream, socket.socket]) -> None:
    stream, far = ends
    far.sendall(b"begin")
    stream.fill()
    with pytest.raises(PacketTooLarge):
        stream.recv(MAX_PACKET_BYTES + 1)


def test_closing_sends_what_is_left_and_is_idempotent(ends: tuple[Stream, socket.socket]) -> None:
    stream, far = ends
    stream.send(b"goodbye")
    stream.close()
    stream.close()
    assert far.recv(10) == b"goodbye"
    assert far.recv(10) == b""
    assert stream.fileno() == -1

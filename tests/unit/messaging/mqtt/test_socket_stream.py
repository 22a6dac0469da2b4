"""The buffered socket under the MQTT client: every byte, in order, in bounded memory."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heron_mqtt.messaging.mqtt.packets import Malformed, write_length
from heron_mqtt.messaging.mqtt.socket_stream import MAX_PACKET_BYTES, PacketTooLarge, Stream

SEVERAL_SENDS = 1 << 20  # bytes; more than the kernel takes at once


@pytest.fixture
def ends() -> Iterator[tuple[Stream, socket.socket]]:
    near, far = socket.socketpair()
    near.setblocking(False)
    yield Stream(near), far
    near.close()
    far.close()


@given(st.lists(st.binary(max_size=300), max_size=8), st.integers(1, 50))
def test_packets_come_whole_and_in_order_however_their_bytes_arrive(bodies: list[bytes], size: int) -> None:
    wire = b"".join(bytes((i,)) + write_length(len(body)) + body for i, body in enumerate(bodies))
    near, far = socket.socketpair()
    with near, far:
        near.setblocking(False)
        stream = Stream(near)
        got = []
        for at in range(0, len(wire), size):
            far.sendall(wire[at : at + size])
            stream.fill()
            while (packet := stream.next_packet()) is not None:
                got.append(packet)
        assert got == list(enumerate(bodies))
        assert not stream.ended


def test_nothing_there_is_no_packet(ends: tuple[Stream, socket.socket]) -> None:
    stream, _ = ends
    stream.fill()
    assert stream.next_packet() is None
    assert not stream.ended


def test_the_end_comes_after_the_packets_before_it(ends: tuple[Stream, socket.socket]) -> None:
    stream, far = ends
    far.sendall(b"\x30\x04last")
    far.close()
    stream.fill()
    stream.fill()
    assert stream.ended
    assert stream.next_packet() == (0x30, b"last")
    assert stream.next_packet() is None
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
@given(st.integers(1, SEVERAL_SENDS))
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


def test_a_broken_connection_is_kept_for_the_reader(ends: tuple[Stream, socket.socket]) -> None:
    stream, far = ends
    far.close()
    stream.send(b"x")
    assert stream.flush()
    assert stream.error is not None
    assert stream.ended
    assert "pipe" in stream.why().lower()


def test_a_packet_beyond_the_limit_is_refused_before_it_is_read(ends: tuple[Stream, socket.socket]) -> None:
    stream, far = ends
    far.sendall(b"\x30" + write_length(MAX_PACKET_BYTES + 1) + b"begin")
    stream.fill()
    with pytest.raises(PacketTooLarge):
        stream.next_packet()


def test_a_length_without_end_breaks_the_protocol(ends: tuple[Stream, socket.socket]) -> None:
    stream, far = ends
    far.sendall(b"\x30\xff\xff\xff\xff\x01")
    stream.fill()
    with pytest.raises(Malformed):
        stream.next_packet()


def test_closing_sends_what_is_left_and_is_idempotent(ends: tuple[Stream, socket.socket]) -> None:
    stream, far = ends
    stream.send(b"goodbye")
    stream.close()
    stream.close()
    assert far.recv(10) == b"goodbye"
    assert far.recv(10) == b""
    assert stream.fileno() == -1

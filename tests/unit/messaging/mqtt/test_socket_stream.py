"""The buffered socket under the MQTT client: every byte, in order, in bounded memory."""

from __future__ import annotations

import random
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.protocol import State

from heron_mqtt.messaging.mqtt.packets import Malformed, read_publish, write_length, write_publish
from heron_mqtt.messaging.mqtt.socket_stream import (
    MAX_PACKET_BYTES,
    READ_BYTES,
    TLS_RECORD_BYTES,
    Oversized,
    PacketTooLarge,
    Stream,
    read_socket,
)
from heron_mqtt.messaging.mqtt.websocket_stream import FramedSocket
from support.certificates import Certificates, key_of

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


@given(
    st.lists(st.one_of(st.binary(max_size=300), st.just(b"x" * 20_000)), max_size=8), st.integers(1, 50_000)
)
def test_packets_in_one_piece_are_those_that_come_one_by_one(bodies: list[bytes], size: int) -> None:
    wire = b"".join(bytes((i,)) + write_length(len(body)) + body for i, body in enumerate(bodies))
    near, far = socket.socketpair()
    with near, far:
        near.setblocking(False)
        stream, got = Stream(near), []
        for at in range(0, len(wire), size):
            far.sendall(wire[at : at + size])
            stream.fill()
            while packets := stream.next_packets():
                got += packets
        assert got == list(enumerate(bodies))


def test_the_packets_before_a_malformed_one_count(ends: tuple[Stream, socket.socket]) -> None:
    stream, far = ends
    far.sendall(b"\x40\x02\0\1" + b"\x40\x02\0\2" + b"\x30\xff\xff\xff\xff")
    stream.fill()
    assert stream.next_packets() == [(0x40, b"\0\1"), (0x40, b"\0\2")]
    with pytest.raises(Malformed):
        stream.next_packets()


MESSAGES = st.tuples(
    st.sampled_from(["a", "heron/e/x", "t" * 200]), st.binary(max_size=400), st.integers(0, 2)
)


@given(st.lists(MESSAGES, max_size=8), st.integers(1, 50))
def test_messages_in_one_piece_are_those_that_come_one_by_one(
    sent: list[tuple[str, bytes, int]], size: int
) -> None:
    wire = b"".join(
        write_publish(topic, payload, qos, bool(len(payload) % 2), qos, five=False)
        for topic, payload, qos in sent
    )
    near, far = socket.socketpair()
    with near, far:
        near.setblocking(False)
        stream, got = Stream(near), []
        for at in range(0, len(wire), size):
            far.sendall(wire[at : at + size])
            stream.fill()
            while True:
                got += [(topic, payload, retained, 0) for topic, payload, retained in stream.next_publishes()]
                packet = stream.next_packet()
                if packet is None:
                    break
                assert not isinstance(packet, Oversized)
                one = read_publish(*packet, five=False)
                got.append((one.topic, one.payload, int(one.retain), one.packet_id))
    assert got == [(topic.encode(), payload, len(payload) % 2, qos) for topic, payload, qos in sent]


@pytest.mark.parametrize("wire", [b"\x30\x02\0\0", b"\x30\x03\0\x05a", b"\x30\x00", b"\x30\xff\xff\xff\x7f"])
def test_a_message_that_is_none_is_left_where_it_is(ends: tuple[Stream, socket.socket], wire: bytes) -> None:
    stream, far = ends
    far.sendall(wire + b"\x30\x04\0\x01ab")
    stream.fill()
    assert stream.next_publishes() == []
    assert stream.next_packet() is not None or len(wire) > 4


@pytest.fixture
def tls_ends(tmp_path: Path) -> Iterator[tuple[ssl.SSLSocket, ssl.SSLSocket]]:
    certificates = Certificates(tmp_path)
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(certificates.server, key_of(certificates.server))
    plain = socket.socketpair()
    for end in plain:
        end.setblocking(False)
    near = certificates.client_context().wrap_socket(
        plain[0], server_hostname="localhost", do_handshake_on_connect=False
    )
    far = serving.wrap_socket(plain[1], server_side=True, do_handshake_on_connect=False)
    is_done = False
    while not is_done:
        is_done = True
        for end in (near, far):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                is_done = False
    with near, far:
        yield near, far


def test_one_read_takes_every_tls_record_that_is_there(
    tls_ends: tuple[ssl.SSLSocket, ssl.SSLSocket],
) -> None:
    near, far = tls_ends
    stream = Stream(near)
    for n in range(50):  # each a record of its own
        far.sendall(write_publish("a", b"%d" % n, 0, False, 0, five=False))
    assert stream.fill()
    assert [payload for _, payload, _ in stream.next_publishes()] == [b"%d" % n for n in range(50)]
    assert stream.is_drained
    assert not stream.fill()
    far.sendall(write_publish("a", b"last", 0, False, 0, five=False))
    far.close()
    assert stream.fill()
    assert [payload for _, payload, _ in stream.next_publishes()] == [b"last"]
    assert stream.ended


def test_one_read_of_tls_is_bounded_and_says_that_it_has_left_something(
    tls_ends: tuple[ssl.SSLSocket, ssl.SSLSocket],
) -> None:
    near, far = tls_ends
    sent = 0
    while sent <= 2 * READ_BYTES:
        try:
            sent += far.send(bytes(1_000))
        except ssl.SSLWantWriteError:
            break
    first = read_socket(near)
    assert first.is_full
    assert READ_BYTES <= len(first.data) < READ_BYTES + TLS_RECORD_BYTES
    assert len(first.data) + len(read_socket(near).data) <= sent


def test_a_websocket_by_tls_is_read_the_same_way(tls_ends: tuple[ssl.SSLSocket, ssl.SSLSocket]) -> None:
    near, far = tls_ends
    framed = FramedSocket(near, "wss://localhost/mqtt")
    framed._protocol.state = State.OPEN
    framed._protocol.parser = framed._protocol.parse()
    next(framed._protocol.parser)
    for n in range(50):
        far.sendall(b"\x82\x01" + bytes((n,)))
    reading = framed.read()
    assert reading.data == bytes(range(50))
    assert not reading.is_full
    with pytest.raises(BlockingIOError):
        framed.read()


@pytest.mark.parametrize(("size", "is_drained"), [(100, True), (READ_BYTES // 2, False)])
def test_a_large_read_may_have_left_something(
    ends: tuple[Stream, socket.socket], size: int, is_drained: bool
) -> None:
    stream, far = ends
    far.sendall(bytes(size))
    assert stream.fill()
    assert stream.is_drained is is_drained
    assert not stream.fill()
    assert stream.is_drained


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
    far.sendall(b"\x90" + write_length(MAX_PACKET_BYTES + 1) + b"begin")
    stream.fill()
    with pytest.raises(PacketTooLarge):
        stream.next_packet()


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_a_message_beyond_the_limit_is_skipped_in_bounded_memory(
    ends: tuple[Stream, socket.socket], qos: int
) -> None:
    stream, far = ends
    head = b"\0\3a/b" + (b"\0\7" if qos else b"")
    size = len(head) + 3 * MAX_PACKET_BYTES
    left = bytes([0x30 | qos << 1]) + write_length(size) + head + bytes(size - len(head)) + b"\xd0\0"
    seen: list[object] = []
    while left or len(seen) < 2:
        if left:
            left = left[far.send(left[:60_000]) :]
        stream.fill()
        while (packet := stream.next_packet()) is not None:
            seen.append(packet)
        assert len(stream._in) < 200_000
    assert seen == [Oversized(0x30 | qos << 1, head, size), (0xD0, b"")]


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


@pytest.mark.parametrize("seed", range(5))
def test_what_is_dropped_past_its_time_leaves_whole_packets_and_their_order(seed: int) -> None:
    """Bodies of random sizes, half of them with a time limit, over a socket that takes little at a time."""
    rng = random.Random(seed)
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    now_s = [0.0]
    stream = Stream(ours, lambda: now_s[0])
    sent: list[bytes] = []
    expired: list[int] = []
    stream.expired = lambda number, _topic: expired.append(number)
    received = bytearray()

    def read() -> None:
        try:
            while data := theirs.recv(5_000):
                received.extend(data)
        except BlockingIOError:
            pass

    for i in range(300):
        packet = i.to_bytes(4, "big") + rng.randbytes(rng.randrange(2_000))
        sent.append(packet)
        if rng.random() < 0.5:
            stream.send_timed(packet, now_s[0] + 1.0, i, f"topic {i}")
        else:
            stream.send(packet)
        if rng.random() < 0.3:
            stream.flush()
        if rng.random() < 0.1:
            read()
        now_s[0] += rng.random() * 0.2
    while not stream.flush():
        read()
    read()
    assert expired
    assert bytes(received) == b"".join(packet for i, packet in enumerate(sent) if i not in expired)
    stream.close()
    theirs.close()


def test_the_earliest_time_limit_counts_wherever_it_stands() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        now_s, expired = [0.0], list[tuple[int, str]]()
        stream = Stream(ours, lambda: now_s[0])
        stream.expired = lambda *packet: expired.append(packet)
        for limit_s, at_s in ((5.0, 0.0), (3.0, 3.0), (4.0, 4.1), (9.0, 4.2)):  # the second is in time
            stream.send_timed(b"a", limit_s + 1.0, 1, "late")
            stream.send_timed(b"b", limit_s, 2, "early")
            now_s[0] = at_s
            assert stream.flush()
        assert expired == [(2, "early")]
        assert theirs.recv(99) == b"ababaab"

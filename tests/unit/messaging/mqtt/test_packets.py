"""PUBLISH and PUBACK as paho reads and writes them, in both protocol versions."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt import _packet
from paho.mqtt.client import Client, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from heron_mqtt.messaging.mqtt.packets import (
    Malformed,
    read_length,
    read_puback,
    read_publish,
    write_length,
    write_puback,
    write_publish,
)

VERSIONS = {False: MQTTProtocolVersion.MQTTv311, True: MQTTProtocolVersion.MQTTv5}
TOPICS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0+#"), min_size=1, max_size=40)


def body_of(packet: bytes) -> bytes:
    length = read_length(packet, 1)
    assert length is not None
    size, begin = length
    assert len(packet) == begin + size
    return packet[begin:]


@given(
    TOPICS, st.binary(max_size=400), st.integers(0, 1), st.booleans(), st.integers(1, 65_535), st.booleans()
)
def test_paho_reads_what_we_publish(
    topic: str, payload: bytes, qos: int, retain: bool, packet_id: int, five: bool
) -> None:
    packet = write_publish(topic, payload, qos, retain, packet_id, five=five)
    seen = _packet.decode_publish(packet[0], body_of(packet), VERSIONS[five])
    assert (seen.topic, seen.payload, seen.qos, seen.retain) == (topic.encode(), payload, qos, retain)
    assert seen.mid == (packet_id if qos else 0)
    assert not seen.dup


@given(
    TOPICS, st.binary(max_size=400), st.integers(0, 1), st.booleans(), st.integers(1, 65_535), st.booleans()
)
def test_what_we_publish_comes_back_unchanged(
    topic: str, payload: bytes, qos: int, retain: bool, packet_id: int, five: bool
) -> None:
    packet = write_publish(topic, payload, qos, retain, packet_id, five=five)
    seen = read_publish(packet[0], body_of(packet), five=five)
    assert seen == (topic.encode(), payload, packet_id if qos else 0, retain)


def test_properties_of_version_5_are_skipped() -> None:
    properties = Properties(PacketTypes.PUBLISH)
    properties.ContentType = "application/json"
    properties.UserProperty = [("who", "MG1")] * 20
    body = b"\0\1t" + properties.pack() + b"payload"
    assert read_publish(0x30, body, five=True).payload == b"payload"


@pytest.mark.parametrize(
    ("first", "body", "five"),
    [
        (0x30, b"", False),
        (0x30, b"\0", False),
        (0x30, b"\0\5top", False),
        (0x30, b"\0\0payload", False),
        (0x32, b"\0\1t\0", False),
        (0x32, b"\0\1t\0\0payload", False),
        (0x30, b"\0\1t", True),
        (0x30, b"\0\1t\x05ab", True),
    ],
    ids=["empty", "half", "short-topic", "no-topic", "short-id", "id-0", "no-properties", "short-properties"],
)
def test_a_malformed_publish_is_refused(first: int, body: bytes, five: bool) -> None:
    with pytest.raises(Malformed):
        read_publish(first, body, five=five)


@given(st.binary(max_size=60), st.integers(0, 1), st.booleans(), st.booleans())
def test_no_bytes_make_reading_fail_in_another_way(body: bytes, qos: int, retain: bool, five: bool) -> None:
    with contextlib.suppress(Malformed):
        read_publish(0x30 | qos << 1 | retain, body, five=five)


@given(st.integers(0, 268_435_455))
def test_lengths_come_back_unchanged(value: int) -> None:
    encoded = write_length(value)
    assert read_length(b"." + encoded + b"...", 1) == (value, 1 + len(encoded))
    assert read_length(encoded[:-1], 0) is None


@given(st.integers(1, 65_535))
def test_acknowledgements_come_back_unchanged(packet_id: int) -> None:
    packet = write_puback(packet_id)
    assert packet[:2] == b"\x40\x02"
    assert read_puback(packet[2:], five=False) == read_puback(packet[2:], five=True) == (packet_id, 0)
    assert read_puback(packet[2:] + b"\x87\0", five=True) == (packet_id, 0x87)


@pytest.mark.parametrize(("body", "five"), [(b"", False), (b"\1", True), (b"\0\1\0", False)])
def test_a_malformed_acknowledgement_is_refused(body: bytes, five: bool) -> None:
    with pytest.raises(Malformed):
        read_puback(body, five=five)


def test_the_private_methods_that_are_replaced_still_exist() -> None:
    for name in ("_create_socket", "_packet_queue", "_packet_handle", "_mid_generate", "_loop_rc_handle"):
        assert callable(getattr(Client, name))

"""What MQTT 5 says beside a payload, written and read."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from heron_mqtt.messaging.mqtt.packets import Malformed, read_publish, write_publish
from heron_mqtt.messaging.mqtt.properties import METADATA, reason_string, shown, user_properties

VALUES = (
    st.text(max_size=20) | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False)
)
MESSAGES = st.dictionaries(st.sampled_from([*METADATA, "p_mw"]), VALUES, max_size=9)


def unpacked(kind: int, packed: bytes) -> Any:
    """Read properties with paho, which shares no code with ours."""
    properties = Properties(kind)  # type: ignore[no-untyped-call]
    size, prefix = len(packed), bytearray()
    while True:
        size, low = divmod(size, 128)
        prefix.append(low | (0x80 if size else 0))
        if not size:
            break
    properties.unpack(bytes(prefix) + packed)  # type: ignore[no-untyped-call]
    return properties


@given(MESSAGES)
def test_metadata_is_said_again_as_user_properties_and_the_payload_stays(message: dict[str, Any]) -> None:
    payload = json.dumps(message).encode()
    said = user_properties(payload)
    read = dict(getattr(unpacked(PacketTypes.PUBLISH, said), "UserProperty", []))
    expected = {k: str(v) for k, v in message.items() if k in METADATA and str(v).isprintable()}
    assert read == expected
    packet = write_publish("t", payload, 1, False, 7, five=True, expires_s=3, properties=said)
    length = next(i for i in range(1, 5) if not packet[i] & 0x80)
    assert read_publish(packet[0], packet[length + 1 :], five=True).payload == payload


@pytest.mark.parametrize(
    "payload",
    [b"", b"{", b"[1]", b"\xff", b'{"sender": null, "seq": [1]}', b'{"sender": "%s"}' % (b"x" * 2000)],
)
def test_what_has_no_metadata_gets_no_properties(payload: bytes) -> None:
    assert user_properties(payload) == b""


@given(st.text(max_size=50))
def test_a_reason_is_read_as_paho_writes_it(text: str) -> None:
    properties = Properties(PacketTypes.PUBACK)  # type: ignore[no-untyped-call]
    properties.ReasonString = text.replace("\0", "")
    properties.UserProperty = ("a", "b")
    packed = properties.pack()  # type: ignore[no-untyped-call]
    assert reason_string(b"\0\1\x87" + packed, 3) == shown(text.replace("\0", ""))


@given(st.binary(max_size=60))
def test_no_answer_breaks_the_reader(body: bytes) -> None:
    with contextlib.suppress(Malformed):
        text = reason_string(body, 3)
        assert text.isprintable()

"""What is fuzzed: every way by which bytes of others come in.

A target takes bytes, and raises only where we err. ``scripts/fuzz.py`` runs them guided by coverage,
``tests/unit/test_fuzz_targets.py`` with hypothesis.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from heron_mqtt.errors import ConfigError, MessageError
from heron_mqtt.field.emergency_stop import StopRegister
from heron_mqtt.field.vendor import sparkplug_payload
from heron_mqtt.field.vendor.mapping import load_mapping
from heron_mqtt.field.vendor.vendor_state import VendorState
from heron_mqtt.messages import (
    Message,
    Observation,
    Setpoint,
    Status,
    Telemetry,
    model_of,
    parse,
    parse_known_fields,
)
from heron_mqtt.messaging import topics
from heron_mqtt.messaging.codec import decode, encode
from heron_mqtt.messaging.core.subscription import Received
from heron_mqtt.messaging.embedded import BrokerOptions, Limits
from heron_mqtt.messaging.embedded.server.server import BrokerServer
from heron_mqtt.messaging.kafka.names import topic_of as topic_of_record
from heron_mqtt.messaging.mqtt.connection import Connection
from heron_mqtt.messaging.mqtt.options import read_options
from heron_mqtt.messaging.mqtt.packets import write_publish
from heron_mqtt.messaging.mqtt.socket_stream import Stream
from heron_mqtt.messaging.nats_subjects import subject_of, topic_of

OURS = f"{Path(__file__).resolve().parents[2] / 'heron_mqtt'}/"
SAMPLES = Path(__file__).resolve().parents[1] / "unit" / "field" / "vendor" / "device_profiles"
CONNACK, CONNACK_5 = b"\x20\x02\x00\x00", b"\x20\x03\x00\x00\x00"
TELEMETRY = b'{"type": "telemetry", "p_mw": 0.001, "boot": "b", "seq": 3, "sender": "MG1/ess"}'
TOPIC = "heron/default/devices/MG1/ess/telemetry"


# -- the MQTT client ---------------------------------------------------------------------------------------


class _Events:
    """Does with what arrives what a broker object does: reads it as JSON, and as a message."""

    def __init__(self) -> None:
        self.error: Exception | None = None

    def on_message(self, topic: str, payload: bytes, retained: bool) -> bool | None:
        try:
            topics.TopicMap("default").channel(topic)
            read_payload(payload)
        except Exception as exc:
            self.error = exc
        return None

    def on_bad_topic(self, topic: str) -> None: ...

    def on_oversized(self, topic: str, size: int) -> None: ...

    def on_acknowledged(self, mid: int, refusal: str | None) -> None: ...

    def on_subscribed(self, mid: int, refusals: list[str | None]) -> None: ...

    def on_expired(self, mid: int, topic: str) -> None: ...

    def on_writable(self) -> None: ...


class _FaultsOfOurs(logging.Handler):
    """Keeps an error that the connection took for a broker's, and that arose in our own code."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.error: BaseException | None = None

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        trace = error.__traceback__ if error is not None else None
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        if trace is not None and trace.tb_frame.f_code.co_filename.startswith(OURS):
            self.error = error


def client(data: bytes) -> None:
    """Feed the MQTT client what a broker sends: MQTT 3.1.1, or 5 where the first byte is odd."""
    asyncio.run(_client(data[1:], five=bool(data[:1]) and data[0] % 2 == 1))


async def _client(data: bytes, *, five: bool) -> None:
    near, far = socket.socketpair()
    near.setblocking(False)
    far.setblocking(False)
    options = read_options("mqtt://127.0.0.1", client_id="fuzz", protocol="5" if five else "3.1.1")
    events, faults = _Events(), _FaultsOfOurs()
    log = logging.getLogger("heron_mqtt.messaging")
    level, propagates = log.level, log.propagate
    log.addHandler(faults)
    log.setLevel(logging.DEBUG)
    log.propagate = False
    connection = Connection(options, events, None)
    connection._stream = stream = Stream(near)
    try:
        connection._start_client(stream)
        connection._flush()
        for piece in (CONNACK_5 if five else CONNACK, data):
            far.sendall(piece[:60_000])
            connection._on_readable()
            if connection.lost.done():
                break
            if piece is not data:
                connection.subscribe(["a", "b/#"])
                connection.publish("a", b"{}", 1, False)
                connection.publish("a", b"{}", 2, False)
            await asyncio.sleep(0)
    finally:
        connection.abort()
        if connection._answer.done() and not connection._answer.cancelled():
            connection._answer.exception()
        log.removeHandler(faults)
        log.setLevel(level)
        log.propagate = propagates
        near.close()
        far.close()
    for error in (events.error, faults.error):
        if error is not None:
            raise AssertionError("an error of ours was taken for a broker's") from error


# -- the MQTT server ---------------------------------------------------------------------------------------


class _Link:
    """Takes everything."""

    peer = "127.0.0.1:1"
    paused = False

    def __init__(self) -> None:
        self.closed = False

    def write(self, data: bytes) -> None: ...

    def unsent(self) -> int:
        return 0

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = True

    def certificate(self) -> None:
        return None


def server(data: bytes) -> None:
    """Feed the embedded broker what a client sends."""
    asyncio.run(_server(data))


async def _server(data: bytes) -> None:
    limits = Limits(max_packet_bytes=5_000, max_log_lines_per_s=1, sys_interval_s=0)
    broker = BrokerServer(BrokerOptions(limits=limits))
    await broker.open()
    try:
        link = _Link()
        connection = broker._accept_transport(link)
        assert connection is not None
        connection.feed(data)
        assert connection.ended == link.closed
        connection.lost(None)
        assert broker.stats.clients == 0
    finally:
        await broker.shutdown()


# -- what is in a message ----------------------------------------------------------------------------------


def read_payload(data: bytes) -> None:
    """Read a payload as every receiver does."""
    try:
        table = decode(data)
    except MessageError:
        return
    assert decode(encode(table)) == table, "what was read can be sent again"
    models: list[type[Message]] = [Telemetry, Setpoint, Status, Observation]
    with contextlib.suppress(MessageError):
        models.append(model_of(table))
    for model in models:
        for read in (parse, parse_known_fields):
            try:
                read(model, table)
            except MessageError as exc:
                _is_one_line(exc)


def _is_one_line(refusal: MessageError) -> None:
    assert "\n" not in str(refusal)
    assert len(str(refusal)) < 5_000


def estop(data: bytes) -> None:
    """Let bytes come on ``estop`` while a stop is in force: what is no valid release leaves it there."""
    register = StopRegister("default")
    register.take(Received({"active": True, "who": "fuzz"}, "estop"))
    table: dict[str, Any] = {}
    try:
        table = decode(data)
        register.take(Received(table, "estop"))
    except MessageError as exc:
        register.take(Received({}, "estop", malformed=str(exc)))
    assert register.is_active or table.get("active") is False


def names(data: bytes) -> None:
    """Read a NATS subject and the name of a Kafka record as topics."""
    text = data.decode(errors="replace")
    topic_of(text)
    assert topic_of(subject_of(text)) == text or not text
    prefix, _, key = text.partition("\0")
    topic_of_record(prefix, key)


# -- vendors' devices --------------------------------------------------------------------------------------


@cache
def vendor_topics() -> list[tuple[Any, str, bytes]]:
    """Return mapping, topic and payload of each recorded sample of each shipped profile."""
    found = []
    for path in sorted(SAMPLES.glob("*.json")):
        recorded = json.loads(path.read_text())
        if "polled" in recorded:
            continue
        given = {"profile": f"device_profiles/{path.stem}.toml", "parameters": recorded["parameters"]}
        try:
            mapping = load_mapping(given, agent="MG1", device="ess", source="fuzz")
        except ConfigError:  # of another kind of device
            continue
        texts = [sample for sample in recorded["received"] if isinstance(sample.get("payload"), str)]
        found += [(mapping, sample["topic"], sample["payload"].encode()) for sample in texts]
    return found


def vendor(data: bytes) -> None:
    """Let bytes come on a topic of a vendor's device; the first two choose which."""
    samples = vendor_topics()
    mapping, topic, _ = samples[int.from_bytes(data[:2], "big") % len(samples)]
    state = VendorState(mapping, lambda: 1_750_000_000.0)
    state.take(topic, data[2:], 1.0)
    state.take(topic, data[2:], 2.0, retained=True)
    telemetry = state.telemetry(2.0)
    if telemetry is not None:
        decode(encode(telemetry.model_dump(exclude_none=True)))  # it can be said on the wire
    state.report(2.0)


def sparkplug(data: bytes) -> None:
    """Read a Sparkplug B payload."""
    try:
        sparkplug_payload.decode(data)
    except MessageError as exc:
        _is_one_line(exc)


TARGETS: dict[str, Callable[[bytes], None]] = {
    "client": client,
    "server": server,
    "payload": read_payload,
    "estop": estop,
    "names": names,
    "vendor": vendor,
    "sparkplug": sparkplug,
}


def seeds(target: str) -> list[bytes]:
    """Return inputs of a target that mean something, to be changed."""
    return _SEEDS[target]()


def _client_seeds() -> list[bytes]:
    message = write_publish(TOPIC, TELEMETRY, 1, False, 7, five=False)
    packets = [message, b"\x40\x02\x00\x02", b"\x90\x04\x00\x01\x01\x80", b"\x50\x02\x00\x03\x70\x02\x00\x03",
               b"\xd0\x00", b"\x34\x08\x00\x01a\x00\x09{}x\x62\x02\x00\x09"]  # fmt: skip
    five = [write_publish(TOPIC, TELEMETRY, 1, False, 7, five=True), b"\x40\x04\x00\x02\x87\x00",
            b"\x90\x05\x00\x01\x00\x01\x87", b"\xe0\x02\x8e\x00",
            b"\x30\x0a\x00\x01a\x03\x23\x00\x05{}"]  # fmt: skip
    return [*(b"\0" + p for p in packets), *(b"\1" + p for p in five)]


def _server_seeds() -> list[bytes]:
    connect = b"\x10\x0e\x00\x04MQTT\x04\x02\x00\x3c\x00\x02f1"
    subscribe = b"\x82\x08\x00\x01\x00\x03a/#\x01"
    return [connect, connect + subscribe + write_publish("a/b", TELEMETRY, 1, True, 1, five=False),
            connect + b"\xa2\x07\x00\x02\x00\x03a/#\xc0\x00\xe0\x00"]  # fmt: skip


def _payload_seeds() -> list[bytes]:
    return [
        TELEMETRY,
        b'{"type": "setpoint", "p_mw": 1e-3, "lease_s": 30, "heard_boot": "b", "heard_seq": 3, "seq": 1}',
        b'{"type": "estop", "active": false, "env_id": "default", "who": "me"}',
        b'{"type": "observation", "dt_s": 900, "p_available_pv": 0.01, "episode": 1, "step": 2}',
        b'{"type": "status", "state": "online", "kind": "battery", "soc": 0.5, "p_min_mw": -1}',
    ]


_SEEDS: dict[str, Callable[[], list[bytes]]] = {
    "client": _client_seeds,
    "server": _server_seeds,
    "payload": _payload_seeds,
    "estop": _payload_seeds,
    "names": lambda: [b"heron.default.run.state", b"heron.default.devices\0MG1/ess/telemetry", b"a..b././/"],
    "vendor": lambda: [
        number.to_bytes(2, "big") + payload for number, (_, _, payload) in enumerate(vendor_topics())
    ],
    "sparkplug": lambda: [sparkplug_payload.encode({"P": 1.5, "S": "on"}, {"P": "Double", "S": "String"}, 5)],
}

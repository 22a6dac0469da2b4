"""What is fuzzed: every way by which bytes of others come in.

A target takes bytes, and raises only where we err. ``scripts/fuzz.py`` runs them guided by coverage,
``tests/unit/test_fuzz_targets.py`` with hypothesis.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import json
import logging
import shutil
import socket
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from aiokafka.structs import ConsumerRecord
from pymodbus.pdu.register_message import ReadHoldingRegistersRequest, ReadHoldingRegistersResponse

from heron_mqtt.errors import BrokerError, ConfigError, HeronError, MessageError
from heron_mqtt.field.emergency_stop import StopRegister
from heron_mqtt.field.gateway.succession import Succession
from heron_mqtt.field.modbus import encoding
from heron_mqtt.field.modbus.place import TcpAddress
from heron_mqtt.field.modbus.registers import ILLEGAL_ADDRESS, ModbusConnection, ModbusFault, Registers
from heron_mqtt.field.sunspec.block import Block
from heron_mqtt.field.sunspec.inverter import Inverter, Settings
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
from heron_mqtt.messaging.kafka.connection import KafkaConnection
from heron_mqtt.messaging.kafka.names import topic_of as topic_of_record
from heron_mqtt.messaging.mqtt.connection import Connection
from heron_mqtt.messaging.mqtt.options import read_options
from heron_mqtt.messaging.mqtt.packets import write_publish
from heron_mqtt.messaging.mqtt.socket_stream import Stream
from heron_mqtt.messaging.nats.connection import NatsConnection
from heron_mqtt.messaging.nats_subjects import subject_of, topic_of
from heron_mqtt.messaging.urls import NATS_URLS
from support.sunspec_server import BATTERY, DER, PV, EmulatedInverter

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


# -- NATS and Kafka ----------------------------------------------------------------------------------------


def nats(data: bytes) -> None:
    """Feed the NATS client what a server sends after it has answered CONNECT."""
    asyncio.run(_nats(data))


async def _nats(data: bytes) -> None:
    info = b'INFO {"server_id":"f","version":"2.10.0","max_payload":1048576,"headers":true}\r\n'

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(info)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            await reader.readuntil(b"PING\r\n")
            writer.write(b"PONG\r\n")
            await reader.readuntil(b"PING\r\n")  # behind the subscriptions
            writer.write(data)
            await writer.drain()
        writer.close()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    events, faults = _Events(), _FaultsOfOurs()
    faulty = asyncio.get_running_loop()
    faulty.set_exception_handler(lambda _, context: setattr(faults, "error", context.get("exception")))
    host, port = listener.sockets[0].getsockname()[:2]
    options = read_options(f"nats://{host}:{port}", client_id="fuzz", kind=NATS_URLS)
    connection = NatsConnection(options, events, None)
    try:
        await connection.open()
        connection.subscribe([TOPIC, "heron/default/#"])
        connection.publish(TOPIC, b"{}", 1, False)
        async with asyncio.timeout(10.0):
            await connection.lost
    except BrokerError:
        pass
    finally:
        connection.abort()
        listener.close()
        await listener.wait_closed()
    for error in (events.error, faults.error):
        if error is not None:
            raise AssertionError("an error of ours") from error


def kafka(data: bytes) -> None:
    """Hand the Kafka client a record of another client: topic, key and value, separated by NULs."""
    topic, _, rest = data.partition(b"\0")
    key, _, value = rest.partition(b"\0")
    connection = KafkaConnection.__new__(KafkaConnection)  # without its clients, which need a server
    connection._events = events = _Events()
    connection._routes, connection._filters = {}, {"heron/default/#": None}
    record = ConsumerRecord(
        topic=topic.decode("latin-1"), partition=0, offset=1, timestamp=0, timestamp_type=0, key=key or None,
        value=value or None, checksum=None, serialized_key_size=len(key), serialized_value_size=len(value),
        headers=(),
    )  # fmt: skip
    connection._take(record)
    if events.error is not None:
        raise AssertionError("an error of ours") from events.error


# -- Modbus and SunSpec ------------------------------------------------------------------------------------


def modbus(data: bytes) -> None:
    """Answer two reads of registers and one of bits by any bytes, then end the connection."""
    asyncio.run(_modbus(data))


async def _modbus(data: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            asked = await reader.read(100)
            writer.write(
                asked[:2] + data[2:] if data[:1] == b"\1" else data[1:]
            )  # with its number, or without
            await writer.drain()
        writer.close()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    host, port = listener.sockets[0].getsockname()[:2]
    connection = ModbusConnection(
        TcpAddress(host, port), timeout_s=0.03, framing="rtu" if data[:1] == b"\2" else "tcp"
    )
    registers = Registers(connection, 1)
    logging.getLogger("pymodbus").setLevel(logging.CRITICAL + 1)
    told: list[str] = []
    try:
        for area, count in (("holding", 2), ("coil", 9)):
            try:
                words = await registers.read(7, count, area)  # type: ignore[arg-type]
            except ModbusFault as exc:
                told.append(str(exc))
            else:
                assert len(words) == count
                assert all(0 <= word < 1 << 16 for word in words)
    finally:
        connection.close()
        listener.close()
    assert not any("\n" in text for text in told)


def registers(data: bytes) -> None:
    """Read registers as a value of each type, and write that value again."""
    words = [int.from_bytes(data[i : i + 2], "big") for i in range(0, len(data) - 1, 2)]
    for type_ in encoding.RegisterType.__args__:  # type: ignore[attr-defined]
        count = encoding.register_count(type_, len(words))
        for swap_words, swap_bytes in ((False, False), (True, False), (False, True)):
            if len(words) < count or not count:
                continue
            order = {"swap_words": swap_words, "swap_bytes": swap_bytes}
            value = encoding.decode(words[:count], type_, **order)
            if type_ not in encoding.FLOATS | {"string", "bool"} and not isinstance(value, str):
                assert encoding.encode(value, type_, **order) == words[:count]


class _Image:
    """A unit whose registers are an image; stands for the connection and for pymodbus's client."""

    address = "fuzz"

    def __init__(self, image: bytes) -> None:
        self._words = [int.from_bytes(image[i : i + 2], "big") for i in range(0, len(image) - 1, 2)]
        self._endless = bool(image) and image[-1] == 1
        self._requests = 0

    async def ask(self, what: str, request: Callable[[Any], Any], *, unit: int, is_write: bool) -> Any:
        self._requests += 1
        if self._requests > 3_000:
            raise AssertionError("it asks for ever")
        return None if is_write else request(self)

    async def connect(self, _unit: int) -> None: ...

    def connections_of(self, _unit: int) -> int:
        return 1

    def read_holding_registers(self, at: int, *, count: int, device_id: int) -> ReadHoldingRegistersResponse:
        ReadHoldingRegistersRequest(address=at, count=count, dev_id=device_id).encode()
        begin = at - 40_000
        found = self._words[begin : begin + count] if begin >= 0 else []
        if self._endless and begin >= 0:
            found += [0] * (count - len(found))
        if len(found) < count:
            raise ModbusFault("none there", ILLEGAL_ADDRESS)
        return ReadHoldingRegistersResponse(registers=found)


def sunspec(data: bytes) -> None:
    """Connect to an inverter whose registers are any bytes, measure, and tell it something."""
    asyncio.run(_sunspec(data))


async def _sunspec(data: bytes) -> None:
    image: Any = _Image(data)
    told: list[str] = []
    for read_only in (True, False):
        log = logging.getLogger("heron_mqtt")
        level = log.level
        log.setLevel(logging.CRITICAL)
        try:
            settings = Settings(timer_needed=False, read_only=read_only, nominal_v=230.0)
            inverter = await Inverter.connect(Registers(image, 1), settings, lambda: 0.0)
            telemetry = await inverter.measure()
            decode(encode(telemetry.model_dump(exclude_none=True)))
            if not read_only:
                await inverter.set(0.001, 0.0, 30.0)
        except HeronError as exc:
            told.append(str(exc))
        finally:
            log.setLevel(level)
    assert all(len(text) < 2_000 for text in told)
    words = [int.from_bytes(data[i : i + 2], "big") for i in range(0, len(data) - 1, 2)]
    for at in range(2, min(len(words), 6)):
        with contextlib.suppress(HeronError):
            for _ in Block(words[at], 40_000 + at, words[at:]).shown():
                pass


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


@cache
def _state_file() -> Path:
    """Return a gateway's file, as a start of it has left it."""
    folder = Path(tempfile.mkdtemp(prefix="heron-fuzz-"))
    atexit.register(shutil.rmtree, folder)
    with contextlib.closing(Succession(folder, "e", "MG1", "here")) as first:
        first.begin("dead")
    return first.path


def succession(data: bytes) -> None:
    """A gateway's file, by any process that can write to it: no start fails, and the next one knows of it."""
    path = _state_file()
    path.write_bytes(data)
    with contextlib.closing(Succession(path.parent, "e", "MG1", "here")) as start:
        assert not (start.predecessors and start.why_none)
        start.begin("mine")
    with contextlib.closing(Succession(path.parent, "e", "MG1", "here")) as successor:
        assert "mine" in successor.predecessors, successor.why_none


def _succession_seeds() -> list[bytes]:
    succession(b"")
    return [_state_file().read_bytes().rstrip(), b"", b"{}"]


TARGETS: dict[str, Callable[[bytes], None]] = {
    "client": client,
    "server": server,
    "payload": read_payload,
    "estop": estop,
    "names": names,
    "nats": nats,
    "kafka": kafka,
    "modbus": modbus,
    "registers": registers,
    "sunspec": sunspec,
    "vendor": vendor,
    "sparkplug": sparkplug,
    "succession": succession,
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


def _nats_seeds() -> list[bytes]:
    subject = TOPIC.replace("/", ".").encode()
    message = b"MSG %s 1 %d\r\n%s\r\n" % (subject, len(TELEMETRY), TELEMETRY)
    headers = b"NATS/1.0\r\nA: b\r\n\r\n"
    with_headers = b"HMSG %s 1 %d %d\r\n%s{}\r\n" % (subject, len(headers), len(headers) + 2, headers)
    denied = b"-ERR 'Permissions Violation for Publish to \"a\"'\r\nPONG\r\n"
    return [b"PONG\r\n" + message, with_headers, denied, b"PING\r\n",
            b"+OK\r\n", b'INFO {"ldm": true, "connect_urls": ["x"]}\r\n']  # fmt: skip


def _modbus_seeds() -> list[bytes]:
    return [b"\1\0\0\0\0\x07\1\x03\x04\x12\x34\x56\x78", b"\1\0\0\0\0\x03\1\x83\2",
            b"\1\0\0\0\0\5\1\1\2\xff\1", b"\2\1\x03\x04\x12\x34\x56\x78\x81\x07",
            b"\0\1\2\0\0\0\6\1\3\4\0\1\0\2"]  # fmt: skip


def _sunspec_seeds() -> list[bytes]:
    images = [EmulatedInverter(models).image for models in (PV, BATTERY, DER)]
    misstated = [*images[0][:2], 1, 0xFFFF]  # a model as long as everything, of a device that answers all
    return [b"".join(word.to_bytes(2, "big") for word in image) for image in images] + [
        b"".join(word.to_bytes(2, "big") for word in misstated) + b"\1"
    ]


_SEEDS: dict[str, Callable[[], list[bytes]]] = {
    "client": _client_seeds,
    "server": _server_seeds,
    "payload": _payload_seeds,
    "estop": _payload_seeds,
    "names": lambda: [b"heron.default.run.state", b"heron.default.devices\0MG1/ess/telemetry", b"a..b././/"],
    "nats": _nats_seeds,
    "kafka": lambda: [
        b"heron.default.devices\0devices/MG1/ess/telemetry\0" + TELEMETRY,
        b"heron.default.run\0run/state\0",
        b"other\0\xff\0{}",
    ],
    "modbus": _modbus_seeds,
    "registers": lambda: [bytes(range(40)), b"\x7f\xc0\0\0\0\0\0\0", b"AB\0\0CD\0\0"],
    "sunspec": _sunspec_seeds,
    "vendor": lambda: [
        number.to_bytes(2, "big") + payload for number, (_, _, payload) in enumerate(vendor_topics())
    ],
    "sparkplug": lambda: [sparkplug_payload.encode({"P": 1.5, "S": "on"}, {"P": "Double", "S": "String"}, 5)],
    "succession": _succession_seeds,
}

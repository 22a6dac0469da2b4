"""Sparkplug B payloads, by their public protobuf definition (Eclipse Sparkplug 3.0, sparkplug_b.proto).

Only the fields that are read or written are declared; a decoder skips the others. Needs the extra
``sparkplug``.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from heron_mqtt.errors import ConfigError, MessageError
from heron_mqtt.field.vendor.formula import signed

DATATYPES = {
    "Int8": 1,
    "Int16": 2,
    "Int32": 3,
    "Int64": 4,
    "UInt8": 5,
    "UInt16": 6,
    "UInt32": 7,
    "UInt64": 8,
    "Float": 9,
    "Double": 10,
    "Boolean": 11,
    "String": 12,
    "DateTime": 13,
    "Text": 14,
}
_SIGNED_BITS = {1: 8, 2: 16, 3: 32, 4: 64}
_VALUES = ("int_value", "long_value", "float_value", "double_value", "boolean_value", "string_value")


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric of a payload.

    Attributes:
        name: Empty if only its alias is sent.
        alias: Its number since the birth; None = it has none.
        datatype: A number of ``DATATYPES``; 0 = as at the birth.
        value: None = null.
        is_historical: It was stored and is not of now.
    """

    name: str
    alias: int | None
    datatype: int
    value: Any
    is_historical: bool = False


@dataclass(frozen=True, slots=True)
class SparkplugPayload:
    """A decoded payload; ``seq`` is None where there is none, as in a death."""

    metrics: tuple[Metric, ...]
    seq: int | None
    timestamp_ms: int | None = None
    problems: tuple[str, ...] = ()


def require() -> None:
    """Do nothing if protobuf is installed.

    Raises:
        ConfigError: It is not; says how to get it.
    """
    try:
        import google.protobuf  # noqa: F401
    except ImportError:
        raise ConfigError(
            "format 'sparkplug' needs the extra of that name: pip install 'heron-mqtt[sparkplug]'"
        ) from None


def decode(payload: bytes) -> SparkplugPayload:
    """Return what a payload holds.

    Raises:
        MessageError: It is no Sparkplug B payload.
    """
    from google.protobuf.message import DecodeError

    message = _payload_class()()
    problems: list[str] = []
    try:
        message.ParseFromString(payload)
    except DecodeError:
        try:
            message.ParseFromString(_whole_fields(payload, problems))
        except DecodeError as exc:
            raise MessageError(f"not a Sparkplug B payload: {exc}") from None
        if not message.metrics:
            raise MessageError("not a Sparkplug B payload: no metric in it can be read") from None
    metrics = []
    for metric in message.metrics:
        held = metric.WhichOneof("value")
        metrics.append(
            Metric(
                name=metric.name,
                alias=metric.alias if metric.HasField("alias") else None,
                datatype=metric.datatype,
                value=None if held is None or metric.is_null else getattr(metric, held),
                is_historical=metric.is_historical,
            )
        )
    return SparkplugPayload(
        tuple(metrics),
        message.seq if message.HasField("seq") else None,
        message.timestamp if message.HasField("timestamp") else None,
        tuple(problems),
    )


def _whole_fields(data: bytes, problems: list[str], *, of_metric: bool = False) -> bytes:
    """Return a message without what is damaged: a metric is cut before its first field that is no field.

    Source: protobuf.dev/programming-guides/encoding, message structure.
    """
    kept, at = bytearray(), 0
    while at < len(data):
        found = _field(data, at)
        if found is None:
            problems.append(
                f"damaged: the last {len(data) - at} bytes of a {'metric' if of_metric else 'payload'}"
            )
            break
        number, start, end = found
        if not of_metric and number == 2:  # a metric: its length may change
            inner = _whole_fields(data[start:end], problems, of_metric=True)
            kept += b"\x12" + _varint(len(inner)) + inner
        else:
            kept += data[at:end]
        at = end
    return bytes(kept)


def _field(data: bytes, at: int) -> tuple[int, int, int] | None:
    """Return number, beginning and end of the value of the field at a place; None if it is not whole."""
    tag = _read_varint(data, at)
    if tag is None or tag[0] >> 3 == 0:
        return None
    kind, start = tag[0] & 7, tag[1]
    if kind == 0:
        value = _read_varint(data, start)
        return None if value is None else (tag[0] >> 3, start, value[1])
    if kind == 2:
        size = _read_varint(data, start)
        if size is None:
            return None
        start, end = size[1], size[1] + size[0]
    else:
        width = {1: 8, 5: 4}.get(kind)
        if width is None:
            return None
        end = start + width
    return None if end > len(data) else (tag[0] >> 3, start, end)


def _read_varint(data: bytes, at: int) -> tuple[int, int] | None:
    value = 0
    for i, byte in enumerate(data[at : at + 10]):
        value |= (byte & 0x7F) << (7 * i)
        if byte < 0x80:
            return value, at + i + 1
    return None


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def encode(values: Mapping[str, Any], datatypes: Mapping[str, str], timestamp_ms: int) -> bytes:
    """Return a command: one metric for each name of ``datatypes``.

    Raises:
        MessageError: A value does not fit its datatype.
    """
    message = _payload_class()()
    message.timestamp = timestamp_ms
    for name, datatype in datatypes.items():
        metric = message.metrics.add()
        metric.name, metric.timestamp, metric.datatype = name, timestamp_ms, DATATYPES[datatype]
        try:
            _set(metric, datatype, values[name])
        except (TypeError, ValueError, OverflowError) as exc:
            raise MessageError(f"metric {name}: {values[name]!r} is no {datatype}: {exc}") from None
    return bytes(message.SerializeToString())


def typed(value: Any, datatype: int | None) -> Any:
    """Return a value as its datatype means it: signed integers are sent as unsigned ones."""
    bits = None if datatype is None else _SIGNED_BITS.get(datatype)
    if bits is None or isinstance(value, bool) or not isinstance(value, int):
        return value
    return int(signed(value & ((1 << bits) - 1), bits))


def _set(metric: Any, datatype: str, value: Any) -> None:
    match datatype:
        case "Float":
            metric.float_value = float(value)
        case "Double":
            metric.double_value = float(value)
        case "Boolean":
            if value not in (0, 1):
                raise ValueError("expected true, false, 0 or 1")
            metric.boolean_value = bool(value)
        case "String" | "Text":
            metric.string_value = str(value)
        case "DateTime":
            metric.long_value = _whole(value, 64, is_signed=False)
        case "Int64" | "UInt64":
            metric.long_value = _whole(value, 64, is_signed=datatype == "Int64") & 0xFFFF_FFFF_FFFF_FFFF
        case _:
            bits = int(datatype.lstrip("UInt"))
            metric.int_value = _whole(value, bits, is_signed=datatype.startswith("Int")) & 0xFFFF_FFFF


def _whole(value: Any, bits: int, *, is_signed: bool) -> int:
    low, high = (-(1 << (bits - 1)), 1 << (bits - 1)) if is_signed else (0, 1 << bits)
    whole = int(value)
    if not low <= whole < high:
        raise ValueError(f"it does not fit into {bits} bits{'' if is_signed else ' without a sign'}")
    return whole


@functools.cache
def _payload_class() -> Any:
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    proto = descriptor_pb2.FileDescriptorProto(
        name="heron_sparkplug_b.proto", package="heron", syntax="proto2"
    )
    kinds = descriptor_pb2.FieldDescriptorProto
    metric = proto.message_type.add(name="Metric")
    metric.oneof_decl.add(name="value")
    fields = [
        ("name", 1, kinds.TYPE_STRING),
        ("alias", 2, kinds.TYPE_UINT64),
        ("timestamp", 3, kinds.TYPE_UINT64),
        ("datatype", 4, kinds.TYPE_UINT32),
        ("is_historical", 5, kinds.TYPE_BOOL),
        ("is_null", 7, kinds.TYPE_BOOL),
    ]
    values = [
        ("int_value", 10, kinds.TYPE_UINT32),
        ("long_value", 11, kinds.TYPE_UINT64),
        ("float_value", 12, kinds.TYPE_FLOAT),
        ("double_value", 13, kinds.TYPE_DOUBLE),
        ("boolean_value", 14, kinds.TYPE_BOOL),
        ("string_value", 15, kinds.TYPE_STRING),
    ]
    for name, number, kind in fields:
        metric.field.add(name=name, number=number, type=kind, label=kinds.LABEL_OPTIONAL)
    for name, number, kind in values:
        metric.field.add(name=name, number=number, type=kind, label=kinds.LABEL_OPTIONAL, oneof_index=0)
    payload = proto.message_type.add(name="Payload")
    payload.field.add(name="timestamp", number=1, type=kinds.TYPE_UINT64, label=kinds.LABEL_OPTIONAL)
    payload.field.add(
        name="metrics",
        number=2,
        type=kinds.TYPE_MESSAGE,
        type_name=".heron.Metric",
        label=kinds.LABEL_REPEATED,
    )
    payload.field.add(name="seq", number=3, type=kinds.TYPE_UINT64, label=kinds.LABEL_OPTIONAL)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(proto)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("heron.Payload"))

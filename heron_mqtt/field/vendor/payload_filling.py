"""Values in topics, payloads and registers: where a name stands in braces, its value is filled in."""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic_core import to_json

from heron_mqtt.errors import MessageError
from heron_mqtt.field.vendor.built_ins import BUILT_INS, BuiltIns
from heron_mqtt.field.vendor.cleaning_keys import Scalar
from heron_mqtt.field.vendor.parameters import PLACEHOLDER, as_text
from heron_mqtt.field.vendor.tables import Payload

_LETTER = re.compile(r"(\d*)([a-zA-Z?])")


@dataclass(frozen=True, slots=True)
class RenderedValue:
    """One value of a setpoint: as it stands in JSON, and as text."""

    json: Scalar
    text: str


@dataclass(frozen=True, slots=True)
class MessageContext:
    """What messages may hold besides the setpoint.

    Attributes:
        built_ins: Time, counter and identifiers.
        inputs: Named inputs of the device that are known.
        learned: Parameters that were learned from topics.
    """

    built_ins: BuiltIns
    inputs: Mapping[str, Any] = field(default_factory=dict)
    learned: Mapping[str, str] = field(default_factory=dict)


def without_device() -> MessageContext:
    """Return what messages may hold where no device is there: to look at a mapping before it is used."""
    return MessageContext(BuiltIns(lambda: 0.0, lambda: "0"))


def payload_bytes(
    payload: Payload, values: Mapping[str, RenderedValue], built_ins: BuiltIns, packing: str | None = None
) -> bytes:
    """Return a payload with its values filled in: a text as it is, a table or array as JSON, or packed.

    Raises:
        MessageError: A value cannot be packed.
    """
    if isinstance(payload, str):
        return filled_text(payload, values, built_ins).encode()
    document = in_json(payload, values, built_ins)
    if packing is None:
        return to_json(document)
    letters = _LETTER.findall(packing)
    repeated = [c for count, c in letters for _ in range(1 if c in "sp" else int(count or 1)) if c != "x"]
    for letter, value in zip(repeated, document, strict=False):
        if letter == "?" and value not in (0, 1):
            raise MessageError(f"{value!r} cannot be packed as ?: expected true or false, or 1 or 0")
    try:
        return struct.pack(packing, *(v.encode() if isinstance(v, str) else v for v in document))
    except (struct.error, OverflowError) as exc:
        raise MessageError(f"{document!r} cannot be packed as {packing}: {exc}") from None


def filled_registers(
    registers: Mapping[str, Scalar], values: Mapping[str, RenderedValue], built_ins: BuiltIns
) -> dict[str, Scalar]:
    """Return what to write with its values filled in."""
    return {name: in_json(value, values, built_ins) for name, value in registers.items()}


def filled_text(text: str, values: Mapping[str, RenderedValue], built_ins: BuiltIns) -> str:
    """Return a text with its values and built-in names filled in; unknown ones stay."""
    text = BUILT_INS.sub(lambda m: as_text(built_ins.value(m[1], m[2])), text)
    return PLACEHOLDER.sub(lambda m: values[m[1]].text if m[1] in values else m[0], text)


def text_of(leaf: Any, values: Mapping[str, RenderedValue]) -> str:
    """Return a text or number with its values filled in, without what differs in each message."""
    if isinstance(leaf, Mapping):
        return "; ".join(f"{name} {text_of(each, values)}" for name, each in leaf.items())
    if isinstance(leaf, list):
        return "; ".join(text_of(each, values) for each in leaf)
    if not isinstance(leaf, str):
        return as_text(leaf)
    text = BUILT_INS.sub("", leaf)
    return PLACEHOLDER.sub(lambda m: values[m[1]].text if m[1] in values else "", text)


def in_json(node: Any, values: Mapping[str, RenderedValue], built_ins: BuiltIns) -> Any:
    """Return a document with its values filled in; a value that is a whole text keeps its type."""
    if isinstance(node, dict):
        return {key: in_json(value, values, built_ins) for key, value in node.items()}
    if isinstance(node, list):
        return [in_json(value, values, built_ins) for value in node]
    if not isinstance(node, str):
        return node
    whole = PLACEHOLDER.fullmatch(node)
    if whole is not None and whole[1] in values:
        return values[whole[1]].json
    built_in = BUILT_INS.fullmatch(node)
    if built_in is not None:
        return built_ins.value(built_in[1], built_in[2])
    return filled_text(node, values, built_ins)

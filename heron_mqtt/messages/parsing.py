"""From a decoded payload to a message and back, and what is wrong with a payload in one line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar, get_args

from pydantic import ValidationError

from heron_mqtt.errors import MessageError
from heron_mqtt.json_object import Json
from heron_mqtt.messages.message import Message
from heron_mqtt.messages.values import MAX_INTEGER, MAX_REASON, is_finite_number, shortened

M = TypeVar("M", bound=Message)


def parse(model: type[M], payload: Mapping[str, Any]) -> M:
    """Validate a decoded payload as ``model``.

    Spellings that leave no doubt are accepted: see ``normalized``.

    Raises:
        MessageError: One line naming each wrong field, what it held and what was expected.
    """
    try:  # model_validate without what it does about options that are not given: a quarter of its time
        return model.__pydantic_validator__.validate_python(payload)  # type: ignore[no-any-return]
    except ValidationError as exc:
        first = exc
    try:
        return model.model_validate(normalized(model, payload))
    except ValidationError:
        raise MessageError(f"not a valid {model.model_fields['type'].default}: {explain(first)}") from None


def fields_of(message: Message) -> Json:
    """Return what a message says, as it stands on the wire: fields that say nothing are left out."""
    # model_dump without what it does about options that are not given
    fields: Json = message.__pydantic_serializer__.to_python(message, exclude_none=True)
    return fields


def parse_known_fields(model: type[M], payload: Mapping[str, Any]) -> tuple[M, str]:
    """Validate a payload field by field: an optional field that is wrong is left out, the rest counts.

    For what devices say of themselves. Identity and numbering are never left out.

    Returns:
        The message, and one line naming what was left out; empty when nothing was.

    Raises:
        MessageError: As ``parse``: a required field is wrong, or identity or numbering.
    """
    try:
        return parse(model, payload), ""
    except MessageError:
        plain = normalized(model, payload)
    try:
        model.model_validate(plain)
    except ValidationError as exc:
        wrong = {str(error["loc"][0]) for error in exc.errors(include_url=False) if error["loc"]}
        optional = {n for n, f in model.model_fields.items() if not f.is_required()} - _NEVER_LEFT_OUT
        if not wrong or not wrong <= optional:
            raise MessageError(f"not a valid {model.model_fields['type'].default}: {explain(exc)}") from None
        kept = {name: value for name, value in plain.items() if name not in wrong}
        return parse(model, kept), f"left out what cannot be read: {explain(exc)}"
    raise AssertionError("normalized but not accepted by parse")  # pragma: no cover


_NEVER_LEFT_OUT = {"type", "sender", "env_id", "episode", "step", "seq", "boot", "ack_seq", "ack_boot"}
ROUNDING = 1e-3
"""How far a fraction may lie outside [0, 1] and still be its end: a device's own rounding."""


def normalized(model: type[Message], payload: Mapping[str, Any]) -> Json:
    """Return a payload with unambiguous variants replaced by the formats of the contract.

    The variants: ``5.0`` for an integer; ``1`` or ``0`` for a boolean; a number for an identifier; ``null``
    for a field that is left out; a fraction that rounding has put just outside [0, 1]. Also a field that is
    only for records and cannot be read (``sent_at``). A reason that is too long is cut, so that its message
    still counts.
    """
    plain: Json = {}
    for name, value in payload.items():
        field = model.model_fields.get(name)
        if value is None and (field is None or not field.is_required()):
            continue
        plain[name] = value if field is None else _normalized_value(name, field.annotation, value)
    for name in model.for_records & plain.keys():
        try:
            Message.model_validate({name: plain[name]})
        except ValidationError:
            del plain[name]
    return plain


def _normalized_value(name: str, annotation: Any, value: Any) -> Any:
    kinds = {annotation, *get_args(annotation)}
    kind = type(value)
    if bool in kinds and kind in {int, float} and value in {0, 1}:
        return bool(value)
    if int in kinds and kind is float and value.is_integer() and abs(value) <= MAX_INTEGER:
        return int(value)
    if name in _IDENTIFIERS and kind in {int, float} and is_finite_number(value):
        return str(int(value)) if value == int(value) else str(value)
    if name in _REASONS and kind is str:
        return value[:MAX_REASON]
    if name == "soc" and kind in {int, float} and is_finite_number(value):
        return min(max(value, 0.0), 1.0) if -ROUNDING <= value <= 1.0 + ROUNDING else value
    return value


_IDENTIFIERS = {"sender", "env_id", "boot", "ack_boot", "heard_boot", "request_boot", "stop_boot", "run"}
_REASONS = {"reason", "rejected"}  # texts for people in what devices say; alone that they are there matters


def explain(exc: ValidationError, limit: int = 5) -> str:
    """Say in one line what a validation error found: field, value, expectation."""
    found = exc.errors(include_url=False, include_context=False)
    parts = []
    for error in found[:limit]:
        where = ".".join(str(part) for part in error["loc"])
        value = shortened(error["input"])
        shown = "" if error["type"] == "missing" or value.endswith("...") else f", got {value}"
        text = error["msg"].removeprefix("Value error, ")
        parts.append(f"{where}: {text}{shown}" if where else text)
    if len(found) > limit:
        parts.append(f"and {len(found) - limit} more")
    return "; ".join(parts)

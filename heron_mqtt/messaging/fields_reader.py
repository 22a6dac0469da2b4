"""Reads the fields of one kind of message from its payload, for what comes thousands of times a second."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import SchemaValidator, core_schema

from heron_mqtt.json_object import Json
from heron_mqtt.messages import Message, parse_known_fields
from heron_mqtt.messaging.codec import MAX_PAYLOAD_BYTES


class FieldsReader:
    """Gives what ``decode`` and ``parse_known_fields`` give, as a dict of the fields that are there.

    No object is made, and a payload without surprises is looked at once: a third of the cost. ``sent_at``
    stays a text, and is not checked: nothing is decided by it.

    Args:
        model: Each of its fields is checked by itself.

    Raises:
        TypeError: The model has rules beyond those of its fields.
    """

    def __init__(self, model: type[Message]) -> None:
        decorators, rules = model.__pydantic_decorators__, model.model_config
        if decorators.model_validators or decorators.field_validators or rules["extra"] != "ignore":
            raise TypeError(f"{model.__name__} has rules beyond those of its fields")
        self._model = model
        fields = {name: _schema(name, field) for name, field in model.model_fields.items()}
        config = core_schema.CoreConfig(strict=rules["strict"], allow_inf_nan=rules["allow_inf_nan"])
        validator = SchemaValidator(core_schema.typed_dict_schema(fields, config=config))
        self._of_json, self._of_fields = validator.validate_json, validator.validate_python

    def of_payload(self, payload: bytes) -> Json | None:
        """Return the fields of a payload; None = it is to be decoded, and given to ``of_fields``.

        That is so where it is wrong, has a field that the model does not know, or a quote in a text.
        """
        try:
            told: Json = self._of_json(payload)
        except ValidationError:
            return None
        # every quote belongs to a key or to a text that is there: no field is unknown, and no key came twice
        quotes = 2 * (len(told) + [type(value) for value in told.values()].count(str))
        if quotes != payload.count(b'"') or len(payload) > MAX_PAYLOAD_BYTES:
            return None
        return told

    def of_fields(self, fields: Mapping[str, Any]) -> Json:
        """Return the fields of a decoded payload that the model knows.

        Raises:
            MessageError: As ``parse_known_fields``.
        """
        try:
            told: Json = self._of_fields(fields)
        except ValidationError:
            return parse_known_fields(self._model, fields)[0].model_dump(mode="json", exclude_unset=True)
        return told


def _schema(name: str, field: FieldInfo) -> core_schema.TypedDictField:
    if name == "sent_at":  # making a moment of it would cost more than all the rest
        return core_schema.typed_dict_field(core_schema.str_schema(), required=False)
    kind: Any = Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
    return core_schema.typed_dict_field(TypeAdapter(kind).core_schema, required=field.is_required())

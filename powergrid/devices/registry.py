"""The kinds of device, by the name that scenarios use, and the schema made of them.

Adding a kind takes one class (with its nameplate) and one registration, ``DEVICES.add(Wallbox)``:
scenarios, agents, observations and actions, the batched form, emulators and the network then know it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticKnownError, core_schema

from heron_mqtt.registry import Registry
from powergrid.devices.base import Device, DeviceSpecBase

__all__ = ["DEVICES", "DeviceSpec", "make_device"]


def kind_of(device: type[Device]) -> str:
    """Return the name of a kind, as its nameplate gives it."""
    return str(device.spec_type.model_fields["kind"].default)


DEVICES: Registry[type[Device]] = Registry("kind of device", "heron_mqtt.devices", kind_of)
"""Every kind of device."""


def make_device(spec: DeviceSpecBase) -> Device:
    """Return a model of the kind that the spec names, in its initial state.

    Raises:
        ConfigError: No such kind is registered.
    """
    return DEVICES[spec.kind](spec)


class _ByKind:
    """Validates a nameplate as the kind that it names, whatever kinds there are at that time."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            _spec_of_kind,
            serialization=core_schema.plain_serializer_function_ser_schema(lambda spec: spec.model_dump()),
        )

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Return the schema of all kinds that are registered now."""
        choices: dict[Any, CoreSchema] = {}
        for name in DEVICES:
            nameplate = DEVICES[name].spec_type
            nameplate.model_rebuild()  # where it has not been used yet
            choices[name] = nameplate.__pydantic_core_schema__
        return handler(core_schema.tagged_union_schema(choices, discriminator="kind"))


def _spec_of_kind(data: Any) -> DeviceSpecBase:
    if isinstance(data, DeviceSpecBase):
        return data
    if not isinstance(data, Mapping):
        raise PydanticKnownError("dict_type")
    if "kind" not in data:
        raise PydanticKnownError("union_tag_not_found", {"discriminator": "'kind'"})
    device = DEVICES.get(data["kind"]) if isinstance(data["kind"], str) else None
    if device is None:
        expected = ", ".join(repr(name) for name in DEVICES)
        context = {"discriminator": "'kind'", "tag": str(data["kind"]), "expected_tags": expected}
        raise PydanticKnownError("union_tag_invalid", context)
    return device.spec_type.model_validate(data)


DeviceSpec = Annotated[DeviceSpecBase, _ByKind]
"""The nameplate of a device, of whatever kind it names."""

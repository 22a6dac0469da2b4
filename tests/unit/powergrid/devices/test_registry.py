"""A nameplate is read as the kind that it names, and what names none is told what to name."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from heron_mqtt.errors import ConfigError
from powergrid.devices import DEVICES, DeviceSpec, LoadSpec, PvSpec, make_device
from powergrid.devices.registry import kind_of

ADAPTER: TypeAdapter[Any] = TypeAdapter(DeviceSpec)


@pytest.mark.parametrize(
    ("given", "type_", "says"),
    [
        (5, "dict_type", "Input should be a valid dictionary"),
        ({}, "union_tag_not_found", "'kind'"),
        ({"kind": "flywheel"}, "union_tag_invalid", "'flywheel'"),
        ({"kind": 5}, "union_tag_invalid", "'5'"),
        ({"kind": "pv"}, "missing", "Field required"),
    ],
)
def test_what_is_no_nameplate_is_told_with_the_kinds_that_there_are(
    given: Any, type_: str, says: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        ADAPTER.validate_python(given)
    [error] = caught.value.errors()
    assert error["type"] == type_
    assert says in error["msg"]
    if type_ == "union_tag_invalid":
        assert error["ctx"]["expected_tags"] == ", ".join(repr(name) for name in DEVICES)


def test_a_nameplate_is_of_the_kind_that_it_names_and_is_written_as_it_was_read() -> None:
    given = PvSpec(max_p_mw=1.0)
    assert ADAPTER.validate_python(given) is given
    assert ADAPTER.validate_python({"kind": "pv", "max_p_mw": 1.0}) == given
    assert ADAPTER.dump_python(given) == given.model_dump()
    assert kind_of(type(make_device(LoadSpec(max_p_mw=1.0)))) == "load"
    with pytest.raises(ConfigError, match="flywheel"):
        make_device(given.model_copy(update={"kind": "flywheel"}))


def test_the_schema_of_a_nameplate_is_a_choice_by_kind() -> None:
    schema = ADAPTER.json_schema()
    assert schema["discriminator"]["propertyName"] == "kind"
    assert set(schema["discriminator"]["mapping"]) == set(DEVICES)
    assert len(schema["oneOf"]) == len(list(DEVICES))

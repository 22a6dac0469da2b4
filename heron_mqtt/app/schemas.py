"""JSON Schemas of the files that people write: scenario, mapping, impaired network, suite.

They are made of the models that validate these files, so an editor completes and checks what a run accepts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from heron_mqtt.errors import ConfigError
from heron_mqtt.registry import Registry

Schema = dict[str, Any]

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def schema_of(what: str) -> Schema:
    """Return the JSON Schema of one kind of file.

    Raises:
        ConfigError: There is no such kind; says which there are.
    """
    make = _MAKERS.get(what)
    if make is None:
        raise ConfigError(f"schema {what}: expected {', '.join(SCHEMAS)}")
    return {"$schema": DIALECT, **_with_added_impairments(make())}


def _scenario() -> Schema:
    from heron_mqtt.protocols.registry import PROTOCOLS
    from powergrid.devices import DEVICES
    from powergrid.scenario import Scenario

    registries: tuple[Registry[Any], ...] = (DEVICES, PROTOCOLS, *_of_networks())
    for kinds in registries:
        kinds.search()  # a run accepts what installed packages add
    schema = Scenario.model_json_schema(by_alias=True)
    schema["title"] = "Scenario of heron-mqtt"
    schema["$defs"]["DeviceTable"] = _device(schema["$defs"])
    return schema


def _of_networks() -> tuple[Registry[Any], ...]:
    from heron_mqtt.messaging.impairment_kinds import IMPAIRMENTS, JITTERS

    return IMPAIRMENTS, JITTERS


def _with_added_impairments(schema: Schema) -> Schema:
    """Return the schema with the tables of registered kinds of impairment in a rule, if it has rules."""
    from heron_mqtt.messaging.impairment_kinds import IMPAIRMENTS

    definitions: dict[str, Schema] = schema.get("$defs", {})
    rule = definitions.get("RuleTable")
    if rule is None:
        return schema
    for name in IMPAIRMENTS:
        if (model := IMPAIRMENTS[name].table) is not None:
            table = model.model_json_schema(by_alias=True, ref_template="#/$defs/{model}")
            definitions.update(table.pop("$defs", {}))
            rule["properties"][name] = table
    return schema


def _device(definitions: dict[str, Schema]) -> Schema:
    """Return what a device may be: our keys and those of its kind side by side, as they stand in the file."""
    table = definitions["DeviceTable"]
    ours = {name: value for name, value in table["properties"].items() if name != "spec"}
    needed = [name for name in table.get("required", []) if name != "spec"]
    kinds = []
    for choice in table["properties"]["spec"]["oneOf"]:
        spec = definitions[choice["$ref"].rpartition("/")[2]]
        kinds.append(
            {
                "title": spec["properties"]["kind"]["const"],
                "description": spec.get("description", ""),
                "type": "object",
                "properties": {**spec["properties"], **ours},
                "required": ["kind", *(name for name in spec.get("required", []) if name != "kind"), *needed],
                "additionalProperties": False,
            }
        )
    return {"title": "Device", "description": table["description"], "oneOf": kinds}


def _impairment() -> Schema:
    from heron_mqtt.messaging.impairment import NetworkFile

    for kinds in _of_networks():
        kinds.search()
    return {**NetworkFile.model_json_schema(by_alias=True), "title": "Impaired network of heron-mqtt"}


def _mapping() -> Schema:
    """Return the schema of a mapping; text may stand for any value, because of parameters like ``{max}``."""
    from heron_mqtt.field.vendor.tables import MappingTable

    schema: Schema = _or_parameter(MappingTable.model_json_schema(by_alias=True))
    return {**schema, "title": "Mapping of a vendor's device for heron-mqtt"}


def _or_parameter(schema: Any) -> Any:
    """Return a schema in which a text with ``{`` may stand for every number and flag."""
    if isinstance(schema, list):
        return [_or_parameter(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("type") in ("number", "integer", "boolean"):  # a property may be called type, too
        kept = {key: value for key, value in schema.items() if key in {"description", "title", "default"}}
        value = {key: value for key, value in schema.items() if key not in kept}
        return {**kept, "anyOf": [value, {"type": "string", "pattern": r"\{"}]}
    return {key: _or_parameter(value) if key != "default" else value for key, value in schema.items()}


def _suite() -> Schema:
    from heron_mqtt.app.suite_file import SuiteFile

    return {**SuiteFile.model_json_schema(by_alias=True), "title": "Suite of heron-mqtt"}


_MAKERS: dict[str, Callable[[], Schema]] = {
    "scenario": _scenario,
    "mapping": _mapping,
    "impairment": _impairment,
    "suite": _suite,
}
SCHEMAS = tuple(_MAKERS)
"""What there are schemas of."""

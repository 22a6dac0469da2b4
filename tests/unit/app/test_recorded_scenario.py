"""What a record keeps of a scenario is the scenario: whatever it says, and each key of the schema."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from itertools import chain
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from heron_mqtt.config import Table, shipped_config, validate, validate_recorded
from heron_mqtt.errors import ConfigError
from heron_mqtt.messaging.impairment import ImpairmentTable, load_impairment, shipped_networks
from heron_mqtt.messaging.impairment_kinds import IMPAIRMENTS, Impairment, ImpairmentKind
from powergrid.devices import DEVICES
from powergrid.scenario import DeviceTable, MicrogridTable, Scenario, load_scenario
from support.small_grid import scenario

DEVICE = ("microgrids", "MG1", "devices", "ess")
ADDRESSES: list[dict[str, Any]] = [
    {"address": "box"},
    {"address": "192.168.1.50:1502", "unit": 3},
    {"address": "[::1]:502", "framing": "rtu", "connect_delay_s": 1.0, "timeout_s": 0.5},
    {"serial": "/dev/ttyUSB0"},
    {"serial": "COM3", "baud": 19200, "parity": "even", "stop_bits": 2, "unit": 7, "timeout_s": 9.0},
]
MAPPED = {"mapping": {"profile": "device_profiles/sungrow_sh.toml", "parameters": {"limit": 2.5}}}
NOT_ALONE: dict[str, list[tuple[tuple[str, ...], Any]]] = {
    # keys that go with others: key -> (where, a table that has it)
    "modbus": [(DEVICE, MAPPED | {"modbus": one}) for one in ADDRESSES],
    "broker": [
        (DEVICE, MAPPED | {"broker": {"url": "mqtts://box:8883", "username": "u", "password_env": "BOX"}}),
        (DEVICE, MAPPED | {"broker": {"url": "mqtt://box", "ca": "a", "cert": "b", "key": "c"}}),
        (DEVICE, MAPPED | {"broker": {"url": "mqtt://box", "client_id": "i", "protocol": "5"}}),
    ],
    "mapping": [(DEVICE, {"mapping": "box.toml"}), (DEVICE, MAPPED)],
    "impairment": [
        ((), {"impairment": "lte_poor"}),
        ((), {"impairment": {"name": "n", "seed": 3, "max_in_flight": 9}}),
        ((), {"impairment": {"rules": [{"exempt": True, "pattern": ["a/#", "b"], "direction": "in"}]}}),
        ((), {"impairment": {"rules": [{"jitter": "pareto", "jitter_s": 0.1, "jitter_shape": 2.0}]}}),
        ((), {"impairment": {"rules": [{"burst": {"enter": 0.1, "leave": 0.2, "loss": 0.5}}]}}),
        (
            (),
            {"impairment": {"rules": [{"delay_s": 0.1, "max_delay_s": 1.0, "loss": 0.1, "duplicate": 0.1}]}},
        ),
        ((), {"impairment": {"rules": [{"reorder": 0.1, "reorder_s": 0.5}]}}),
        ((), {"impairment": {"partitions": [{"begin_s": 1.0, "end_s": 2.0, "hold": True}]}}),
        ((), {"impairment": {"partitions": [{"begin_step": 1, "end_step": 2}]}}),
    ],
    "faults": [
        ((), {"faults": [{"at_step": 1, "device": "MG1/ess", "kind": "offset", "steps": 2, "value": 1.0}]})
    ],
    "policy": [
        (DEVICE[:2], {"policy": "module:Class"}),
        (DEVICE[:2], {"policy": {"charge_below": 10.0, "discharge_above": 90.0}}),
        (DEVICE[:2], {"policy": {"use": "m:C", "arguments": {"a": [1, {"b": math.inf}], "c": "text"}}}),
    ],
    "terms": [(("reward",), {"terms": {"mine": 2.0}})],
    "horizontal": [(("protocol",), {"horizontal": "consensus", "neighbours": "ring", "consensus_rounds": 7})],
    "integrations": [((), {"integrations": {"home_assistant": {"prefix": "ha", "stop_switch": True}}})],
    "months": [(("randomisation",), {"start": "random", "days": "weekdays", "months": [1, 12]})],
    "ranges": [
        (("randomisation",), {"load_scale": [0.5, 2.0], "pv_scale": [0.5, 2.0], "initial_soc": [0.2, 0.3]}),
        (("randomisation",), {"efficiency_factor": [0.5, 1.0], "response_delay_s": [0.0, 3.0]}),
        (("randomisation",), {"answer_delay_s": [0.0, 3.0]}),
    ],
    "buses": [(DEVICE[:2], {"buses": [2, "3"], "remote": True, "loads": {"p": "a", "q": "b", "scale": 2.0}})],
    "profile": [
        (
            DEVICE[:3],
            {"sun": {"kind": "pv", "max_p_mw": 0.02, "profile": "pv_1_pu", "control_q": True, "bus": 3}},
        )
    ],
    "gateway": [
        (
            DEVICE,
            {
                "authority": "limited",
                "external": True,
                "gateway": {"band": {"p_min_mw": -0.001, "p_max_mw": 0.001}},
            },
        ),
        (DEVICE, {"own_process": True, "control_q": True, "authority": "emulated"}),
    ],
}
Change = tuple[tuple[str, ...], Mapping[str, Any]]
WORDS = ("text", "local", "unit", "5", "perfect", "all", "nan", "persistence", "pandapower", "mqtts://x:8883")


def others(default: Any) -> Sequence[Any]:
    """Return values that may be legal in place of a default."""
    if isinstance(default, bool):
        return [not default]
    if isinstance(default, int | float):
        return [default + 1, default * 0.9, default * 1.1, 0.5, 2]
    return [*(word for word in WORDS if word != default), 2, 0.97, True]


def plain_changes(model: type[BaseModel], where: tuple[str, ...]) -> Iterator[Change]:
    """Yield, for each key with a plain value, a legal one that differs from its default, if there is one."""
    for name, field in model.model_fields.items():
        if isinstance(field.default, BaseModel):
            yield from plain_changes(type(field.default), (*where, name))
            continue
        for other in others(field.default):
            change: Change = (where, {name: other})
            if is_legal(change):
                yield change
                break


def changed(changes: Sequence[Change]) -> dict[str, Any]:
    """Return a scenario of one battery with some values changed."""
    data = scenario({"microgrids.MG2": ..., "microgrids.MG3": ...})
    grid = data["microgrids"]["MG1"]
    grid["devices"] = {"ess": grid["devices"]["ess"]}
    for where, values in changes:
        place = data
        for key in where:
            place = place.setdefault(key, {})
        place.update(deepcopy(dict(values)))
    return data


def is_legal(change: Change) -> bool:
    try:
        validate(Scenario, changed([change]), "")
    except ConfigError:
        return False
    return True


@functools.cache
def every_change() -> list[Change]:
    found = [(where, table) for group in NOT_ALONE.values() for where, table in group]
    for model, where in (
        (Scenario, ()),
        (MicrogridTable, DEVICE[:2]),
        (DeviceTable, DEVICE),
        (DEVICES["battery"].spec_type, DEVICE),
    ):
        found += plain_changes(model, where)
    return found


def keys_in(data: Mapping[str, Any], where: tuple[str, ...]) -> Iterator[str]:
    """Yield the dotted keys that are given, those of tables inside included."""
    for depth in range(len(where)):
        yield ".".join(where[: depth + 1])
    for name, value in data.items():
        yield ".".join((*where, name))
        if isinstance(value, Mapping):
            yield from keys_in(value, (*where, name))


def keys_of(model: type[BaseModel], where: tuple[str, ...]) -> Iterator[str]:
    for name, field in model.model_fields.items():
        if isinstance(field.default, BaseModel):
            yield from keys_of(type(field.default), (*where, name))
        else:
            yield ".".join((*where, name))


def read_back(given_scenario: Scenario) -> Scenario:
    return validate_recorded(Scenario, json.loads(given_scenario.model_dump_json()), "record")


def test_each_key_of_the_schema_is_read_back_from_a_record() -> None:
    tried = set()
    for change in every_change():
        told = validate(Scenario, changed([change]), "scenario")
        assert read_back(told) == told, change
        tried |= set(keys_in(change[1], change[0]))
    tables = (keys_of(Scenario, ()), keys_of(MicrogridTable, DEVICE[:2]), keys_of(DeviceTable, DEVICE))
    # a nameplate has no key of its own in a file; a battery has no profile, the device "sun" has one; options
    # belong to protocols that are not shipped
    untried = {f"{'.'.join(DEVICE)}.spec", f"{'.'.join(DEVICE)}.profile", "protocol.options"}
    assert set(chain(*tables)) - tried <= untried


@given(st.data())
def test_what_a_scenario_says_is_read_back_from_a_record(data: st.DataObject) -> None:
    changes = data.draw(st.lists(st.sampled_from(every_change()), max_size=6))
    try:
        told = validate(Scenario, changed(changes), "scenario")
    except ConfigError:
        return  # they do not go together
    assert read_back(told) == told


@pytest.mark.parametrize("address", ADDRESSES, ids=str)
def test_a_modbus_address_is_read_back_from_a_record(address: dict[str, Any]) -> None:
    told = validate(Scenario, changed([(DEVICE, MAPPED | {"modbus": address})]), "scenario")
    assert read_back(told) == told


def test_what_is_shipped_is_read_back_from_a_record() -> None:
    for path in sorted(shipped_config().glob("*.toml")):
        told = load_scenario(path).scenario
        assert read_back(told) == told, path.name
    for name in shipped_networks():
        table = load_impairment(name)
        again = validate_recorded(ImpairmentTable, json.loads(table.model_dump_json()), name)
        assert again == table, name


class RecordedSpikesTable(Table):
    """A table of a kind that is not shipped."""

    delay_s: float = 0.2
    every: int = 5


class RecordedSpikes(ImpairmentKind):
    """Does nothing to any message; it has a table."""

    name = "recorded_spikes"
    table = RecordedSpikesTable

    def affect(self, message: Impairment, draws: Sequence[float]) -> None:
        """Leave it alone."""


def test_the_table_of_an_added_kind_of_impairment_is_read_back_as_its_model() -> None:
    with IMPAIRMENTS.added(RecordedSpikes):
        rules = {"rules": [{"recorded_spikes": {"delay_s": 0.5}}]}
        told = validate(Scenario, changed([((), {"impairment": rules})]), "scenario")
        again = read_back(told)
        assert again == told
        assert isinstance(again.impairment, ImpairmentTable)
        assert again.impairment.rules[0].more == {"recorded_spikes": RecordedSpikesTable(delay_s=0.5)}
    with pytest.raises(ConfigError, match="recorded_spikes: no such kind of impairment here"):
        read_back(told)

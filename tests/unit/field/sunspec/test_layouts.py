"""Definitions of SunSpec models: offsets, sizes, scale factors, names of numbers, groups."""

from __future__ import annotations

import pytest

from heron_mqtt.errors import ConfigError
from heron_mqtt.field.sunspec import layouts
from heron_mqtt.field.sunspec.layouts import Point, layout


def test_a_definition_says_where_its_points_stand_and_what_their_numbers_mean() -> None:
    common, inverter, der = layout(1), layout(103), layout(704)
    assert common is not None
    assert inverter is not None
    assert der is not None
    assert [common.points[name].offset for name in ("ID", "L", "Mn", "Md", "Opt")] == [0, 1, 2, 18, 34]
    assert inverter.points["W"] == Point("W", 14, "int16", "W_SF", 1, {})
    state = inverter.points["St"]
    assert (state.words[1], state.words[4], state.words[7]) == ("OFF", "MPPT", "FAULT")
    assert (inverter.count, inverter.own_size, inverter.groups) == (1, 52, ())
    assert [(group.name, group.count, group.own_size) for group in der.groups] == [
        *(("PFWInj", 1, 2), ("PFWInjRvrt", 1, 2), ("PFWAbs", 1, 2), ("PFWAbsRvrt", 1, 2))
    ]
    ports = layout(714)
    assert ports is not None
    assert ports.groups[0].count == "NPrt"
    repeating = layout(133)
    assert repeating is not None
    assert repeating.groups[0].count == 0


def test_a_model_of_a_vendors_own_has_no_definition_and_each_is_read_once() -> None:
    assert layout(64_999) is None
    assert layout(103) is layout(103)


def test_without_the_definitions_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(layouts.resources, "files", missing)
    layout.cache_clear()
    with pytest.raises(ConfigError, match=r"^this needs pysunspec2: pip install 'heron-mqtt\[modbus\]'$"):
        layout(103)
    layout.cache_clear()

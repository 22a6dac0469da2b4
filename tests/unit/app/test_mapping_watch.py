"""What a device is told by a changed mapping, and whether anything bounds it."""

from __future__ import annotations

from typing import Any

import pytest

from heron_mqtt.app.mapping_watch import rescaling
from heron_mqtt.app.vendor_adapters import mapping_notes
from heron_mqtt.errors import ConfigError
from heron_mqtt.field.mapping import load_mapping
from heron_mqtt.field.vendor.mapping import DeviceMapping
from heron_mqtt.messages import Setpoint

RANGE_MW = (-0.003, 0.003)


def mapping(value: dict[str, Any] | None, **more: Any) -> DeviceMapping:
    """Return a mapping whose setpoint has one number for the power, and perhaps others."""
    table: dict[str, Any] = {
        "name": "box",
        "telemetry": [{"topic": "box/p", "format": "text", "fields": {"p_mw": {"unit": "W"}}}],
    }
    if value is not None:
        table["setpoint"] = {
            "values": {"p": {"quantity": "p_mw", "unit": "W", **value}, **more},
            "messages": [
                {"topic": "box/set", "payload": {"p": "{p}", **{name: f"{{{name}}}" for name in more}}}
            ],
            "release": "zero",
        }
    return load_mapping(table, agent="MG1", device="ess", source="test")


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ({}, {"unit": "kW"}, "for -0.003 MW, p = -3 where it was -3000"),
        ({"unit": "kW"}, {}, "for -0.003 MW, p = -3000 where it was -3"),
        ({}, {"sign": -1}, "for -0.003 MW, p = 3000 where it was -3000"),
        ({}, {"scale": 3.0}, "for -0.003 MW, p = -9000 where it was -3000"),
        ({"min": 0.0, "max": 3000.0}, {"min": 0.0, "max": 0.5}, "for 0.003 MW, p = 0.5 where it was 3000"),
    ],
)
def test_another_unit_scale_or_sign_is_told(old: dict[str, Any], new: dict[str, Any], told: str) -> None:
    assert rescaling(mapping(old), mapping(new), RANGE_MW) == f"its new mapping sends, {told}"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({}, {}),
        ({}, {"decimals": 0}),
        ({}, {"scale": 2.9}),
        ({}, {"scale": 0.34}),
        ({}, {"max": 2000.0}),
        (None, {}),
        ({}, None),
    ],
)
def test_about_the_same_and_what_cannot_be_compared_is_not(
    old: dict[str, Any] | None, new: dict[str, Any] | None
) -> None:
    assert rescaling(mapping(old), mapping(new), RANGE_MW) == ""


@pytest.mark.parametrize(
    ("value", "is_bounded"),
    [
        ({}, False),
        ({"min": -3000.0}, False),
        ({"max": 3000.0}, False),
        ({"min": -3000.0, "max": 3000.0}, True),
        ({"absolute": True, "max": 3000.0}, True),
        (None, True),
    ],
)
def test_check_says_of_a_mapping_that_nothing_bounds_what_it_tells(
    value: dict[str, Any] | None, is_bounded: bool
) -> None:
    said = [note for note in mapping_notes(mapping(value)) if "its mapping does not limit" in note]
    assert len(said) == (not is_bounded)


def test_check_names_what_a_0_needs_of_the_device() -> None:
    assert not any("0 needs" in note for note in mapping_notes(mapping({})))
    table = {
        "telemetry": [
            {
                "topic": "read",
                "fields": {"p_mw": {"unit": "W", "path": "p"}},
                "inputs": {"volts": {"path": "v"}},
            }
        ],
        "setpoint": {
            "values": {"w": {"quantity": "p_mw", "unit": "W"}, "a": {"formula": "w / volts"}},
            "messages": [{"topic": "set", "payload": "{a}"}],
            "release": "zero",
        },
    }
    made = load_mapping(table, agent="MG1", device="ess", source="test")
    [note] = [note for note in mapping_notes(made) if "0 needs" in note]
    assert note.startswith(
        "0 needs volts of the device (setpoint.values.a): while that is not known, or is 0"
    )
    assert "a stop sends the 0 that was computed last" in note


@pytest.mark.parametrize(
    ("p_mw", "limits"),
    [
        (0.002, []),
        (0.0021, ["setpoint.values.p: 2100 is above max = 2000"]),
        (-0.001, []),
        (-0.0011, ["setpoint.values.p: -1100 is below min = -1000"]),
    ],
)
def test_a_power_at_a_limit_is_within_it(p_mw: float, limits: list[str]) -> None:
    assert mapping({"min": -1000.0, "max": 2000.0}).beyond(Setpoint(p_mw=p_mw, lease_s=1.0)) == limits


@pytest.mark.parametrize("points", [[1, 2], [[1]], 5, "x"])
def test_points_that_are_none_are_named(points: object) -> None:
    with pytest.raises(ConfigError, match=r"setpoint\.values\.p\.table"):
        mapping({"table": points})

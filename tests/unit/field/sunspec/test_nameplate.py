"""Nameplate: which power an inverter can have, from what it says and does not say of itself."""

from __future__ import annotations

from typing import Any

import pytest

from heron_mqtt.field.sunspec.nameplate import Nameplate


def nameplate(kind: str = "battery", **says: Any) -> Nameplate:
    silent = dict.fromkeys(("w_max", "charge_w", "discharge_w", "energy_wh"))
    return Nameplate(kind=kind, maker="M", type="T", serial="S", **{**silent, **says})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "says", "expected"),
    [
        ("pv", {}, (0.0, None)),
        ("pv", {"w_max": 5e3, "charge_w": 3e3}, (0.0, 5e3)),
        ("battery", {}, (None, None)),
        ("battery", {"w_max": 5e3}, (-5e3, 5e3)),
        ("battery", {"w_max": 5e3, "charge_w": 3e3}, (-3e3, 5e3)),
        ("battery", {"w_max": 5e3, "discharge_w": 4e3}, (-5e3, 4e3)),
        ("battery", {"w_max": 5e3, "discharge_w": 6e3}, (-5e3, 5e3)),
        ("battery", {"charge_w": 3e3, "discharge_w": 4e3}, (-3e3, 4e3)),
    ],
)
def test_its_power_range_is_what_it_says(
    kind: str, says: dict[str, Any], expected: tuple[float | None, float | None]
) -> None:
    assert nameplate(kind, **says).power_range_w == expected


@pytest.mark.parametrize(
    ("says", "wanted", "expected"),
    [
        ({}, (9e9, -9e9), (9e9, -9e9)),  # it says nothing: nothing is bounded here
        ({"w_max": 5e3}, (6e3, 0.0), (5e3, 0.0)),
        ({"w_max": 5e3}, (-6e3, 0.0), (-5e3, 0.0)),
        ({"w_max": 5e3}, (0.0, 6e3), (0.0, 5e3)),  # reactive power by w_max, where nothing else is said
        ({"w_max": 5e3}, (4e3, -6e3), (4e3, -5e3)),
        ({"va_max": 5e3}, (3e3, 9e3), (3e3, 4e3)),
        ({"va_max": 5e3}, (3e3, -9e3), (3e3, -4e3)),
        ({"va_max": 5e3}, (3e3, 3.9e3), (3e3, 3.9e3)),
        ({"va_max": 5e3}, (6e3, 1.0), (6e3, 0.0)),
        ({"va_max": 5e3, "var_max": 1e3}, (3e3, 9e3), (3e3, 1e3)),
        ({"va_max": 5e3, "var_max": 1e3}, (3e3, -9e3), (3e3, -1e3)),  # it absorbs as much
        ({"va_max": 5e3, "var_max": 1e3, "var_absorbed": 2e3}, (3e3, -9e3), (3e3, -2e3)),
        ({"va_max": 5e3, "var_absorbed": 2e3}, (3e3, 9e3), (3e3, 2e3)),
        ({"w_max": 5e3, "var_max": 7e3}, (0.0, 9e3), (0.0, 7e3)),
    ],
)
def test_the_nearest_power_that_it_can_have_active_power_first(
    says: dict[str, Any], wanted: tuple[float, float], expected: tuple[float, float]
) -> None:
    assert nameplate(**says).clipped(*wanted) == pytest.approx(expected)


def test_a_generator_is_never_told_to_draw() -> None:
    assert nameplate("pv", w_max=5e3).clipped(-1.0, 0.0) == (0.0, 0.0)


def test_two_inverters_differ_by_maker_type_or_serial_number() -> None:
    assert nameplate().identity == ("M", "T", "S")

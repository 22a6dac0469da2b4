"""Nameplate: which power an inverter can have, from what it says and does not say of itself."""

from __future__ import annotations

from typing import Any

import pytest

from heron_mqtt.field.sunspec.block import Block
from heron_mqtt.field.sunspec.layouts import layout
from heron_mqtt.field.sunspec.nameplate import STATIC_MODELS, Nameplate, read_nameplate
from support.rows import each_row


def nameplate(kind: str = "battery", **says: Any) -> Nameplate:
    silent = dict.fromkeys(("w_max", "charge_w", "discharge_w", "energy_wh"))
    return Nameplate(kind=kind, maker="M", type="T", serial="S", **{**silent, **says})  # type: ignore[arg-type]


@each_row(
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


@each_row(
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


STANDS_IN = {
    "w_max": ((702, "WMax"), (702, "WMaxRtg"), (121, "WMax"), (120, "WRtg")),
    "charge_w": ((702, "WChaRteMax"), (702, "WChaRteMaxRtg"), (124, "WChaMax"), (120, "MaxChaRte")),
    "discharge_w": ((702, "WDisChaRteMax"), (702, "WDisChaRteMaxRtg"), (120, "MaxDisChaRte")),
    "energy_wh": ((713, "WHRtg"), (120, "WHRtg")),
    "var_max": ((702, "VarMaxInj"), (702, "VarMaxInjRtg")),
    "var_absorbed": ((702, "VarMaxAbs"), (702, "VarMaxAbsRtg")),
    "va_max": ((702, "VAMax"), (702, "VAMaxRtg"), (121, "VAMax"), (120, "VARtg")),
}
"""In docs/sunspec.md's order: settings before ratings, newer models before older ones."""


def block(model: int, points: dict[str, int]) -> Block:
    """Return a model with these points and scale factors of 0; no other is implemented."""
    group = layout(model)
    assert group is not None
    words = [0xFFFF] * group.own_size
    for name, point in group.points.items():
        if point.type == "sunssf" or name in points:
            value = points.get(name, 0)
            words[point.offset : point.offset + point.size] = [0] * (point.size - 1) + [value]
    return Block(model, 0, words)


@pytest.mark.parametrize("field", STANDS_IN)
def test_each_limit_is_read_from_the_first_point_that_the_inverter_has(field: str) -> None:
    left = {place: 100 * (i + 1) for i, place in enumerate(STANDS_IN[field])}
    while left:
        first = next(iter(left.values()))
        blocks = {m: block(m, {n: v for (of, n), v in left.items() if of == m}) for m in STATIC_MODELS[1:]}
        assert getattr(read_nameplate(blocks, "battery"), field) == first
        zero = {**left, next(iter(left)): 0}
        del left[next(iter(left))]
        blocks = {m: block(m, {n: v for (of, n), v in zero.items() if of == m}) for m in STATIC_MODELS[1:]}
        assert getattr(read_nameplate(blocks, "battery"), field) == next(iter(left.values()), None)
    assert getattr(read_nameplate({}, "battery"), field) is None


@pytest.mark.parametrize(
    ("blocks", "kind"),
    [
        ({120: {"DERTyp": 4}}, "pv"),
        ({120: {"DERTyp": 82}}, "battery"),
        ({120: {"DERTyp": 83}}, "pv"),
        ({124: {}}, "battery"),
        ({713: {}}, "battery"),
        ({702: {}}, "pv"),
    ],
)
def test_an_inverter_with_storage_is_one_of_its_type_or_with_a_model_of_storage(
    blocks: dict[int, dict[str, int]], kind: str
) -> None:
    read = {model: block(model, points) for model, points in blocks.items()}
    assert read_nameplate(read, None).kind == kind
    assert read_nameplate(read, "pv").kind == "pv", "the user knows better"

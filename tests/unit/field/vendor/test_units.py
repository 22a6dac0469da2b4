"""Units of vendors: how many make one of ours, and what is missing, unknown or superfluous."""

from __future__ import annotations

from typing import Any

import pytest

from heron_mqtt.field.vendor.units import UnitKeys, per_si
from support.rows import each_row


def asked(quantity: str, **keys: Any) -> tuple[float, list[tuple[str, str]]]:
    said: list[tuple[str, str]] = []
    found = per_si(quantity, UnitKeys.model_validate(keys), lambda key, text: said.append((key, text)))
    return found, said


@each_row(
    ("quantity", "keys", "per_ours"),
    [
        ("p_mw", {"unit": "W"}, 1e6),
        ("p_mw", {"unit": "kW"}, 1e3),
        ("p_mw", {"unit": "MW"}, 1.0),
        ("p_mw", {"unit": "A", "nominal_v": 230.0, "phases": 3}, 1e6 / 690.0),
        ("p_mw", {"unit": "A", "nominal_v": 230.0, "phases": 1}, 1e6 / 230.0),
        ("p_mw", {"unit": "percent", "rated_mw": 0.005}, 20_000.0),
        ("p_mw", {"unit": "fraction", "rated_mw": 0.005}, 200.0),
        ("q_mvar", {"unit": "var"}, 1e6),
        ("q_mvar", {"unit": "kvar"}, 1e3),
        ("q_mvar", {"unit": "Mvar"}, 1.0),
        ("soc", {"unit": "percent"}, 100.0),
        ("soc", {"unit": "fraction"}, 1.0),
        ("vm_pu", {"unit": "pu"}, 1.0),
        ("vm_pu", {"unit": "V", "nominal_v": 230.0}, 230.0),
        ("vm_pu", {"unit": "kV", "nominal_v": 400.0}, 0.4),
        ("lease_s", {"unit": "ms"}, 1e3),
        ("lease_s", {"unit": "s"}, 1.0),
        ("lease_s", {"unit": "min"}, 1.0 / 60.0),
        ("running", {}, 1.0),
    ],
)
def test_so_many_of_a_unit_make_one_of_ours(quantity: str, keys: dict[str, Any], per_ours: float) -> None:
    found, said = asked(quantity, **keys)
    assert found == pytest.approx(per_ours)
    assert said == []


@pytest.mark.parametrize(
    ("quantity", "keys", "said"),
    [
        ("running", {"unit": "W"}, [("unit", "running has no unit; leave it out")]),
        ("soc", {}, [("unit", "missing; soc needs one of percent, fraction")]),
        (
            "p_mw",
            {"unit": "hp"},
            [("unit", "unknown unit 'hp' for p_mw; expected one of W, kW, MW, A, percent, fraction")],
        ),
        (
            "p_mw",
            {"unit": "A"},
            [
                ("nominal_v", "missing; p_mw in A needs it"),
                ("phases", "missing; p_mw in A needs it"),
            ],
        ),
        (
            "p_mw",
            {"unit": "W", "nominal_v": 230.0, "phases": 3, "rated_mw": 1.0},
            [(key, "not needed for p_mw in W; leave it out") for key in ("nominal_v", "phases", "rated_mw")],
        ),
        ("vm_pu", {"unit": "V"}, [("nominal_v", "missing; vm_pu in V needs it")]),
        ("p_mw", {"unit": "percent"}, [("rated_mw", "missing; p_mw in percent needs it")]),
    ],
)
def test_what_is_missing_unknown_or_superfluous_is_named_at_its_key(
    quantity: str, keys: dict[str, Any], said: list[tuple[str, str]]
) -> None:
    assert asked(quantity, **keys)[1] == said

"""Nameplates: the power that each kind can have, what its action means, and a part of what was planned."""

from __future__ import annotations

import math
from typing import Any

import pytest

from powergrid.devices import (
    BatterySpec,
    EvChargerSpec,
    FlexibleLoadSpec,
    GeneratorSpec,
    HeatPumpSpec,
    LoadSpec,
    PvSpec,
)

BATTERY: dict[str, Any] = {
    "max_e_mwh": 0.2,
    "max_p_charge_mw": 0.05,
    "max_p_discharge_mw": 0.08,
    "efficiency_charge": 0.9,
    "efficiency_discharge": 0.9,
    "min_soc": 0.1,
    "max_soc": 0.9,
}
CHARGER: dict[str, Any] = {
    "max_p_mw": 0.011,
    "min_p_mw": 0.004,
    "max_e_mwh": 0.05,
    "efficiency_charge": 0.9,
    "arrival_soc": 0.3,
    "target_soc": 0.8,
    "stay_s": 3600.0,
}
PUMP: dict[str, Any] = {"max_p_mw": 0.01, "cop": 3.0, "max_heat_mw": 0.03, "max_e_mwh": 0.06}
LAUNDRY: dict[str, Any] = {"max_p_mw": 0.02, "max_backlog_mwh": 0.01, "max_rebound_mw": 0.004}
GENSET: dict[str, Any] = {"max_p_mw": 0.1, "min_p_mw": 0.02}


@pytest.mark.parametrize(
    ("spec", "power", "action", "s_mva", "profile_mw"),
    [
        (BatterySpec(**BATTERY), (-0.05, 0.08), (-0.05, 0.0, 0.08), 0.08, 0.0),
        (BatterySpec(**BATTERY, s_max_mva=0.1), (-0.05, 0.08), (-0.05, 0.0, 0.08), 0.1, 0.0),
        (PvSpec(max_p_mw=0.04), (0.0, 0.04), (0.0, 0.02, 0.04), 0.04, 0.04),
        (PvSpec(max_p_mw=0.04, s_max_mva=0.05), (0.0, 0.04), (0.0, 0.02, 0.04), 0.05, 0.04),
        (GeneratorSpec(**GENSET), (0.0, 0.1), (0.0, 0.05, 0.1), 0.1, 0.0),
        (GeneratorSpec(**GENSET, s_max_mva=0.12), (0.0, 0.1), (0.0, 0.05, 0.1), 0.12, 0.0),
        (LoadSpec(max_p_mw=0.03), (-0.03, 0.0), None, math.inf, -0.03),
        (LoadSpec(max_p_mw=0.03, max_shed_fraction=0.5), (-0.03, 0.0), (-0.03, -0.015, 0.0), math.inf, -0.03),
        (EvChargerSpec(**CHARGER), (-0.011, 0.0), (-0.011, -0.0055, 0.0), 0.011, -0.011),
        (HeatPumpSpec(**PUMP), (-0.01, 0.0), (-0.01, -0.005, 0.0), 0.01, -0.01),
        (FlexibleLoadSpec(**LAUNDRY), (-0.02, 0.0), (-0.02, -0.01, 0.0), 0.02, -0.02),
    ],
    ids=lambda value: getattr(value, "kind", None),
)
def test_a_nameplate_says_what_the_device_can_do(
    spec: Any,
    power: tuple[float, float],
    action: tuple[float, float, float] | None,
    s_mva: float,
    profile_mw: float,
) -> None:
    assert spec.power_range_mw == power
    assert spec.action_range_mw == (None if action is None else pytest.approx(action))
    assert spec.rated_s_mva == s_mva
    assert spec.profile_mw == profile_mw


@pytest.mark.parametrize(
    ("spec", "planned_mw", "factor", "told_mw"),
    [
        (BatterySpec(**BATTERY), -0.04, 0.5, -0.02),
        (PvSpec(max_p_mw=0.04), 0.04, 0.25, 0.01),
        (LoadSpec(max_p_mw=0.03), -0.02, 0.0, -0.02),  # nothing of it can be shed
        (LoadSpec(max_p_mw=0.03, max_shed_fraction=0.25), -0.02, 0.0, -0.015),
        (LoadSpec(max_p_mw=0.03, max_shed_fraction=0.25), -0.02, 0.9, -0.018),
        (FlexibleLoadSpec(**LAUNDRY, max_shed_fraction=0.25), -0.02, 0.0, -0.015),
        (GeneratorSpec(**GENSET), 0.1, 0.5, 0.05),
        (GeneratorSpec(**GENSET), 0.1, 0.2, 0.02),  # at its least
        (GeneratorSpec(**GENSET), 0.1, 0.125, 0.02),  # the nearer of off and the least
        (GeneratorSpec(**GENSET), 0.04, 0.25, 0.0),  # off at the tie
        (GeneratorSpec(**GENSET), 0.02, 0.9, 0.02),
        (EvChargerSpec(**CHARGER), -0.008, 0.75, -0.006),
        (EvChargerSpec(**CHARGER), -0.008, 0.375, -0.004),
        (EvChargerSpec(**CHARGER), -0.008, 0.25, 0.0),
        (EvChargerSpec(**CHARGER), -0.004, 0.9, -0.004),
    ],
    ids=lambda value: getattr(value, "kind", None),
)
def test_a_part_of_what_was_planned_is_something_that_the_device_can_do(
    spec: Any, planned_mw: float, factor: float, told_mw: float
) -> None:
    assert spec.part_mw(planned_mw, factor) == pytest.approx(told_mw)

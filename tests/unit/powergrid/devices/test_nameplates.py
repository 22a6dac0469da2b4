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
from support.rows import each_row

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


KINDS: dict[str, Any] = {
    "battery": BatterySpec(**BATTERY, initial_soc=0.4),
    "generator": GeneratorSpec(**GENSET),
    "pv": PvSpec(max_p_mw=0.04),
    "load": LoadSpec(max_p_mw=0.03),
    "ev_charger": EvChargerSpec(**CHARGER),
    "heat_pump": HeatPumpSpec(**PUMP, initial_soc=0.7),
    "flexible_load": FlexibleLoadSpec(**LAUNDRY),
}
STORES, COSTS = (
    {"battery", "ev_charger", "heat_pump", "flexible_load"},
    {"generator", "ev_charger", "heat_pump"},
)
CONSUMERS = {"load", "ev_charger", "heat_pump", "flexible_load"}
SAYS = {
    "pv": "what the sun offers",
    "load": "its demand",
    "ev_charger": "what a connected car may draw, 0 = no car",
    "heat_pump": "its heat demand, per unit of max_heat_mw",
    "flexible_load": "its demand",
}
GAPS = {"generator": (0.0, 0.02), "ev_charger": (-0.004, 0.0)}
BEGINS = {"battery": 0.4, "ev_charger": 0.3, "heat_pump": 0.7, "flexible_load": 1.0}


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_kind_can_do_is_what_its_page_says(kind: str) -> None:
    spec = KINDS[kind]
    assert spec.kind == kind
    assert spec.pandapower_table == {"battery": "storage", "generator": "sgen", "pv": "sgen"}.get(
        kind, "load"
    )
    assert spec.has_soc is (kind in STORES)
    assert spec.soc_has_band is (kind == "battery")
    assert spec.has_cost is (kind in COSTS)
    assert spec.profile_says == SAYS.get(kind)
    assert spec.profile_holds is (kind != "pv")
    assert spec.profile_bounds is (kind not in {"heat_pump", "flexible_load"})
    assert spec.controls_q is (kind not in CONSUMERS)
    assert spec.rests_when_safe is (kind not in CONSUMERS - {"ev_charger"})
    assert (spec.is_any_kind, spec.runs_foreign_code) == (False, False)
    assert spec.gap_mw == GAPS.get(kind, (0.0, 0.0))
    assert spec.soc_at_reset == BEGINS.get(kind, 0.0)
    soc, available = ("soc_",) * (kind in STORES), ("p_available_",) * (kind in SAYS)
    assert spec.observed == ("p_", "q_", *soc, *available)


def test_while_its_agent_is_lost_a_device_rests_or_goes_on_within_its_nameplate() -> None:
    for kind, offered, safe_mw in (
        ("battery", 0.02, 0.0),
        ("pv", 0.02, 0.0),
        ("ev_charger", -0.005, 0.0),
        ("load", -0.02, -0.02),
        ("load", -0.05, -0.03),
        ("load", 0.0, 0.0),
        ("heat_pump", -0.02, -0.01),
        ("flexible_load", -0.5, -0.02),
    ):
        assert KINDS[kind].safe_p_mw(offered) == safe_mw, (kind, offered)
        assert KINDS[kind].safe_p_mw(None) == 0.0


def test_a_device_that_converts_worse_does_so_by_that_factor_and_another_one_is_the_same() -> None:
    for kind in ("generator", "pv", "load", "flexible_load"):
        assert KINDS[kind].derated(0.5) is KINDS[kind]
    battery, car, pump = (KINDS[kind].derated(0.5) for kind in ("battery", "ev_charger", "heat_pump"))
    assert (battery.efficiency_charge, battery.efficiency_discharge) == (0.45, 0.45)
    assert (car.efficiency_charge, pump.cop, pump.profile_mw) == (0.45, 1.5, -0.02)


@each_row(
    ("kind", "planned_mw", "factor", "told_mw"),
    [
        ("battery", 0.04, 0.25, 0.01),
        ("pv", 0.0, 0.5, 0.0),
        ("ev_charger", -0.008, 0.5, -0.004),
        ("ev_charger", -0.008, 0.26, -0.004),
        ("ev_charger", -0.004, 0.51, -0.004),
        ("ev_charger", -0.004, 0.5, 0.0),
        ("ev_charger", -0.002, 0.5, -0.001),  # less than its minimum was planned: nothing comes of it anyway
        ("flexible_load", -0.02, 0.25, -0.01),
        ("flexible_load", -0.02, 0.75, -0.015),
    ],
)
def test_a_part_of_a_plan_is_told(kind: str, planned_mw: float, factor: float, told_mw: float) -> None:
    assert KINDS[kind].part_mw(planned_mw, factor) == pytest.approx(told_mw)
    assert str(KINDS["ev_charger"].part_mw(0.0, 0.5)) == "0.0"


@pytest.mark.parametrize(
    ("spec", "fields"),
    [
        (EvChargerSpec, {**CHARGER, "min_p_mw": 0.011}),
        (EvChargerSpec, {**CHARGER, "arrival_soc": 0.8}),
    ],
)
def test_a_nameplate_may_be_at_its_own_bounds(spec: Any, fields: dict[str, Any]) -> None:
    spec(**fields)

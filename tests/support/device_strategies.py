"""Hypothesis strategies for the device tests: nameplates, and steps as wild as a bad policy's."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from powergrid.devices import (
    BatterySpec,
    DeviceSpecBase,
    EvChargerSpec,
    FlexibleLoadSpec,
    GeneratorSpec,
    HeatPumpSpec,
    LoadSpec,
    PvSpec,
)

ratings_mw = st.floats(0.01, 10.0)
fractions = st.floats(0.0, 1.0)
setpoints = st.one_of(st.just(0.0), st.floats(-12.0, 12.0), st.floats(-1e300, 1e300))
durations_s = st.one_of(st.sampled_from([0.1, 1.0, 60.0, 900.0, 3600.0, 86400.0]), st.floats(1e-3, 1e6))
optional_ramps = st.one_of(st.none(), st.floats(1e-6, 1.0))


@st.composite
def battery_specs(draw: st.DrawFn) -> BatterySpec:
    min_soc = draw(st.floats(0.0, 0.9))
    max_soc = draw(st.floats(min_soc + 0.05, 1.0))
    return BatterySpec(
        max_e_mwh=draw(st.floats(0.01, 50.0)),
        max_p_charge_mw=draw(ratings_mw),
        max_p_discharge_mw=draw(ratings_mw),
        s_max_mva=draw(st.one_of(st.none(), ratings_mw)),
        efficiency_charge=draw(st.floats(0.5, 1.0)),
        efficiency_discharge=draw(st.floats(0.5, 1.0)),
        min_soc=min_soc,
        max_soc=max_soc,
        initial_soc=draw(st.floats(min_soc, max_soc)),
        ramp_mw_per_s=draw(optional_ramps),
        standby_loss_mw=draw(st.one_of(st.just(0.0), st.floats(0.0, 0.5))),
    )


@st.composite
def generator_specs(draw: st.DrawFn) -> GeneratorSpec:
    max_p_mw = draw(ratings_mw)
    return GeneratorSpec(
        min_p_mw=draw(st.one_of(st.just(0.0), st.floats(0.0, max_p_mw))),
        max_p_mw=max_p_mw,
        s_max_mva=draw(st.one_of(st.none(), st.floats(max_p_mw, 20.0))),
        ramp_mw_per_s=draw(optional_ramps),
        cost_a_usd_per_h=draw(st.floats(0.0, 50.0)),
        cost_b_usd_per_mwh=draw(st.floats(0.0, 100.0)),
        cost_c_usd_per_mw2h=draw(st.one_of(st.just(0.0), st.floats(0.01, 20.0))),
        start_cost_usd=draw(st.floats(0.0, 100.0)),
        stop_cost_usd=draw(st.floats(0.0, 100.0)),
        min_up_s=draw(st.sampled_from([0.0, 1.0, 1800.0, 7200.0])),
        min_down_s=draw(st.sampled_from([0.0, 1.0, 1800.0, 7200.0])),
        initial_running=draw(st.booleans()),
    )


pv_specs = st.builds(
    PvSpec,
    max_p_mw=ratings_mw,
    s_max_mva=st.one_of(st.none(), ratings_mw),
    temperature_coefficient_per_k=st.floats(-0.01, 0.0),
)
load_specs = st.builds(LoadSpec, max_p_mw=ratings_mw, max_shed_fraction=fractions)


@st.composite
def ev_charger_specs(draw: st.DrawFn) -> EvChargerSpec:
    max_p_mw, target = draw(ratings_mw), draw(fractions)
    return EvChargerSpec(
        max_p_mw=max_p_mw,
        min_p_mw=draw(st.one_of(st.just(0.0), st.floats(0.0, max_p_mw))),
        max_e_mwh=draw(st.floats(0.01, 50.0)),
        efficiency_charge=draw(st.floats(0.5, 1.0)),
        arrival_soc=draw(st.floats(0.0, target)),
        target_soc=target,
        stay_s=draw(st.sampled_from([1.0, 3600.0, 28_800.0])),
        unserved_usd_per_mwh=draw(st.sampled_from([0.0, 300.0])),
    )


heat_pump_specs = st.builds(
    HeatPumpSpec,
    max_p_mw=ratings_mw,
    cop=st.floats(1.0, 6.0),
    max_heat_mw=ratings_mw,
    max_e_mwh=st.floats(0.01, 50.0),
    initial_soc=fractions,
    standby_loss_mw=st.one_of(st.just(0.0), st.floats(0.0, 0.5)),
    unserved_usd_per_mwh=st.sampled_from([0.0, 300.0]),
)
flexible_load_specs = st.builds(
    FlexibleLoadSpec,
    max_p_mw=ratings_mw,
    max_shed_fraction=fractions,
    max_backlog_mwh=st.floats(0.01, 50.0),
    max_rebound_mw=st.floats(0.0, 5.0),
    rebound_factor=st.sampled_from([0.0, 0.5, 1.0, 1.2]),
)


def available_for(spec: DeviceSpecBase) -> st.SearchStrategy[float | None]:
    """Return what a profile may offer to a device of this kind."""
    if spec.profile_says is None:
        return st.none()
    low, high = (0.0, 12.0) if spec.profile_mw > 0.0 else (-12.0, 0.0)
    return st.one_of(st.none(), st.just(0.0), st.floats(low, high))


@st.composite
def devices_with_steps(draw: st.DrawFn, specs: st.SearchStrategy[Any]) -> tuple[Any, list[tuple[Any, ...]]]:
    """Draw (spec, [arguments of step, ...])."""
    spec = draw(specs)
    steps = st.tuples(setpoints, setpoints, durations_s, available_for(spec))
    return spec, draw(st.lists(steps, min_size=1, max_size=20))


formula_specs = st.one_of(ev_charger_specs(), heat_pump_specs, flexible_load_specs)
any_spec = st.one_of(battery_specs(), generator_specs(), pv_specs, load_specs, formula_specs)

"""What holds for every kind of device."""

from __future__ import annotations

import math
import struct
import subprocess
import sys
from dataclasses import astuple
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from powergrid.devices import (
    Battery,
    BatterySpec,
    Device,
    DeviceSpec,
    EvCharger,
    EvChargerSpec,
    FlexibleLoadSpec,
    Generator,
    GeneratorSpec,
    HeatPumpSpec,
    Load,
    LoadSpec,
    Measurement,
    Pv,
    PvSpec,
    make_device,
)
from powergrid.devices.base import hours
from support.device_strategies import any_spec, available_for, devices_with_steps, durations_s

BATTERY = BatterySpec(max_e_mwh=1.0, max_p_charge_mw=0.5, max_p_discharge_mw=0.5)
GENERATOR = GeneratorSpec(max_p_mw=1.0)
PV = PvSpec(max_p_mw=0.3)
LOAD = LoadSpec(max_p_mw=0.2)
CAR = EvChargerSpec(max_p_mw=0.011, min_p_mw=0.004, max_e_mwh=0.06)
HEATING = HeatPumpSpec(max_p_mw=0.02, max_heat_mw=0.05, max_e_mwh=0.08)
LAUNDRY = FlexibleLoadSpec(max_p_mw=0.02, max_backlog_mwh=0.01, max_rebound_mw=0.005)
EVERY_KIND = [BATTERY, GENERATOR, PV, LOAD, CAR, HEATING, LAUNDRY]
each_kind = pytest.mark.parametrize("spec", EVERY_KIND, ids=lambda spec: spec.kind)


def bits(value: object) -> object:
    """Return a value's exact bits, so that 0.0 and -0.0 differ."""
    return struct.pack("<d", value) if isinstance(value, float) else value


def exactly(value: Any) -> tuple[object, ...]:
    return tuple(bits(field) for field in (value if isinstance(value, tuple) else astuple(value)))


def in_gap(device: Device, p_mw: float) -> bool:
    """Whether a setpoint lies between nothing and the minimum of a kind that has one."""
    low, high = device.spec.gap_mw
    return low < p_mw < high


def test_importing_the_physics_loads_no_heavy_library() -> None:
    script = "import sys, powergrid.devices; print(' '.join(m for m in sys.modules if '.' not in m))"
    loaded = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert not {"numpy", "pandas", "pandapower", "scipy"} & set(loaded.stdout.split())


@pytest.mark.parametrize(
    ("spec", "cls"), [(BATTERY, Battery), (GENERATOR, Generator), (PV, Pv), (LOAD, Load)]
)
def test_make_device_gives_the_kind_that_the_spec_names(spec: Any, cls: type[Device]) -> None:
    device = make_device(spec)
    assert type(device) is cls
    assert device.spec is spec


@each_kind
def test_a_spec_comes_back_unchanged_from_its_own_dump(spec: Any) -> None:
    assert TypeAdapter(DeviceSpec).validate_python(spec.model_dump()) == spec


@each_kind
def test_a_spec_is_immutable(spec: Any) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        spec.kind = "battery"


@each_kind
@pytest.mark.parametrize("bad", [{"colour": "red"}, {"s_max": 3.0}])
def test_a_spec_refuses_unknown_keys(spec: Any, bad: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match="Extra inputs"):
        type(spec).model_validate(spec.model_dump() | bad)


@each_kind
@pytest.mark.parametrize("bad", [math.nan, math.inf, "0.5", True, -1.0, 1e9, [1.0]], ids=str)
def test_every_number_of_a_spec_must_be_finite_of_the_right_type_and_in_range(spec: Any, bad: Any) -> None:
    numeric = [name for name, value in spec.model_dump().items() if isinstance(value, float)]
    assert numeric
    for name in numeric:
        if name.startswith(("cost_", "start_", "stop_", "min_up", "min_down")) and bad == 1e9:
            continue
        with pytest.raises(ValidationError) as caught:
            type(spec).model_validate(spec.model_dump() | {name: bad})
        assert name in str(caught.value)


def test_every_number_of_a_spec_states_its_unit() -> None:
    units = ("MW", "MVA", "$", " s", "fraction", "part of", "energy", "1/k")
    for spec in EVERY_KIND:
        for name, field in type(spec).model_fields.items():
            if name not in {"kind", "initial_running"}:
                assert field.description, name
                assert any(unit.lower() in field.description.lower() for unit in units), name


def test_an_unknown_kind_is_refused_with_the_known_ones_named() -> None:
    with pytest.raises(ValidationError, match=r"'battery', 'generator', 'pv', 'load'"):
        TypeAdapter(DeviceSpec).validate_python({"kind": "flywheel"})


@each_kind
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_setpoint_that_is_not_finite_is_refused_and_moves_nothing(spec: Any, bad: float) -> None:
    device = make_device(spec)
    before = device.state
    with pytest.raises(ValueError, match=r"^p_mw must be a finite number, got"):
        device.step(bad, 0.0, 900.0)
    with pytest.raises(ValueError, match=r"^q_mvar must be a finite number, got"):
        device.step(0.1, bad, 900.0)
    with pytest.raises(ValueError, match=r"^p_mw must be a finite number, got"):
        device.project(bad, 900.0)
    with pytest.raises(ValueError, match=r"^p_mw must be a finite number, got"):
        device.restore(bad)
    assert device.state is before


@each_kind
@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf, 5e-324])
def test_a_step_without_a_finite_positive_length_is_refused_and_moves_nothing(spec: Any, bad: float) -> None:
    device = make_device(spec)
    before = device.state
    for call in (lambda: device.step(0.0, 0.0, bad), lambda: device.feasible(bad)):
        with pytest.raises(ValueError, match=r"^dt_s must be a finite number of seconds > 0, got"):
            call()
    assert device.state is before


@pytest.mark.parametrize(
    ("spec", "bad"),
    [(BATTERY, 0.1), (GENERATOR, 0.1), (PV, -0.1), (PV, math.nan), (LOAD, 0.1), (LOAD, -math.inf)],
)
def test_a_profile_value_that_this_kind_cannot_use_is_refused(spec: Any, bad: float) -> None:
    device = make_device(spec)
    before = device.state
    for call in (lambda: device.step(0.0, 0.0, 900.0, bad), lambda: device.feasible(900.0, bad)):
        with pytest.raises(ValueError, match=r"^p_available_mw"):
            call()
    assert device.state is before


def test_a_measurement_is_immutable() -> None:
    measured = make_device(BATTERY).step(0.1, 0.0, 900.0)
    with pytest.raises(AttributeError):
        measured.p_mw = 0.2  # type: ignore[misc]


@given(devices_with_steps(any_spec))
def test_equal_inputs_give_bit_identical_measurements_and_states(case: Any) -> None:
    spec, steps = case
    one, other = make_device(spec), make_device(spec)
    for arguments in steps:
        assert exactly(one.step(*arguments)) == exactly(other.step(*arguments))
        assert exactly(one.state) == exactly(other.state)


@given(devices_with_steps(any_spec))
def test_looking_ahead_moves_nothing(case: Any) -> None:
    spec, steps = case
    looked, not_looked = make_device(spec), make_device(spec)
    for p_mw, q_mvar, dt_s, available in steps:
        looked.feasible(dt_s * 2.0, available)
        looked.project(-p_mw, dt_s, available)
        measured = looked.step(p_mw, q_mvar, dt_s, available)
        assert exactly(measured) == exactly(not_looked.step(p_mw, q_mvar, dt_s, available))


@given(devices_with_steps(any_spec))
def test_reset_forgets_everything(case: Any) -> None:
    spec, steps = case
    device = make_device(spec)
    first = [exactly(device.step(*arguments)) for arguments in steps]
    device.reset()
    assert [exactly(device.step(*arguments)) for arguments in steps] == first


@given(devices_with_steps(any_spec), st.integers(0, 19))
def test_restoring_what_was_measured_equals_never_having_restored(case: Any, at: int) -> None:
    spec, steps = case
    device = make_device(spec)
    for index, arguments in enumerate(steps):
        measured = device.step(*arguments)
        if index == at % len(steps):
            twin = make_device(spec)
            if isinstance(device, EvCharger):  # no telemetry tells whether a car is there
                twin.state = device.state._replace(p_mw=0.0, soc=0.0)
            clock = device.state.time_in_state_s if isinstance(device, Generator) else None
            twin.restore(measured.p_mw, measured.soc, measured.running, clock)
            assert exactly(twin.state) == exactly(device.state)
            before = device.state
            device.restore(measured.p_mw, measured.soc, measured.running)
            assert exactly(device.state) == exactly(before)
            break
    for arguments in steps:
        assert exactly(twin.step(*arguments)) == exactly(device.step(*arguments))


@given(devices_with_steps(any_spec), st.data())
def test_feasible_is_truthful(case: Any, data: st.DataObject) -> None:
    """Inside, a setpoint is realised to the last bit; outside, the nearest edge is."""
    spec, steps = case
    device = make_device(spec)
    for arguments in steps:
        device.step(*arguments)
    dt_s, available = data.draw(durations_s), data.draw(available_for(spec))
    low, high = device.feasible(dt_s, available)
    assert low <= high
    assert {bits(low), bits(high)}.isdisjoint({bits(-0.0)})
    saved = device.state

    inside = data.draw(st.floats(low, high))
    realised = device.step(inside, 0.0, dt_s, available)
    if not in_gap(device, inside):
        assert realised.p_mw == inside
        assert not realised.clipped

    for outside, edge in ((low - 1.0, low), (high + 1.0, high), (low - 1e250, low), (high + 1e250, high)):
        device.state = saved
        assert device.project(outside, dt_s, available) == edge
        realised = device.step(outside, 0.0, dt_s, available)
        assert realised.p_mw == edge
        assert realised.clipped


@given(devices_with_steps(any_spec))
def test_project_foretells_what_step_does_and_a_realised_setpoint_stands(case: Any) -> None:
    spec, steps = case
    device = make_device(spec)
    for p_mw, q_mvar, dt_s, available in steps:
        foretold = device.project(p_mw, dt_s, available)
        assert bits(device.project(foretold, dt_s, available)) == bits(foretold)
        measured = device.step(p_mw, q_mvar, dt_s, available)
        assert bits(measured.p_mw) == bits(foretold)


@given(devices_with_steps(any_spec))
def test_every_number_that_comes_out_is_finite_and_clipped_tells_the_truth(case: Any) -> None:
    spec, steps = case
    device = make_device(spec)
    for p_mw, q_mvar, dt_s, available in steps:
        out = device.step(p_mw, q_mvar, dt_s, available)
        numbers = [value for value in out if isinstance(value, float)]
        assert all(math.isfinite(value) for value in numbers)
        assert out.loss_mwh >= 0.0
        differs = out.p_mw != p_mw or (out.q_mvar != q_mvar and spec.kind != "load")
        assert out.clipped is differs


@each_kind
def test_numpy_scalars_and_integers_give_plain_floats(spec: Any) -> None:
    plain, fed = make_device(spec), make_device(spec)
    available = {"pv": np.float64(0.25), "load": np.float64(-0.125)}.get(spec.kind)
    expected = plain.step(0.5, 0.0, 900.0, None if available is None else float(available))
    p_mw: Any = np.float32(0.5)
    q_mvar: Any = np.int64(0)
    measured = fed.step(p_mw, q_mvar, np.float64(900.0), available)
    assert measured == expected
    for value in (*measured, *(fed.state if isinstance(fed.state, tuple) else astuple(fed.state))):
        assert type(value) in {float, bool, type(None)}


@each_kind
def test_a_saved_state_put_back_is_an_exact_undo(spec: Any) -> None:
    device = make_device(spec)
    device.step(0.1, 0.0, 900.0)
    saved = device.state
    first = device.step(-0.1, 0.0, 900.0)
    device.state = saved
    assert device.step(-0.1, 0.0, 900.0) == first


def test_measurement_defaults_to_no_loss() -> None:
    assert Measurement(0.1, 0.0, None, None, 0.0, False).loss_mwh == 0.0


@each_kind
def test_a_device_whose_agent_is_lost_is_taken_to_be_in_the_safe_state_of_its_emulator(spec: Any) -> None:
    sign = 1.0 if spec.kind == "pv" else -1.0
    expected = 0.0 if spec.rests_when_safe else -0.003
    assert spec.safe_p_mw(sign * 0.003) == expected
    assert spec.safe_p_mw(None) == 0.0


def test_a_step_may_be_an_array_of_no_dimension() -> None:
    assert hours(np.array(900.0)) == 0.25  # type: ignore[arg-type]

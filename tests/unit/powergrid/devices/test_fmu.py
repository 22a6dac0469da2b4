"""A functional mock-up unit as a device: what it does, how its state is put back, and what is refused."""

from __future__ import annotations

import copy
import pickle
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from heron_mqtt.errors import ConfigError, ModelFailed
from powergrid.devices import Fmu, FmuSpec, make_device
from powergrid.devices.fmu_units import INSTANCES, FmuHistory
from powergrid.scenario import PolicyTable
from support.fmus import battery, changed, spec
from support.rows import each_row

POWERS = [0.004, -0.005, 0.001, 0.0, 0.02, -0.02]
LIMITED = {"canGetAndSetFMUstate": "canRunAsynchronuously"}  # a unit that cannot take a step back


def run(device: Fmu, powers: list[float] = POWERS, dt_s: float = 900.0) -> list[Any]:
    return [device.step(p, 0.0, dt_s) for p in powers]


@pytest.fixture(params=[2, 3])
def file(request: pytest.FixtureRequest) -> Path:
    return battery(request.param)


# -- what it does ----------------------------------------------------------------------------------------


def test_units_of_both_standards_do_the_same(file: Path) -> None:
    assert run(Fmu(spec(file))) == run(Fmu(spec(battery(2))))


def test_the_setpoint_is_clipped_to_the_nameplate_and_the_power_is_the_units(file: Path) -> None:
    device = Fmu(spec(file))
    assert device.feasible(900.0) == (-0.005, 0.005)
    assert device.project(1.0, 900.0) == 0.005
    done = device.step(1.0, 0.0, 900.0)
    assert done.clipped
    assert 0.0045 < done.p_mw < 0.005  # its lag
    assert done.running is True
    assert done.soc is not None
    assert done.soc < 0.4  # + is injected: the battery is discharged


def test_power_and_state_of_charge_agree_in_energy() -> None:
    """Discharging takes 1/0.95 of the energy; the mean over small steps is the unit's own."""
    device = Fmu(spec(communication_step_s=1.0))
    done = device.step(0.004, 0.0, 1800.0)
    assert (0.4 - done.soc) * 0.015 == pytest.approx(done.p_mw * 0.5 / 0.95, rel=1e-9)


Q = {"q_setpoint": {"variable": "q_set", "sign": -1}, "q": {"variable": "q", "sign": -1}}


def test_a_unit_with_an_input_for_it_is_asked_for_reactive_power_within_its_apparent_power(
    file: Path,
) -> None:
    device = Fmu(spec(file, **Q, s_max_mva=0.0065))
    assert device.spec.controls_q
    assert device.step(0.0, 0.002, 900.0).q_mvar == pytest.approx(0.002)
    assert device.step(0.0, -0.002, 900.0).q_mvar == pytest.approx(-0.002)
    clipped = device.step(0.0025, 0.1, 900.0)
    assert clipped.q_mvar == pytest.approx(0.006)  # sqrt(6.5^2 - 2.5^2)
    assert clipped.clipped
    copied = pickle.loads(pickle.dumps(device))
    assert copied.step(0.001, 0.001, 900.0) == device.step(0.001, 0.001, 900.0)


def test_a_unit_that_is_not_asked_for_reactive_power_shows_its_own(file: Path) -> None:
    plain = Fmu(spec(file, q=Q["q"]))
    assert not plain.spec.controls_q
    assert plain.step(0.001, 0.002, 900.0).q_mvar == 0.0


def test_it_begins_with_the_state_of_charge_that_it_is_given(file: Path) -> None:
    assert Fmu(spec(file)).state.soc == 0.4
    assert spec(file).soc_at_reset == 0.4
    own = spec(file, initial_soc=None)
    assert own.soc_at_reset == Fmu(own).state.soc == 0.5


def test_what_it_offers_follows_from_its_variables() -> None:
    plain = spec(soc=None, running=None, initial_soc=None)
    assert (plain.has_soc, plain.profile_says, plain.observed) == (False, None, ("p_", "q_"))
    assert Fmu(plain).step(0.001, 0.0, 60.0).soc is None
    with_profile = spec(
        p_setpoint={"variable": "p_set"},
        available={"variable": "p_set", "sign": -1},
    )
    assert with_profile.profile_says is not None
    assert with_profile.profile_mw == 0.005
    offered = Fmu(with_profile).step(0.0, 0.0, 900.0, 0.003)
    assert offered.p_mw == pytest.approx(0.003, rel=0.1)
    with pytest.raises(ValueError, match="p_available_mw of this unit must be >= 0"):
        Fmu(with_profile).feasible(900.0, -0.001)
    with pytest.raises(ValueError, match="p_available_mw must be None for a unit without profile"):
        Fmu(plain).feasible(900.0, 0.001)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_no_number_is_refused_and_moves_nothing(bad: float) -> None:
    device = Fmu(spec())
    before = device.state
    for arguments in ((bad, 0.0, 900.0), (0.0, bad, 900.0), (0.0, 0.0, bad)):
        with pytest.raises(ValueError, match="finite"):
            device.step(*arguments)
    assert device.state is before


# -- its state -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("can_go_back", [True, False])
@given(data=st.data())
def test_a_state_put_back_is_an_exact_undo_however_far(can_go_back: bool, data: st.DataObject) -> None:
    file = battery() if can_go_back else limited()
    device = Fmu(spec(file))
    states, done = [device.state], []
    for p in data.draw(st.lists(st.sampled_from(POWERS), min_size=1, max_size=6)):
        done.append((p, device.step(p, 0.0, 300.0)))
        states.append(device.state)
    at = data.draw(st.integers(0, len(done) - 1))
    device.state = states[at]
    device.step(-0.003, 0.0, 300.0)  # another way
    device.state = states[at]
    assert [device.step(p, 0.0, 300.0) for p, _ in done[at:]] == [measured for _, measured in done[at:]]


def limited() -> Path:
    """Return a unit without FMI's own undo."""
    path = battery().with_name("limited.fmu")
    return path if path.exists() else changed(path, LIMITED)


@pytest.mark.parametrize(
    "words",
    [{}, LIMITED, {"modelIdentifier": 'canBeInstantiatedOnlyOncePerProcess="true" modelIdentifier'}],
    ids=["undo", "no-undo", "once"],
)
def test_a_twin_goes_its_own_way(words: dict[str, str], tmp_path: Path) -> None:
    file = changed(tmp_path / "unit.fmu", words)
    device, alone = Fmu(spec(file)), Fmu(spec())
    run(device, POWERS[:3])
    run(alone, POWERS[:3])
    twin = copy.copy(device)
    for p in POWERS:
        twin.step(-p, 0.0, 300.0)
        assert device.step(p, 0.0, 300.0) == alone.step(p, 0.0, 300.0)
    most = 1 if "modelIdentifier" in words else INSTANCES
    assert 1 <= len(device._units._instances) <= most, "no more run than may"


def test_it_is_pickled_with_its_state_and_copied_deeply(file: Path) -> None:
    device = Fmu(spec(file))
    run(device)
    for other in (pickle.loads(pickle.dumps(device)), copy.deepcopy(device)):
        assert other.state[:3] == device.state[:3]
        saved = device.state
        assert run(other) == run(device)
        device.state = saved


def test_reset_forgets_everything_and_ends_what_ran() -> None:
    device = Fmu(spec())
    first = run(device)
    for _ in range(10):
        device.reset()
        assert run(device) == first
    assert len(device._units._instances) <= 2


def test_restoring_what_was_measured_changes_nothing(file: Path) -> None:
    device, other = Fmu(spec(file)), Fmu(spec(file))
    for p in POWERS:
        done = device.step(p, 0.0, 900.0)
        device.restore(done.p_mw, done.soc, done.running)
        assert done == other.step(p, 0.0, 900.0)


def test_another_state_of_charge_is_handed_to_the_unit_where_it_can_take_it() -> None:
    device = Fmu(spec())
    device.step(0.004, 0.0, 900.0)
    device.restore(0.001, 0.9)
    assert (device.state.p_mw, device.state.soc) == (0.001, 0.9)
    assert len(device._units._instances) == 1, "the one that was is ended"
    assert device.step(0.0, 0.0, 60.0).soc == pytest.approx(0.9, abs=1e-3)
    with pytest.raises(ValueError, match=r"soc must be within \[0, 1\]"):
        device.restore(0.0, 1.5)
    fixed = Fmu(spec(soc={"variable": "soc"}, initial_soc=None))
    fixed.restore(0.0, 0.9)
    assert fixed.step(0.0, 0.0, 60.0).soc == pytest.approx(0.5)  # it goes on as it knows itself


@pytest.mark.parametrize(
    ("least_mw", "most_mw", "between_mw"),
    [(-0.005, 0.005, 0.0), (0.001, 0.005, 0.001), (-0.005, -0.001, -0.001)],
)
def test_its_usual_power_follows_the_price_within_its_nameplate(
    least_mw: float, most_mw: float, between_mw: float
) -> None:
    policy = PolicyTable(charge_below=30.0, discharge_above=45.0)
    device = Fmu(spec(min_p_mw=least_mw, max_p_mw=most_mw))
    usual_mw = [device.usual_p_mw(price, policy, 900.0, None) for price in (0.0, 30.0, 30.1, 44.9, 45.0)]
    assert usual_mw == [least_mw, least_mw, between_mw, between_mw, most_mw]


# -- failures --------------------------------------------------------------------------------------------


def test_a_step_that_fails_is_a_failure_with_what_the_unit_said(file: Path) -> None:
    device = Fmu(spec(file, start={"fail_at_s": 1800.0}))
    run(device, [0.001, 0.001])
    before = device.state
    for _ in range(2):  # it fails again: nothing of the failed step is kept
        with pytest.raises(ModelFailed, match=r"failed in the step from 1800 s, of 900 s: .*too hot"):
            device.step(0.001, 0.0, 900.0)
        assert device.state is before
    device.reset()
    assert device.step(0.001, 0.0, 900.0).soc is not None


@pytest.mark.parametrize(
    ("flags", "what"),
    [((False, True, False, 120.0), "asked to end"), ((False, False, True, 120.0), "returned early")],
)
def test_a_unit_that_ends_before_the_step_does_is_a_failure_that_says_which(
    monkeypatch: pytest.MonkeyPatch, flags: tuple[bool, bool, bool, float], what: str
) -> None:
    device = Fmu(spec(battery(3)))
    monkeypatch.setattr("fmpy.fmi3.FMU3Slave.doStep", lambda *_, **__: flags)  # the example's does neither
    with pytest.raises(ModelFailed, match=f"it {what} at 120 s"):
        device.step(0.001, 0.0, 900.0)


@pytest.mark.parametrize(("status", "freed"), [(3, 1), (4, 0)])
def test_a_unit_is_freed_after_an_error_and_not_after_a_fatal_one(
    monkeypatch: pytest.MonkeyPatch, status: int, freed: int
) -> None:
    device, calls = Fmu(spec(battery(3))), []

    def fails(*_: Any, **__: Any) -> None:
        exc = RuntimeError("it failed")
        exc.status = status  # type: ignore[attr-defined]
        raise exc

    def noted(unit: object) -> None:
        calls.append(unit)

    with monkeypatch.context() as patched:
        patched.setattr("fmpy.fmi3.FMU3Slave.doStep", fails)
        patched.setattr("fmpy.fmi3.FMU3Slave.freeInstance", noted)
        with pytest.raises(ModelFailed, match="it failed"):
            device.step(0.001, 0.0, 900.0)
        assert len(calls) == freed


def test_what_is_no_number_is_a_failure() -> None:
    device = Fmu(spec(start={"capacity_kwh": 0.0}))
    with pytest.raises(ModelFailed, match="soc is nan at"):
        device.step(0.0, 0.0, 60.0)


def test_a_state_of_charge_that_cannot_be_is_a_failure(tmp_path: Path) -> None:
    unstated = changed(tmp_path / "unit.fmu", {'<Real unit="%"/>': "<Real/>"})
    with pytest.raises(ModelFailed, match="a state of charge of 50: expected 0 to 1; is its unit right"):
        Fmu(spec(unstated, soc={"variable": "soc", "unit": "fraction"}, initial_soc=None))


def test_a_unit_of_equal_steps_is_asked_for_no_others(tmp_path: Path) -> None:
    even = changed(tmp_path / "even.fmu", {'canHandleVariableCommunicationStepSize="true"': ""})
    device = Fmu(spec(even))
    device.step(0.001, 0.0, 900.0)
    with pytest.raises(ModelFailed, match="a step of 100 s is no multiple of communication_step_s = 60"):
        device.step(0.001, 0.0, 100.0)


# -- what is refused before anything runs ----------------------------------------------------------------


def refused(file: Path, **more: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        spec(file, **more).located(Path)
    (problem,) = caught.value.problems
    return problem


@pytest.mark.parametrize(
    ("words", "names", "why"),
    [
        ({'fmiVersion="2.0"': 'fmiVersion="1.0"'}, {}, "is of FMI 1.0; expected 2 or 3"),
        (
            {"CoSimulation": "ModelExchange", ' canHandleVariableCommunicationStepSize="true"': ""},
            {},
            "is for model exchange only; expected one for co-simulation",
        ),
        (
            {},
            {"linux64": "win64", "x86_64-linux": "x86_64-windows", ".so": ".dll"},
            "has no binary for linux64; it has win64",
        ),
        ({}, {"binaries": "sources"}, "it has none"),
        ({"<ModelVariables>": "<ModelVariables><Wrong/>"}, {}, "its description cannot be read"),
        ({'fmiVersion="2.0"': ""}, {}, "names no fmiVersion"),
    ],
    ids=["fmi-1", "model-exchange", "platform", "no-binary", "xml", "no-version"],
)
def test_a_unit_that_cannot_be_run_here_is_named(
    words: dict[str, str], names: dict[str, str], why: str, tmp_path: Path
) -> None:
    problem = refused(changed(tmp_path / "unit.fmu", words, names=names))
    assert problem.startswith(f"file = '{tmp_path / 'unit.fmu'}': ")
    assert why in problem


def test_what_is_no_unit_is_named(tmp_path: Path) -> None:
    assert "no such file" in refused(tmp_path / "none.fmu")
    (tmp_path / "text.fmu").write_text("hello")
    assert "is no functional mock-up unit" in refused(tmp_path / "text.fmu")
    with zipfile.ZipFile(tmp_path / "empty.fmu", "w") as archive:
        archive.writestr("readme.txt", "")
    assert "is no functional mock-up unit" in refused(tmp_path / "empty.fmu")


def test_a_library_that_cannot_be_loaded_is_named(tmp_path: Path) -> None:
    broken = changed(tmp_path / "broken.fmu", library=b"not a library")
    with pytest.raises(ConfigError, match="its library cannot be used"):
        Fmu(spec(broken))


@each_row(
    ("more", "why"),
    [
        ({"p": {"variable": "power"}}, "p.variable: the unit has no variable 'power'; it has p_set, p, soc"),
        ({"p": {"variable": "P"}}, "it has p (battery2.fmu)"),
        ({"p_setpoint": {"variable": "p"}}, "p_setpoint.variable: 'p' is an output of the unit; expect"),
        ({"p": {"variable": "p_set"}}, "p.variable: 'p_set' is an input of the unit; expected an output"),
        ({"p": {"variable": "p", "unit": "W"}}, "p.unit: is 'W' here; the unit's description says 'kW'"),
        ({"q": {"variable": "soc"}}, "q.unit: missing; the unit's description says '%': expected one of var"),
        ({"p": {"variable": "running", "unit": "kW"}}, "is of type Boolean; expected a real number"),
        ({"soc": {"variable": "soc", "start": "lag_s"}, "start": {}}, "soc.start: is in 's', and soc in '%'"),
        ({"start": {"lag": 1.0}}, "start.lag: the unit has no variable 'lag'"),
        ({"start": {"soc": 1.0}}, "start.soc: is output, which the unit works out"),
        ({"start": {"lag_s": "long"}}, "start.lag_s: 'long': the unit wants a value of type Real"),
    ],
)
def test_a_table_that_does_not_fit_the_unit_is_named(more: dict[str, Any], why: str) -> None:
    assert why in refused(battery(), **more)


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"min_p_mw": 0.005}, "min_p_mw must be below max_p_mw"),
        ({"soc": {"variable": "soc"}}, "initial_soc needs soc.start"),
        ({"q_setpoint": {"variable": "q_set"}}, "q_setpoint needs q"),
        ({"s_max_mva": 0.004}, "s_max_mva = 0.004 is less than its largest power"),
        ({"start": {"soc_start": 10.0}}, "start.soc_start: is set by initial_soc"),
        ({"colour": "red"}, "Extra inputs"),
    ],
)
def test_a_nameplate_that_contradicts_itself_is_refused(more: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        spec(**more)


def test_without_fmpy_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = changed(tmp_path / "unit.fmu")
    monkeypatch.setitem(sys.modules, "fmpy", None)
    assert "pip install 'heron-mqtt[fmu]'" in refused(file)


def test_a_nameplate_comes_back_unchanged_from_its_own_dump() -> None:
    given = spec()
    assert FmuSpec.model_validate(given.model_dump()) == given
    assert isinstance(make_device(given), Fmu)


# -- to the number ---------------------------------------------------------------------------------------


def renamed(unit: str, other: str) -> dict[str, str]:
    """Return the words of a description that has another unit in place of one."""
    return {f'unit="{unit}"': f'unit="{other}"', f'<Unit name="{unit}"/>': f'<Unit name="{other}"/>'}


@pytest.mark.parametrize(
    ("power", "reactive", "mw", "mvar"),
    [("W", "var", 1e6, 1e6), ("kW", "kvar", 1e3, 1e3), ("MW", "Mvar", 1.0, 1.0)],
)
@pytest.mark.parametrize("is_said", [True, False])
def test_a_unit_is_told_powers_in_its_own_units_as_its_description_or_the_user_says(
    power: str, reactive: str, mw: float, mvar: float, is_said: bool, tmp_path: Path
) -> None:
    none = {' unit="kW"': "", ' unit="kvar"': ""}
    words = {**renamed("kW", power), **renamed("kvar", reactive)} if is_said else none
    links = {
        "p_setpoint": ("p_set", power),
        "p": ("p", power),
        "q_setpoint": ("q_set", reactive),
        "q": ("q", reactive),
    }
    told = {
        name: {"variable": variable, "sign": -1, **({} if is_said else {"unit": unit})}
        for name, (variable, unit) in links.items()
    }
    units = Fmu(spec(changed(tmp_path / "unit.fmu", words), **told))._units
    inputs = {variable.name: value for variable, value in units._inputs(0.002, -0.001, 0.0).items()}
    assert inputs == pytest.approx({"p_set": -0.002 * mw, "q_set": 0.001 * mvar})
    assert units.shown([-0.002 * mw, 0.001 * mvar, 50.0, 1.0]) == (
        *(pytest.approx(0.002), pytest.approx(-0.001), 0.5, True),
    )


@pytest.mark.parametrize(
    ("spelled", "unit", "scale"),
    [
        ("%", None, 100.0),
        ("percent", None, 100.0),
        ("%", "percent", 100.0),
        ("1", None, 1.0),
        ("", "fraction", 1.0),
    ],
)
def test_a_state_of_charge_is_in_percent_or_a_fraction(
    spelled: str, unit: str | None, scale: float, tmp_path: Path
) -> None:
    words = renamed("%", spelled) if spelled else {'unit="%"': ""}
    full = 0.5 if scale == 1.0 else 50.0  # so that the unit, which counts in percent, begins within 0 to 1
    soc = {"variable": "soc", "unit": unit}
    device = Fmu(
        spec(changed(tmp_path / "unit.fmu", words), soc=soc, initial_soc=None, start={"soc_start": full})
    )
    assert device.state.soc == pytest.approx(0.5)
    assert device._units.wiring.scales[1] == scale


@pytest.mark.parametrize(("spelled", "reactive"), [("kVAr", 1e3), ("VAr", 1e6), ("Var", 1e6), ("MVAr", 1.0)])
def test_other_spellings_of_a_unit_are_understood(spelled: str, reactive: float, tmp_path: Path) -> None:
    file = changed(tmp_path / "unit.fmu", renamed("kvar", spelled))
    wiring = Fmu(spec(file, **Q))._units.wiring
    assert wiring.q_setpoint_scale == -reactive


def test_what_it_shows_is_what_it_can_be_to_the_last_rounding() -> None:
    units = Fmu(spec(p={"variable": "p"}, q={"variable": "q"}))._units
    for values, shown in (
        ([1e8, 0.0, 50.0, 0.0], (1e5, 0.0, 0.5, False)),
        ([0.0, -1e8, 50.0, 0.0], (0.0, -1e5, 0.5, False)),
        ([0.0, 0.0, -0.9e-4, 1.0], (0.0, 0.0, 0.0, True)),
        ([0.0, 0.0, 100.00009, -1.0], (0.0, 0.0, 1.0, True)),
    ):
        assert units.shown(values) == shown
    for values, text in (
        ([1.00001e8, 0.0, 50.0, 0.0], "battery2.fmu: a power of 100001 MW or Mvar: is its unit right?"),
        ([0.0, -1.00001e8, 50.0, 0.0], "battery2.fmu: a power of 100001 MW or Mvar: is its unit right?"),
        (
            [0.0, 0.0, -0.02, 0.0],
            "battery2.fmu: a state of charge of -0.0002: expected 0 to 1; is its unit right?",
        ),
        (
            [0.0, 0.0, 100.02, 0.0],
            "battery2.fmu: a state of charge of 1.0002: expected 0 to 1; is its unit right?",
        ),
    ):
        with pytest.raises(ModelFailed) as caught:
            units.shown(values)
        assert str(caught.value) == text


class Recorder:
    """Stands for an instance: keeps what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[dict[str, float], float, int]] = []

    def step(self, inputs: Any, dt_s: float, parts: int, wanted: Any) -> list[list[float]]:
        self.asked.append(({v.name: value for v, value in inputs.items()}, dt_s, parts))
        return []


@each_row(
    ("longest_s", "dt_s", "parts"),
    [
        (60.0, 60.0, 1),
        (60.0, 30.0, 1),
        (60.0, 60.1, 2),
        (60.0, 900.0, 15),
        (0.1, 0.3, 3),  # 0.3 / 0.1 is 2.9999999999999996
        (0.1, 0.7, 7),  # 0.7 / 0.1 is 6.999999999999999
        (0.7, 2.1, 3),  # 2.1 / 0.7 is 3.0000000000000004
        (None, 900.0, 1),
    ],
)
def test_a_step_is_cut_into_the_fewest_equal_parts_that_are_short_enough(
    longest_s: float | None, dt_s: float, parts: int
) -> None:
    recorder: Any = Recorder()
    step = FmuHistory(FmuHistory(), (0.002, 0.0, 0.0), dt_s)
    Fmu(spec(communication_step_s=longest_s))._units._step(recorder, step)
    assert recorder.asked == [({"p_set": -2.0}, dt_s, parts)]


@pytest.mark.parametrize(
    ("dt_s", "is_taken"), [(60.0, True), (120.0, True), (30.0, False), (90.0, False), (61.0, False)]
)
def test_a_unit_of_equal_steps_takes_multiples_alone(dt_s: float, is_taken: bool, tmp_path: Path) -> None:
    even = changed(tmp_path / "even.fmu", {'canHandleVariableCommunicationStepSize="true"': ""})
    recorder: Any = Recorder()
    step = FmuHistory(FmuHistory(), (0.0, 0.0, 0.0), dt_s)
    units = Fmu(spec(even))._units
    if is_taken:
        units._step(recorder, step)
        return
    with pytest.raises(ModelFailed) as caught:
        units._step(recorder, step)
    assert str(caught.value) == (
        f"even.fmu: takes only equal communication steps; a step of {dt_s:g} s is no multiple of "
        "communication_step_s = 60"
    )


def test_the_power_of_a_step_is_the_mean_of_its_parts_and_the_rest_is_as_it_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    device = Fmu(spec(p={"variable": "p"}, q={"variable": "q"}))
    rows = [[1.0, 1.0, 40.0, 0.0], [2.0, 2.0, 41.0, 0.0], [6.0, 3.0, 42.0, 1.0]]
    monkeypatch.setattr(device._units, "_step", lambda instance, step: rows)
    done = device.step(0.003, 0.0, 180.0)
    assert (done.p_mw, done.q_mvar, done.soc, done.running) == (pytest.approx(0.003), 0.003, 0.42, True)
    assert (done.cost, done.loss_mwh, done.clipped) == (0.0, 0.0, True)
    assert device.state[:3] == (done.p_mw, 0.42, True)


def test_at_most_four_instances_of_a_unit_run() -> None:
    device = Fmu(spec())
    states = [device.state]
    for p in (0.001, 0.002, 0.003, 0.004, -0.001, -0.002):
        device.state = states[0]
        device.step(p, 0.0, 300.0)
        states.append(device.state)
    for state in states:
        device._units.at(state.history)
    assert len(device._units._instances) == 4 == INSTANCES


@pytest.mark.parametrize(
    ("least_mw", "most_mw", "profile_mw", "safe_mw", "rated_mva"),
    [
        (-0.005, 0.005, 0.005, 0.0, 0.005),
        (-0.006, 0.005, -0.006, 0.0, 0.006),
        (-0.004, 0.005, 0.005, 0.0, 0.005),
        (0.001, 0.005, 0.005, 0.001, 0.005),
        (-0.005, -0.001, -0.005, -0.001, 0.005),
    ],
)
def test_a_nameplate_gives_range_profile_safe_power_and_rating(
    least_mw: float, most_mw: float, profile_mw: float, safe_mw: float, rated_mva: float
) -> None:
    given = spec(min_p_mw=least_mw, max_p_mw=most_mw)
    assert (given.power_range_mw, given.profile_mw) == ((least_mw, most_mw), 0.0), "it follows no profile"
    assert (given.safe_p_mw(None), given.safe_p_mw(0.003), given.rated_s_mva) == (safe_mw, safe_mw, rated_mva)
    offered = spec(
        min_p_mw=least_mw, max_p_mw=most_mw, available={"variable": "q_set", "unit": "kW"}, s_max_mva=0.006
    )
    assert (offered.profile_mw, offered.rated_s_mva) == (profile_mw, 0.006)
    assert (given.soc_at_reset, spec(soc=None, initial_soc=None).soc_at_reset) == (0.4, 0.0)


def test_an_offer_bounds_nothing_but_its_sign_and_is_what_it_usually_asks_for() -> None:
    policy = PolicyTable(charge_below=30.0, discharge_above=45.0)
    taken = spec(min_p_mw=-0.005, max_p_mw=0.004, available={"variable": "p_set", "sign": -1})
    device = Fmu(taken)
    assert device.usual_p_mw(0.0, policy, 900.0, -0.002) == -0.002
    assert device.usual_p_mw(99.0, policy, 900.0, -0.9) == -0.005
    assert device.feasible(900.0, -0.001) == (-0.005, 0.004)
    assert device.feasible(900.0, 0.0) == (-0.005, 0.004)
    with pytest.raises(ValueError, match=r"^p_available_mw of this unit must be <= 0, got 0\.001$"):
        device.feasible(900.0, 0.001)
    with pytest.raises(ValueError, match=r"^p_available_mw must be a finite number"):
        device.feasible(900.0, float("nan"))
    plain = Fmu(spec(soc=None, running=None, initial_soc=None))
    assert [plain.usual_p_mw(price, policy, 900.0, None) for price in (0.0, 99.0)] == [0.0, 0.0]


def test_what_was_measured_is_taken_where_the_unit_shows_such_a_thing() -> None:
    device = Fmu(spec())
    for soc in (0.0, 1.0):
        device.restore(0.001, soc)
        assert device.state[:2] == (0.001, soc)
    for soc in (-0.01, 1.01):
        with pytest.raises(ValueError, match=rf"^soc must be within \[0, 1\], got {soc}$"):
            device.restore(0.0, soc)
    device.restore(0.001, running=False)
    assert device.state.running is False
    device.restore(0.001)
    assert device.state.running is False
    plain = Fmu(spec(soc=None, running=None, initial_soc=None))
    plain.restore(0.002, 1.5, True)
    assert plain.state[:3] == (0.002, None, None)


def test_a_reactive_power_is_what_the_apparent_power_leaves_and_none_at_its_end() -> None:
    device = Fmu(spec(**Q, s_max_mva=0.005))
    assert device._reactive(0.002, 0.005) == 0.0
    assert device._reactive(0.9, 0.003) == pytest.approx(0.004)
    assert device._reactive(-0.9, -0.003) == pytest.approx(-0.004)
    assert Fmu(spec())._reactive(0.002, 0.0) == 0.0


@pytest.mark.parametrize(
    "more",
    [
        {"s_max_mva": 0.005},
        {"min_p_mw": 0.0049},
        {"start": {}},
        {"soc": {"variable": "soc"}, "initial_soc": None},
    ],
)
def test_a_nameplate_may_be_at_its_own_bounds(more: dict[str, Any]) -> None:
    spec(**more)


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"min_p_mw": -0.006, "s_max_mva": 0.0055}, "s_max_mva = 0.0055 is less than its largest power"),
        ({"soc": None}, "initial_soc needs soc.start, the parameter that sets it"),
        ({"min_p_mw": 0.006}, "min_p_mw must be below max_p_mw, got 0.006 and 0.005"),
        ({"q_setpoint": {"variable": "q_set"}}, "q_setpoint needs q, the output that is the reactive power"),
        ({"start": {"soc_start": 10.0}}, "start.soc_start: is set by initial_soc; give one of them"),
    ],
)
def test_a_contradiction_is_told_whole(more: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError) as caught:
        spec(**more)
    assert why in str(caught.value)


@pytest.mark.parametrize(
    ("words", "more", "problems"),
    [
        (
            {},
            {"soc": {"variable": "soc", "start": "none"}},
            ["soc.start: the unit has no variable 'none'; it has p_set, p, soc, running, q_set, q"],
        ),
        (
            {},
            {"soc": {"variable": "soc", "start": "running"}},
            [
                "soc.start: is output, which the unit works out: it cannot be set",
                "soc.start: 0.5: the unit wants a value of type Boolean",
            ],
        ),
        ({}, {"soc": {"variable": "soc", "start": "capacity_kwh"}, "start": {}}, []),
        (
            {},
            {"soc": {"variable": "soc", "start": "lag_s"}, "start": {}},
            ["soc.start: is in 's', and soc in '%', by the unit's description"],
        ),
        (
            {' unit="kW"': ""},
            {"p": {"variable": "p", "unit": "kW"}},
            ["p_setpoint.unit: missing; the unit's description says none: expected one of W, kW, MW"],
        ),
        (
            {},
            {"q": {"variable": "p"}},
            ["q.unit: missing; the unit's description says 'kW': expected one of var, kvar, Mvar"],
        ),
        (
            {},
            {"p": {"variable": "p", "unit": "W"}},
            ["p.unit: is 'W' here; the unit's description says 'kW'"],
        ),
        ({}, {"p": {"variable": "p", "unit": "kW"}}, []),
        ({}, {"soc": {"variable": "soc", "unit": "percent"}, "initial_soc": None}, []),
        (
            {},
            {"p_setpoint": {"variable": "soc_start", "unit": "kW"}},
            [
                "p_setpoint.variable: 'soc_start' is a parameter of the unit; expected an input",
                "p_setpoint.unit: is 'kW' here; the unit's description says '%'",
            ],
        ),
        (
            {},
            {"running": {"variable": "p_set"}},
            ["running.variable: 'p_set' is an input of the unit; expected an output"],
        ),
        (
            {},
            {"p": {"variable": "running", "unit": "kW"}},
            ["p.variable: 'running' is of type Boolean; expected a real number"],
        ),
        (
            {},
            {"start": {"lag_s": 1, "soc": 1.0}},
            ["start.soc: is output, which the unit works out: it cannot be set"],
        ),
    ],
)
def test_every_mistake_is_told_with_its_key_and_the_unit(
    words: dict[str, str], more: dict[str, Any], problems: list[str], tmp_path: Path
) -> None:
    given = spec(changed(tmp_path / "unit.fmu", words), **more)
    if not problems:
        given.located(Path)
        return
    with pytest.raises(ConfigError) as caught:
        given.located(Path)
    assert list(caught.value.problems) == [f"{problem} (unit.fmu)" for problem in problems]


def test_a_unit_is_found_where_its_scenario_is_and_anything_else_stays() -> None:
    given = spec(Path("unit.fmu"))
    found = given.located(lambda name: battery().parent / {"unit.fmu": battery().name}[name])
    assert found.file == str(battery())
    assert found.model_copy(update={"file": "unit.fmu"}) == given

"""What a record says of a device comes back out of it, and what it cannot say is said."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from heron_mqtt.app.calibrate.device import Calibration, calibrate
from heron_mqtt.errors import DataError
from heron_mqtt.record.reader import RecordFile
from powergrid.scenario import scenario_from_dict
from support.recorded_runs import record_run
from support.small_grid import scenario

STEPS = 60
BUSY = {  # the battery works at several powers, up and down
    "microgrids.MG1.policy": {"charge_below": 66.0, "discharge_above": 66.5, "battery_share": 0.4},
    "profiles.start_row": 0,
    **{f"microgrids.{other}": ... for other in ("MG2", "MG3")},  # the battery is alone with its neighbours
}
ESS = "microgrids.MG1.devices.ess"
LAG = {f"{ESS}.emulator": {"response_delay_s": 60.0, "lag_s": 120.0, "offset_mw": 0.0005, "noise_mw": 5e-5}}


SWITCHES = (0.5, -0.4, 0.2, -0.6, 0.0, 0.3, 0.3, -0.3)


def back_and_forth(step: int) -> dict[str, list[float]]:
    """Return actions that work the battery at several powers: gen, ess, pv, q of pv."""
    return {"MG1": [-1.0, SWITCHES[step % len(SWITCHES)], 1.0, 0.0]}


def rated(capacity: float, efficiency: float) -> dict[str, float]:
    """Return a nameplate."""
    one = {f"{ESS}.efficiency_{way}": efficiency for way in ("charge", "discharge")}
    return {f"{ESS}.max_e_mwh": capacity, **one}


def fitted(
    path: Path, changes: Mapping[str, Any], truth: Mapping[str, Any] | None = None, **more: Any
) -> Calibration:
    real = None if truth is None else {**BUSY, **truth}
    record_run(path, steps=STEPS, emulated=True, changes={**BUSY, **changes}, truth=real, **more)
    with RecordFile(path) as record:
        (found,) = calibrate(record, "MG1/ess")
    return found


def test_a_wrong_nameplate_is_put_right(tmp_path: Path) -> None:
    noise = {f"{ESS}.emulator": {"noise_mw": 2e-5}}
    wrong = {
        **noise,
        f"{ESS}.max_e_mwh": 0.04,
        f"{ESS}.efficiency_charge": 0.99,
        f"{ESS}.efficiency_discharge": 0.99,
    }
    right = {
        **noise,
        f"{ESS}.max_e_mwh": 0.03,
        f"{ESS}.efficiency_charge": 0.92,
        f"{ESS}.efficiency_discharge": 0.92,
    }
    found = fitted(tmp_path / "run.heron", wrong, right, actions=back_and_forth)
    for name, value, tolerance in (
        ("max_e_mwh", 0.03, 0.01),
        ("efficiency_charge", 0.92, 0.01),
        ("efficiency_discharge", 0.92, 0.01),
        ("standby_loss_mw", 1e-5, 1.0),
    ):
        estimate = found.of(name)
        assert estimate.value == pytest.approx(value, rel=tolerance), name
        assert estimate.low <= value <= estimate.high, name
    assert "equal both ways" in found.of("max_e_mwh").note
    assert found.after_mw < found.before_mw / 2


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Calibration:
    """Return what is found of a battery with dead time, lag, offset and noise."""
    return fitted(tmp_path_factory.mktemp("slow") / "run.heron", LAG, actions=back_and_forth)


def test_lag_and_offset_are_found_and_told_as_one_where_steps_are_long(slow: Calibration) -> None:
    assert slow.of("offset_mw").value == pytest.approx(0.0005, abs=5e-5)
    assert slow.of("lag_s").value == pytest.approx(180.0, rel=0.1)  # dead time and lag together
    assert "alike" in slow.of("lag_s").note
    assert slow.of("noise_mw").value == pytest.approx(5e-5, rel=0.5)
    assert slow.after_mw < slow.before_mw / 2


@pytest.mark.slow
def test_a_lag_of_about_a_step_is_told_from_dead_time(tmp_path: Path) -> None:
    emulator = {"response_delay_s": 150.0, "lag_s": 600.0, "noise_mw": 1e-6}
    found = fitted(tmp_path / "run.heron", {f"{ESS}.emulator": emulator}, actions=back_and_forth)
    assert found.of("response_delay_s").value == pytest.approx(150.0, rel=0.05)
    assert found.of("lag_s").value == pytest.approx(600.0, rel=0.05)
    assert found.after_mw < found.before_mw / 2


@pytest.mark.slow
def test_a_ramp_is_found(tmp_path: Path) -> None:
    found = fitted(
        tmp_path / "run.heron",
        {f"{ESS}.emulator": {"ramp_mw_per_s": 3e-6, "noise_mw": 1e-6}},
        actions=back_and_forth,
    )
    assert found.of("ramp_mw_per_s").value == pytest.approx(3e-6, rel=0.02)
    assert found.after_mw < found.before_mw / 2


def test_a_quantum_is_seen(tmp_path: Path) -> None:
    found = fitted(tmp_path / "run.heron", {f"{ESS}.emulator": {"noise_mw": 2e-4, "quantum_mw": 1e-4}})
    assert found.of("quantum_mw").value == pytest.approx(1e-4)


def test_what_the_record_cannot_tell_is_said_with_what_would(tmp_path: Path) -> None:
    idle = {"microgrids.MG1.policy": {"charge_below": -1e3, "discharge_above": 1e4}}
    path = tmp_path / "run.heron"
    record_run(path, steps=20, emulated=True, changes=idle)
    with RecordFile(path) as record:
        (found,) = calibrate(record, "MG1/ess")
    assert not found.of("lag_s").is_told
    assert "change it often" in found.of("lag_s").note
    assert not found.of("efficiency_charge").is_told
    assert "hardly discharged or charged" in found.of("efficiency_charge").note


def test_the_fragment_is_read_in_place_of_the_device(tmp_path: Path, slow: Calibration) -> None:
    tables = tomllib.loads(slow.fragment())
    data = scenario({**BUSY, **LAG})
    data["microgrids"]["MG1"]["devices"]["ess"] = tables["microgrids"]["MG1"]["devices"]["ess"]
    table = scenario_from_dict(data).scenario.microgrids["MG1"].devices["ess"]
    assert table.twin.lag_s == pytest.approx(180.0, rel=0.1)
    assert table.emulator.offset_mw == pytest.approx(0.0005, abs=5e-5)
    again = tmp_path / "again.heron"
    record_run(
        again, steps=20, emulated=True, changes={**BUSY, **LAG, f"{ESS}.twin": table.twin.model_dump()}
    )
    with RecordFile(again) as record:
        rows = record.query("SELECT residual_mw FROM device_row WHERE agent = 'MG1' AND device = 'ess'")
        (other,) = calibrate(record, "MG1/ess")
    left = [abs(row["residual_mw"]) for row in rows if row["residual_mw"] is not None]
    assert sum(left) / len(left) < 2e-4  # the gateway's twin knows what the device is like
    assert other.before_mw < 2 * other.after_mw + 1e-6


def test_a_device_that_is_not_there_or_was_not_driven_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.heron"
    record_run(path, steps=3, emulated=True)
    with RecordFile(path) as record:
        with pytest.raises(DataError, match="no device MG1/fridge; there is MG1/ess, MG1/gen"):
            calibrate(record, "MG1/fridge")
        with pytest.raises(DataError, match="answered its setpoint in 3 steps; expected at least 8"):
            calibrate(record, "MG1/ess")
    direct = tmp_path / "direct.heron"
    record_run(direct, steps=3, centralized=True)
    with RecordFile(direct) as record, pytest.raises(DataError, match="no device answered a setpoint"):
        calibrate(record)

"""An emulator that takes its recorded steps once more stands where it stood, faults and noise included."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from heron_mqtt.messages import Fault, RunState
from heron_mqtt.messaging.memory import InMemoryBroker
from heron_mqtt.record.reader import RecordFile
from powergrid.emulators.emulator import Emulator
from powergrid.emulators.faults import FaultState, parse_fault
from powergrid.emulators.history import DeviceHistory, device_history
from powergrid.scenario import scenario_from_dict
from support.recorded_runs import record_run, tampered
from support.small_grid import scenario

pytestmark = pytest.mark.usefixtures("built_once")

STEPS = 8
IMPERFECT = {
    "noise_mw": 1e-4,
    "lag_s": 200.0,
    "ramp_mw_per_s": 1e-5,
    "offset_mw": 1e-4,
    "jitter_s": 0.001,
    "efficiency_factor": 0.9,
}
CHANGES = {f"microgrids.MG1.devices.{name}.emulator": IMPERFECT for name in ("ess", "gen", "pv")}
FAULTS = {"MG1/ess": "stuck@2:3", "MG1/gen": "frozen@3:4", "MG1/pv": "offset@1:5:0.003"}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("history") / "run.heron"
    record_run(found, steps=STEPS, changes=CHANGES, emulated=True, faults=FAULTS)
    return found


def emulator(name: str, history: DeviceHistory) -> Emulator:
    table = scenario_from_dict(scenario(CHANGES)).scenario.microgrids["MG1"].devices[name]
    faults = FaultState(planned=dict([parse_fault(FAULTS[f"MG1/{name}"])]))
    broker = InMemoryBroker()
    device = Emulator(table.spec, table.emulator, faults, "MG1", name, broker, history=history)
    device.begin_episode(RunState(state="reset", scenario="small", seed=3, episode=history.episode))
    return device


def recorded(path: Path, name: str) -> list[Mapping[str, Any]]:
    with RecordFile(path) as record:
        return [
            dict(row)
            for row in record.query(
                "SELECT telemetry_p_mw, telemetry_soc FROM devices WHERE agent = 'MG1' AND device = ? "
                "ORDER BY step",
                name,
            )
        ]


@pytest.mark.parametrize("name", ["ess", "gen", "pv"])
@pytest.mark.parametrize("done", [1, 3, 5, STEPS - 1])
def test_it_shows_what_it_showed_and_goes_on_as_it_would_have(path: Path, name: str, done: int) -> None:
    whole = device_history(path, "MG1", name)
    assert whole is not None
    device = emulator(name, replace(whole, steps=whole.steps[:done]))
    due = recorded(path, name)
    assert device.measure().p_mw == due[done - 1]["telemetry_p_mw"]
    assert device.measure().soc == due[done - 1]["telemetry_soc"]
    device._relive(whole.steps[done : done + 1])  # the step after: the same noise, the same fault
    assert device.measure().p_mw == due[done]["telemetry_p_mw"]
    assert device.measure().soc == due[done]["telemetry_soc"]


def test_one_that_does_not_come_there_goes_on_from_what_it_showed(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = device_history(path, "MG1", "ess")
    assert whole is not None
    moved = replace(whole.steps[0], p_mw=0.004, soc=0.61)
    device = emulator("ess", replace(whole, steps=(moved,)))
    assert (device.measure().p_mw, device.measure().soc) == (0.004, 0.61)
    assert "does not reach its recorded state of step 0" in caplog.text


async def test_a_silent_one_says_where_it_is_until_the_run_goes_on(path: Path) -> None:
    whole = device_history(path, "MG1", "ess")
    assert whole is not None
    silence = replace(whole.steps[0], faults=(Fault(kind="silence", steps=5),))
    device = emulator("ess", replace(whole, steps=(silence,)))
    assert device.shown(device.measure()) == device.measure()
    assert device.on_run_state(RunState(state="running", scenario="small", step=1)) is None
    assert device.shown(device.measure()) is None
    assert device.on_run_state(RunState(state="running", scenario="small", step=6)) is None
    assert device.shown(device.measure()) is not None


def test_another_episode_begins_afresh(path: Path) -> None:
    whole = device_history(path, "MG1", "ess")
    assert whole is not None
    device = emulator("ess", whole)
    device.begin_episode(RunState(state="reset", scenario="small", seed=3, episode=whole.episode + 1))
    assert device.measure().p_mw == 0.0


def test_a_device_without_a_finished_step_has_no_history(path: Path) -> None:
    assert device_history(path, "MG1", "nothing") is None


def test_telemetry_of_a_stranger_does_not_keep_a_device_from_resuming(path: Path, tmp_path: Path) -> None:
    told = ", ".join(
        f"('in', 'devices/MG1/ess/telemetry', 'telemetry', '{payload}', x'00')"
        for payload in ('{"ack_boot": "b", "ack_seq": []}', '{"ack_boot": {}, "ack_seq": 1}', "[]")
    )
    insert = "INSERT INTO message_row (direction, channel, type, payload, hash) VALUES "
    foreign = tampered(path, tmp_path / "foreign.heron", insert + told)
    assert device_history(foreign, "MG1", "ess") == device_history(path, "MG1", "ess")

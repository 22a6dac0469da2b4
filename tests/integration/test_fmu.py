"""A functional mock-up unit in a scenario: the same in every mode, as emulator and as twin."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from powergrid.envs import BatchedMicrogrids, MultiAgentMicrogrids
from support.fmus import EXAMPLE, battery, changed, table
from support.heron_command import heron, run_heron
from support.in_process import emulated_trajectory
from support.mosquitto_server import Mosquitto
from support.small_grid import scenario as small
from support.small_runs import write_scenario
from support.trajectories import assert_same, own_policies, some_random_actions, trajectory


def scenario(file: Path, **more: Any) -> dict[str, Any]:
    return small({"microgrids.MG1.devices.ess": table(file), **more})


def environment(file: Path, *, centralized: bool = True) -> MultiAgentMicrogrids:
    return MultiAgentMicrogrids(
        {"scenario": scenario(file), "centralized": centralized, "observation": "full"}
    )


def _of_the_grid(step: dict[str, Any]) -> dict[str, Any]:
    """Return a step without what only a gateway says: authority, and what bound a setpoint."""
    return {k: v for k, v in step.items() if "/authority" not in k and "/bounds/" not in k}


@pytest.mark.slow_but("some_random_actions-3")  # units of both standards do the same: test_fmu.py of devices
@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("act", [own_policies, some_random_actions])
def test_it_is_the_same_by_direct_calls_over_messages_and_with_emulators(version: int, act: Any) -> None:
    central = trajectory(environment(battery(version)), act)
    over_messages = environment(battery(version), centralized=False)
    assert_same(central, trajectory(over_messages, act))
    over_messages.close()
    steps, devices = emulated_trajectory(scenario(battery(version)), act)
    assert_same(*[[_of_the_grid(step) for step in each] for each in (central, steps)])
    assert devices["MG1/ess"]["setpoints"] > 0
    assert devices["MG1/ess"]["residual_mw"] == 0.0  # the twin is the unit, too
    assert len({s["info/MG1/p_mw/ess"] for s in central[1:]}) > 2


def test_in_a_batch_each_copy_is_a_single_environment() -> None:
    batch = BatchedMicrogrids({"scenario": scenario(battery()), "observation": "full", "num_envs": 2})
    rows = [28, 40]
    batch.reset(options={"start_rows": rows})
    singles = [environment(battery()) for _ in rows]
    for single, row in zip(singles, rows, strict=True):
        single.reset(seed=1, options={"start_row": row})
    rng = np.random.default_rng(5)
    for _ in range(4):
        actions = {a: rng.uniform(-1, 1, batch.action_space(a).shape) for a in batch.agents}
        *_, infos = batch.step(actions)
        for copy, single in enumerate(singles):
            *_, alone = single.step({a: values[copy] for a, values in actions.items()})
            assert infos["MG1"]["soc"]["ess"][copy] == alone["MG1"]["soc"]["ess"]


@pytest.mark.parametrize("can_go_back", [True, False])
def test_a_state_of_the_environment_can_be_put_back(can_go_back: bool, tmp_path: Path) -> None:
    words = {} if can_go_back else {"canGetAndSetFMUstate": "canRunAsynchronuously"}
    env = environment(changed(tmp_path / "unit.fmu", words))
    env.reset(seed=1)
    env.step({})
    state = env.get_state()
    first = [env.step({})[4]["MG1"]["soc"]["ess"] for _ in range(3)]
    env.set_state(state)
    assert [env.step({})[4]["MG1"]["soc"]["ess"] for _ in range(3)] == first


@pytest.fixture
def example(tmp_path: Path) -> Path:
    """The example as its reader has it, built as its head says."""
    folder = tmp_path / "fmu_battery"
    shutil.copytree(EXAMPLE, folder)
    subprocess.run([sys.executable, "build.py"], cwd=folder, check=True)
    return folder


@pytest.mark.slow
def test_the_example_is_built_checked_and_run_with_an_emulator_of_its_own(
    example: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    checked = run_heron("check", "scenario.toml", cwd=example)
    assert checked.code == 0, checked.err
    assert "MG1/ess: fmu at" in checked.out
    runs = [
        run_heron("run", "scenario.toml", "--steps", "12", "--json", "--no-record", *more, cwd=example)
        for more in (["--centralized"], ["--broker", "embedded"])
    ]
    for done in runs:
        assert done.code == 0, done.err
    assert runs[0].result["rewards"] == pytest.approx(runs[1].result["rewards"], abs=1e-9)
    assert runs[1].result["fallbacks"] == 0
    assert runs[1].result["devices"]["MG1/ess"]["authority"] == "emulated"
    assert not list(tmp_path.glob("heron-fmu-*")), "what was unpacked stays"


@pytest.mark.slow
def test_in_shadow_its_twin_follows_a_device_that_is_such_a_unit(
    mosquitto: Mosquitto, env_id: str, tmp_path: Path
) -> None:
    at = "microgrids.MG1.devices"
    file = write_scenario(
        tmp_path,
        {
            "env_id": env_id,
            f"{at}.ess": {**table(battery()), "authority": "shadow", "external": True},
            **{f"{at}.{name}.authority": "simulated" for name in ("gen", "pv")},
        },
    )
    broker = ["--broker", mosquitto.url]
    with heron("device", "fmu", "--agent=MG1", "--name=ess", f"--scenario={file}", *broker) as device:
        device.wait_for("fmu MG1/ess online")
        done = run_heron(
            *("run", str(file), *broker, "--steps", "4", "--realtime", "0.3", "--json", "--devices"),
            "simulated",
        )
    assert done.code == 0, done.err
    seen = done.result["devices"]["MG1/ess"]
    assert (seen["authority"], seen["setpoints"]) == ("shadow", 0)
    assert seen["telemetry"] > 0
    assert abs(seen["residual_mw"]) < 1e-9


@pytest.mark.slow_but("mode0")
@pytest.mark.parametrize("mode", [["--centralized"], ["--broker", "memory"], ["--broker", "embedded"]])
def test_a_unit_that_fails_ends_the_run_as_a_failure(mode: list[str], example: Path) -> None:
    file = example / "scenario.toml"
    file.write_text(file.read_text() + "fail_at_s = 1800.0\n")
    done = run_heron("run", str(file), "--steps", "6", "--json", "--no-record", *mode)
    assert done.code == 1
    assert done.result["steps"] == 2
    assert "failed in the step from 1800 s" in done.result["error"]
    (line,) = done.errors
    assert "the cells are too hot" in line
    assert "Traceback" not in done.err


def test_check_names_every_mistake_with_its_key(example: Path) -> None:
    file = example / "scenario.toml"
    file.write_text(file.read_text().replace('"p_set"', '"p_sett"').replace("lag_s", "lag_min"))
    done = run_heron("check", str(file))
    assert done.code == 2
    where = f"{file}: microgrids.MG1.devices.ess"
    assert f"{where}.p_setpoint.variable: the unit has no variable 'p_sett'" in done.errors[0]
    assert f"{where}.start.lag_min: the unit has no variable 'lag_min'" in done.errors[1]
    (example / "battery.fmu").unlink()
    gone = run_heron("check", str(file))
    assert gone.code == 2
    assert f"{where}.file = '{example / 'battery.fmu'}': no such file" in gone.errors[0]

"""A box that reports only what changes, on a real broker: driven, tried, and lost when its will says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from support.heron_command import heron, run_heron, until
from support.mosquitto_server import Mosquitto
from support.scripted_box import ScriptedBox
from support.small_runs import write_scenario


def quiet(url: str, base: str) -> ScriptedBox:
    return ScriptedBox(url, base, reports_changes=True)


@pytest.fixture(scope="module")
def mosquitto(file_mosquitto: Mosquitto) -> Mosquitto:
    """One of this file's own: a stop that another test left, in whatever environment, forbids a trial."""
    return file_mosquitto


@pytest.mark.slow_but("cut")
@pytest.mark.parametrize("ends", ["well", "cut"])
def test_it_is_driven_while_its_will_has_not_spoken(
    mosquitto: Mosquitto, env_id: str, tmp_path: Path, ends: str
) -> None:
    box = quiet(mosquitto.url, f"quiet/{env_id}")
    at = "microgrids.MG1.devices.ess"
    changes: dict[str, Any] = {
        f"microgrids.{agent}.devices.{name}.authority": "simulated"
        for agent in ("MG1", "MG2", "MG3")
        for name in ("gen", "ess", "pv")
    }
    changes |= {f"{at}.authority": "full", f"{at}.mapping": box.mapping(tmp_path).name}
    changes |= {f"{at}.gateway": {"stale_after_s": 0.5, "gate_steps": 1}, "env_id": env_id}
    # it is asked for nothing at all prices: for longer than its power counts there is nothing to report
    changes["microgrids.MG1.policy"] = {"charge_below": -1e4, "discharge_above": 1e4}
    file = write_scenario(tmp_path, changes)
    with (
        box,
        heron(
            *("run", str(file), "--broker", mosquitto.url, "--realtime", "0.8", "--steps", "6", "--json"),
            "--no-record",
        ) as program,
    ):
        until(lambda: len(box.told) >= 2, "setpoints", 40.0)
        if ends == "cut":
            box.cut()
        done = program.wait()
    # Whether one that was cut off has heard its release cannot be known.
    assert done.code == (1 if ends == "cut" else 0), done.err
    assert ("its release was sent while it was not there" in done.err) is (ends == "cut")
    device = done.result["devices"]["MG1/ess"]
    if ends == "well":
        assert device["fallbacks"] == 0
        assert device["setpoints"] == 6
    else:
        assert device["fallbacks"] >= 2
        assert device["setpoints"] < 6
        assert "not reported since the device went offline" in done.err


@pytest.mark.slow
def test_one_setpoint_is_tried_on_it(mosquitto: Mosquitto, env_id: str, tmp_path: Path) -> None:
    with quiet(mosquitto.url, f"quiet/{env_id}") as box:
        done = run_heron(
            *("probe", "--broker", mosquitto.url, "--mapping", str(box.mapping(tmp_path)), "--yes"),
            *("--send", "400W", "--for", "2s", "--listen", "1", "--env-id", env_id, "--json"),
        )
    assert done.code == 0, done.out + done.err
    assert {v["good"] for v in json.loads(done.out)["verdicts"].values()} == {True}

"""A box that speaks often and is gone in the last seconds of a run: its broker acknowledges its release."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from support.heron_command import heron, until
from support.mosquitto_server import Mosquitto
from support.scripted_box import ScriptedBox
from support.small_runs import write_scenario


@pytest.mark.slow
@pytest.mark.parametrize("is_gone", [False, True])
def test_its_release_is_not_known_to_be_taken_and_the_run_does_not_end_well(
    file_mosquitto: Mosquitto, env_id: str, tmp_path: Path, is_gone: bool
) -> None:
    """Quick counterpart: unit/field/vendor/test_vendor_device.py, a box that is late at the end."""
    box = ScriptedBox(file_mosquitto.url, f"talking/{env_id}", gain=0.0)
    at = "microgrids.MG1.devices.ess"
    changes: dict[str, Any] = {
        f"microgrids.{agent}.devices.{name}.authority": "simulated"
        for agent in ("MG1", "MG2", "MG3")
        for name in ("gen", "ess", "pv")
    }
    changes |= {f"{at}.authority": "full", f"{at}.mapping": box.mapping(tmp_path).name, "env_id": env_id}
    changes |= {f"{at}.gateway": {"stale_after_s": 5.0, "gate_steps": 1}}
    changes["microgrids.MG1.policy"] = {"charge_below": -1e4, "discharge_above": 1e4}
    file = write_scenario(tmp_path, changes)
    with (
        box,
        heron(
            *(
                "run",
                str(file),
                "--broker",
                file_mosquitto.url,
                "--realtime",
                "1.2",
                "--steps",
                "10",
                "--json",
            ),
            "--no-record",
        ) as program,
    ):
        until(
            lambda: sum(topic.endswith("/set") for topic, _ in box.told) >= 8, "setpoints", 60.0
        )  # gone for less than it may be silent
        if is_gone:
            box.leave()
        done = program.wait()
    assert done.code == (1 if is_gone else 0), done.err
    assert ("it is not known whether it accepted its release: it has sent nothing for" in done.err) is is_gone
    assert box.is_released is not is_gone

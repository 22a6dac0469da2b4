"""The example of a device kind in a package of its own: known by its entry point, and a kind like others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from powergrid.devices import DEVICES
from powergrid.envs import BatchedMicrogrids, MultiAgentMicrogrids
from support.doc_pages import ROOT, blocks
from support.heron_command import write_toml
from support.small_grid import scenario

EXAMPLE = ROOT / "docs" / "examples" / "wind_turbine"
CUT_IN_MW = 0.004
START_ROW = scenario().get("profiles", {}).get("start_row", 0)


def with_turbine() -> dict[str, Any]:
    """The small scenario with a turbine at MG1, whose wind is the shipped one."""
    table = scenario()
    grid = table["microgrids"]["MG1"]
    grid["devices"]["wt"] = {
        "kind": "wind_turbine",
        "max_p_mw": 0.02,
        "cut_in_mw": CUT_IN_MW,
        "profile": "wind_pu",
    }
    return table


def test_it_gives_what_the_wind_offers_from_its_cut_in_power_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(EXAMPLE)
    from wind_turbine import WindTurbine, WindTurbineSpec

    turbine = WindTurbine(WindTurbineSpec(max_p_mw=0.02, cut_in_mw=CUT_IN_MW))
    for offered_mw, told_mw, p_mw in (
        (0.01, 0.02, 0.01),
        (0.01, 0.006, 0.006),
        (CUT_IN_MW, 0.02, CUT_IN_MW),
        (0.0039, 0.02, 0.0),
        (0.03, 0.05, 0.02),
    ):
        assert turbine.step(told_mw, 0.0, 900.0, offered_mw).p_mw == p_mw
    with DEVICES.added(WindTurbine):
        batch = BatchedMicrogrids({"scenario": with_turbine(), "num_envs": 2})
        env = MultiAgentMicrogrids({"scenario": with_turbine()})
        env.reset(seed=0)
        batch.reset(seed=[0, 0], options={"start_rows": [START_ROW] * 2})
        for _ in range(3):
            _, reward, _, _, infos = env.step({})
            _, rewards, _, _, _ = batch.step({})
            assert 0.0 < infos["MG1"]["p_mw"]["wt"] <= 0.02
            assert list(rewards["MG1"]) == [reward["MG1"]] * 2
        env.close()


@pytest.mark.slow
def test_an_entry_point_makes_it_known_to_every_program(tmp_path: Path) -> None:
    points = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]["entry-points"]
    (shown,) = [b for b in blocks(ROOT / "docs" / "scenarios.md", "text") if "entry-points" in b.text]
    assert tomllib.loads(shown.text)["project"]["entry-points"] == points
    installed = tmp_path / "wind_turbine-0.1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: wind-turbine\nVersion: 0.1.0\n")
    rows = [f"[{group}]\n{name} = {place}" for group, them in points.items() for name, place in them.items()]
    (installed / "entry_points.txt").write_text("\n".join(rows) + "\n")
    file = write_toml(tmp_path / "site.toml", with_turbine())
    path = os.pathsep.join([str(ROOT), str(EXAMPLE), str(tmp_path)])

    def told(*arguments: str) -> Any:
        done = subprocess.run(
            [sys.executable, "-m", "heron_mqtt", *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    assert told("run", str(file), "--steps", "4", "--strict", "--json")["devices"]["MG1/wt"]["setpoints"] == 4
    kinds = told("schema", "scenario")["$defs"]["DeviceTable"]["oneOf"]
    assert "cut_in_mw" in next(one for one in kinds if one["title"] == "wind_turbine")["properties"]

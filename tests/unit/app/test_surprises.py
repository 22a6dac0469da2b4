"""What will probably surprise is said by check, and nothing where nothing will."""

from __future__ import annotations

from typing import Any

import pytest

from heron_mqtt.app.surprises import surprises
from powergrid.scenario import load_scenario, scenario_from_dict
from powergrid.simulation.build import build
from powergrid.simulation.grid_simulation import GridSimulation
from support.small_grid import scenario


def found(changes: dict[str, Any] | None = None) -> list[str]:
    loaded = scenario_from_dict(scenario(changes))
    return list(surprises(GridSimulation(build(loaded))))


@pytest.mark.slow_but("hil_battery", "neighbourhood")
@pytest.mark.parametrize("name", ["three_microgrids", "hil_battery", "mw_microgrids", "neighbourhood"])
def test_the_shipped_scenarios_hold_few_surprises(name: str) -> None:
    loaded = load_scenario(name)
    told = list(surprises(GridSimulation(build(loaded))))
    assert [text for text in told if not text.startswith("deadlines: ")] == []


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"microgrids.MG1.buses": [2, 3, 4, 5, 3]}, "microgrids.MG1.buses: 3 is named more than once"),
        ({"microgrids.MG1.devices.ess.bus": 12}, "microgrids.MG1.devices.ess: its bus "),
        (
            {"microgrids.MG1.devices.pv.max_p_mw": 3000.0, "microgrids.MG1.devices.pv.s_max_mva": 3000.0},
            "MW?",
        ),
        (
            {"microgrids.MG1.policy": {"charge_below": -500.0, "discharge_above": 900.0}},
            "microgrids.MG1.policy: the price stays between ",
        ),
        ({"realtime_s": 1.0, "lease_s": 2.0}, "lease_s = 2: shorter than 3 steps of 1 s"),
        ({"lease_s": 0.05}, "lease_s = 0.05: as fast as possible a step with devices takes"),
        (
            {"faults": [{"at_step": 96, "device": "MG1/ess", "kind": "stuck"}]},
            "faults[0].at_step = 96: the run has ",
        ),
        ({"network.vm_pu": 1.06}, "above reward.vm_max_pu = 1.05, with the least load"),
        ({"reward.vm_min_pu": 0.999}, "below reward.vm_min_pu = 0.999, with the least load"),
        ({"realtime_s": 1.0}, "deadlines: one step may wait 15 s"),
    ],
)
def test_what_surprises_is_said(changes: dict[str, Any], told: str) -> None:
    assert any(told in text for text in found(changes)), found(changes)


def test_what_is_as_it_should_be_is_not() -> None:
    assert found() == []

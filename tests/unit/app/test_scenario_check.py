"""What check says of a scenario before anything runs."""

from __future__ import annotations

from typing import Any

import pytest

from heron_mqtt.app.scenario_check import describe
from heron_mqtt.errors import ConfigError
from powergrid.scenario import LoadedScenario, scenario_from_dict
from support.small_grid import scenario


def on_fixed_point(network: str, *buses: int) -> LoadedScenario:
    battery: dict[str, Any] = {"kind": "battery", "max_e_mwh": 2.0}
    battery |= {"max_p_charge_mw": 0.1, "max_p_discharge_mw": 0.1}
    microgrids = {
        f"MG{n}": {"buses": [bus], "devices": {"ess": {"bus": bus, **battery}}}
        for n, bus in enumerate(buses, 1)
    }
    data = {**scenario(), "network": {"source": network, "solver": "fixed_point"}, "microgrids": microgrids}
    return scenario_from_dict(data)


def test_a_solver_that_does_not_suit_the_network_is_refused_before_a_run() -> None:
    with pytest.raises(ConfigError, match=r"network\.solver: 'fixed_point' does not suit case118.*newton"):
        list(describe(on_fixed_point("case118", 10, 50)))


def test_a_solver_that_holds_the_voltages_of_few_generators_is_taken() -> None:
    assert "solver fixed_point" in "".join(describe(on_fixed_point("case14", 8, 10)))

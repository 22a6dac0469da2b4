"""The shipped scenarios show what they are shipped for: every device acts, the grid stays within limits."""

from __future__ import annotations

from collections import defaultdict

import pytest

from powergrid.envs import MultiAgentMicrogrids


@pytest.mark.slow_but("three_microgrids")
@pytest.mark.parametrize("name", ["three_microgrids", "mw_microgrids"])
def test_in_a_day_every_device_acts_and_nothing_breaks(name: str) -> None:
    env = MultiAgentMicrogrids({"scenario": name})
    env.reset()
    given: dict[tuple[str, str], set[float]] = defaultdict(set)
    traded_mwh = 0.0
    while env.agents:
        _, _, terminations, _, infos = env.step({})
        assert not any(terminations.values()), "the power flow diverged"
        for agent, info in infos.items():
            traded_mwh += sum(trade.mwh for trade in info["trades"] if trade.seller == agent)
            assert info["void_trades"] == []
            assert info["vm_pu"]["min"] > 0.93
            assert info["vm_pu"]["max"] < 1.07
            assert info["loading_max_percent"] < 100.0
            for device, p_mw in info["p_mw"].items():
                given[agent, device].add(p_mw)
    assert traded_mwh > 0.1
    for (agent, device), powers in given.items():
        spec = env.scenario.microgrids[agent].devices[device].spec
        where = f"{agent}/{device}"
        match spec.kind:
            case "battery":
                assert min(powers) < -0.1 * spec.max_p_charge_mw, f"{where} never charges"
                assert max(powers) > 0.1 * spec.max_p_discharge_mw, f"{where} never discharges"
            case "generator":
                assert 0.0 in powers, f"{where} never rests"
                assert max(powers) > 0.5 * spec.max_p_mw, f"{where} never works"
            case "pv":
                assert max(powers) > 0.1 * spec.max_p_mw, f"{where} has no sun"

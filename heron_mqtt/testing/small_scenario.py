"""A scenario on a small grid, quick to build: three microgrids along one low-voltage feeder.

Kerber's rural network 1 (15 buses, 13 loads of 8 kW, a 160 kVA transformer), cut into three, with the
shipped profiles. Powers are of the order of 10 kW.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

BUSES = {"MG1": [2, 3, 4, 5], "MG2": [6, 7, 8, 9], "MG3": [10, 11, 12, 13, 14]}

_DEVICES: dict[str, dict[str, Any]] = {
    "gen": {
        "kind": "generator",
        "max_p_mw": 0.02,
        "min_p_mw": 0.004,
        "ramp_mw_per_s": 0.00001,
        "cost_a_usd_per_h": 0.05,
        "cost_b_usd_per_mwh": 45.0,
        "cost_c_usd_per_mw2h": 600.0,
        "start_cost_usd": 0.02,
    },
    "ess": {
        "kind": "battery",
        "max_e_mwh": 0.03,
        "max_p_charge_mw": 0.008,
        "max_p_discharge_mw": 0.01,
        "efficiency_charge": 0.95,
        "efficiency_discharge": 0.95,
        "min_soc": 0.1,
        "max_soc": 0.9,
        "standby_loss_mw": 0.00001,
    },
    "pv": {"kind": "pv", "max_p_mw": 0.02, "s_max_mva": 0.022, "profile": "pv_1_pu", "control_q": True},
}


def small_scenario(
    changes: Mapping[str, Any] | None = None, names: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Return the scenario as a dict.

    Args:
        changes: Values by dotted key (``"network.vm_pu"``); ``...`` takes the key out.
        names: Other names for MG1, MG2 and MG3.
    """
    data: dict[str, Any] = {
        "name": "small",
        "steps": 12,
        "step_s": 900.0,
        "network": {"source": "create_kerber_landnetz_freileitung_1"},
        "profiles": {"start_row": 28},  # 07:00: the sun rises, loads and prices move
        "market": {"import_adder_per_mwh": 20.0},
        # short waits: in a test a message that is late never comes
        "deadlines": {"upstream_s": 5.0, "peer_s": 5.0, "device_s": 5.0, "action_s": 20.0, "ready_s": 20.0},
        "microgrids": {
            (names or {}).get(name, name): {
                "buses": buses,
                "loads": {"p": f"{kind}_p_pu", "q": f"{kind}_q_pu"},
                "policy": {"charge_below": 63.0, "discharge_above": 75.0},
                "devices": copy.deepcopy(_DEVICES),
            }
            for (name, buses), kind in zip(
                BUSES.items(), ("residential", "industrial", "commercial"), strict=True
            )
        },
    }
    for key, value in (changes or {}).items():
        *path, leaf = key.split(".")
        table = data
        for part in path:
            table = table.setdefault(part, {})
        if value is ...:
            del table[leaf]
        else:
            table[leaf] = value
    return data

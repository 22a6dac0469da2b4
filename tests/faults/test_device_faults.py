"""Each fault of an emulator in a short run: what stands in, what is said of it, and that it comes back."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest

from heron_mqtt.messages import Fault, FaultKind
from powergrid.emulators.emulator import Emulator
from powergrid.emulators.faults import FaultState
from powergrid.envs import MultiAgentMicrogrids
from powergrid.scenario import scenario_from_dict
from support.field_rig import OpenMemoryBroker
from support.small_grid import scenario as small

AT, FOR, STEPS = 3, 3, 10
FIRST, LAST = AT, AT + FOR - 1
# Whether its model stands in, or else what is said beside what it measures; None: not known at once.
EXPECTED: dict[FaultKind, tuple[bool, str]] = {
    "silence": (True, "no telemetry before the deadline"),
    "garbage": (True, "its telemetry was refused"),
    "reboot": (True, "no telemetry before the deadline"),
    "reject_setpoints": (False, "rejected by the device: fault on demand: this device rejects setpoints"),
    "ignore_setpoints": (False, "not acknowledged by the device; what it measures is used"),
    "stuck": (False, "not followed by the device"),
    "frozen": (False, "not followed by the device"),
    "offset": (False, "not followed by the device"),
}


pytestmark = pytest.mark.usefixtures("built_once")


@pytest.mark.parametrize("kind", EXPECTED)
async def test_a_fault_is_survived_named_and_over_when_it_is_over(kind: FaultKind) -> None:
    stands_in, why = EXPECTED[kind]
    deadlines = {"upstream_s": 2.0, "peer_s": 2.0, "device_s": 0.15, "action_s": 10.0, "ready_s": 10.0}
    changes: dict[str, Any] = {"steps": STEPS, "deadlines": deadlines}
    for agent in ("MG1", "MG2", "MG3"):
        for name in ("gen", "ess", "pv"):
            level = "emulated" if (agent, name) in {("MG1", "ess"), ("MG2", "ess")} else "simulated"
            changes[f"microgrids.{agent}.devices.{name}.authority"] = level
        changes[f"microgrids.{agent}.devices.ess.max_e_mwh"] = 0.5
    loaded = scenario_from_dict(small(changes))
    broker = OpenMemoryBroker()
    planned = {AT: Fault(kind=kind, steps=FOR, value=0.002)}
    tasks = []
    for agent, faults in (("MG1", planned), ("MG2", {})):
        table = loaded.scenario.microgrids[agent].devices["ess"]
        device = Emulator(
            table.spec, table.emulator, FaultState(planned=faults), agent, "ess", broker,
            env_id="small", period_s=0.02,
        )  # fmt: skip
        tasks.append(asyncio.create_task(device.run()))
    env = MultiAgentMicrogrids(
        {"scenario": loaded, "centralized": False, "message_broker": broker, "devices": "emulated"}
    )
    await env.reset_async(seed=1)
    said: list[dict[str, Any]] = []
    powers = [0.5, -0.2, 0.5, -0.5, 0.7, -0.7, 0.3, -0.3, 0.5, -0.5]  # never the same twice: stuck shows
    socs = []
    while env.agents:
        action = {a: [powers[len(said)]] * env.action_space(a).shape[0] for a in ("MG1", "MG2")}
        _, _, _, _, infos = await env.step_async(action)
        said.append(infos)
        socs.append(infos["MG1"]["soc"]["ess"])
    report = env.device_reports()
    await env.close_async()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)

    stood_in = [k for k, infos in enumerate(said) if "ess" in infos["MG1"]["fallbacks"]]
    noted = [k for k, infos in enumerate(said) if why in infos["MG1"]["bounds"].get("ess", "")]
    if stands_in:
        assert set(range(FIRST, LAST + 1)) <= set(stood_in) <= set(range(FIRST, LAST + 3))
        assert said[FIRST]["MG1"]["fallbacks"]["ess"] in {why, "device offline"}
    else:
        assert noted, [infos["MG1"]["bounds"] for infos in said]
        assert set(noted) <= set(range(FIRST, LAST + 3))
        assert set(stood_in) <= {FIRST}, "what it measures is the truth"
    assert report["MG1/ess"]["fallbacks"] == len(stood_in)
    assert all("ess" not in said[k]["MG1"]["fallbacks"] for k in (0, 1, 2, STEPS - 1)), "it comes back"
    spec = loaded.scenario.microgrids["MG1"].devices["ess"].spec
    most = 0.01 * 0.25 / 0.5 / 0.9  # of one step at full power
    jumps = [abs(b - a) for a, b in itertools.pairwise(socs)]
    assert max(jumps) <= most * (FOR + 2), (spec, socs)
    assert report["MG2/ess"]["fallbacks"] == 0, "the other device does not suffer"
    assert all("ess" not in infos["MG2"]["bounds"] for infos in said)

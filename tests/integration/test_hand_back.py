"""A run whose device does not take its release: it says so, and does not end as if all were well.

Quick counterparts: ``tests/unit/field/gateway/test_hand_back.py``.
"""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest

from heron_mqtt.app.operator_client import why_not_handed_back
from heron_mqtt.field.device import FieldDevice
from heron_mqtt.messages import AuthorityState, Setpoint, Telemetry
from heron_mqtt.messaging.mqtt import MqttBroker
from support.heron_command import Ended, heron, run_heron, write_toml
from support.mosquitto_server import Mosquitto
from support.small_grid import scenario as small

P_MW = 0.002


class Stubborn(FieldDevice):
    """A battery that follows setpoints and, while ``refuses``, cannot be put into its safe state."""

    kind = "battery"
    refuses = True

    def __init__(self, broker: MqttBroker) -> None:
        super().__init__("MG1", "ess", broker, env_id="small")
        self.p_mw = 0.0

    def nameplate(self) -> dict[str, float]:
        return {"p_min_mw": -P_MW, "p_max_mw": P_MW, "max_e_mwh": 10.0, "soc": 0.5}

    def apply(self, setpoint: Setpoint) -> None:
        self.p_mw = setpoint.p_mw

    def measure(self) -> Telemetry:
        return Telemetry(p_mw=self.p_mw, soc=0.5)

    def go_safe(self, reason: str) -> None:
        if self.refuses and self.p_mw:
            raise RuntimeError("the contactor is stuck")
        self.p_mw = 0.0


class Seldom(Stubborn):
    """Measures every 3 s, and says how old that is in between."""

    refuses = False
    measured_at = -1e9

    def measure(self) -> Telemetry:
        now_s = time.monotonic()
        if now_s >= self.measured_at + 3.0:
            self.measured_at, self.measured_mw = now_s, self.p_mw
        return Telemetry(p_mw=self.measured_mw, soc=0.5, age_s=now_s - self.measured_at)


def scenario(folder: Path, steps: int) -> str:
    others = {
        f"microgrids.{agent}.devices.{device}.authority": "simulated"
        for agent in ("MG1", "MG2", "MG3")
        for device in ("gen", "pv", "ess")
    }
    changes = {
        **others,
        "lease_s": 5.0,
        "realtime_s": 0.05,
        "steps": steps,
        "profiles.repeat": True,
        "microgrids.MG1.policy": {"charge_below": 1.0, "discharge_above": 2.0, "battery_share": 0.2},
        "microgrids.MG1.devices.ess.max_e_mwh": 10.0,  # it discharges all the time
        "microgrids.MG1.devices.ess.external": True,
        "microgrids.MG1.devices.ess.authority": "limited",
        "microgrids.MG1.devices.ess.gateway": {
            "band": {"p_min_mw": -P_MW, "p_max_mw": P_MW},
            "stale_after_s": 5.0,
            "gate_steps": 1,
        },
    }
    return str(write_toml(folder / "small.toml", small(changes)))


@pytest.fixture
def device_and_url(own_mosquitto: Any) -> str:
    server: Mosquitto = own_mosquitto()
    return server.url


async def with_device(url: str, work: Any, kind: type[Stubborn] = Stubborn) -> Any:
    async with MqttBroker(url, env_id="small") as broker:
        device = kind(broker)
        online = asyncio.Event()
        serving = asyncio.create_task(device.run(on_online=online.set))
        await online.wait()
        try:
            return await work(device)
        finally:
            device.refuses = False
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)


@pytest.mark.slow
async def test_a_run_whose_device_does_not_take_its_release_names_it_and_fails(
    device_and_url: str, tmp_path: Path
) -> None:
    path, record = scenario(tmp_path, 12), str(tmp_path / "run.heron")

    async def work(device: Stubborn) -> Ended:
        words = ("run", path, "--broker", device_and_url, "--json", "--record", record)
        return await asyncio.to_thread(run_heron, *words)

    ended: Ended = await with_device(device_and_url, work)
    assert ended.code == 1
    why = "it is in a fault: go_safe failed: RuntimeError: the contactor is stuck; it measures 2 kW"
    assert json.loads(ended.out)["not_handed_back"] == {"MG1/ess": why}
    assert ended.errors[-1] == f"heron-mqtt: MG1/ess: released, and does not show it: {why}"


@pytest.mark.slow
async def test_a_run_waits_for_a_device_that_measures_seldom_to_show_its_release(
    device_and_url: str, tmp_path: Path
) -> None:
    path = scenario(tmp_path, 90)

    async def work(device: Stubborn) -> Ended:
        words = ("run", path, "--broker", device_and_url, "--json", "--no-record", "--strict")
        return await asyncio.to_thread(run_heron, *words)

    ended: Ended = await with_device(device_and_url, work, Seldom)
    assert json.loads(ended.out)["not_handed_back"] == {}
    assert json.loads(ended.out)["devices"]["MG1/ess"]["setpoints"] > 0
    assert ended.code == 0, ended.err


async def test_a_device_has_as_long_to_show_its_release_as_the_answer_of_its_gateway_says(
    device_and_url: str,
) -> None:
    async with MqttBroker(device_and_url, env_id="small") as broker:

        async def left(lease: str, hand_back_s: float) -> str | None:
            told = {"type": "lease", "state": lease, "holder": "MG1", "lease_s": 5.0}
            await broker.publish("devices/MG1/ess/lease", told, retain=True)
            answer = AuthorityState(level="shadow", env_id="small", hand_back_s=hand_back_s)
            return await why_not_handed_back(device_and_url, None, "MG1/ess", answer)

        assert await left("held", 0.1) == "it has not accepted its release within 0.1 s: it is silent"
        waiting = asyncio.create_task(left("held", 60.0))
        await asyncio.sleep(0.5)
        assert not waiting.done()
        assert await left("free", 60.0) is None
        assert await waiting is None


@pytest.mark.slow
async def test_a_demotion_that_the_device_does_not_take_fails_and_one_that_it_takes_does_not(
    device_and_url: str, tmp_path: Path
) -> None:
    path = scenario(tmp_path, 600)
    words = ("authority", "MG1/ess", "shadow", "--broker", device_and_url, "--env-id", "small")

    async def work(device: Stubborn) -> tuple[Ended, Ended]:
        with heron("run", path, "--broker", device_and_url, "--strict", "--no-record") as program:
            async with asyncio.timeout(30.0):
                while device.p_mw != P_MW:
                    await asyncio.sleep(0.05)
            stuck = await asyncio.to_thread(run_heron, *words)
            device.refuses = False
            async with asyncio.timeout(10.0):
                while device.p_mw:
                    await asyncio.sleep(0.05)
            taken = await asyncio.to_thread(run_heron, *words)
            program.signal(2)
            await asyncio.to_thread(program.wait)
            return stuck, taken

    stuck, taken = await with_device(device_and_url, work)
    assert (stuck.code, taken.code) == (1, 0)
    assert (
        "MG1/ess: it has not accepted its release within 5 s: it is fault (go_safe failed: Run" in stuck.err
    )
    assert "it measures 2 kW" in stuck.err

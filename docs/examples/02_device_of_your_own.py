"""A field device of one's own: a battery inverter that can only be set in whole kilowatts.

    python docs/examples/02_device_of_your_own.py
    python docs/examples/02_device_of_your_own.py --broker mqtt://127.0.0.1:1883

The first runs a scenario with this device as MG1/ess; the second is the device alone, until Ctrl-C.
Replace the four methods by calls to your hardware.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
from typing import Any

from heron_mqtt.errors import HeronError
from heron_mqtt.field.device import FieldDevice
from heron_mqtt.messages import Setpoint, Telemetry
from heron_mqtt.messaging.embedded import EmbeddedBroker
from heron_mqtt.messaging.mqtt import MqttBroker
from powergrid.envs import MultiAgentMicrogrids
from powergrid.scenario import load_scenario

RATED_MW = 0.05
CAPACITY_MWH = 0.2


class WholeKilowattInverter(FieldDevice):
    """An ideal battery behind an inverter with a resolution of 1 kW."""

    kind = "battery"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.p_mw = 0.0  # positive = discharging into the grid
        self.soc = 0.5

    def apply(self, setpoint: Setpoint) -> None:
        """Tell the hardware. Simulated time passes only here: ``dt_s`` is for emulated devices."""
        dt_h = (setpoint.dt_s or 0.0) / 3600.0
        self.p_mw = round(max(-RATED_MW, min(RATED_MW, setpoint.p_mw)), 3)
        if dt_h > 0.0:  # no further than the cells allow
            self.p_mw = max(
                min(self.p_mw, self.soc * CAPACITY_MWH / dt_h), (self.soc - 1) * CAPACITY_MWH / dt_h
            )
        self.soc = min(1.0, max(0.0, self.soc - self.p_mw * dt_h / CAPACITY_MWH))

    def measure(self) -> Telemetry:
        """Ask the hardware."""
        return Telemetry(p_mw=self.p_mw, soc=self.soc)

    def go_safe(self, reason: str) -> None:
        """Called when no newer setpoint arrived within the lease."""
        self.p_mw = 0.0

    def nameplate(self) -> dict[str, Any]:
        """Say at birth what the device is."""
        return {"p_min_mw": -RATED_MW, "p_max_mw": RATED_MW, "max_e_mwh": CAPACITY_MWH, "soc": self.soc}


async def serve(url: str, env_id: str) -> None:
    """Be MG1/ess at a broker until cancelled."""
    async with MqttBroker(url, env_id=env_id) as broker:
        print(f"MG1/ess is a device of {env_id} at {url}; Ctrl-C ends it", flush=True)
        await WholeKilowattInverter("MG1", "ess", broker, env_id=env_id).run()


async def demonstrate(steps: int) -> None:
    """Run the shipped scenario with every device simulated, but MG1/ess reached over the broker."""
    loaded = load_scenario()
    scenario = loaded.scenario.model_dump(exclude_none=True)
    ess = scenario["microgrids"]["MG1"]["devices"]["ess"]
    ess["external"] = True  # it is no emulator of ours: it begins in shadow and rises to its authority
    ess["authority"] = "full"
    ess["gateway"] = {"gate_steps": 1}  # after one plausible message; at home, not on site
    env_id = loaded.scenario.topic_env_id
    async with EmbeddedBroker() as server, MqttBroker(server.url, env_id=env_id) as broker:
        device = asyncio.create_task(serve(server.url, env_id))
        env = MultiAgentMicrogrids(
            {"centralized": False, "message_broker": broker, "scenario": scenario, "max_episode_steps": steps}
        )
        await env.reset_async(seed=0)
        for step in range(steps):
            wanted = 0.0333 if step % 2 == 0 else -0.0333
            action = [-1.0, wanted / RATED_MW, 1.0, 0.0]  # see env.action_names("MG1")
            _, _, _, _, infos = await env.step_async({"MG1": action})
            info = infos["MG1"]
            print(
                f"step {step}: wanted {wanted:+.4f} MW, the device gave {info['p_mw']['ess']:+.4f} MW, "
                f"state of charge {info['soc']['ess']:.4f}, fallbacks {info['fallbacks']}"
            )
        await env.close_async()
        device.cancel()
        await asyncio.wait([device])


def main() -> None:
    """Read the arguments and start."""
    parser = argparse.ArgumentParser(description="A battery inverter with a resolution of 1 kW.")
    parser.add_argument("--broker", metavar="URL", help="mqtt://host:port; left out: demonstrate")
    parser.add_argument("--env-id", default="three_microgrids", help="environment on the wire")
    parser.add_argument("--steps", type=int, default=4, help="of the demonstration")
    options = parser.parse_args()
    try:
        with contextlib.suppress(KeyboardInterrupt):  # Ctrl-C ends it: offline is said, the connection closed
            asyncio.run(
                serve(options.broker, options.env_id) if options.broker else demonstrate(options.steps)
            )
    except HeronError as exc:  # no broker there, a wrong login, a second device of this name
        sys.exit(f"{parser.prog}: {exc}")


if __name__ == "__main__":
    main()

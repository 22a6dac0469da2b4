"""A device program that is killed while it is driven, beside a broker that forgets: the next one knows.

Quick counterparts: ``tests/unit/field/device/test_earlier_program.py``.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from support.heron_command import Program
from support.mosquitto_server import Mosquitto
from support.observer import Observer

DEVICE = """
import asyncio, sys
from pathlib import Path
from heron_mqtt.field.device import FieldDevice
from heron_mqtt.messages import Telemetry
from heron_mqtt.messaging.mqtt import MqttBroker

hardware = Path(sys.argv[2])  # keeps its power whatever becomes of the program


class Box(FieldDevice):
    kind = "battery"

    def nameplate(self):
        return {"p_min_mw": -0.05, "p_max_mw": 0.05, "max_e_mwh": 0.1, "soc": 0.5}

    def apply(self, setpoint):
        hardware.write_text(str(setpoint.p_mw))

    def measure(self):
        return Telemetry(p_mw=float(hardware.read_text()), soc=0.5)


async def main():
    async with MqttBroker(sys.argv[1], env_id="small") as broker:
        await Box("MG1", "ess", broker, env_id="small", period_s=0.2).run()


asyncio.run(main())
"""
ESS = "heron/small/devices/MG1/ess"


@pytest.mark.slow
@pytest.mark.parametrize("knows", ["this machine", "nobody"])
def test_a_device_killed_with_power_beside_a_broker_that_forgets_is_brought_to_rest_or_not_called_safe(
    own_mosquitto: Callable[..., Mosquitto], tmp_path: Path, knows: str
) -> None:
    file, hardware = tmp_path / "device.py", tmp_path / "power"
    file.write_text(DEVICE)
    hardware.write_text("0.0")
    server = own_mosquitto()
    command = [sys.executable, str(file), server.url, str(hardware)]
    with Observer(server.url) as before, Program(command) as program:
        before.wait("it is there", lambda: before.on("MG1/ess/telemetry"))
        setpoint = {
            "type": "setpoint",
            "p_mw": 0.03,
            "lease_s": 60.0,
            "sender": "MG1",
            "boot": "g1",
            "seq": 0,
        }
        before.publish(f"{ESS}/setpoint", setpoint)
        before.wait("it is driven", lambda: before.on("MG1/ess/telemetry")[-1].json["p_mw"] == 0.03)
        os.kill(program.pid, signal.SIGKILL)
        program.wait()
    server.kill()
    server.start()  # it has kept nothing
    elsewhere = {} if knows == "this machine" else {"XDG_STATE_HOME": str(tmp_path / "another machine")}
    with Observer(server.url) as after, Program(command, environment=elsewhere):
        after.wait("it says more than once what it does", lambda: len(after.on("MG1/ess/telemetry")) > 5)
        told = [(heard.json["p_mw"], heard.json.get("safe")) for heard in after.on("MG1/ess/telemetry")]
    assert (0.03, True) not in told, "it may be what the killed one left"
    if knows == "this machine":
        assert told[-1] == (0.0, True)
        assert float(hardware.read_text()) == 0.0
    else:
        assert set(told) == {(0.03, None)}, "it is left alone, and nobody says that it rests"

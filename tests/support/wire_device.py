"""A device's program on a broker, and what can be seen only by starting and ending it."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from heron_mqtt.testing.device_harness import DeviceHarness, Json
from support.heron_command import Program


class DeviceProgram:
    """A device's program, with a harness that watches it from before its start.

    Args:
        url: Of the broker.
        command: Its command line; ``{env}`` stands for its environment.
        env_id: Its environment; by default a new one.
        cwd: Where it runs.
        environment: Beside ours.
    """

    def __init__(
        self,
        url: str,
        command: Sequence[str],
        *,
        env_id: str | None = None,
        cwd: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.env_id = env_id or f"device-{uuid.uuid4().hex[:8]}"
        self.harness = DeviceHarness(url, env_id=self.env_id)
        self._command = [word.replace("{env}", self.env_id) for word in command]
        self._cwd, self._environment = cwd, environment
        self._programs: list[Program] = []

    def __enter__(self) -> Self:
        self.harness.__enter__()
        self.start()
        return self

    def __exit__(self, *exc: Any) -> None:
        for program in self._programs:
            program.__exit__(None, None, None)
        self.harness.__exit__(None, None, None)

    @property
    def program(self) -> Program:
        """The program that was started last."""
        return self._programs[-1]

    def start(self) -> None:
        """Start the program."""
        self._programs.append(Program(self._command, cwd=self._cwd, environment=self._environment))

    def kill(self) -> None:
        """End it as a power cut would."""
        self.program.process.kill()
        self.program.process.wait()

    def restart(self) -> Json:
        """End it and start it again; returns its new birth."""
        mark = self.harness.now
        self.kill()
        self.harness.wait_for(
            self.harness.topic("status"), lambda m: m.get("state") == "offline", "the will", mark
        )
        mark = self.harness.now
        self.start()
        birth = self.harness.birth(mark)
        telemetry = self.harness.telemetry(lambda m: m.get("boot") == birth["boot"], "telemetry", mark)
        assert telemetry["p_mw"] == 0.0, telemetry
        return birth


Start = Callable[[str], DeviceProgram]
"""Makes a device's program in an environment; it starts on entering."""


def check_will_and_new_boot(make: Start) -> None:
    """It leaves ``offline`` behind, retained, and is born with another boot."""
    with make(_new_env()) as device:
        harness = device.harness
        before = harness.birth()
        harness.next_telemetry()
        after = device.restart()
        assert before["boot"] != after["boot"]
        device.kill()
        harness.until(lambda: harness.heard("status")[-1].json.get("state") == "offline", "the second will")
        with DeviceHarness(harness.url, env_id=device.env_id) as late:
            seen = late.wait_for(late.topic("status"), lambda m: m.get("state") == "offline", "the will")
            assert seen.retained


def check_replays_of_an_earlier_run(make: Start) -> None:
    """Setpoints recorded in an earlier life of the device are refused, byte for byte as they were."""
    with make(_new_env()) as device:
        harness = device.harness
        harness.make_free()
        sender = harness.sender()
        recorded = []
        for part in (0.2, 0.4, 0.6):
            sender.do(part * harness.p_max_mw)
            recorded.append(sender.last)
        birth = device.restart()
        mark = harness.now
        for message in recorded:
            harness.publish(harness.topic("setpoint"), message)
            harness.telemetry(
                lambda m, seq=message["seq"]: m.get("ack_seq") == seq and m.get("rejected"),
                "the refusal of a replay",
                mark,
            )
        assert not any(m.json["p_mw"] for m in harness.heard("telemetry", mark))
        assert harness.next_telemetry()["boot"] == birth["boot"]
        harness.sender().do(0.2 * harness.p_max_mw)


def check_stop_and_setpoint_kept_by_the_broker(make: Start) -> None:
    """A retained stop holds from the first moment, before any setpoint; a retained setpoint is ignored."""
    env_id = _new_env()
    device = make(env_id)
    with DeviceHarness(device.harness.url, env_id=env_id) as before:
        kept = {"type": "setpoint", "p_mw": 0.02, "lease_s": 60.0}
        before.publish(before.topic("setpoint"), kept, retain=True)
        before.stop(retain=True)
    with device:
        harness = device.harness
        harness.birth()
        sender = harness.sender()
        harness.next_telemetry()
        answer = sender.answer(sender.send(0.01))
        assert answer["rejected"]
        assert answer["p_mw"] == 0.0
        harness.release_stop(retain=True)
        device.restart()
        for _ in range(2):
            assert harness.next_telemetry()["p_mw"] == 0.0, "a retained setpoint moved it"
        harness.sender().do(0.01)


def check_required_proof(make: Start) -> None:
    """A device that requires proof refuses what echoes nothing, and does what echoes its telemetry."""
    with make(_new_env()) as device:
        harness = device.harness
        harness.birth()
        harness.next_telemetry()
        sender = harness.sender()
        assert "proof" in sender.refused(0.02, echo=False)
        sender.do(0.02)
        sender.release()


def check_energy(make: Start) -> None:
    """A battery discharged for a quarter of an hour of simulated time has less in it."""
    with make(_new_env()) as device:
        harness = device.harness
        harness.make_free()
        done = harness.sender().do(0.02, dt_s=900.0)
        assert abs(done["soc"] - (0.5 - 0.02 * 0.25 / 0.2)) < 1e-6


def check_broker_restart(make: Start, kill: Callable[[], None], start: Callable[[], object]) -> None:
    """Without its broker it goes safe by itself; back, it is born again with the same boot, and speaks."""
    with make(_new_env()) as device:
        harness = device.harness
        birth = harness.birth()
        harness.next_telemetry()
        sender = harness.sender()
        sender.do(0.02, lease_s=0.5)
        kill()
        mark = harness.now
        time.sleep(0.6)  # longer than the lease; nothing can be seen meanwhile
        start()
        again = harness.birth(mark)
        assert again["boot"] == birth["boot"]
        telemetry = harness.telemetry(lambda m: m.get("boot") == birth["boot"], "telemetry", mark)
        assert telemetry["p_mw"] == 0.0
        sender.do(0.02)


def _new_env() -> str:
    return f"device-{uuid.uuid4().hex[:8]}"

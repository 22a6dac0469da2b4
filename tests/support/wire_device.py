"""What every device on the wire has to do, whatever it is written in; watched by mosquitto's own clients."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from support.heron_command import Program, until
from support.mosquitto_clients import Watcher, publish, retained

E_MAX_MWH = 0.2


class WireDevice:
    """A device's program on a broker, with somebody watching it.

    Args:
        url: Of the broker.
        command: Its command line; ``{env}`` stands for its environment.
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
        self.url = url
        self.env_id = env_id or f"device-{uuid.uuid4().hex[:8]}"
        self.at = f"heron/{self.env_id}/devices/MG1/ess/"
        self.watcher = Watcher(url, f"heron/{self.env_id}/#")
        words = [word.replace("{env}", self.env_id) for word in command]
        self.program = Program(words, cwd=cwd, environment=environment)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: Any) -> None:
        self.program.__exit__(*exc)
        self.watcher.__exit__(*exc)

    def online(self) -> dict[str, Any]:
        """Return its birth."""
        return self.status("online")

    def status(self, state: str) -> dict[str, Any]:
        return self.watcher.wait_seen(f"{self.at}status", lambda m: m["state"] == state)

    def send(self, **setpoint: Any) -> None:
        publish(
            self.url, f"{self.at}setpoint", {"type": "setpoint", "boot": "g1", "lease_s": 60.0} | setpoint
        )

    def stop(self, active: bool) -> None:
        message = {"type": "estop", "active": active}
        publish(self.url, f"heron/{self.env_id}/estop", message, retain=True)

    def telemetry(self, accept: Callable[[dict[str, Any]], object] = lambda _: True) -> dict[str, Any]:
        return self.watcher.wait_seen(f"{self.at}telemetry", accept)

    def answer(self, seq: int) -> dict[str, Any]:
        """Return the telemetry that acknowledges a setpoint."""
        return self.telemetry(lambda m: m.get("ack_seq") == seq)

    def new_telemetry(self) -> dict[str, Any]:
        """Return the next telemetry from now on."""
        seen = self._count()
        until(lambda: self._count() > seen, "another telemetry")
        return self._all()[-1]

    def wait_for_power(self, p_mw: float) -> None:
        until(lambda: self._all() and self._all()[-1]["p_mw"] == p_mw, f"{p_mw} MW: {self._all()[-2:]}")

    def _all(self) -> list[dict[str, Any]]:
        return [seen.json for seen in self.watcher.seen if seen.topic == f"{self.at}telemetry"]

    def _count(self) -> int:
        return len(self._all())


def check_birth_and_telemetry(device: WireDevice) -> None:
    birth = device.online()
    assert (birth["kind"], birth["p_min_mw"], birth["p_max_mw"]) == ("battery", -0.05, 0.05)
    assert retained(device.url, f"{device.at}status") == {f"{device.at}status": birth}
    telemetry = device.telemetry()
    assert (telemetry["type"], telemetry["p_mw"], telemetry["soc"]) == ("telemetry", 0.0, 0.5)
    assert "ack_seq" not in telemetry


def check_setpoints(device: WireDevice) -> None:
    device.online()
    device.send(p_mw=0.02, seq=4, dt_s=900.0)
    done = device.answer(4)
    assert (done["p_mw"], done["ack_boot"]) == (0.02, "g1")
    assert abs(done["soc"] - (0.5 - 0.02 * 0.25 / E_MAX_MWH)) < 1e-6
    device.send(p_mw=0.04, seq=4)  # a copy, and an older one
    device.send(p_mw=0.03, seq=3)
    device.send(p_mw=9.0, seq=5)
    assert device.answer(5)["p_mw"] == 0.05  # its nameplate
    assert not any(m["p_mw"] in {0.03, 0.04} for m in device._all())
    device.send(p_mw=-0.01, seq=0, boot="g2")  # the gateway began anew
    device.telemetry(lambda m: m.get("ack_boot") == "g2" and m["p_mw"] == -0.01)


def check_lease(device: WireDevice) -> None:
    device.online()
    device.send(p_mw=0.02, seq=1, lease_s=1.5)
    assert device.answer(1)["p_mw"] == 0.02
    begin = time.monotonic()
    device.send(p_mw=0.02, seq=2, lease_s=1.5, renewal=True)
    device.wait_for_power(0.0)
    assert time.monotonic() - begin >= 1.4, "the renewal was not heard"
    device.send(p_mw=0.02, seq=3, lease_s=60.0, renewal=True)  # too late
    assert device.new_telemetry()["p_mw"] == 0.0
    assert device.new_telemetry()["ack_seq"] == 1  # a renewal is not answered


def check_estop(device: WireDevice) -> None:
    device.online()
    device.send(p_mw=0.02, seq=1)
    device.answer(1)
    device.stop(True)
    device.wait_for_power(0.0)
    device.send(p_mw=0.03, seq=2)
    assert device.answer(2)["p_mw"] == 0.0
    device.stop(False)
    device.send(p_mw=0.01, seq=3)
    assert device.answer(3)["p_mw"] == 0.01


def check_estop_before_it_connects(url: str, make: Callable[[str], WireDevice]) -> None:
    env_id = f"device-{uuid.uuid4().hex[:8]}"
    publish(url, f"heron/{env_id}/estop", {"type": "estop", "active": True}, retain=True)
    with make(env_id) as device:
        device.online()
        device.send(p_mw=0.02, seq=1)
        assert device.answer(1)["p_mw"] == 0.0


def check_nonsense(device: WireDevice) -> None:
    device.online()
    for text in ("", "no json", "[1]", '{"p_mw": NaN, "lease_s": 5}', '{"p_mw": 0.02}', '{"p_mw": "x"}'):
        publish(device.url, f"{device.at}setpoint", text)
    device.send(p_mw=0.01, seq=1)
    assert device.answer(1)["p_mw"] == 0.01


def check_will(device: WireDevice) -> None:
    device.online()
    device.program.process.kill()
    device.status("offline")
    assert retained(device.url, f"{device.at}status")[f"{device.at}status"]["state"] == "offline"


CHECKS = (check_birth_and_telemetry, check_setpoints, check_lease, check_estop, check_nonsense, check_will)
"""What every device keeps that is given to a test."""

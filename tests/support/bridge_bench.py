"""A box on Modbus, ``device modbus_bridge`` to it, and plain paho that watches it and speaks to it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support.forced_box import forced_box
from support.heron_command import Program, heron, until
from support.modbus_box import BoxThread, ModbusBox
from support.observer import Observed, Observer

OWN_W, RATED_W, MODE, WATTS = 2_100, 3_000, 10, 11
TABLE = (
    forced_box("input", WATTS)
    + """
[modbus]
period_s = 0.1
[[setpoint.release]]
registers = { mode = "auto", watts = 0 }
"""
)


class Box(ModbusBox):
    """Does what it is told; left alone it does as it likes."""

    def __init__(self) -> None:
        super().__init__({1: {"input": {0: [OWN_W]}, "holding": {MODE: [0, 0]}}})
        self.on_write = lambda _address, _word: self.act()

    def act(self) -> None:
        self.put(0, self[WATTS] if self[MODE] == 2 else OWN_W, area="input")

    def falls_back(self) -> None:
        """Leave what it was told, as after a power cut that was not noticed, or by a timer of its own."""
        self.put(MODE, 0, 0)
        self.act()


class Bench:
    """A box, the bridge to it, and who watches both."""

    def __init__(self, url: str, env_id: str, folder: Path, thread: BoxThread) -> None:
        assert isinstance(thread.box, Box)
        self.box, self.thread, self.url, self.env_id = thread.box, thread, url, env_id
        self.mapping = folder / "box.toml"
        self.mapping.write_text(TABLE)
        self.observer = Observer(url, [f"heron/{env_id}/#"])

    def bridge(self, *more: str, environment: Mapping[str, str] | None = None) -> Program:
        words = ["device", "modbus_bridge", "--agent", "MG1", "--name", "ess", "--env-id", self.env_id]
        words += ["--broker", self.url, "--mapping", str(self.mapping), "--kind", "battery"]
        words += ["--modbus", f"127.0.0.1:{self.box.port}", "--timeout", "0.3", "--period", "0.2"]
        words += ["--p-min-mw", "-0.003", "--p-max-mw", "0.003", *more]
        return heron(*words, environment=environment)

    def online(self) -> None:
        count = len(self.telemetry)
        self.observer.wait("telemetry", lambda: len(self.telemetry) > count)

    @property
    def telemetry(self) -> list[Observed]:
        return self.observer.on("MG1/ess/telemetry")

    def says(self, **wanted: Any) -> None:
        """Wait until the newest telemetry says this."""
        until(
            lambda: self.telemetry and wanted.items() <= self.telemetry[-1].json.items(),
            f"telemetry {wanted}",
        )

    def set(self, p_mw: float, lease_s: float = 30.0, **more: Any) -> None:
        message = {"p_mw": p_mw, "lease_s": lease_s, **more}
        self.observer.publish(f"heron/{self.env_id}/devices/MG1/ess/setpoint", message)

    def heard(self) -> dict[str, Any]:
        """Return what a setpoint echoes that is made now."""
        newest = self.telemetry[-1].json
        return {"heard_boot": newest["boot"], "heard_seq": newest["seq"]}

    def stop(self, *, active: bool) -> None:
        self.observer.publish(f"heron/{self.env_id}/estop", {"active": active}, retain=True)

    def confirmed(self) -> list[bool]:
        """Return whether the device said that it is safe, each time that it confirmed a stop."""
        said = [m.json for m in self.observer.on("estop/confirm/MG1/ess")]
        return [m["safe"] for m in said if m["active"]]


@contextmanager
def bridge_bench(url: str, env_id: str, folder: Path) -> Iterator[Bench]:
    """Serve a box while inside; a test starts the bridge."""
    thread = BoxThread(Box())
    with thread:
        bench = Bench(url, env_id, folder, thread)
        try:
            yield bench
        finally:
            bench.observer.close()

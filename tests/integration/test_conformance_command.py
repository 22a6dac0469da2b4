"""``heron-mqtt conformance`` as a person uses it: reports, exit codes, and real hardware left as it was."""

from __future__ import annotations

import json
import math
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from heron_mqtt.testing.conformance import ConformanceOptions, bench_of, examine_device
from heron_mqtt.testing.device_harness import DeviceHarness
from support.broken_devices import DEFECTS, SOURCE, write_broken
from support.examined_devices import ForkedDeviceProcess
from support.heron_command import heron, run_heron
from support.mosquitto_server import Mosquitto

WORDS = ["{host}", "{port}", "{env}", "{agent}", "{device}"]
DEVICE = ["--device", "MG1/ess"]


@pytest.fixture
def running(mosquitto: Mosquitto, env_id: str) -> Iterator[DeviceHarness]:
    """A device that runs already, as hardware does, and an observer."""
    host, port = mosquitto.url.removeprefix("mqtt://").split(":")
    command = [sys.executable, str(SOURCE), host, port, env_id, "MG1", "ess"]
    with ForkedDeviceProcess(command) as program, DeviceHarness(mosquitto.url, env_id=env_id) as watching:
        program.start()
        watching.birth()
        yield watching


def at(running: DeviceHarness, *more: str) -> list[str]:
    return ["conformance", *DEVICE, "--broker", running.url, "--env-id", running.env_id, *more]


@pytest.mark.slow
def test_it_prints_by_line_and_writes_both_reports(tmp_path: Path) -> None:
    files = ["--junit", str(tmp_path / "a.xml"), "--html", str(tmp_path / "a.html")]
    done = run_heron(
        *("conformance", *DEVICE, "--only", "will", "--only", "confirm", *files, "--within", "20"),
        *("--", sys.executable, str(SOURCE), *WORDS),
    )
    assert done.code == 0, done.out + done.err
    assert "PASS            4. will" in done.out
    assert "NOT SHOWN       5. A stop is a stop" in done.out  # `confirm` is a part of it
    assert "NOT SHOWN       7. A vendor's device is handed back" in done.out
    assert "KEPT AS FAR AS EXAMINED" in done.out
    assert "CONFORMS" not in done.out
    assert ET.parse(tmp_path / "a.xml").getroot().attrib["failures"] == "0"
    assert "Conformance of MG1/ess" in (tmp_path / "a.html").read_text()


def test_a_broken_device_is_named_with_what_was_seen_and_the_exit_code_is_1(tmp_path: Path) -> None:
    script = str(write_broken(DEFECTS["takes kW for MW"], tmp_path))
    done = run_heron(
        "conformance", *DEVICE, "--json", "--only", "scale", "--", sys.executable, script, *WORDS
    )
    assert done.code == 1
    found = {one["id"]: one for one in done.result["promises"]}
    assert found["scale"]["verdict"] == "fail"
    assert "0.001 times as much; kW for MW?" in found["scale"]["what"]
    assert any('"p_mw": 0.02' in line for line in found["scale"]["sent"])
    assert found["scale"]["seen"]


@pytest.mark.slow
def test_a_class_is_examined(tmp_path: Path) -> None:
    example = str(SOURCE.parent / "02_device_of_your_own.py")
    named = f"{example}:WholeKilowattInverter"
    done = run_heron("conformance", *DEVICE, "--class", named, "--only", "sign", "--within", "20")
    assert done.code == 0, done.out + done.err


SPEECHLESS = """
from heron_mqtt import FieldDevice


class Speechless(FieldDevice):
    kind = "load"

    def nameplate(self):
        return {"p_min_mw": -0.01, "p_max_mw": 0.0}

    def apply(self, setpoint): ...

    def measure(self):
        raise RuntimeError("the meter has no answer")
"""


def test_a_program_that_says_nothing_after_its_birth_is_named_with_what_it_printed(tmp_path: Path) -> None:
    (tmp_path / "speechless.py").write_text(SPEECHLESS)
    named = f"{tmp_path}/speechless.py:Speechless"
    done = run_heron("conformance", "--device", "MG1/ld", "--class", named, "--only", "birth")
    assert done.code == 1
    assert "the program has printed last: " in done.err
    assert "the meter has no answer" in done.err


GENSET = '''
import time
from heron_mqtt import FieldDevice
from heron_mqtt.messages import Telemetry

class Genset(FieldDevice):
    """Off, or between 6 and 20 kW, which it reaches by 20 kW/s."""
    kind = "generator"
    wanted_mw = p_mw = at_s = 0.0

    def nameplate(self):
        return {"p_min_mw": 0.0, "p_max_mw": 0.02}

    def apply(self, setpoint):
        wanted_mw = max(0.0, min(0.02, setpoint.p_mw))
        self.measure()
        self.wanted_mw = 0.0 if wanted_mw < 0.003 else max(0.006, wanted_mw)

    def measure(self):
        now_s = time.monotonic()
        reach_mw, self.at_s = 0.02 * (now_s - self.at_s), now_s
        if self.wanted_mw == 0.0:
            self.p_mw = 0.0
        else:
            start_mw = max(self.p_mw, 0.006)
            self.p_mw = start_mw + max(-reach_mw, min(reach_mw, self.wanted_mw - start_mw))
        return Telemetry(p_mw=self.p_mw)
'''


@pytest.mark.slow
def test_a_device_with_a_smallest_power_and_a_ramp_is_asked_for_nothing_below_it(tmp_path: Path) -> None:
    (tmp_path / "genset.py").write_text(GENSET)
    named = ["--class", f"{tmp_path / 'genset.py'}:Genset", "--settle", "3", "--within", "20"]
    only = ["scale", "ramp", "lease-end", "echo", "formats", "garbage"]
    picked = [word for name in only for word in ("--only", name)]
    power = ["--min-power", "0.006", "--ramp", "0.02"]
    done = run_heron("conformance", "--device", "MG1/gen", *named, *power, *picked, "--json")
    assert done.result["conforms"], [p for p in done.result["promises"] if p["verdict"] != "pass"]


RAMPING = '''
import time
from heron_mqtt import FieldDevice
from heron_mqtt.messages import Telemetry

class Pump(FieldDevice):
    """Draws up to 12 kW, answers at once, and is there 0.2 s later."""
    kind = "heat_pump"
    wanted_mw = p_mw = at_s = 0.0

    def nameplate(self):
        return {"p_min_mw": -0.012, "p_max_mw": 0.0, "max_e_mwh": 0.03, "soc": 0.5}

    def apply(self, setpoint):
        self.measure()
        self.wanted_mw = max(-0.012, min(0.0, setpoint.p_mw))

    def measure(self):
        now_s = time.monotonic()
        reach_mw, self.at_s = 0.024 * (now_s - self.at_s), now_s
        self.p_mw += max(-reach_mw, min(reach_mw, self.wanted_mw - self.p_mw))
        return Telemetry(p_mw=self.p_mw, soc=0.5)
'''


@pytest.mark.slow
def test_a_device_that_answers_before_it_is_there_conforms_with_settle(tmp_path: Path) -> None:
    (tmp_path / "pump.py").write_text(RAMPING)
    only = [word for one in ("scale", "echo", "copies-of-many", "stop") for word in ("--only", one)]
    done = run_heron(
        *("conformance", "--device", "MG1/hp", "--class", f"{tmp_path}/pump.py:Pump", "--settle", "1"),
        *only,
        within_s=240.0,
    )
    assert done.code == 0, done.out + done.err


def test_a_program_that_does_not_start_is_said_in_one_line() -> None:
    done = run_heron("conformance", *DEVICE, "--", sys.executable, "-c", "raise SystemExit('no port')")
    assert (done.code, len(done.errors)) == (1, 1)
    assert "the program has ended with exit code 1: no port" in done.errors[0]
    missing = run_heron("conformance", *DEVICE, "--", "/nowhere/device")
    assert (missing.code, missing.errors) == (
        2,
        ["heron-mqtt: /nowhere/device: cannot be started: No such file or directory"],
    )


# -- a device that runs already ----------------------------------------------------------------------


def test_nothing_is_sent_to_real_hardware_before_it_is_confirmed(running: DeviceHarness) -> None:
    mark = running.now
    done = run_heron(*at(running))
    assert done.code == 2
    assert "-0.05 to 0.05 MW" in done.err
    assert "heron-mqtt: --yes: needed, because there is no terminal to confirm on" in done.errors
    assert running.heard("setpoint", mark) == []
    assert running.heard_on(running.estop_topic, mark) == []


NOT_OF_HARDWARE = ("nameplate", "will", "replay", "silence", "end")


@pytest.mark.slow_but("a few")
@pytest.mark.timeout(400)
@pytest.mark.parametrize("only", [(*NOT_OF_HARDWARE, "garbage", "stale-renewal"), None], ids=["a few", "all"])
def test_real_hardware_is_asked_for_no_more_than_its_bound_and_leases_of_a_minute(
    only: tuple[str, ...] | None, running: DeviceHarness
) -> None:
    mark = running.now
    options = ConformanceOptions(
        "MG1/ess", broker=running.url, env_id=running.env_id, max_p_mw=0.01, within_s=20.0
    )
    with bench_of(options, None) as bench:
        result = examine_device(bench, only=only)
    assert result.conforms, [(one.promise.id, one.what) for one in result.results if one.verdict == "fail"]
    asked = [message.json for message in running.heard("setpoint", mark)]
    powers = [m["p_mw"] for m in asked if isinstance(m.get("p_mw"), int | float)]
    leases = [m["lease_s"] for m in asked if isinstance(m.get("lease_s"), int | float)]
    assert max(abs(p) for p in powers if not math.isnan(p)) <= 0.01
    assert max(lease for lease in leases if not math.isnan(lease)) <= 60.0
    assert not any(b"1e999" in m.payload or b"Infinity" in m.payload for m in running.heard("setpoint", mark))
    for promise in NOT_OF_HARDWARE:
        assert next(r for r in result.results if r.promise.id == promise).verdict == "not shown"
    running.until(lambda: running.is_at(0.0, running.newest), "rest")
    running.until(lambda: running.heard("lease")[-1].json["state"] == "free", "a free lease")


def test_ctrl_c_leaves_the_device_at_rest_without_a_lease_and_without_a_stop(
    running: DeviceHarness, tmp_path: Path
) -> None:
    page = tmp_path / "a.html"
    only = ["--only", "malformed-stop"]  # and what it requires: the others before it are half a minute
    with heron(*at(running, "--yes", *only, "--html", str(page))) as program:
        program.wait_for("stop: a stop leads to the safe state")
        mark = running.now
        running.wait_for(running.estop_topic, lambda m: m, "the next stop", mark)
        program.signal(signal.SIGINT)
        assert program.wait().code == 130
    running.until(
        lambda: running.is_at(0.0, running.newest) and not running.newest.get("stopped"), "rest, no stop"
    )
    running.until(lambda: running.heard("lease")[-1].json["state"] == "free", "a free lease")
    assert "NOT EXAMINED TO THE END" in page.read_text()


def test_it_does_not_begin_where_a_stop_is_in_force_or_a_run_goes_on(running: DeviceHarness) -> None:
    running.stop(retain=True)
    stopped = run_heron(*at(running, "--yes"))
    running.send_release_of_stop(retain=True)
    running.publish(running.run_topic, json.dumps({"type": "run_state", "state": "running"}), retain=True)
    driven = run_heron(*at(running, "--yes"))
    assert (stopped.code, driven.code) == (1, 1)
    assert "an emergency stop is in force" in stopped.err
    assert "a run is in it" in driven.err


def test_a_device_that_is_not_there_is_said(mosquitto: Mosquitto, env_id: str) -> None:
    where = ["--broker", mosquitto.url, "--env-id", env_id]
    done = run_heron("conformance", *DEVICE, *where, "--yes", "--within", "1")
    assert done.code == 1
    assert "MG1/ess: nothing was born on" in done.err
    assert run_heron("conformance", *DEVICE, "--broker", mosquitto.url).code == 2

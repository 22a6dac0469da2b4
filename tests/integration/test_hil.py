"""The shipped hardware-in-the-loop scenario, shortened: what it tells, and what an observer sees of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from support.heron_command import Ended, run_heron
from support.mosquitto_clients import Seen, Watcher
from support.mosquitto_server import Mosquitto
from support.setpoints import assert_inside_nameplate, read_scenario, setpoints

SHIPPED = Path(__file__).resolve().parents[2] / "config" / "hil_battery.toml"
STEPS, REALTIME_S, LEASE_S, DEVICE_S = 42, 0.32, 0.6, 0.3
SILENT_AT, SILENT_STEPS, REBOOT_AT = 8, 8, 30
BUSY_S = 0.5  # what a machine that does other things may add
BACK_STEPS = 10  # to hear each other again takes 0.6 to 1 s, on a busy machine more: 3.2 s, in steps
DEVICE_KEYS = {
    "authority", "telemetry", "age_s", "lost", "duplicated", "late", "fallbacks", "time_to_safe_s",
    "tracking_error_mw", "residual_mw",
}  # fmt: skip


@dataclass(frozen=True)
class Hil:
    """A run, and what an independent subscriber saw of it (on mosquitto)."""

    done: Ended
    seen: list[Seen]
    scenario: dict[str, Any]
    is_watched: bool

    @property
    def devices(self) -> dict[str, dict[str, Any]]:
        found = self.done.result["devices"]
        assert isinstance(found, dict)
        return found


@pytest.fixture(scope="module")
def shortened(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped scenario with everything earlier and faster.

    After the silence there is time for the device to come back before it reboots: else both are one row of
    fallbacks.
    """
    text = SHIPPED.read_text(encoding="utf-8")
    for old, new in (
        ("lease_s = 3.0 ", f"lease_s = {LEASE_S} "),
        ("at_step = 30", f"at_step = {SILENT_AT}"),
        ("at_step = 60", f"at_step = {REBOOT_AT}"),
        ("realtime_s = 0.4 ", f"realtime_s = {REALTIME_S} "),
    ):
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    path = tmp_path_factory.mktemp("hil") / "hil.toml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture(scope="module", params=["embedded", "mosquitto"])
def hil(
    request: pytest.FixtureRequest, shortened: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Hil]:
    scenario = read_scenario(shortened)
    options = ["run", str(shortened), "--steps", str(STEPS), "--json"]
    if request.param == "embedded":
        yield Hil(run_heron(*options), [], scenario, False)
        return
    server = Mosquitto(tmp_path_factory.mktemp("hil_broker")).start()
    with Watcher(server.url, "heron/hil_battery/devices/#") as watcher:
        done = run_heron(*options, "--broker", server.url)
        yield Hil(done, watcher.seen, scenario, True)
    server.stop()


@pytest.mark.slow_but("mosquitto")
def test_it_runs_to_its_end_and_tells_of_each_device(hil: Hil) -> None:
    assert hil.done.code == 0, hil.done.err
    result = hil.done.result
    assert (result["steps"], result["error"], result["diverged"]) == (STEPS, None, None)
    assert hil.devices.keys() == {"MG1/ess", "MG2/ess"}
    for device in hil.devices.values():
        assert device.keys() >= DEVICE_KEYS
        assert device["age_s"].keys() == {"p50", "p99"}
        assert device["telemetry"] > 0
    assert hil.devices["MG1/ess"]["authority"] == "emulated"
    assert hil.devices["MG2/ess"]["authority"] == "shadow"
    assert result["fallbacks"] == sum(device["fallbacks"] for device in hil.devices.values())


@pytest.mark.slow_but("mosquitto")
def test_silence_and_reboot_are_stood_in_for_and_the_device_comes_back(hil: Hil) -> None:
    device = hil.devices["MG1/ess"]
    # on a poor network a word of before may come late and be used once
    assert device["fallbacks"] + device["unacknowledged"] >= SILENT_STEPS + 2
    # unacknowledged telemetry may come in between
    assert 2 <= device["longest_fallback"] <= SILENT_STEPS + BACK_STEPS
    assert hil.done.err.count("its model replaces it") >= 2
    assert hil.done.err.count("back in step") >= 2
    # 0: it was silent for longer than its lease by then, so nothing was sent and nothing waited for
    assert 0.0 <= device["fallback_delay_s"] < DEVICE_S + BUSY_S
    assert hil.devices["MG2/ess"]["fallbacks"] == 0, "the other device does not suffer"


@pytest.mark.slow_but("mosquitto")
def test_the_device_went_safe_by_itself_when_its_lease_ran_out(hil: Hil) -> None:
    """Its lease counts from the telemetry that the last setpoint echoed, so less is left when that came."""
    device = hil.devices["MG1/ess"]
    oldest_s = LEASE_S * 2 / 3  # telemetry comes four times a lease, over a poor network
    assert LEASE_S - oldest_s <= device["time_to_safe_s"] < LEASE_S + BUSY_S


@pytest.mark.slow_but("mosquitto")
def test_round_trips_and_what_the_disturbance_did_are_told(hil: Hil) -> None:
    trip = hil.devices["MG1/ess"]["round_trip_s"]
    assert 0.0 < trip["p50"] <= trip["p99"] < DEVICE_S + BUSY_S
    assert hil.done.result["undisturbed"].keys() >= {"rewards", "cost", "vm_pu"}


@pytest.mark.slow_but("mosquitto")
def test_no_setpoint_leaves_the_envelope_and_none_reaches_a_device_in_shadow(hil: Hil) -> None:
    if not hil.is_watched:
        return  # the embedded broker's port is not known before the run
    assert assert_inside_nameplate(hil.scenario, hil.seen) >= STEPS - 4
    assert {name for name, _ in setpoints(hil.seen)} == {"MG1/ess"}

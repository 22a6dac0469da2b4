"""Devices by a table of registers, as people use them: in a run, as a program, and while looking at them."""

from __future__ import annotations

import asyncio
import json
import signal
import tomllib
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from heron_mqtt.app.vendor_adapters import load_mappings, vendor_devices
from heron_mqtt.cli.run_commands import app
from heron_mqtt.errors import ConfigError
from heron_mqtt.field.vendor import load_mapping
from heron_mqtt.messaging import topics
from heron_mqtt.messaging.mqtt import MqttBroker
from powergrid.emulators import modbus_bridge
from powergrid.scenario import load_scenario
from support import waiting
from support.forced_box import FORCED_BOX, TO_AUTO, TO_ZERO
from support.heron_command import heron, run_heron, until
from support.modbus_box import BoxThread, ModbusBox, f32
from support.mosquitto_server import Mosquitto
from support.small_runs import write_scenario
from support.sunspec_gateway import Gateway

SUNGROW = {"profile": "device_profiles/sungrow_sh.toml"}
QUICK = """
profile = "device_profiles/sungrow_sh.toml"    # its registers, at a pace for tests

[modbus]
first_address = 1
function = "single"
period_s = 0.1

[setpoint]
confirm = "power"
settle_s = 0.2
answer_within_s = 3.0

[setpoint.values.p]
quantity = "p_mw"
unit = "W"
decimals = 0

[setpoint.values.size]
formula = "abs(p)"

[setpoint.values.way]
formula = "'stop' if p == 0 else 'charge' if p < 0 else 'discharge'"

[[setpoint.messages]]
registers = { force_w = 0, command = "{way}", ems_mode = "forced" }

[[setpoint.messages]]
registers = { force_w = "{size}" }

[[setpoint.release]]
registers = { command = "stop", force_w = 0, ems_mode = "self-consumption" }
"""
OTHERS = {
    f"microgrids.{agent}.devices.{name}.authority": "simulated"
    for agent in ("MG1", "MG2", "MG3")
    for name in ("gen", "ess", "pv")
}


class Sungrow(ModbusBox):
    """A hybrid inverter that does what it is told."""

    def __init__(self) -> None:
        units = {
            1: {
                "input": {13000: [0] * 21, 13021: [0, 560]},
                "holding": {13049: [0, 0xCC, 0]},
            }
        }
        super().__init__(units)
        self.on_write = self._act

    def _act(self, address: int, word: int) -> None:
        forced = self[13049] == 2
        way = {0xAA: 0b010, 0xBB: 0b100}.get(self[13050], 0) if forced else 0
        self.put(13000, way, area="input")
        self.put(13021, self[13051] if way else 0, area="input")

    def orders(self) -> list[int]:
        """Return the powers that it was told, without the 0 before each direction."""
        written = [*self.writes(), (0, [0])]
        pairs = pairwise(written)
        told = [(words[0], after) for (address, words), (after, _) in pairs if address == 13051]
        return [power for power, after in told if power or after != 13050]


@pytest.fixture
def inverter() -> Iterator[BoxThread]:
    thread = BoxThread(Sungrow())
    with thread:
        yield thread


@pytest.fixture
def in_a_folder_of_mappings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("openems", "sungrow_sh"):
        (tmp_path / f"{name}.toml").write_text(f'profile = "device_profiles/{name}.toml"\n')
    monkeypatch.chdir(tmp_path)


def write(folder: Path, env_id: str, port: int, changes: dict[str, Any]) -> Path:
    ess = {
        "microgrids.MG1.devices.ess.authority": "full",
        "microgrids.MG1.devices.ess.mapping": SUNGROW,
        "microgrids.MG1.devices.ess.modbus": {"address": f"127.0.0.1:{port}", "timeout_s": 0.5},
        "microgrids.MG1.devices.ess.gateway": {"gate_steps": 1},
    }
    wanted = {"env_id": env_id, "lease_s": 20.0, **OTHERS, **ess, **changes}
    return write_scenario(folder, {key: value for key, value in wanted.items() if value is not ...})


def quick() -> dict[str, Any]:
    table = tomllib.loads(QUICK)
    # what a scenario says beside the profile replaces its tables of that name
    return {"microgrids.MG1.devices.ess.mapping": table}


@pytest.mark.slow
def test_a_run_reads_and_drives_a_device_by_its_registers_and_hands_it_back(
    mosquitto: Mosquitto, inverter: BoxThread, env_id: str, tmp_path: Path
) -> None:
    """Handed back, quickly: ``unit/field/vendor/test_modbus_device.py``, "what ends it"."""
    box = inverter.box
    assert isinstance(box, Sungrow)
    file = write(tmp_path, env_id, box.port, quick())
    checked = run_heron("check", str(file))
    assert checked.code == 0, checked.err
    assert f"a Sungrow SH battery by its own registers at 127.0.0.1:{box.port}" in checked.out
    assert "reads 3 values from registers; requests: 2 every 0.1 s" in checked.out
    assert "is handed back by 1 message(s) on registers command, force_w, ems_mode" in checked.out
    result = run_heron("run", str(file), "--steps", "5", "--broker", mosquitto.url, "--json").result
    device = result["devices"]["MG1/ess"]
    assert device["fallbacks"] == 0
    assert device["tracking_error_mw"] < 1e-6
    assert len(box.orders()) == 6
    assert max(box.orders()) > 1000
    assert [box[13049], box[13050], box[13051]] == [0, 0xCC, 0]


@pytest.mark.slow
def test_a_device_that_is_killed_and_returns_is_driven_again(
    mosquitto: Mosquitto, inverter: BoxThread, env_id: str, tmp_path: Path
) -> None:
    box = inverter.box
    assert isinstance(box, Sungrow)
    changes = {
        "realtime_s": 0.5,
        "deadlines.device_s": 1.0,
        "microgrids.MG1.devices.ess.gateway": {"stale_after_s": 0.8, "gate_steps": 1},
        **quick(),
    }
    file = write(tmp_path, env_id, box.port, changes)
    with heron("run", str(file), "--steps", "60", "--broker", mosquitto.url) as program:
        until(lambda: len(box.orders()) >= 2, "two setpoints", within_s=60.0)
        inverter.stop()
        until(lambda: any("no power from the device" in line for line in program.err), "the silence")
        before = len(box.orders())
        inverter.start()
        until(lambda: len(box.orders()) > before + 1, "it is driven again", within_s=40.0)
        program.signal(signal.SIGTERM)
        program.wait()
    assert [box[13049], box[13050], box[13051]] == [0, 0xCC, 0]


def test_the_program_serves_a_device_of_a_scenario_and_hands_it_back_when_terminated(
    mosquitto: Mosquitto, inverter: BoxThread, env_id: str, tmp_path: Path
) -> None:
    box = inverter.box
    assert isinstance(box, Sungrow)
    mapping = tmp_path / "box.toml"
    mapping.write_text(QUICK)
    scenario = write_scenario(
        tmp_path,
        {
            "env_id": env_id,
            "lease_s": 20.0,
            **OTHERS,
            "microgrids.MG1.devices.ess.authority": "full",
            "microgrids.MG1.devices.ess.external": True,
            "microgrids.MG1.devices.ess.gateway": {"gate_steps": 1},
        },
    )
    served = ["--agent", "MG1", "--name", "ess", "--broker", mosquitto.url, "--scenario", str(scenario)]
    reached = ["--modbus", f"127.0.0.1:{box.port}", "--mapping", str(mapping)]
    with heron("device", "modbus_bridge", *served, *reached, "--period", "0.2") as bridge:
        run = run_heron("run", str(scenario), "--steps", "3", "--broker", mosquitto.url, "--json")
        assert run.code == 0, run.err
        assert run.result["devices"]["MG1/ess"]["telemetry"] > 0
        assert box.orders() != []
        bridge.signal(signal.SIGTERM)
        assert bridge.wait().code == 0
    assert [box[13049], box[13050], box[13051]] == [0, 0xCC, 0]


SIMPLE = FORCED_BOX + "\n[modbus]\nperiod_s = 0.1\n"


class Simple:
    """A box of 5 kW whose power register the test sets, and the bridge that serves it as MG1/ess."""

    def __init__(self, url: str, env_id: str, mapping: Path, box: ModbusBox) -> None:
        self.box = box
        self.lease: dict[str, Any] = {}
        self.telemetry: dict[str, Any] = {}
        self._url, self._env_id, self._mapping = url, env_id, mapping

    def bridge(self) -> Any:
        return heron(
            *("device", "modbus_bridge", "--agent", "MG1", "--name", "ess", "--broker", self._url),
            *("--env-id", self._env_id, "--modbus", f"127.0.0.1:{self.box.port}"),
            *("--mapping", str(self._mapping), "--period", "0.1", "--kind", "battery"),
            *("--p-min-mw", "-0.005", "--p-max-mw", "0.005"),
        )

    def hear(self, broker: MqttBroker) -> Gateway:
        broker.subscribe(topics.device("MG1", "ess", "lease"), self.lease.update)
        broker.subscribe(topics.device("MG1", "ess", "telemetry"), self.telemetry.update)
        return Gateway(broker, self._env_id)


@pytest.fixture
def make_simple(mosquitto: Mosquitto, env_id: str, tmp_path: Path) -> Iterator[Callable[[str], Simple]]:
    box = ModbusBox({1: {"holding": {0: [0], 10: [0], 20: [0]}}})
    with BoxThread(box):

        def make(release: str) -> Simple:
            mapping = tmp_path / "simple.toml"
            mapping.write_text(f"{SIMPLE}\n{release}")
            return Simple(mosquitto.url, env_id, mapping, box)

        yield make


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=lambda each: each.name)
async def test_power_after_a_release_to_0_holds_the_lease_and_is_no_good_end(
    make_simple: Callable[[str], Simple], mosquitto: Mosquitto, env_id: str, how: signal.Signals
) -> None:
    """It ended with 0, and killed it left a free lease, where it had not been told again yet (5 s)."""
    site = make_simple(TO_ZERO)
    with site.bridge() as program:
        async with MqttBroker(mosquitto.url, env_id=env_id) as broker:
            gateway = site.hear(broker)
            await waiting.until(lambda: gateway.states() == ["online"], "the birth", within_s=20.0)
            await gateway.ask(0.003, 0.4)
            await waiting.until(lambda: site.telemetry.get("safe_after_s"), "the end of the lease")
            await waiting.until(lambda: site.lease.get("state") == "free", "it is at 0")
            site.box.put(0, 3000)
            await waiting.until(lambda: site.telemetry["safe"] is False, "its power")
            await waiting.until(lambda: site.lease["state"] == "held", "for as long as it has power")
            program.signal(how)
            done = await asyncio.to_thread(program.wait, 15.0)
            if how == signal.SIGTERM:
                left = "it was handed back with 0, and it gave 3 kW when it was measured last"
                assert (done.code, left in done.err.splitlines()[-1]) == (1, True), done.err
            await asyncio.sleep(0.2)
            assert site.lease["state"] == "held", "a stop names it"


async def test_the_next_program_goes_on_with_a_release_that_was_acknowledged_and_ignored(
    make_simple: Callable[[str], Simple], mosquitto: Mosquitto, env_id: str
) -> None:
    site = make_simple(TO_AUTO)
    async with MqttBroker(mosquitto.url, env_id=env_id) as broker:
        gateway = site.hear(broker)
        with site.bridge() as first:
            await waiting.until(lambda: gateway.states() == ["online"], "the birth", within_s=20.0)
            await gateway.ask(0.003, 30.0)
            site.box.lies.forgets = {10}
            first.signal(signal.SIGKILL)
            await asyncio.to_thread(first.wait, 15.0)
        site.lease.clear()
        gateway.status.clear()
        with site.bridge() as second:
            await waiting.until(lambda: "fault" in gateway.states(), "it knows", within_s=20.0)
            assert site.lease["state"] == "held"
            second.signal(signal.SIGTERM)
            done = await asyncio.to_thread(second.wait, 15.0)
    assert done.code == 1
    assert "it has acknowledged its release, but mode: the device holds 0002" in done.err.splitlines()[-1]


def test_raw_registers_are_shown_beside_what_they_mean(inverter: BoxThread, tmp_path: Path) -> None:
    box = inverter.box
    at = ["--modbus", f"127.0.0.1:{box.port}"]
    mapping = tmp_path / "box.toml"
    mapping.write_text('profile = "device_profiles/sungrow_sh.toml"\n')
    seen = run_heron("probe", *at, "--mapping", str(mapping), "--listen", "1.5", "--json")
    assert seen.code == 0, seen.err
    values = json.loads(seen.out)
    assert (values["level"]["value"], values["level"]["sample"]) == (56.0, "0230 = 560")
    assert values["soc"]["value"] == pytest.approx(0.56)
    assert (values["command"]["value"], values["command"]["sample"]) == ("stop", "00cc = 204")
    shown = run_heron("device", "modbus_bridge", *at, "--mapping", str(mapping), "--show")
    assert shown.code == 0, shown.err
    (line,) = [line for line in shown.out.splitlines() if line.startswith("level")]
    assert line.split() == ["level", "input", "13023", "0230", "=", "560", "56.0"]
    box.lies.refuse = {13021: 2}
    wrong = run_heron("probe", *at, "--mapping", str(mapping), "--listen", "1.5")
    assert wrong.code == 1
    assert "illegal data address" in " ".join(wrong.out.split())
    assert box.writes() == []


@pytest.mark.slow
def test_one_setpoint_is_tried_on_registers_and_the_device_handed_back(
    mosquitto: Mosquitto, inverter: BoxThread, env_id: str, tmp_path: Path
) -> None:
    box = inverter.box
    assert isinstance(box, Sungrow)
    mapping = tmp_path / "box.toml"
    mapping.write_text(QUICK)
    at = ["--broker", mosquitto.url, "--env-id", env_id, "--modbus", f"127.0.0.1:{box.port}"]
    tried = ["--send", "-500W", "--for", "2.5s", "--listen", "1.5", "--yes"]
    done = run_heron("probe", *at, "--mapping", str(mapping), *tried)
    assert done.code == 0, done.out + done.err
    assert len([line for line in done.out.splitlines() if line.startswith("good")]) == 5
    assert "  force_w holding 13051: 01f4" in done.err  # what is written is shown before
    assert set(box.orders()) == {500, 0}
    assert [box[13049], box[13050], box[13051]] == [0, 0xCC, 0]
    mapping.write_text(QUICK.replace("abs(p)", "abs(p) / 10"))
    wrong = run_heron("probe", *at, "--mapping", str(mapping), *tried)
    assert wrong.code == 1
    assert "BAD   factor" in wrong.out
    assert [box[13049], box[13050], box[13051]] == [0, 0xCC, 0]


async def test_another_mapping_takes_the_place_of_one_in_force_and_the_device_is_handed_back(
    mosquitto: Mosquitto, inverter: BoxThread, env_id: str, tmp_path: Path
) -> None:
    box = inverter.box
    loaded = load_scenario(write(tmp_path, env_id, box.port, quick()))
    async with MqttBroker(mosquitto.url, env_id=env_id) as broker:
        gateway = Gateway(broker, env_id)
        async with vendor_devices(broker, loaded, ["MG1"]) as adapters:
            await waiting.until(lambda: gateway.telemetry, "telemetry", within_s=20.0)
            await gateway.ask(0.002, 30.0)
            assert [box[13049], box[13051]] == [2, 2000]
            other = tomllib.loads(QUICK.replace("period_s = 0.1", "period_s = 0.1\nmax_gap = 30"))
            where = {"agent": "MG1", "device": "ess", "source": "test", "find": loaded.path}
            accepted = box.accepted  # a busy machine may have lost the first one
            await adapters.replace(("MG1", "ess"), load_mapping(other, **where))
            assert [box[13049], box[13051]] == [0, 0]
            box.requests.clear()  # the box may have a request of the former to answer still
            await waiting.until(lambda: box.reads().count(("input", 13000, 23)) > 1, "readings of the other")
            box.requests.clear()
            await waiting.until(lambda: len(box.requests) > 3, "more readings")
            assert set(box.reads()) == {("input", 13000, 23)}  # the former reads no more
            # Both read over one connection; the former may have been ended in the middle of a request.
            assert box.accepted <= accepted + 1


def test_what_stands_in_unknown_registers_is_shown_as_every_type() -> None:
    words = {10: f32(230.5), 12: list(reversed(f32(50.0))), 14: [0xFE0C], 16: [0x4865]}
    with BoxThread(ModbusBox({1: {"input": words, "coil": {0: [1, 0]}}})) as box:
        at = ["probe", "--modbus", f"127.0.0.1:{box.port}", "--json", "--registers"]
        rows = {
            row["address"]: row for row in json.loads(CliRunner().invoke(app, [*at, "input:0-40"]).output)
        }
        coils = json.loads(CliRunner().invoke(app, [*at, "coil:0-1"]).output)
        shown = CliRunner().invoke(app, [*at[:3], "--registers", "input:10-16"])
        nothing = CliRunner().invoke(app, [*at, "holding:0-3"])
    assert rows[10]["float32"] == 230.5
    assert rows[12]["float32 swapped"] == 50.0
    assert (rows[14]["int16"], rows[14]["uint16"]) == (-500, 65036)
    assert rows[16]["text"] == "He"
    assert [at for at, row in rows.items() if row["word"] is not None] == [10, 11, 12, 13, 14, 16]
    assert [row["word"] for row in coils] == [1, 0]
    assert shown.exit_code == 0
    assert "230.5" in shown.output
    assert nothing.exit_code == 1
    assert box.writes() == []


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"microgrids.MG1.devices.ess.modbus": ...},
            "microgrids.MG1.devices.ess.modbus: missing; Sungrow SH battery is on Modbus: say where, for "
            'example modbus = { address = "192.168.1.50:502", unit = 1 }',
        ),
        (
            {"microgrids.MG1.devices.ess.mapping": ...},
            "'modbus' is for a device with a mapping of registers",
        ),
        (
            {"microgrids.MG1.devices.ess.modbus": {"address": "mqtt://x"}},
            "microgrids.MG1.devices.ess.modbus.address = 'mqtt://x': 'mqtt://x': expected HOST or HOST:PORT",
        ),
        (
            {"microgrids.MG1.devices.ess.modbus": {"address": "box", "unit": 300}},
            "microgrids.MG1.devices.ess.modbus.unit = 300",
        ),
        (
            {"microgrids.MG1.devices.ess.mapping": "device_profiles/openems.toml"},
            "microgrids.MG1.devices.ess.modbus: OpenEMS Edge is on MQTT, its mapping has [[telemetry]]",
        ),
        (
            {
                "microgrids.MG2.devices.ess.mapping": SUNGROW,
                "microgrids.MG2.devices.ess.modbus": {"address": "127.0.0.1:502", "framing": "rtu"},
            },
            "microgrids.MG2.devices.ess.modbus.framing = 'rtu': ",
        ),
        (
            {"microgrids.MG1.devices.ess.mapping": {**SUNGROW, "modbus": {"unit": 2}}},
            "modbus.unit: where the device is belongs beside the mapping: [microgrids.MG1.devices.ess",
        ),
    ],
)
def test_what_does_not_fit_in_a_scenario_is_named(
    env_id: str, tmp_path: Path, changes: dict[str, Any], line: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_mappings(load_scenario(write(tmp_path, env_id, 502, changes)))
    assert any(line in problem for problem in caught.value.problems), caught.value.problems


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "--broker URL or --modbus HOST[:PORT]: one of them must be given"),
        (["--modbus", "127.0.0.1"], "--modbus needs --mapping FILE or --registers AREA:FIRST-LAST"),
        (["--broker", "mqtt://x", "--registers", "input:0"], "--registers input:0: needs --modbus"),
        (["--broker", "mqtt://x", "--baud", "9600"], "--baud 9600: needs --modbus"),
        (["--broker", "mqtt://x", "--stop-bits", "2"], "--stop-bits 2: needs --modbus"),
        (["--broker", "mqtt://x", "--framing", "rtu"], "--framing rtu: needs --modbus"),
        (["--broker", "mqtt://x", "--unit", "3"], "--unit 3: needs --modbus"),
        (["--modbus", "/dev/ttyUSB0", "--registers", "input:0", "--baud", "0"], "--modbus: baud = 0: "),
        (["--modbus", "/dev/ttyUSB0", "--registers", "input:0", "--baud", "-1"], "--modbus: baud = -1: "),
        (
            ["--modbus", "127.0.0.1", "--mapping", "sungrow_sh.toml", "--send", "1W", "--yes"],
            "--send: needs --broker URL for stops and leases, also on Modbus",
        ),
        (
            ["--broker", "mqtt://x", "--mapping", "sungrow_sh.toml", "--send", "1W", "--yes"],
            "--send: Sungrow SH battery needs --modbus",
        ),
        (["--modbus", "127.0.0.1", "--registers", "inputs:0"], "--registers inputs:0: expected holding:0-49"),
        (["--modbus", "127.0.0.1", "--registers", "input:9-3"], "expected the lower address first"),
        (["--modbus", "127.0.0.1", "--registers", "input:0-600"], "500 registers at most"),
        (["--modbus", "127.0.0.1", "--mapping", "openems.toml"], "OpenEMS Edge is on MQTT: give --broker"),
        (["--broker", "mqtt://x", "--mapping", "sungrow_sh.toml"], "is on Modbus: give --modbus"),
        (
            ["--modbus", "127.0.0.1", "--framing", "ascii", "--mapping", "sungrow_sh.toml"],
            "--modbus: framing = 'ascii'",
        ),
        (["--modbus", ":", "--mapping", "sungrow_sh.toml"], "--modbus: address = ':': ':': expected HOST"),
    ],
)
def test_what_probe_cannot_do_is_one_line(
    in_a_folder_of_mappings: None, arguments: list[str], line: str
) -> None:
    done = CliRunner().invoke(app, ["probe", *arguments])
    assert isinstance(done.exception, ConfigError)
    assert line in str(done.exception)


ANYWHERE = ["--modbus", "127.0.0.1:1", "--timeout", "0.2"]
SERVED = ["--agent", "MG1", "--broker", "mqtt://127.0.0.1:1", *ANYWHERE, "--mapping", "sungrow_sh.toml"]


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        (
            [*ANYWHERE, "--mapping", "openems.toml", "--show"],
            2,
            "it has no [registers]: OpenEMS Edge is on MQTT",
        ),
        ([*SERVED, "--name", "other"], 2, "MG1/other: --scenario three_microgrids has no such device"),
        ([*SERVED, "--name", "ess", "--also", "other@3"], 2, "MG1/other: --scenario three_microgrids has no"),
        ([*SERVED, "--name", "ess", "--p-min-mw", "1"], 2, "expected the lower one first"),
        ([*SERVED, "--name", "ess"], 1, "127.0.0.1:1"),
        ([*SERVED, "--show"], 1, "nothing could be read: 127.0.0.1:1 unit 1: no answer"),
        ([*SERVED, "--show", "--set", "p_max=3"], 2, "parameters.p_max: no placeholder uses it"),
        ([*ANYWHERE, "--mapping", "nothing.toml", "--show"], 2, "--mapping nothing.toml: no such file"),
    ],
)
def test_what_the_program_cannot_do_is_one_line(
    in_a_folder_of_mappings: None,
    arguments: list[str],
    code: int,
    line: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert modbus_bridge.run(arguments) == code
    err = capsys.readouterr().err
    assert line in err
    assert len(err.splitlines()) == 1


def test_a_box_that_was_never_reached_is_no_success(
    mosquitto: Mosquitto, inverter: BoxThread, env_id: str
) -> None:
    """Of several at one address each is named; one that answers is not."""
    done = run_heron(
        *("device", "modbus_bridge", "--agent", "MG1", "--name", "ess", "--also", "pv@7"),
        *("--also", "gen@8", "--kind", "battery", "--modbus", f"127.0.0.1:{inverter.box.port}"),
        *("--mapping", SUNGROW["profile"], "--broker", mosquitto.url, "--env-id", env_id),
        *("--timeout", "0.2", "--duration", "1.5"),
    )
    assert done.code == 1
    *_, last = done.err.splitlines()
    assert last.startswith("heron-mqtt device modbus_bridge: MG1/gen: never reached: ")
    assert " unit 8: " in last
    assert "no answer" in last
    assert "; MG1/pv: never reached: " in last
    assert "MG1/ess" not in last

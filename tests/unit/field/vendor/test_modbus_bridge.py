"""The program that puts a device on the wire by its registers: what it is told, and what it shows."""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from heron_mqtt.errors import ConfigError, NotHandedBack, NotReady
from heron_mqtt.field.modbus.place import TcpAddress
from heron_mqtt.field.modbus.program import BridgedUnit
from heron_mqtt.field.modbus.registers import ModbusConnection
from heron_mqtt.field.vendor import modbus_bridge
from heron_mqtt.field.vendor.modbus_bridge import BridgeScenario, DevicePlace, read_once
from support.modbus_box import ModbusBox
from support.rows import each_row

AT = ["--agent", "MG1", "--name", "ess", "--broker", "mqtt://127.0.0.1:1", "--modbus", "127.0.0.1:1"]
BOX = """
name = "box"
[registers]
w = { address = 10, scale = 0.1 }
on = { address = 7, area = "coil" }
missing = { address = 99, area = "input" }
[quantities.p_mw]
formula = "w"
unit = "W"
[parameters]
"""


@pytest.fixture
def box_file(tmp_path: Path) -> Path:
    file = tmp_path / "box.toml"
    file.write_text(BOX)
    return file


def options(*more: str, mapping: Path | str) -> argparse.Namespace:
    return modbus_bridge._parser().parse_args([*AT, "--mapping", str(mapping), *more])


@each_row(
    ("text", "value"),
    [
        ("a=5", 5),
        ("a=5.0", 5.0),
        ("a=-1e3", -1000.0),
        ("a=true", True),
        ("a=false", False),
        ("a=.5", 0.5),
        ("a=0042", "0042"),
        ("a=nan", "nan"),
        ("a=True", "True"),
        ("a=x=y", "x=y"),
        ("a=", ""),
    ],
)
def test_a_parameter_is_the_number_the_truth_or_the_text_that_it_looks_like(text: str, value: Any) -> None:
    name, found = modbus_bridge._parameter(text)
    assert (name, found, type(found)) == ("a", value, type(value))


@pytest.mark.parametrize("text", ["a", "=5", ""])
def test_a_parameter_without_a_name_or_a_value_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError) as refused:
        modbus_bridge._parameter(text)
    assert str(refused.value) == f"{text!r}: expected NAME=VALUE"


PLATE = DevicePlace("battery", (-0.01, 0.02), 7.0)


@pytest.mark.parametrize(
    ("said", "kind", "found", "place"),
    [
        ([], None, PLATE, PLATE),
        (["--p-min-mw", "0", "--p-max-mw", "0"], None, PLATE, DevicePlace("battery", (0.0, 0.0), 7.0)),
        (["--p-min-mw", "-0.005"], None, PLATE, DevicePlace("battery", (-0.005, 0.02), 7.0)),
        (["--p-max-mw", "0.005"], None, PLATE, DevicePlace("battery", (-0.01, 0.005), 7.0)),
        (["--kind", "pv"], None, PLATE, DevicePlace("pv", (-0.01, 0.02), 7.0)),
        (["--kind", "pv"], "load", PLATE, DevicePlace("load", (-0.01, 0.02), 7.0)),
        (
            ["--kind", "pv", "--p-min-mw", "0", "--p-max-mw", "1"],
            None,
            None,
            DevicePlace("pv", (0.0, 1.0), 5.0),
        ),
    ],
)
def test_a_device_is_what_is_said_else_what_the_scenario_says(
    box_file: Path, said: list[str], kind: str | None, found: DevicePlace | None, place: DevicePlace
) -> None:
    asked: list[tuple[str, str]] = []
    scenario = BridgeScenario("lab", lambda *who: (asked.append(who), found)[1])
    made = modbus_bridge._place(options(*said, mapping=box_file), BridgedUnit("ess", 1, kind), scenario)
    assert made == place
    assert asked == [("MG1", "ess")]


@pytest.mark.parametrize(
    "said",
    [
        ["--kind", "pv", "--p-min-mw", "0"],
        ["--kind", "pv", "--p-max-mw", "0"],
        ["--p-min-mw", "0", "--p-max-mw", "1"],
    ],
)
def test_a_device_of_which_something_is_not_known_is_named(box_file: Path, said: list[str]) -> None:
    scenario = BridgeScenario("lab", lambda agent, name: None)
    with pytest.raises(ConfigError) as refused:
        modbus_bridge._place(options(*said, mapping=box_file), BridgedUnit("ess", 1), scenario)
    assert str(refused.value) == (
        "MG1/ess: --scenario three_microgrids has no such device; give another scenario, or --kind, "
        "--p-min-mw and --p-max-mw"
    )


def test_the_lower_end_of_a_nameplate_comes_first(box_file: Path) -> None:
    scenario = BridgeScenario("lab", lambda agent, name: PLATE)
    with pytest.raises(ConfigError) as refused:
        modbus_bridge._place(options("--p-min-mw", "0.5", mapping=box_file), BridgedUnit("ess", 1), scenario)
    assert str(refused.value) == "--p-min-mw 0.5 --p-max-mw 0.02: expected the lower one first"


def test_a_mapping_is_a_file_of_ones_own_or_a_shipped_one(box_file: Path, tmp_path: Path) -> None:
    assert modbus_bridge._mapping(options(mapping=box_file), "ess").name == "box"
    wanted = {"p_max_w": 3000}
    sungrow = "device_profiles/sungrow_sh.toml"
    shipped = modbus_bridge._mapping(options("--set", "p_max_w=3000", mapping=sungrow), "ess")
    assert shipped.table.parameters.items() >= wanted.items()
    own = tmp_path / "own.toml"
    own.write_text(f'profile = "{sungrow}"\n[parameters]\np_max_w = 1\n')
    assert modbus_bridge._mapping(options(mapping=own), "ess").table.parameters["p_max_w"] == 1
    changed = modbus_bridge._mapping(options("--set", "p_max_w=3000", mapping=own), "ess")
    assert changed.table.parameters.items() >= wanted.items()
    profile = tmp_path / "profile.toml"
    profile.write_text(BOX.replace("address = 10", 'address = "{at}"') + "at = 10\n")
    mapping = modbus_bridge._mapping(options("--set", "at=20", mapping=profile), "ess")
    assert mapping.registers is not None
    assert mapping.registers.registers["w"].span.address == 20
    with pytest.raises(ConfigError, match=r"--mapping \S+box.toml .*: parameters.zz: no placeholder uses it"):
        modbus_bridge._mapping(options("--set", "zz=1", mapping=box_file), "ess")
    topics = tmp_path / "topics.toml"
    topics.write_text('name = "x"\n[[telemetry]]\ntopic = "a"\nfields.p_mw = { path = "p", unit = "W" }\n')
    with pytest.raises(ConfigError) as refused:
        modbus_bridge._mapping(options(mapping=topics), "ess")
    assert str(refused.value) == f"--mapping {topics}: it has no [registers]: x is on MQTT"


def test_each_device_has_a_name_of_its_own(box_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scenario = BridgeScenario("lab", lambda agent, name: PLATE)
    said = [*AT, "--mapping", str(box_file), "--also", "roof@2", "--also", "ess@3"]
    with pytest.raises(SystemExit) as ended:
        modbus_bridge.run(said, lambda _: scenario)
    assert ended.value.code == 2
    assert "--also: every device needs a name of its own, got ess, roof, ess" in capsys.readouterr().err


def test_it_has_to_be_said_what_the_device_is_called(
    box_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scenario = BridgeScenario("lab", lambda agent, name: PLATE)
    with pytest.raises(SystemExit) as ended:
        modbus_bridge.run(["--modbus", "127.0.0.1:1", "--mapping", str(box_file)], lambda _: scenario)
    assert ended.value.code == 2
    assert "--agent, --name, --broker" in capsys.readouterr().err


async def test_a_device_that_was_not_handed_back_is_an_error_of_the_program(
    caplog: pytest.LogCaptureFixture,
) -> None:
    shown: Any = SimpleNamespace(unproven=None)
    owing: Any = SimpleNamespace(left_undone="it was not handed back", label="MG1/ess")
    with pytest.raises(NotHandedBack, match=r"^MG1/ess: it was not handed back$"):
        await modbus_bridge._require_handed_back(shown, owing, 0.0)
    free: Any = SimpleNamespace(left_undone=None, label="MG1/ess", stopped=False)
    await modbus_bridge._require_handed_back(shown, free, 0.0)
    assert caplog.messages == []
    hidden: Any = SimpleNamespace(unproven="mode: cannot be read back")
    await modbus_bridge._require_handed_back(hidden, SimpleNamespace(**{**vars(free), "stopped": True}), 0.0)
    assert caplog.messages == [], "in a stop it is not handed back"
    await modbus_bridge._require_handed_back(hidden, free, 0.0)
    assert caplog.messages == [
        "MG1/ess: it has acknowledged that it is handed back, which its registers do not show: "
        "mode: cannot be read back"
    ]


async def test_every_register_is_shown_with_what_it_holds_and_means(
    box_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    box = await ModbusBox({1: {"holding": {10: [75]}, "coil": {7: [1]}}}).start()
    asked = options("--timeout", "5", mapping=box_file)
    asked.modbus = TcpAddress("127.0.0.1", box.port)
    await modbus_bridge._show(asked, "")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:3] for line in lines] == [
        ["p_mw", "7.5e-06"],
        ["w", "holding", "10"],
        ["on", "coil", "7"],
        ["missing", "input", "99"],
    ]
    assert lines[1].split() == ["w", "holding", "10", "004b", "=", "75", "7.5"]
    assert lines[2].split() == ["on", "coil", "7", "True", "True"]
    assert "-  (" in lines[3]
    assert lines[3].rstrip().endswith("exception 2 (illegal data address))")
    await box.stop()


async def test_where_nothing_can_be_read_it_says_why(box_file: Path) -> None:
    box = await ModbusBox({1: {"holding": {1: [0]}}}).start()
    asked = options("--timeout", "5", mapping=box_file)
    asked.modbus = TcpAddress("127.0.0.1", box.port)
    with pytest.raises(NotReady, match=r"^nothing could be read: 127\.0\.0\.1:.*\(illegal data address\)"):
        await modbus_bridge._show(asked, "")
    mapping = modbus_bridge._mapping(asked, "ess")
    with contextlib.closing(ModbusConnection(asked.modbus, timeout_s=5.0)) as connection:
        lines = await read_once(connection, 1, mapping)
    assert [line.payloads for line in lines] == [0, 0, 0, 0]
    await box.stop()

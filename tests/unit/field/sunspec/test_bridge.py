"""The SunSpec bridge as a program: what it is told, and what of that reaches the inverter."""

from __future__ import annotations

import argparse
import io
import uuid
from typing import Any

import pytest

from heron_mqtt.errors import ConfigError, NotReady
from heron_mqtt.field.modbus.program import BridgedUnit
from heron_mqtt.field.sunspec import bridge
from heron_mqtt.field.sunspec.der_ac_controls import DerOptions
from heron_mqtt.field.sunspec.device import SunSpecDevice
from heron_mqtt.field.sunspec.inverter import Settings
from heron_mqtt.messaging.memory import InMemoryBroker
from heron_mqtt.messaging.stamping import MessageStamper
from support.sunspec_server import DER, PV, EmulatedInverter

NO_OBSERVER = ["--modbus", "127.0.0.1:1", "--timeout", "0.2"]


def parsed(*arguments: str) -> argparse.Namespace:
    return bridge._parser().parse_args([*NO_OBSERVER, *arguments])


def test_what_is_only_shown_needs_no_name_on_the_wire(capsys: pytest.CaptureFixture[str]) -> None:
    assert bridge.run([*NO_OBSERVER, "--show"], lambda _: "default") == 1
    assert "127.0.0.1:1 unit 1: no answer" in capsys.readouterr().err


def test_what_is_served_needs_a_name_on_the_wire(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        bridge.run(NO_OBSERVER, lambda _: "default")
    assert "--agent" in capsys.readouterr().err


async def test_every_model_is_shown_with_its_place_and_the_points_that_it_has(
    capsys: pytest.CaptureFixture[str],
) -> None:
    box = await EmulatedInverter(DER).start()
    await bridge._show(parsed("--modbus", f"127.0.0.1:{box.port}"), "")
    await box.stop()
    lines = capsys.readouterr().out.splitlines()
    models = [line.split()[1] for line in lines if line.startswith("model ")]
    assert models == ["1", "701", "702", "704", "713"]
    assert lines[0].endswith("registers at 40002")
    assert {"    Mn = Heron Works", "    InvSt = 3 RUNNING", "    SoC = 80.5"} <= set(lines)
    assert box.writes() == []


async def test_an_inverter_that_is_not_there_or_is_none_is_told_by_its_place() -> None:
    with pytest.raises(NotReady, match=r"127\.0\.0\.1:1 unit 1: no answer"):
        await bridge._show(parsed(), "")
    box = await EmulatedInverter(DER).start()
    box.image[:2] = [0, 0]
    with pytest.raises(ConfigError, match="SunS"):
        await bridge._show(parsed("--modbus", f"127.0.0.1:{box.port}"), "")
    await box.stop()


def test_without_options_an_inverter_is_as_its_models_say_and_its_safe_state_is_zero() -> None:
    settings = bridge._settings(BridgedUnit("ess", 1, None), parsed())
    assert settings == Settings(
        kind=None,
        nominal_v=None,
        discharge_w=None,
        safe_zero=True,
        timer_needed=True,
        read_only=False,
        dark_is_zero=False,
        dc_battery=None,
        der=DerOptions(None, True, None),
    )


def test_what_is_said_of_all_counts_for_each_unless_it_says_otherwise() -> None:
    options = parsed(
        *("--nominal-v", "230", "--safe-state", "release", "--discharge-reference-w", "5000"),
        *("--dc-battery", "charging", "--power-factor", "under:0.9", "--ramp", "10"),
        *("--without-reversion", "--read-only", "--dark-is-zero"),
        *("--also", "roof@2:pv,nominal-v=120,safe-state=zero"),
    )
    first = bridge._settings(BridgedUnit("ess", 1, "battery"), options)
    assert first == Settings(
        kind="battery",
        nominal_v=230.0,
        discharge_w=5000.0,
        safe_zero=False,
        timer_needed=False,
        read_only=True,
        dark_is_zero=True,
        dc_battery="charging",
        der=DerOptions(0.9, False, 10),
    )
    [also] = options.also
    roof = bridge._settings(also, options)
    assert (roof.kind, roof.nominal_v, roof.safe_zero, roof.dc_battery) == ("pv", 120.0, True, None)


@pytest.mark.parametrize(
    ("text", "found"), [("over:1", (True, 1.0)), ("under:0.95", (False, 0.95)), ("over:0.01", (True, 0.01))]
)
def test_a_power_factor_has_a_way_and_a_number_up_to_1(text: str, found: tuple[bool, float]) -> None:
    assert bridge._power_factor(text) == found


@pytest.mark.parametrize("text", ["over:0", "over:1.01", "over:-0.5", "over:x", "over", "0.95", "lead:0.95"])
def test_a_power_factor_that_is_none_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=r"expected over:0.95 .* or under:0.95"):
        bridge._power_factor(text)


@pytest.mark.parametrize(("text", "found"), [("1", 1), ("65534", 65_534)])
def test_a_ramp_is_whole_percent_a_second_that_its_register_holds(text: str, found: int) -> None:
    assert bridge._ramp(text) == found


@pytest.mark.parametrize("text", ["0", "65535", "1.5", "-1", ""])
def test_a_ramp_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="whole percent a second, at least 1"):
        bridge._ramp(text)


WIRE = ["--agent", "MG1", "--name", "ess", "--broker", "mqtt://127.0.0.1:1"]


def test_two_devices_of_one_name_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for also in (["--also", "ess@2"], ["--also", "roof@2", "--also", "roof@3"]):
        with pytest.raises(SystemExit, match="2"):
            bridge.run([*NO_OBSERVER, *WIRE, *also], lambda _: "default")
        names = ", ".join(["ess", *(each.partition("@")[0] for each in also[1::2])])
        line = capsys.readouterr().err.splitlines()[-1]
        assert f"--also: every device needs a name of its own, got {names}" in line


async def test_an_inverter_that_is_not_there_is_told_before_anything_is_served() -> None:
    options = parsed(*WIRE)
    with pytest.raises(
        NotReady, match=r"^127\.0\.0\.1:1 unit 1: no answer; is Modbus TCP switched on there\?$"
    ):
        await bridge._serve(options, f"env-{uuid.uuid4().hex}")


async def test_every_unit_is_served_with_what_was_said_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    box = EmulatedInverter(DER, unit=1)
    box.beside.append(EmulatedInverter(PV, unit=2))
    await box.start()
    served: list[Any] = []

    async def serve_unit(*said: Any) -> None:
        served.append(said)

    monkeypatch.setattr(bridge, "serve_unit", serve_unit)
    for read_only, claimed in ((True, []), (False, ["ess", "roof"])):
        claims: list[Any] = []
        monkeypatch.setattr(
            bridge,
            "claim_unit",
            lambda options, env_id, unit, own_registers=None, claims=claims: (
                claims.append((env_id, unit.name, own_registers)) or io.StringIO()
            ),
        )
        options = parsed(
            *("--modbus", f"127.0.0.1:{box.port}", *WIRE, "--also", "roof@2:pv", "--period", "0.5"),
            *(["--read-only"] if read_only else []),
        )
        served.clear()
        await bridge._serve(options, "lab")
        assert claims == [("lab", name, None) for name in claimed], "the whole unit, for this name alone"
        assert [(name, env_id) for name, _, env_id, *_ in served] == [("ess", "lab"), ("roof", "lab")]
        devices = [make(InMemoryBroker(), MessageStamper("MG1/x", "lab")) for _, _, _, make, _, _ in served]
        assert [(device.kind, device.label, device._period_s) for device in devices] == [
            *(("battery", "MG1/ess", 0.5), ("pv", "MG1/roof", 0.5))
        ]
        assert [device.is_settable for device in devices] == [not read_only] * 2
        assert all(hand_back is SunSpecDevice.hand_back for *_, hand_back in served)
    await box.stop()


async def test_a_model_of_a_vendors_own_is_shown_by_its_number_alone(
    capsys: pytest.CaptureFixture[str],
) -> None:
    box = EmulatedInverter({1: {"Mn": "Heron Works"}})
    box.image[-2:] = [64_999, 2, 7, 7, 0xFFFF, 0]
    await box.start()
    await bridge._show(parsed("--modbus", f"127.0.0.1:{box.port}"), "")
    await box.stop()
    assert capsys.readouterr().out.splitlines() == [
        "model 1 common, 68 registers at 40002",
        "    Mn = Heron Works",
        "model 64999 not defined by SunSpec, 4 registers at 40070",
    ]


def test_a_mistake_in_what_is_said_of_one_device_alone_is_told_with_its_name() -> None:
    for said, text in (
        ({"nominal-v": "0"}, "--also roof: nominal-v: '0': expected a number above 0"),
        ({"safe-state": "off"}, "--also roof: safe-state: 'off': expected zero or release"),
    ):
        with pytest.raises(ConfigError) as caught:
            bridge._settings(BridgedUnit("roof", 2, "pv", said), parsed())
        assert str(caught.value) == text
    options = parsed("--dc-battery", "charging", "--safe-state", "release", "--nominal-v", "230")
    for kind, dc_battery in (("pv", None), ("battery", "charging"), (None, "charging")):
        settings = bridge._settings(BridgedUnit("roof", 2, kind), options)
        assert (settings.kind, settings.dc_battery) == (kind, dc_battery)
        assert (settings.safe_zero, settings.nominal_v) == (False, 230.0)

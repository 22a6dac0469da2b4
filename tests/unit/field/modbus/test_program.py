"""What bridges to Modbus devices are told is checked before anything is written."""

from __future__ import annotations

import contextlib
import uuid

import pytest

from heron_mqtt.errors import PlaceTaken
from heron_mqtt.field.modbus.program import BridgedUnit, UnitsOnline, bridge_parser, claim_unit
from heron_mqtt.field.place_claim import PlaceClaim, broker_place, place_name
from heron_mqtt.field.sunspec import bridge as sunspec_bridge
from heron_mqtt.field.vendor import modbus_bridge
from heron_mqtt.field.vendor.modbus_bridge import BridgeScenario, DevicePlace
from heron_mqtt.messaging.mqtt.options import read_options


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (["--unit", "0"], "--unit 0: on a serial port 0 is a broadcast"),
        (["--unit", "248"], "--unit 248: on a serial port"),
        (["--also", "roof@0"], "--also roof@0: on a serial port 0 is a broadcast"),
        (["--framing", "tcp"], "--framing tcp: goes with an address; a serial port is always RTU"),
        (["--framing", "rtu"], "--framing rtu: goes with an address; a serial port is always RTU"),
    ],
)
@pytest.mark.parametrize("program", ["sunspec_bridge", "modbus_bridge"])
def test_what_a_serial_line_does_not_have_is_refused_before_anything_is_written(
    program: str, said: list[str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    port = ["--modbus", "/dev/no-such-port"]
    wire = ["--agent", "MG1", "--name", "ess", "--broker", "mqtt://127.0.0.1:1"]
    if program == "sunspec_bridge":
        ended = sunspec_bridge.run([*port, *wire, *said], lambda _: "lab")
    else:
        mapping = ["--mapping", "device_profiles/sungrow_sh.toml", "--set", "p_max_w=3000"]
        plate = DevicePlace("battery", (-0.01, 0.01))
        scenario = BridgeScenario("lab", lambda agent, name: plate)
        ended = modbus_bridge.run([*port, *wire, *mapping, *said], lambda _: scenario)
    assert why in capsys.readouterr().err
    assert ended == 2


@pytest.mark.parametrize("place", ["a,b:1884", "b:1884,a", "jane:secret@B:1884,A:1883"])
def test_a_bridge_counts_as_of_the_environment_of_a_run_whatever_host_comes_first(place: str) -> None:
    box = f"box-{uuid.uuid4().hex}"
    said = ["--agent", "MG1", "--name", "ess", "--modbus", box, "--broker", f"mqtt://{place}"]
    options = bridge_parser("p", "d", "e").parse_args(said)
    broker = broker_place(read_options("mqtt://a,b:1884", client_id="run").hosts)
    claims = [PlaceClaim([place_name(box, 502, "unit", 1)], "lab", at) for at in (broker, "other:1883")]
    with (
        contextlib.closing(claim_unit(options, "lab", BridgedUnit("ess", 1), alone=False)),
        contextlib.closing(claims[0]),
    ):
        claims[0].take()
        with pytest.raises(PlaceTaken):
            claims[1].take()


@pytest.mark.parametrize("baud", ["0", "-1", "-9600", "299", "4000001", "fast"])
def test_a_baud_that_no_port_has_is_refused(baud: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        sunspec_bridge.run(["--modbus", "/dev/no-such-port", f"--baud={baud}", "--show"], lambda _: "lab")
    assert f"{baud!r}: expected bits a second, 300 to 4000000" in capsys.readouterr().err


def test_a_bridge_with_several_units_is_ready_only_when_all_are_online() -> None:
    told: list[str] = []
    online = UnitsOnline("MG1", [BridgedUnit("ess", 1), BridgedUnit("roof", 2)], told.append)
    online.note("roof")
    assert told == []
    online.note("ess")
    assert told == ["MG1/ess, MG1/roof online"]


@pytest.mark.parametrize("text", ["-0.1", "inf", "nan", "x"])
def test_a_period_that_is_no_time_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        bridge_parser("p", "d", "e").parse_args(["--modbus", "h", "--period", text])
    assert f"{text!r}: expected seconds, at least 0" in capsys.readouterr().err


@pytest.mark.parametrize(("text", "period_s"), [("0", 0.0), ("2.5", 2.5)])
def test_a_period_may_be_nothing(text: str, period_s: float) -> None:
    assert bridge_parser("p", "d", "e").parse_args(["--modbus", "h", "--period", text]).period == period_s

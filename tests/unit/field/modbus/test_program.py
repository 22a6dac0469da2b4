"""What bridges to Modbus devices are told is checked before anything is written."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import logging
import signal
import uuid
from types import SimpleNamespace
from typing import Any

import pytest

from heron_mqtt.errors import (
    ConfigError,
    Displaced,
    HeronError,
    NotHandedBack,
    NotReady,
    PlaceTaken,
    told_at_the_end,
)
from heron_mqtt.field.modbus import program
from heron_mqtt.field.modbus.place import SerialLine, TcpAddress
from heron_mqtt.field.modbus.program import (
    BridgedUnit,
    UnitsOnline,
    bridge_parser,
    claim_unit,
    connection_of,
    finite_number,
    modbus_place,
    place_of,
    require_wire,
    run_bridge,
    serve_all,
)
from heron_mqtt.field.place_claim import PlaceClaim, broker_place, place_name
from heron_mqtt.field.sunspec import bridge as sunspec_bridge
from heron_mqtt.field.vendor import modbus_bridge
from heron_mqtt.field.vendor.modbus_bridge import BridgeScenario, DevicePlace
from heron_mqtt.messaging.mqtt.options import read_options
from heron_mqtt.messaging.settings import EVERYWHERE


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
        contextlib.closing(claim_unit(options, "lab", BridgedUnit("ess", 1), [])),
        contextlib.closing(claims[0]),
    ):
        claims[0].take()
        with pytest.raises(PlaceTaken):
            claims[1].take()


@pytest.mark.parametrize("own", [None, [], ["holding 7"]])
def test_a_unit_is_claimed_for_its_environment_at_its_broker(
    own: list[str] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    claimed: list[Any] = []

    class Claim:
        def __init__(self, *what: Any, **own: Any) -> None:
            claimed.append((what, own))

        def take(self) -> None:
            claimed.append("taken")

    monkeypatch.setattr(program, "PlaceClaim", Claim)
    for url, place in (("mqtt://box:1884", broker_place([("box", 1884)])), ("what?", "what?")):
        options = options_of("--agent", "MG1", "--broker", url)
        assert isinstance(claim_unit(options, "lab", BridgedUnit("ess", 7), own), Claim)
        unit = place_name("box", 502, "unit", 7)
        of_device = (
            {} if own is None else {"own_places": [f"{unit} {o}" for o in own], "own_device": "MG1/ess"}
        )
        device = ["MG1/ess"] if own is None else []
        assert claimed == [(([unit], "lab", place, *device), of_device), "taken"]
        claimed.clear()


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


@pytest.mark.parametrize("text", ["-0.1", "inf", "nan", "x", "1e-320", "0.0009", "86401"])
def test_a_period_that_is_no_time_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        bridge_parser("p", "d", "e").parse_args(["--modbus", "h", "--period", text])
    assert f"{text!r}: expected seconds, 0.001 to 86400, or 0: answers only" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "period_s"), [("0", 0.0), ("2.5", 2.5), ("0.001", 1e-3), ("86400", 86400.0)]
)
def test_a_period_may_be_nothing(text: str, period_s: float) -> None:
    assert bridge_parser("p", "d", "e").parse_args(["--modbus", "h", "--period", text]).period == period_s


# -- arguments ---------------------------------------------------------------------------------------


def options_of(*said: str) -> Any:
    return bridge_parser("p", "d", "e").parse_args(["--modbus", "box", *said])


def test_what_is_not_said_is_as_the_help_says() -> None:
    options = options_of()
    assert (options.modbus, options.unit, options.framing) == (TcpAddress("box", 502), 1, None)
    assert (options.connect_delay, options.timeout, options.period, options.duration) == (0.0, 3.0, 1.0, None)
    assert (options.baud, options.parity, options.stop_bits) == (None, None, None)
    assert (options.once, options.supervised, options.scenario) == (False, False, "three_microgrids")
    assert (options.agent, options.name, options.broker, options.env_id) == (None, None, None, None)
    said = options_of("--once", "--supervised", "--unit", "255", "--stop-bits", "2", "--baud", "300")
    assert (said.once, said.supervised, said.unit, said.stop_bits, said.baud) == (True, True, 255, 2, 300)
    assert options_of("--unit", "0", "--stop-bits", "1", "--baud", "4000000").baud == 4_000_000


@pytest.mark.parametrize(
    "said", [("--unit", "256"), ("--unit", "-1"), ("--stop-bits", "3"), ("--stop-bits", "0")]
)
def test_a_number_that_modbus_does_not_have_is_refused(said: tuple[str, str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        options_of(*said)


def test_all_that_is_missing_to_be_on_the_wire_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    parser = bridge_parser("p", "d", "e")
    for said, missing in (
        ([], "--agent, --name, --broker"),
        (["--name", "ess"], "--agent, --broker"),
        (["--name", "ess", "--agent", "MG1"], "--broker"),
    ):
        with pytest.raises(SystemExit, match="2"):
            require_wire(parser, options_of(*said))
        line = capsys.readouterr().err.splitlines()[-1]
        assert line == f"p: the following arguments are required: {missing}; see p --help"
    require_wire(parser, options_of("--name", "ess", "--agent", "MG1", "--broker", "memory"))


def test_a_place_is_an_address_or_a_serial_line_with_what_was_said_of_it() -> None:
    assert modbus_place("box:1502") == TcpAddress("box", 1502)
    line = modbus_place("/dev/ttyS0")
    assert line == SerialLine("/dev/ttyS0")
    assert place_of(line, None, None, None) == line
    assert place_of(line, 300, "odd", 2) == SerialLine("/dev/ttyS0", 300, "odd", 2)
    told = SerialLine("/dev/ttyS0", 19_200, "even", 2)
    assert place_of(told, None, None, None) == told
    assert place_of(TcpAddress("box"), None, None, None) == TcpAddress("box")
    for said, option in (
        ((9600, None, None), "--baud 9600"),
        ((None, "none", None), "--parity none"),
        ((None, None, 1), "--stop-bits 1"),
    ):
        with pytest.raises(ConfigError) as caught:
            place_of(TcpAddress("box"), *said)  # type: ignore[arg-type]
        assert str(caught.value) == f"{option}: goes with a serial port; --modbus box:502 is an address"


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        (["--unit", "0"], "--unit 0"),
        (["--unit", "248"], "--unit 248"),
    ],
)
async def test_a_unit_of_a_serial_line_is_within_what_it_addresses(said: list[str], problem: str) -> None:
    parser = bridge_parser("p", "d", "e")
    port = ["--modbus", "/dev/ttyS0"]
    for fits in ("1", "247"):
        options = parser.parse_args([*port, "--unit", fits])
        options.also = [BridgedUnit("roof", int(fits))]
        assert connection_of(options).address == "/dev/ttyS0"
    options = parser.parse_args([*port, *said])
    options.also = []
    with pytest.raises(ConfigError) as caught:
        connection_of(options)
    assert str(caught.value) == (
        f"{problem}: on a serial port 0 is a broadcast, which every device on the line obeys and none "
        "answers; expected 1 to 247"
    )
    options = parser.parse_args(["--modbus", "box", "--unit", "0"])
    assert connection_of(options).address == "box:502", "an address may have any unit"


def test_a_connection_has_what_was_said_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    monkeypatch.setattr(program, "ModbusConnection", lambda *args, **options: made.append((*args, options)))
    connection_of(options_of("--timeout", "2", "--connect-delay", "5", "--framing", "rtu"))
    connection_of(options_of())
    assert made == [
        (TcpAddress("box"), {"timeout_s": 2.0, "framing": "rtu", "connect_delay_s": 5.0}),
        (TcpAddress("box"), {"timeout_s": 3.0, "framing": "tcp", "connect_delay_s": 0.0}),
    ]


@pytest.mark.parametrize(
    ("ends", "code", "lines"),
    [
        (None, 0, []),
        (NotReady("no broker"), 1, ["p: no broker"]),
        (ConfigError("a", "b"), 2, ["p: a", "p: b"]),
    ],
)
def test_a_bridge_ends_with_a_line_for_each_problem_and_its_code(
    ends: Exception | None,
    code: int,
    lines: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    served: list[str] = []
    used: list[Any] = []
    monkeypatch.setattr(program, "use_options", used.append)
    logging.getLogger("pymodbus").setLevel(logging.NOTSET)

    async def serve(options: Any, env_id: str) -> None:
        served.append(env_id)
        if ends is not None:
            raise ends

    parser = bridge_parser("p", "d", "e")
    for said, env_id in (((), "of three_microgrids"), (("--env-id", "lab"), "lab")):
        assert run_bridge(parser, options_of(*said), lambda scenario: f"of {scenario}", serve) == code
        assert served.pop() == env_id
        assert used.pop()["modbus"] == TcpAddress("box"), "settings of the messages are among the options"
        assert not logging.getLogger("pymodbus").isEnabledFor(logging.ERROR), "its complaints are told by us"
        assert capsys.readouterr().err.splitlines() == lines


# -- the end of several units ------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Let what is waited for at the end pass at once; return how long was waited."""
    slept: list[float] = []
    really = asyncio.sleep

    async def sleep(for_s: float) -> None:
        slept.append(for_s)
        await really(0)

    assert program.BRIDGE_TELLS_END_S == 2.0
    names = ("timeout", "wait", "create_task", "get_running_loop")
    fake = SimpleNamespace(**{name: getattr(asyncio, name) for name in names})
    fake.sleep, fake.FIRST_EXCEPTION = sleep, asyncio.FIRST_EXCEPTION
    monkeypatch.setattr(program, "asyncio", fake)
    return slept


DEVICE: Any = SimpleNamespace(label="MG1/ess", stopped=False)
STOPPED: Any = SimpleNamespace(label="MG1/ess", stopped=True)


async def test_handing_back_is_tried_again_until_it_succeeds(clock: list[float]) -> None:
    ends: list[Exception | None] = [HeronError("busy"), HeronError("busy"), None]
    asked: list[Any] = []
    loop = asyncio.get_running_loop()
    begun_s = loop.time()

    async def hand_back(device: Any, by: float) -> None:
        asked.append(device)
        assert begun_s + 1.9 <= by <= loop.time() + 1.9, "the end of what may be looked at, not of each try"
        end = ends.pop(0)
        if end is not None:
            raise end

    await program._handed_back(DEVICE, hand_back)
    assert (asked, clock) == ([DEVICE] * 3, [0.2, 0.2])


async def test_a_device_that_is_not_handed_back_in_time_is_told_with_why(
    clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program, "BRIDGE_TELLS_END_S", 0.05)

    async def busy(device: Any, by: float) -> None:
        raise HeronError("it is busy")

    async def silent(device: Any, by: float) -> None:
        await asyncio.Event().wait()

    async def final(device: Any, by: float) -> None:
        raise NotHandedBack("it does not know how")

    line = "MG1/ess: it could not be handed back: "
    for device, hand_back, text in (
        (DEVICE, busy, f"{line}it is busy"),
        (DEVICE, silent, f"{line}no answer within 0.05 s"),
        (DEVICE, final, "it does not know how"),
        (STOPPED, busy, "MG1/ess: it is not known to be at 0 in the emergency stop: it is busy"),
    ):
        with pytest.raises(NotHandedBack) as caught:
            await program._handed_back(device, hand_back)
        assert str(caught.value) == text
    assert set(clock) == {0.2}


async def test_a_displaced_bridge_that_cannot_hand_its_device_back_says_both_and_ends_as_displaced(
    clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program, "BRIDGE_TELLS_END_S", 0.05)

    async def busy(device: Any, by: float) -> None:
        raise HeronError("it is busy")

    async def displaced() -> None:
        try:
            raise Displaced("MG1/ess was taken over")
        finally:
            await program._handed_back(DEVICE, busy)

    with pytest.raises(NotHandedBack) as caught:
        await displaced()
    told = ["MG1/ess was taken over", "MG1/ess: it could not be handed back: it is busy"]
    assert told_at_the_end(caught.value) == (told, 3)


async def test_units_are_served_until_all_have_ended_or_one_cannot_go_on() -> None:
    ended: list[str] = []

    async def served(name: str, end: Exception | None = None, at_its_end: Exception | None = None) -> None:
        try:
            if end is not None:
                raise end
            await asyncio.sleep(0 if name.startswith("short") else 30.0)
        finally:
            ended.append(name)
            if at_its_end is not None:
                raise at_its_end

    await serve_all([served("short 1"), served("short 2")], supervised=False)
    assert ended == ["short 1", "short 2"]
    ended.clear()
    with pytest.raises(HeronError, match=r"^one cannot go on$"):
        await serve_all([served("long"), served("one", HeronError("one cannot go on"))], supervised=False)
    assert sorted(ended) == ["long", "one"], "the others have cleaned up"
    left = [NotHandedBack("a was not told"), NotHandedBack("b was not told")]
    with pytest.raises(NotHandedBack, match=r"^a was not told; b was not told$"):
        await serve_all(
            [
                served("a", at_its_end=left[0]),
                served("b", at_its_end=left[1]),
                served("one", HeronError("one cannot go on")),
            ],
            supervised=False,
        )


@pytest.mark.filterwarnings("error::RuntimeWarning")
async def test_a_program_that_is_ended_before_its_devices_begin_ends_them_too() -> None:
    async def served() -> None:
        await asyncio.sleep(30.0)

    async def main() -> None:
        main_task.cancel()  # as a signal does, while nothing of it has begun
        await serve_all([served()], supervised=False)

    main_task = asyncio.create_task(main())
    with pytest.raises(asyncio.CancelledError):
        await main_task
    gc.collect()  # of what was never awaited a warning says so
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_unit_is_served_on_a_connection_whose_will_says_that_it_is_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened: list[Any] = []
    ran: list[Any] = []

    @contextlib.asynccontextmanager
    async def alone(broker: Any) -> Any:
        yield broker

    async def run(**how: Any) -> None:
        ran.append({name: value for name, value in how.items() if name != "on_online"})
        how["on_online"]()

    monkeypatch.setattr(program, "open_broker", lambda url, **how: opened.append((url, how)) or "broker")
    monkeypatch.setattr(program, "leaving_others_alone", alone)
    told: list[str] = []
    handed: list[Any] = []

    async def hand_back(device: Any, by: float) -> None:
        handed.append(device)

    device: Any = SimpleNamespace(label="MG1/ess", run=run)
    options = options_of("--agent", "MG1", "--broker", "mqtt://box", "--duration", "5", "--once")
    online = UnitsOnline("MG1", [BridgedUnit("ess", 1)], told.append)
    for back in (None, hand_back):
        await program.serve_unit("ess", options, "lab", lambda broker, stamper: device, online, back)
    url, how = opened[0]
    channel, will = how["will"]
    assert (url, how["env_id"], how["at_address"]) == ("mqtt://box", "lab", True)
    assert (channel, will["state"], will["sender"]) == ("devices/MG1/ess/status", "offline", "MG1/ess")
    assert ran == [{"duration_s": 5.0, "once": True}] * 2
    assert told == ["MG1/ess online"] * 2
    assert handed == [device]


def test_a_bridge_has_the_settings_of_its_connection_and_must_be_told_its_place(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert {name.replace("-", "_") for name in EVERYWHERE} <= vars(options_of()).keys()
    with pytest.raises(SystemExit, match="2"):
        bridge_parser("p", "d", "e").parse_args([])
    assert "--modbus" in capsys.readouterr().err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_bridge_that_is_told_to_end_says_by_its_code_how(number: int, code: int) -> None:
    async def serve(options: Any, env_id: str) -> None:
        signal.raise_signal(number)
        await asyncio.sleep(30.0)

    assert run_bridge(bridge_parser("p", "d", "e"), options_of(), lambda scenario: "lab", serve) == code


@pytest.mark.parametrize("text", ["inf", "-inf", "nan", "1e400", "x", ""])
def test_a_nameplate_is_of_finite_numbers(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=r"expected a number$"):
        finite_number(text)
    assert finite_number("-0.005") == -0.005

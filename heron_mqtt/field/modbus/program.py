"""What programs that stand for Modbus devices share: options, connection, several units, the end."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import math
import sys
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from heron_mqtt.cancellation import end_tasks
from heron_mqtt.end_signals import AskedToEnd, exit_code, run_until_told, until_input_ends
from heron_mqtt.end_times import BRIDGE_TELLS_END_S
from heron_mqtt.errors import ConfigError, HeronError, NotHandedBack, told_at_the_end
from heron_mqtt.field.device import FieldDevice
from heron_mqtt.field.device.presence import leaving_others_alone
from heron_mqtt.field.modbus.place import (
    MAX_BAUD,
    MAX_SERIAL_UNIT,
    MIN_BAUD,
    ModbusPlace,
    Parity,
    SerialLine,
    is_serial_port,
    tcp_address,
)
from heron_mqtt.field.modbus.registers import ModbusConnection
from heron_mqtt.field.place_claim import PlaceClaim, broker_place, unit_place
from heron_mqtt.messages import Status
from heron_mqtt.messaging import topics
from heron_mqtt.messaging.base import MessageBroker
from heron_mqtt.messaging.schemes import open_broker
from heron_mqtt.messaging.settings import add_options, env_id_argument, use_options
from heron_mqtt.messaging.stamping import MessageStamper
from heron_mqtt.messaging.urls import parse_url, without_login
from heron_mqtt.program_arguments import ProgramArguments, period
from heron_mqtt.scheduling import add_priority_option, real_time_priority
from heron_mqtt.service_manager import THE_SERVICE

log = logging.getLogger("heron_mqtt.modbus")

GOODBYE_PAUSE_S = 0.2
SAY_S = 0.1  # of it, to say what was read at its very end

D = TypeVar("D", bound=FieldDevice)


@dataclass(frozen=True, slots=True)
class BridgedUnit:
    """One device behind the address.

    Attributes:
        name: On the wire.
        unit: Modbus unit id.
        kind: Its kind, if the user gives it; None = not given.
        options: What the user says of this device alone: option -> text.
    """

    name: str
    unit: int
    kind: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)


def bridge_parser(prog: str, description: str, epilog: str) -> ProgramArguments:
    """Return a parser with the options that every Modbus bridge has."""
    parser = ProgramArguments(
        prog=prog,
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--agent", help="agent that owns the device, for example MG1")
    parser.add_argument("--name", help="the device's name, for example ess")
    add_options(parser)
    parser.add_argument("--broker", metavar="URL", help="mqtt://host:port")
    parser.add_argument(
        "--modbus",
        required=True,
        metavar="HOST[:PORT]|PORT",
        type=modbus_place,
        help="where it is; a serial port such as /dev/ttyUSB0 is Modbus RTU",
    )
    parser.add_argument("--baud", type=_baud, metavar="N", help="of a serial port, bits a second (9600)")
    parser.add_argument("--parity", choices=["none", "even", "odd"], help="of a serial port (none)")
    parser.add_argument("--stop-bits", type=int, choices=[1, 2], help="of a serial port (1)")
    parser.add_argument("--unit", type=int, default=1, choices=range(256), metavar="N", help="Modbus unit id")
    parser.add_argument(
        "--framing",
        choices=["tcp", "rtu"],
        help="rtu: for a gateway that passes RTU frames on over TCP (tcp)",
    )
    parser.add_argument(
        "--connect-delay",
        type=_seconds,
        default=0.0,
        metavar="S",
        help="wait so long after connecting, and hold the connection through unanswered requests",
    )
    parser.add_argument("--timeout", type=positive, default=3.0, metavar="S", help="of a Modbus answer, s")
    parser.add_argument("--scenario", default="three_microgrids", help="whose environment it belongs to")
    parser.add_argument(
        "--env-id", type=env_id_argument, help="environment on the wire (default: the scenario's)"
    )
    parser.add_argument("--period", type=period, default=1.0, metavar="S", help="time between telemetry, s")
    parser.add_argument("--once", action="store_true", help="end after the first answered setpoint")
    parser.add_argument("--duration", type=positive, metavar="S", help="end after this time, s")
    parser.add_argument("--supervised", action="store_true", help="end when standard input ends")
    add_priority_option(parser)
    return parser


def require_wire(parser: ProgramArguments, options: argparse.Namespace) -> None:
    """End the program if it is not said what the device is called, or where the broker is."""
    missing = [f"--{n}" for n in ("agent", "name", "broker") if getattr(options, n) is None]
    if missing:
        parser.error(f"the following arguments are required: {', '.join(missing)}")


def run_bridge(
    parser: ProgramArguments,
    options: argparse.Namespace,
    env_id_of: Callable[[str], str],
    serve: Callable[[argparse.Namespace, str], Coroutine[Any, Any, None]],
) -> int:
    """Run a bridge until it is asked to end; returns the exit code.

    Exit codes: 0, done or ended by SIGTERM; 1, broker or device cannot be reached, or a device could not be
    handed back; 2, arguments, scenario or device do not fit; 3, displaced by another device of its name; 130,
    ended by Ctrl-C or SIGHUP.

    Args:
        parser: For the name of the program.
        options: What it was told.
        env_id_of: Returns the id on the wire of the environment that a scenario describes.
        serve: Given the options and the environment.
    """
    logging.basicConfig(
        stream=sys.stderr, level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s"
    )
    logging.getLogger("pymodbus").setLevel(logging.CRITICAL)  # what it complains of we tell ourselves
    try:
        use_options(vars(options))
        env_id = env_id_of(options.scenario) if options.env_id is None else options.env_id
        with real_time_priority(options.priority):
            run_until_told(serve(options, env_id))
    except AskedToEnd as asked:
        return exit_code(asked)
    except HeronError as exc:
        problems, code = told_at_the_end(exc)
        for problem in problems:
            sys.stderr.write(f"{parser.prog}: {problem}\n")
        return code
    return 0


def connection_of(options: argparse.Namespace) -> ModbusConnection:
    """Return the connection that options describe.

    Raises:
        ConfigError: pymodbus is not installed, or what is said of a serial line does not fit.
    """
    _check_serial_line(options)
    return ModbusConnection(
        place_of(options.modbus, options.baud, options.parity, options.stop_bits),
        timeout_s=options.timeout,
        framing=options.framing or "tcp",
        connect_delay_s=options.connect_delay,
    )


def _check_serial_line(options: argparse.Namespace) -> None:
    """See that units and framing are such that a serial line has, as in a scenario.

    Raises:
        ConfigError: They are not.
    """
    if not isinstance(options.modbus, SerialLine):
        return
    if options.framing is not None:
        raise ConfigError(f"--framing {options.framing}: goes with an address; a serial port is always RTU")
    units = [("--unit ", options.unit), *((f"--also {each.name}@", each.unit) for each in options.also)]
    for option, unit in units:
        if not 1 <= unit <= MAX_SERIAL_UNIT:
            raise ConfigError(
                f"{option}{unit}: on a serial port 0 is a broadcast, which every device on the line "
                f"obeys and none answers; expected 1 to {MAX_SERIAL_UNIT}"
            )


def place_of(
    place: ModbusPlace, baud: int | None, parity: Parity | None, stop_bits: int | None
) -> ModbusPlace:
    """Return a place with what was said of its serial line.

    Raises:
        ConfigError: It is no serial line.
    """
    if isinstance(place, SerialLine):
        return replace(
            place,
            baud=place.baud if baud is None else baud,
            parity=place.parity if parity is None else parity,
            stop_bits=place.stop_bits if stop_bits is None else stop_bits,
        )
    for option, value in (("--baud", baud), ("--parity", parity), ("--stop-bits", stop_bits)):
        if value is not None:
            raise ConfigError(f"{option} {value}: goes with a serial port; --modbus {place} is an address")
    return place


def claim_unit(
    options: argparse.Namespace, env_id: str, unit: BridgedUnit, own_registers: Iterable[str] | None = None
) -> PlaceClaim:
    """Claim a unit that a program may set, for its environment; the claim ends with the program.

    Args:
        options: What the program was told.
        env_id: The environment.
        unit: The unit.
        own_registers: Which of its registers only this device may set; the others are any one's of the
            environment. None = all: not even another device of the environment may be set there.

    Raises:
        PlaceTaken: Another environment, or another device, has it, by a program on this machine.
    """
    device = f"{options.agent}/{unit.name}"
    place = unit_place(options.modbus, unit.unit)
    broker = _broker_place(options.broker)
    if own_registers is None:
        claim = PlaceClaim([place], env_id, broker, device)
    else:
        own = [f"{place} {register}" for register in own_registers]
        claim = PlaceClaim([place], env_id, broker, own_places=own, own_device=device)
    claim.take()
    return claim


def _broker_place(url: str) -> str:
    """Return the place of a broker; of what is no MQTT address the text: connecting says what is wrong."""
    try:
        return broker_place(parse_url(url).hosts)
    except ConfigError:
        return without_login(url)


class UnitsOnline:
    """Tells once that the program does its work: when all its units are online.

    Args:
        agent: Whose they are.
        units: What the program serves.
        tell: Called with this.
    """

    def __init__(
        self, agent: str, units: Sequence[BridgedUnit], tell: Callable[[str], None] = THE_SERVICE.tell_ready
    ) -> None:
        self._all = ", ".join(f"{agent}/{unit.name}" for unit in units)
        self._awaited = {unit.name for unit in units}
        self._tell = tell

    def note(self, name: str) -> None:
        """Take note that a unit is online."""
        self._awaited.discard(name)
        if not self._awaited:
            self._tell(f"{self._all} online")


async def serve_unit(
    name: str,
    options: argparse.Namespace,
    env_id: str,
    make: Callable[[MessageBroker, MessageStamper], D],
    units: UnitsOnline,
    hand_back: Callable[[D, float], Awaitable[None]] | None = None,
) -> None:
    """Serve one device on a broker connection of its own, whose will is its ``offline``.

    Args:
        name: Of the device.
        options: What the program was told.
        env_id: The environment.
        make: Makes the device.
        units: All that the program serves.
        hand_back: Called at the end, while the connection is still there, and again where it fails;
            ``NotHandedBack`` is final. Given until when it may look whether it has succeeded, by the loop's
            clock, s.

    Raises:
        NotHandedBack: ``hand_back`` failed, or took too long.
    """
    stamper = MessageStamper(f"{options.agent}/{name}", env_id)
    status = topics.device(options.agent, name, "status")
    will = (status, stamper.will(Status(state="offline")))
    mqtt = open_broker(options.broker, env_id=env_id, at_address=True, will=will)
    async with leaving_others_alone(mqtt) as broker:
        device = make(broker, stamper)
        try:
            await device.run(
                duration_s=options.duration,
                once=options.once,
                on_online=lambda: units.note(name),
            )
        finally:
            if hand_back is not None:
                await _handed_back(device, hand_back)


async def _handed_back(device: D, hand_back: Callable[[D, float], Awaitable[None]]) -> None:
    """Hand a device back, and try it again while there is time: it may be busy for a moment only.

    In a stop it is not handed back, but must be at 0.

    Raises:
        NotHandedBack: It was not.
    """
    why = f"no answer within {BRIDGE_TELLS_END_S:g} s"
    by = asyncio.get_running_loop().time() + BRIDGE_TELLS_END_S - SAY_S
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(BRIDGE_TELLS_END_S):
            while True:
                try:
                    await hand_back(device, by)
                    return
                except NotHandedBack:
                    raise
                except HeronError as exc:
                    why = str(exc)
                await asyncio.sleep(GOODBYE_PAUSE_S)
    in_stop = "it is not known to be at 0 in the emergency stop"
    what = in_stop if device.stopped else "it could not be handed back"
    # Not in place of the error that ended the device: a displacement is also reported, and sets the code.
    raise NotHandedBack(f"{device.label}: {what}: {why}")


async def serve_all(serving: Sequence[Coroutine[Any, Any, None]], *, supervised: bool) -> None:
    """Serve devices until all have ended, or one of them cannot continue.

    Raises:
        HeronError: Of the first that could not continue; the others have cleaned up.
    """
    # Made here, not in a task that may be cancelled before it begins: each of them is awaited, and cleans up.
    tasks = [asyncio.create_task(each, name=f"unit {i}") for i, each in enumerate(serving)]
    together = asyncio.create_task(_until_one_fails(tasks), name="devices behind Modbus")
    try:
        await (until_input_ends(together) if supervised else together)
    finally:
        together.cancel()
        ends = await end_tasks(tasks)
        left = [str(end) for end in ends if isinstance(end, NotHandedBack)]
        if left:  # also where all were asked to end: that has not succeeded
            raise NotHandedBack("; ".join(left))


async def _until_one_fails(tasks: Sequence[asyncio.Task[None]]) -> None:
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    for task in done:
        task.result()


def modbus_place(text: str) -> ModbusPlace:
    """Return an address, or a serial line.

    Raises:
        argparse.ArgumentTypeError: It is none.
    """
    try:
        return SerialLine(text) if is_serial_port(text) else tcp_address(text)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(str(exc)) from None


def further_unit(text: str, kinds: Collection[str] = (), options: Collection[str] = ()) -> BridgedUnit:
    """Return one more device behind the address, from NAME@UNIT, NAME@UNIT:KIND or ...,OPTION=VALUE,...

    Args:
        text: What the user says.
        kinds: What KIND may be; empty = none can be given.
        options: What may be said of one device alone.

    Raises:
        argparse.ArgumentTypeError: It is none.
    """
    place, *said = text.split(",")
    name, _, rest = place.partition("@")
    unit, _, kind = rest.partition(":")
    given = dict(each.partition("=")[::2] for each in said)
    fits = name and unit.isdigit() and int(unit) <= 255 and (not kind or kind in kinds)
    if not fits or not given.keys() <= set(options) or not all(given.values()):
        shown = "NAME@UNIT" + ("[:KIND]" if kinds else "") + "".join(f"[,{o}=...]" for o in options)
        which = f", KIND {' or '.join(kinds)}" if kinds else ""
        raise argparse.ArgumentTypeError(f"{text!r}: expected {shown}, UNIT 0 to 255{which}")
    return BridgedUnit(name, int(unit), kind or None, given)


def positive(text: str) -> float:
    """Return a number above 0.

    Raises:
        argparse.ArgumentTypeError: It is none.
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0.0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number above 0")
    return value


def finite_number(text: str) -> float:
    """Return a number.

    Raises:
        argparse.ArgumentTypeError: It is none, or not finite.
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number")
    return value


def _baud(text: str) -> int:
    if not text.isdecimal() or not MIN_BAUD <= int(text) <= MAX_BAUD:
        raise argparse.ArgumentTypeError(f"{text!r}: expected bits a second, {MIN_BAUD} to {MAX_BAUD}")
    return int(text)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0.0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r}: expected seconds, at least 0")
    return value

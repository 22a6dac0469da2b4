"""SunSpec inverters on the wire, as a program.

    heron-mqtt device sunspec_bridge --agent MG1 --name ess --broker URL --modbus HOST:PORT --unit 1

It finds the inverter's models over Modbus TCP and publishes nameplate and telemetry. It turns leased
setpoints into controls with a reversion timer. docs/sunspec.md describes models, safe states and limits.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import sys
from collections.abc import Callable, Sequence
from functools import partial

from heron_mqtt.errors import ConfigError, NotReady
from heron_mqtt.field.modbus.program import (
    BridgedUnit,
    UnitsOnline,
    bridge_parser,
    claim_unit,
    connection_of,
    further_unit,
    positive,
    require_wire,
    run_bridge,
    serve_all,
    serve_unit,
)
from heron_mqtt.field.modbus.registers import ModbusFault, Registers
from heron_mqtt.field.place_claim import unit_place
from heron_mqtt.field.state_directory import state_directory
from heron_mqtt.field.sunspec.block import SunSpecError
from heron_mqtt.field.sunspec.der_ac_controls import DerOptions
from heron_mqtt.field.sunspec.device import SunSpecDevice, make_device
from heron_mqtt.field.sunspec.discovery import find_models, read_model
from heron_mqtt.field.sunspec.inverter import Inverter, Settings
from heron_mqtt.field.sunspec.kept_settings import KeptSettings
from heron_mqtt.field.sunspec.layouts import layout
from heron_mqtt.field.sunspec.nameplate import InverterKind
from heron_mqtt.messaging.base import MessageBroker
from heron_mqtt.messaging.stamping import MessageStamper
from heron_mqtt.program_arguments import ProgramArguments

__all__ = ["SunSpecDevice", "make_device", "run"]

KINDS: tuple[InverterKind, ...] = ("battery", "pv")
SAFE_STATES = ("zero", "release")
OF_ONE = ("nominal-v", "safe-state")
"""What may be said of one inverter alone."""


def run(argv: Sequence[str] | None, env_id_of: Callable[[str], str]) -> int:
    """Run it as a program; returns the exit code, see ``run_bridge``.

    Args:
        argv: Its arguments; None: those of the process.
        env_id_of: Returns the id on the wire of the environment that a scenario describes.
    """
    parser = _parser()
    options = parser.parse_args(argv)
    if options.show:
        return run_bridge(parser, options, lambda _: "", _show)
    require_wire(parser, options)
    names = [options.name, *(each.name for each in options.also)]
    if len(set(names)) < len(names):
        parser.error(f"--also: every device needs a name of its own, got {', '.join(names)}")
    return run_bridge(parser, options, env_id_of, _serve)


def _parser() -> ProgramArguments:
    parser = bridge_parser(
        "heron-mqtt device sunspec_bridge",
        "Puts a SunSpec inverter (Modbus TCP) on the wire.",
        "example:\n  heron-mqtt device sunspec_bridge --agent MG1 --name ess --broker mqtt://127.0.0.1:1883 "
        "--modbus 192.168.1.50:502 --unit 1\n  heron-mqtt device sunspec_bridge --modbus 192.168.1.50 --show",
    )
    parser.add_argument(
        "--also",
        action="append",
        default=[],
        type=partial(further_unit, kinds=KINDS, options=OF_ONE),
        metavar="NAME@UNIT[:KIND][,nominal-v=V][,safe-state=zero|release]",
        help="one more inverter behind the same address and connection; may be repeated",
    )
    parser.add_argument("--show", action="store_true", help="print every model and point, and end")
    parser.add_argument("--kind", choices=KINDS, help="its kind (default: from its models)")
    parser.add_argument(
        "--read-only", action="store_true", help="write nothing to it, even if it can be controlled"
    )
    parser.add_argument(
        "--nominal-v",
        type=positive,
        metavar="V",
        help="phase-to-neutral voltage that is 1 pu; without it no voltage is reported",
    )
    parser.add_argument(
        "--discharge-reference-w",
        type=positive,
        metavar="W",
        help="what 100 %% of model 124 OutWRte is (default: WChaMax)",
    )
    parser.add_argument(
        "--safe-state",
        choices=SAFE_STATES,
        default="zero",
        help="without a setpoint: zero power, or the inverter's own control",
    )
    parser.add_argument(
        "--dc-battery",
        choices=["charging", "discharging"],
        help="measure the battery at its DC ports (model 714), where a positive number means this",
    )
    parser.add_argument(
        "--power-factor",
        type=_power_factor,
        metavar="over:PF|under:PF",
        help="hold a power factor (model 704), over- or under-excited, in place of reactive power setpoints",
    )
    parser.add_argument(
        "--ramp",
        type=_ramp,
        metavar="PERCENT",
        help="ramp of increases of active power, percent of the maximum a second",
    )
    parser.add_argument(
        "--without-reversion", action="store_true", help="accept an inverter without a reversion timer"
    )
    parser.add_argument(
        "--dark-is-zero",
        action="store_true",
        help="an inverter that does not answer, or answers nothing but 'not available', has 0 W: PV at night",
    )
    return parser


def _power_factor(text: str) -> tuple[bool, float]:
    """Return whether it is over-excited, and the power factor."""
    way, _, number = text.partition(":")
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if way not in {"over", "under"} or not 0.0 < value <= 1.0:
        raise argparse.ArgumentTypeError(
            f"{text!r}: expected over:0.95 (injects reactive power) or under:0.95 (absorbs it), up to 1"
        )
    return way == "over", value


def _ramp(text: str) -> int:
    if not text.isdigit() or not 0 < int(text) < 0xFFFF:
        raise argparse.ArgumentTypeError(f"{text!r}: expected whole percent a second, at least 1")
    return int(text)


async def _serve(options: argparse.Namespace, env_id: str) -> None:
    units = [BridgedUnit(options.name, options.unit, options.kind), *options.also]
    settings = [_settings(unit, options) for unit in units]
    with contextlib.ExitStack() as stack:
        for unit in () if options.read_only else units:
            stack.enter_context(contextlib.closing(claim_unit(options, env_id, unit)))
        connection = stack.enter_context(contextlib.closing(connection_of(options)))
        inverters: list[tuple[BridgedUnit, Inverter]] = []
        for unit, wanted in zip(units, settings, strict=True):
            try:
                registers = Registers(connection, unit.unit)
                place = unit_place(options.modbus, unit.unit)
                kept = None if options.read_only else KeptSettings(state_directory() / "sunspec", place)
                inverter = await Inverter.connect(registers, wanted, kept=kept)
            except ModbusFault as exc:
                raise NotReady(str(exc)) from None
            inverters.append((unit, inverter))
        online = UnitsOnline(options.agent, units)
        await serve_all(
            [_serve_one(unit.name, inverter, options, env_id, online) for unit, inverter in inverters],
            supervised=options.supervised,
        )


def _settings(unit: BridgedUnit, options: argparse.Namespace) -> Settings:
    """Return what the user says of one inverter, of it alone or of all.

    Raises:
        ConfigError: Something said of it alone is wrong.
    """
    nominal_v, safe_state = options.nominal_v, unit.options.get("safe-state", options.safe_state)
    try:
        if "nominal-v" in unit.options:
            nominal_v = positive(unit.options["nominal-v"])
    except argparse.ArgumentTypeError as exc:
        raise ConfigError(f"--also {unit.name}: nominal-v: {exc}") from None
    if safe_state not in SAFE_STATES:
        raise ConfigError(
            f"--also {unit.name}: safe-state: {safe_state!r}: expected {' or '.join(SAFE_STATES)}"
        )
    over_excited, power_factor = options.power_factor or (True, None)
    kind = next((known for known in KINDS if known == unit.kind), None)
    return Settings(
        kind=kind,
        nominal_v=nominal_v,
        discharge_w=options.discharge_reference_w,
        safe_zero=safe_state == "zero",
        timer_needed=not options.without_reversion,
        read_only=options.read_only,
        dark_is_zero=options.dark_is_zero,
        dc_battery=None if kind == "pv" else options.dc_battery,
        der=DerOptions(power_factor, over_excited, options.ramp),
    )


async def _serve_one(
    name: str, inverter: Inverter, options: argparse.Namespace, env_id: str, online: UnitsOnline
) -> None:
    def make(broker: MessageBroker, stamper: MessageStamper) -> SunSpecDevice:
        return make_device(
            inverter, options.agent, name, broker, env_id=env_id, period_s=options.period, stamper=stamper
        )

    await serve_unit(name, options, env_id, make, online, SunSpecDevice.hand_back)


async def _show(options: argparse.Namespace, _: str) -> None:
    """Print every model of the inverter, with the points that it has."""
    with contextlib.closing(connection_of(options)) as connection:
        registers = Registers(connection, options.unit)
        try:
            models = await find_models(registers)
            for model, place in models.items():
                defined = layout(model)
                title = "not defined by SunSpec" if defined is None else defined.name
                sys.stdout.write(f"model {model} {title}, {place.size} registers at {place.address}\n")
                if defined is None:
                    continue
                for name, text in (await read_model(registers, model, place)).shown():
                    sys.stdout.write(f"    {name} = {text}\n")
        except ModbusFault as exc:
            raise NotReady(str(exc)) from None
        except SunSpecError as exc:
            raise ConfigError(str(exc)) from None
        sys.stdout.flush()

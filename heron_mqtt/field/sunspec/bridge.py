"""SunSpec inverters on the wire, as a program.

    heron-mqtt device sunspec_bridge --agent MG1 --name ess --broker URL --modbus HOST:PORT --unit 1

It finds the inverter's models over Modbus TCP, publishes nameplate and telemetry, and turns leased
setpoints into controls with a reversion timer. docs/sunspec.md describes models, safe states and limits.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Sequence

from heron_mqtt.errors import ConfigError, NotReady
from heron_mqtt.field.modbus.program import (
    BridgedUnit,
    bridge_parser,
    connection_of,
    further_unit,
    positive,
    require_wire,
    run_bridge,
    serve_all,
    serve_unit,
)
from heron_mqtt.field.modbus.registers import ModbusFault, Registers
from heron_mqtt.field.sunspec.block import SunSpecError
from heron_mqtt.field.sunspec.device import SunSpecDevice, make_device
from heron_mqtt.field.sunspec.discovery import find_models, read_model
from heron_mqtt.field.sunspec.inverter import Inverter, Settings
from heron_mqtt.field.sunspec.layouts import layout

__all__ = ["SunSpecDevice", "make_device", "run"]


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


def _parser() -> argparse.ArgumentParser:
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
        type=further_unit,
        metavar="NAME@UNIT[:KIND]",
        help="one more inverter behind the same address and connection; may be repeated",
    )
    parser.add_argument("--show", action="store_true", help="print every model and point, and end")
    parser.add_argument("--kind", choices=["battery", "pv"], help="what it is (default: as its models say)")
    parser.add_argument("--read-only", action="store_true", help="write nothing to it, whatever it can do")
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
        choices=["zero", "release"],
        default="zero",
        help="without a setpoint: zero power, or the inverter's own control",
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


async def _serve(options: argparse.Namespace, env_id: str) -> None:
    units = [BridgedUnit(options.name, options.unit, options.kind), *options.also]
    with contextlib.closing(connection_of(options)) as connection:
        inverters: list[tuple[BridgedUnit, Inverter]] = []
        for unit in units:
            settings = Settings(
                kind=unit.kind,
                nominal_v=options.nominal_v,
                discharge_w=options.discharge_reference_w,
                safe_zero=options.safe_state == "zero",
                timer_needed=not options.without_reversion,
                read_only=options.read_only,
                dark_is_zero=options.dark_is_zero,
            )
            try:
                inverter = await Inverter.connect(Registers(connection, unit.unit), settings)
            except ModbusFault as exc:
                raise NotReady(str(exc)) from None
            inverters.append((unit, inverter))
        await serve_all(
            [_serve_one(unit.name, inverter, options, env_id) for unit, inverter in inverters],
            supervised=options.supervised,
        )


async def _serve_one(name: str, inverter: Inverter, options: argparse.Namespace, env_id: str) -> None:
    devices: list[SunSpecDevice] = []

    def make(broker: object, stamper: object) -> SunSpecDevice:
        device = make_device(
            inverter, options.agent, name, broker, env_id=env_id, period_s=options.period, stamper=stamper
        )
        devices.append(device)
        return device

    await serve_unit(name, options, env_id, make, lambda _: devices[0].hand_back())


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

"""A device by a table of registers on the wire, as a program.

    heron-mqtt device modbus_bridge --agent MG1 --name ess --broker URL --mapping FILE --modbus HOST:PORT

docs/device-mappings.md describes the table. A run does the same for devices that its scenario maps; the
program is for a machine near the device.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from heron_mqtt.errors import ConfigError, NotHandedBack, NotReady
from heron_mqtt.field.modbus.program import (
    BridgedUnit,
    UnitsOnline,
    bridge_parser,
    claim_unit,
    connection_of,
    finite_number,
    further_unit,
    require_wire,
    run_bridge,
    serve_all,
    serve_unit,
)
from heron_mqtt.field.modbus.registers import ModbusConnection, Registers
from heron_mqtt.field.steady_clock import steady_s
from heron_mqtt.field.vendor.commands import budget_of
from heron_mqtt.field.vendor.device_mapping import DeviceMapping
from heron_mqtt.field.vendor.mapping import load_named_mapping, parameter_value
from heron_mqtt.field.vendor.modbus_link import ModbusLink
from heron_mqtt.field.vendor.vendor_device import VendorDevice
from heron_mqtt.field.vendor.vendor_state import ReportLine, VendorState
from heron_mqtt.program_arguments import ProgramArguments

log = logging.getLogger("heron_mqtt.modbus")


@dataclass(frozen=True, slots=True)
class DevicePlace:
    """The scenario's data of a device, for programs that serve it.

    Attributes:
        kind: battery, pv, load, ...
        power_range_mw: Nameplate, MW, positive = injected.
        stale_after_s: How long its last power counts, s.
    """

    kind: str
    power_range_mw: tuple[float, float]
    stale_after_s: float = 5.0


@dataclass(frozen=True, slots=True)
class BridgeScenario:
    """The scenario that devices belong to.

    Attributes:
        env_id: On the wire.
        place: Returns the scenario's data of a device, by agent and name; None = there is no such device.
    """

    env_id: str
    place: Callable[[str, str], DevicePlace | None]


def run(argv: Sequence[str] | None, open_scenario: Callable[[str], BridgeScenario]) -> int:
    """Run it as a program; returns the exit code, see ``run_bridge``.

    Args:
        argv: Its arguments; None: those of the process.
        open_scenario: Returns a scenario by its file or name.
    """
    parser = _parser()
    options = parser.parse_args(argv)
    if options.show:
        return run_bridge(parser, options, lambda _: "", _show)
    require_wire(parser, options)
    names = [options.name, *(each.name for each in options.also)]
    if len(set(names)) < len(names):
        parser.error(f"--also: every device needs a name of its own, got {', '.join(names)}")

    async def serve(options: argparse.Namespace, env_id: str) -> None:
        await _serve(options, env_id, open_scenario(options.scenario))

    return run_bridge(parser, options, lambda name: open_scenario(name).env_id, serve)


def _parser() -> ProgramArguments:
    prog = "heron-mqtt device modbus_bridge"
    parser = bridge_parser(
        prog,
        "Puts a device on the wire by a table of its Modbus registers.",
        f"example:\n  {prog} --agent MG1 --name ess --broker mqtt://127.0.0.1:1883 "
        f"--mapping device_profiles/sungrow_sh.toml --modbus 192.168.1.50 --unit 1 --scenario my_site.toml\n"
        f"  {prog} --mapping my_box.toml --modbus 192.168.1.50 --show",
    )
    parser.add_argument(
        "--mapping", required=True, metavar="FILE", help="mapping, or device_profiles/... for a shipped one"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        type=_parameter,
        metavar="NAME=VALUE",
        help="a parameter of the profile; may be repeated",
    )
    parser.add_argument(
        "--also",
        action="append",
        default=[],
        type=further_unit,
        metavar="NAME@UNIT",
        help="one more device of the same mapping behind the same connection; may be repeated",
    )
    parser.add_argument("--show", action="store_true", help="print every register with its meaning, and end")
    parser.add_argument("--kind", help="its kind, for example battery (default: from the scenario)")
    parser.add_argument(
        "--p-min-mw", type=finite_number, metavar="MW", help="nameplate (default: the scenario's)"
    )
    parser.add_argument(
        "--p-max-mw", type=finite_number, metavar="MW", help="nameplate (default: the scenario's)"
    )
    return parser


def _parameter(text: str) -> tuple[str, Any]:
    name, is_given, value = text.partition("=")
    if not name or not is_given:
        raise argparse.ArgumentTypeError(f"{text!r}: expected NAME=VALUE")
    return name, parameter_value(value)


def _mapping(
    options: argparse.Namespace, name: str, power_range_mw: tuple[float, float] | None = None
) -> DeviceMapping:
    mapping = load_named_mapping(
        options.mapping,
        dict(options.set),
        agent=options.agent or "MG1",
        device=name,
        source=f"--mapping {options.mapping}",
        power_range_mw=power_range_mw,
    )
    if mapping.registers is None:
        raise ConfigError(f"--mapping {options.mapping}: it has no [registers]: {mapping.name} is on MQTT")
    return mapping


async def _serve(options: argparse.Namespace, env_id: str, scenario: BridgeScenario) -> None:
    units = [BridgedUnit(options.name, options.unit), *options.also]
    places = [_place(options, unit, scenario) for unit in units]
    mappings = [
        _mapping(options, unit.name, place.power_range_mw) for unit, place in zip(units, places, strict=True)
    ]
    serving = list(zip(units, mappings, places, strict=True))
    online = UnitsOnline(options.agent, units)
    unreached: list[str] = []
    with contextlib.ExitStack() as stack:
        for unit, mapping, _ in serving:
            if mapping.sets:
                claim = claim_unit(options, env_id, unit, mapping.power_places())
                stack.enter_context(contextlib.closing(claim))
        connection = stack.enter_context(contextlib.closing(connection_of(options)))
        await serve_all(
            [
                _serve_one(unit, mapping, place, options, env_id, connection, online, unreached)
                for unit, mapping, place in serving
            ],
            supervised=options.supervised,
        )
    if unreached:
        raise NotReady("; ".join(sorted(unreached)))  # they end in any order


def _place(options: argparse.Namespace, unit: BridgedUnit, scenario: BridgeScenario) -> DevicePlace:
    found = scenario.place(options.agent, unit.name)
    kind = unit.kind or options.kind or (None if found is None else found.kind)
    low, high = (options.p_min_mw, options.p_max_mw) if found is None else found.power_range_mw
    low = low if options.p_min_mw is None else options.p_min_mw
    high = high if options.p_max_mw is None else options.p_max_mw
    if kind is None or low is None or high is None:
        raise ConfigError(
            f"{options.agent}/{unit.name}: --scenario {options.scenario} has no such device; give another "
            "scenario, or --kind, --p-min-mw and --p-max-mw"
        )
    if not low <= high:
        raise ConfigError(f"--p-min-mw {low:g} --p-max-mw {high:g}: expected the lower one first")
    return DevicePlace(kind, (low, high), 5.0 if found is None else found.stale_after_s)


async def _serve_one(
    unit: BridgedUnit,
    mapping: DeviceMapping,
    place: DevicePlace,
    options: argparse.Namespace,
    env_id: str,
    connection: ModbusConnection,
    online: UnitsOnline,
    unreached: list[str],
) -> None:
    """Serve one device until its time is over.

    Args:
        unit: The device.
        mapping: Its registers.
        place: What it is.
        options: What the program was told.
        env_id: The environment.
        connection: To all units.
        online: Called when it is online.
        unreached: Gets a line, if it has not said its power in all that time: then nothing was done.
    """
    made: list[VendorDevice] = []
    async with ModbusLink(Registers(connection, unit.unit), mapping) as link:

        def make(broker: Any, stamper: Any) -> VendorDevice:
            device = VendorDevice(
                mapping,
                link,
                options.agent,
                unit.name,
                broker,
                env_id=env_id,
                period_s=options.period,
                stamper=stamper,
                kind=place.kind,
                power_range_mw=place.power_range_mw,
                stale_after_s=place.stale_after_s,
                stands_alone=True,
                budget=budget_of(mapping, env_id, options.agent, unit.name),
            )
            made.append(device)
            return device

        await serve_unit(unit.name, options, env_id, make, online, partial(_require_handed_back, link))
    unreached.extend(
        f"{device.label}: never reached: {why}" for device in made if (why := device.never_reached)
    )


async def _require_handed_back(link: ModbusLink, device: VendorDevice, _: float) -> None:
    """See that the device was handed back at the end, or is at 0 in a stop.

    One that has acknowledged it, and whose registers do not show it, is named.

    Raises:
        NotHandedBack: It was not, or it is not known to be.
    """
    if (left := device.left_undone) is not None:
        raise NotHandedBack(f"{device.label}: {left}")
    if not device.stopped and link.unproven is not None:
        log.warning(
            "%s: it has acknowledged that it is handed back, which its registers do not show: %s",
            *(device.label, link.unproven),
        )


async def read_once(connection: ModbusConnection, unit: int, mapping: DeviceMapping) -> list[ReportLine]:
    """Return every quantity and register of a unit as it is now, after one turn of reading."""
    assert mapping.registers is not None
    state = VendorState(mapping)
    link = ModbusLink(Registers(connection, unit), mapping, everything=True)
    for group in mapping.registers.groups():
        poll = await link.read(group, mapping.registers.blocks(group.names))
        state.take_document(poll.source, poll.values, poll.at_s, shown=poll.shown, unread=poll.unread)
    return state.report(steady_s())


async def _show(options: argparse.Namespace, _: str) -> None:
    """Print every register with what it holds and means, and every quantity."""
    mapping = _mapping(options, options.name or "ess")
    assert mapping.registers is not None
    with contextlib.closing(connection_of(options)) as connection:
        lines = await read_once(connection, options.unit, mapping)
    registers = mapping.registers.registers
    if not any(line.payloads for line in lines):
        whys = [line.why for line in lines if line.name in registers]
        raise NotReady(f"nothing could be read: {whys[0]}")
    for line in lines:
        register = registers.get(line.name)
        where = "" if register is None else f"{register.table.area} {register.table.address}"
        meant = "-" if line.value is None else line.value
        raw = line.sample if register is not None else ""
        why = f"  ({line.why})" if line.why else ""
        sys.stdout.write(f"{line.name:20} {where:16} {raw:28} {meant}{why}\n")
    sys.stdout.flush()

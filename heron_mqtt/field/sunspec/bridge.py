"""A SunSpec inverter on the wire.

    heron-mqtt device sunspec_bridge --agent MG1 --name ess --broker URL --modbus HOST:PORT --unit 1

It finds the inverter's models over Modbus TCP, publishes nameplate and telemetry, and turns leased
setpoints into controls with a reversion timer. docs/sunspec.md describes models, safe states and limits.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import sys
from collections.abc import Callable, Sequence
from typing import Any

from heron_mqtt.end_signals import AskedToEnd, exit_code, run_until_told, until_input_ends
from heron_mqtt.errors import ConfigError, HeronError, NotReady
from heron_mqtt.field.device import FieldDevice
from heron_mqtt.field.device.presence import leaving_others_alone
from heron_mqtt.field.sunspec.inverter import W_PER_MW, Inverter, Settings
from heron_mqtt.field.sunspec.registers import ModbusFault, Registers
from heron_mqtt.messages import Setpoint, Status, Telemetry
from heron_mqtt.messaging import topics
from heron_mqtt.messaging.schemes import open_broker
from heron_mqtt.messaging.settings import add_options, use_options
from heron_mqtt.messaging.stamping import MessageStamper

log = logging.getLogger("heron_mqtt.sunspec")

MODBUS_PORT = 502
GOODBYE_S = 2.0  # how long handing control back may take when the bridge ends


class SunSpecDevice(FieldDevice):
    """An inverter behind Modbus TCP.

    Nothing is written to it before the first setpoint, an emergency stop or the end of a lease. What
    could not be written, because it did not answer, is written when it answers again.

    Args:
        inverter: Connected.
    """

    def __init__(self, inverter: Inverter, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._inverter = inverter
        self._owes_safe_state = False
        self._has_written = False

    async def apply(self, setpoint: Setpoint) -> None:
        """Tell the inverter, with the lease as its reversion time."""
        self._owes_safe_state = False
        self._has_written = True
        await self._inverter.set(setpoint.p_mw, setpoint.q_mvar, setpoint.lease_s)

    async def renew(self, setpoint: Setpoint) -> None:
        """Tell the inverter again, so that its own timer begins anew."""
        await self._inverter.set(setpoint.p_mw, setpoint.q_mvar, setpoint.lease_s)

    async def measure(self) -> Telemetry:
        """Ask the inverter."""
        if self._owes_safe_state:
            await self._be_safe()
        return await self._inverter.measure()

    async def go_safe(self, reason: str) -> None:
        """Go to the safe state; at an emergency stop that is zero power in any case."""
        self._owes_safe_state = True
        self._has_written = True
        await self._be_safe()

    def nameplate(self) -> dict[str, Any]:
        """Return what the inverter says about itself."""
        plate = self._inverter.nameplate
        low_w, high_w = plate.power_range_w
        return {
            "p_min_mw": None if low_w is None else low_w / W_PER_MW,
            "p_max_mw": None if high_w is None else high_w / W_PER_MW,
            "max_e_mwh": None if plate.energy_wh is None else plate.energy_wh / W_PER_MW,
        }

    async def hand_back(self) -> None:
        """Leave the inverter to its own control, unless it was never told anything, or is stopped."""
        if self._has_written and not self.stopped:
            await self._inverter.release()

    async def _be_safe(self) -> None:
        await (self._inverter.hold_zero() if self.stopped else self._inverter.go_safe())
        self._owes_safe_state = False


class SunSpecBattery(SunSpecDevice):
    """Storage."""

    kind = "battery"


class SunSpecPv(SunSpecDevice):
    """Generation that can be limited."""

    kind = "pv"


def make_device(inverter: Inverter, *args: Any, **kwargs: Any) -> SunSpecDevice:
    """Return the device that fits an inverter's kind; arguments as for ``FieldDevice``."""
    device = SunSpecBattery if inverter.nameplate.kind == "battery" else SunSpecPv
    return device(inverter, *args, **kwargs)


# -- as a program ----------------------------------------------------------------------------------


def run(argv: Sequence[str] | None, env_id_of: Callable[[str], str]) -> int:
    """Run it as a program; returns the exit code.

    0 done or ended by SIGTERM, 1 broker or inverter are not there, 2 arguments, scenario or inverter do not
    fit, 130 ended by Ctrl-C or SIGHUP.

    Args:
        argv: Its arguments; None: those of the process.
        env_id_of: Returns the id on the wire of the environment that a scenario describes.
    """
    logging.basicConfig(
        stream=sys.stderr, level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s"
    )
    logging.getLogger("pymodbus").setLevel(logging.CRITICAL)  # what it complains of we tell ourselves
    parser = _parser()
    options = parser.parse_args(argv)
    use_options(vars(options))
    try:
        env_id = options.env_id or env_id_of(options.scenario)
        run_until_told(_serve(options, env_id))
    except AskedToEnd as asked:
        return exit_code(asked)
    except HeronError as exc:
        for problem in exc.problems if isinstance(exc, ConfigError) else (str(exc),):
            sys.stderr.write(f"{parser.prog}: {problem}\n")
        return 2 if isinstance(exc, ConfigError) else 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="heron-mqtt device sunspec_bridge",
        description="Puts a SunSpec inverter (Modbus TCP) on the wire.",
    )
    parser.add_argument("--agent", required=True, help="agent that owns the device, for example MG1")
    parser.add_argument("--name", required=True, help="the device's name, for example ess")
    add_options(parser)
    parser.add_argument("--broker", required=True, metavar="URL", help="mqtt://host:port")
    parser.add_argument("--modbus", required=True, metavar="HOST[:PORT]", type=_address, help="the inverter")
    parser.add_argument("--unit", type=int, default=1, choices=range(256), metavar="N", help="Modbus unit id")
    parser.add_argument("--kind", choices=["battery", "pv"], help="what it is (default: as its models say)")
    parser.add_argument(
        "--nominal-v",
        type=_positive,
        metavar="V",
        help="phase-to-neutral voltage that is 1 pu; without it no voltage is reported",
    )
    parser.add_argument(
        "--discharge-reference-w",
        type=_positive,
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
    parser.add_argument("--scenario", default="three_microgrids", help="whose environment it belongs to")
    parser.add_argument("--env-id", help="environment on the wire (default: the scenario's)")
    parser.add_argument("--period", type=float, default=1.0, metavar="S", help="time between telemetry, s")
    parser.add_argument("--timeout", type=_positive, default=3.0, metavar="S", help="of a Modbus answer, s")
    parser.add_argument("--once", action="store_true", help="end after the first answered setpoint")
    parser.add_argument("--duration", type=float, metavar="S", help="end after this time, s")
    parser.add_argument("--supervised", action="store_true", help="end when standard input ends")
    return parser


def _address(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon:
        host, port = text, str(MODBUS_PORT)
    if not host or not port.isdigit() or not 0 < int(port) < 65_536:
        raise argparse.ArgumentTypeError(f"{text!r}: expected HOST or HOST:PORT")
    return host.strip("[]"), int(port)


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number above 0")
    return value


async def _serve(options: argparse.Namespace, env_id: str) -> None:
    settings = Settings(
        kind=options.kind,
        nominal_v=options.nominal_v,
        discharge_w=options.discharge_reference_w,
        safe_zero=options.safe_state == "zero",
        timer_needed=not options.without_reversion,
    )
    host, port = options.modbus
    with contextlib.closing(Registers(host, port, options.unit, timeout_s=options.timeout)) as registers:
        try:
            inverter = await Inverter.connect(registers, settings)
        except ModbusFault as exc:
            raise NotReady(str(exc)) from None
        stamper = MessageStamper(f"{options.agent}/{options.name}", env_id)
        status = topics.device(options.agent, options.name, "status")
        will = (status, stamper.will(Status(state="offline")))
        mqtt = open_broker(options.broker, env_id=env_id, at_address=True, will=will)
        async with leaving_others_alone(mqtt) as broker:
            device = make_device(
                inverter,
                options.agent,
                options.name,
                broker,
                env_id=env_id,
                period_s=options.period,
                stamper=stamper,
            )
            await _run_until_told(device, options)


async def _run_until_told(device: SunSpecDevice, options: argparse.Namespace) -> None:
    serving = asyncio.create_task(
        device.run(duration_s=options.duration, once=options.once), name=f"device {options.name}"
    )
    try:
        await (until_input_ends(serving) if options.supervised else serving)
    finally:
        try:
            async with asyncio.timeout(GOODBYE_S):
                await device.hand_back()
        except (HeronError, TimeoutError) as exc:
            log.warning("%s: it was not told that this is the end: %s", device.label, exc or "no answer")

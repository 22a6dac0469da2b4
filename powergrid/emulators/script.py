"""Runs emulators as a program, one or several: their command lines, their connections, their ends."""

from __future__ import annotations

import argparse
import asyncio
import functools
import logging
import math
import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heron_mqtt.end_signals import AskedToEnd, exit_code, run_until_told, until_input_ends
from heron_mqtt.errors import ConfigError, HeronError, told_at_the_end
from heron_mqtt.field.device.presence import leaving_others_alone
from heron_mqtt.messages import Status
from heron_mqtt.messaging import topics
from heron_mqtt.messaging.schemes import open_broker, without_login
from heron_mqtt.messaging.settings import (
    add_options,
    env_id_argument,
    topics_begin,
    use_options,
    without_lasting,
)
from heron_mqtt.messaging.stamping import MessageStamper
from heron_mqtt.program_arguments import ProgramArguments, period
from heron_mqtt.scheduling import add_priority_option, real_time_priority
from heron_mqtt.service_manager import THE_SERVICE
from powergrid.devices import Device
from powergrid.devices.registry import kind_of
from powergrid.emulators.emulator import Emulator
from powergrid.emulators.faults import FaultState, parse_fault
from powergrid.scenario import DeviceTable, LoadedScenario, RandomisationTable, load_scenario

if TYPE_CHECKING:
    from powergrid.emulators.history import DeviceHistory

log = logging.getLogger("heron_mqtt.emulator")


def main(device: type[Device], script: str, argv: Sequence[str] | None) -> int:
    """Run the emulator of a kind of device as a program called ``script``; returns its exit code.

    0 done or ended by SIGTERM, 1 the broker is not there or refuses, 2 arguments or scenario are wrong,
    3 displaced by another device of its name, 130 ended by Ctrl-C or SIGHUP.
    """
    _log_to_stderr()
    options = _parser(device, script).parse_args(argv)
    try:
        serve = _serving(device, options, load_scenario)
        with real_time_priority(options.priority):
            serving = serve()
            run_until_told(_until_input_ends(serving) if options.supervised else serving)
    except AskedToEnd as asked:
        return exit_code(asked)
    except HeronError as exc:
        return _tell(script, exc)
    return 0


@dataclass(frozen=True, slots=True)
class Emulated:
    """One of several emulators in one program.

    Attributes:
        name: ``AGENT/DEVICE``.
        device: Its kind.
        script: The program that it would be alone.
        arguments: The command line of that.
    """

    name: str
    device: type[Device]
    script: str
    arguments: Sequence[str]


def main_of_several(devices: Sequence[Emulated], ended: Callable[[str, int, str], None]) -> int:
    """Run several emulators in one event loop, each with its own connection, until standard input ends.

    If one ends, the others continue. Returns 0 in any case.

    Args:
        devices: Which.
        ended: Called with the name of each device that has ended, the exit code that it would have had
            alone, and why it could not continue (empty if it was asked to end).
    """
    _log_to_stderr()
    load = functools.cache(load_scenario)  # one for all of them
    left = {device.name: device for device in devices}

    def end(name: str, code: int, why: str = "") -> None:
        del left[name]
        ended(name, code, why)

    def prepared(device: Emulated) -> Callable[[], Coroutine[Any, Any, None]] | None:
        try:
            options = _parser(device.device, device.script).parse_args(device.arguments)
            return _serving(device.device, options, load)
        except (HeronError, SystemExit) as exc:
            end(device.name, *_code_of(device, exc))
            return None

    async def serve(device: Emulated, serving: Callable[[], Coroutine[Any, Any, None]]) -> None:
        code, why = 1, ""
        try:
            await serving()
            code = 0
        except (HeronError, SystemExit) as exc:
            code, why = _code_of(device, exc)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():  # all of them end
                raise
            log.error("device %s: broken off by a cancel of its own", device.name)
        except Exception as exc:
            log.exception("device %s", device.name)
            why = f"{type(exc).__name__}: {exc}"
        end(device.name, code, why)

    async def serve_all(ready: Mapping[str, Callable[[], Coroutine[Any, Any, None]]]) -> None:
        async with asyncio.TaskGroup() as serving:
            for device in devices:
                if device.name in ready:
                    serving.create_task(serve(device, ready[device.name]), name=f"device {device.name}")

    code = 0
    try:
        # Before the loop: to read what a device has lived through takes a while, others would stand still.
        ready = {device.name: serving for device in devices if (serving := prepared(device)) is not None}
        run_until_told(_until_input_ends(serve_all(ready)))
    except AskedToEnd as asked:
        code = exit_code(asked)
    for name in list(left):  # they were told to
        end(name, code)
    return 0


def _code_of(device: Emulated, error: HeronError | SystemExit) -> tuple[int, str]:
    """Say what is wrong with a device; return the exit code that it would have had alone, and why."""
    if isinstance(error, HeronError):
        return _tell(device.script, error), "; ".join(told_at_the_end(error)[0])
    return error.code if isinstance(error.code, int) else int(error.code is not None), ""


def _log_to_stderr() -> None:
    logging.basicConfig(
        stream=sys.stderr, level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s"
    )


def _tell(script: str, error: HeronError) -> int:
    """Say what is wrong, a line each; return the exit code."""
    problems, code = told_at_the_end(error)
    for problem in problems:
        sys.stderr.write(f"{_prog(script)}: {problem}\n")
    return code


def _serving(
    device: type[Device], options: argparse.Namespace, load: Callable[[str], LoadedScenario]
) -> Callable[[], Coroutine[Any, Any, None]]:
    """Return what serves as the command line says, once it is called.

    Raises:
        ConfigError: It is wrong, or the scenario is.
    """
    _check(options)
    use_options(vars(options))
    loaded = load(options.scenario)
    table = _table(kind_of(device), loaded, options.agent, options.name)
    faults = FaultState(planned=dict(parse_fault(text) for text in options.fault))
    env_id = loaded.scenario.topic_env_id if options.env_id is None else options.env_id
    # beside a run: the broker may just be starting, and others wait for us as long
    patience_s = loaded.scenario.deadlines.ready_s if options.supervised else 0.0
    settings = {"defaults": without_lasting(loaded.broker_settings()), "patience_s": patience_s}
    history = _history(options)
    return functools.partial(
        _serve, table, loaded.scenario.randomisation, faults, history, options, env_id, settings
    )


def _prog(script: str) -> str:
    return f"heron-mqtt device {script}"


def _parser(device: type[Device], script: str) -> ProgramArguments:
    what = device.description or f"A device of the kind {kind_of(device)}, emulated."
    parser = ProgramArguments(prog=_prog(script), description=what)
    parser.add_argument("--agent", required=True, help="agent that owns the device, for example MG1")
    parser.add_argument("--name", required=True, help="the device's name, for example ess")
    parser.add_argument("--broker", required=True, metavar="URL", help="mqtt://host:port")
    parser.add_argument("--scenario", default="three_microgrids", help="where its nameplate stands")
    parser.add_argument(
        "--env-id", type=env_id_argument, help="environment on the wire (default: the scenario's)"
    )
    parser.add_argument("--period", type=period, default=1.0, metavar="S", help="time between telemetry, s")
    parser.add_argument("--once", action="store_true", help="end after the first answered setpoint")
    parser.add_argument("--duration", type=float, metavar="S", help="end after this time, s")
    parser.add_argument(
        "--fault",
        action="append",
        default=[],
        metavar="KIND@STEP[:STEPS[:VALUE]]",
        help="misbehave from a step of the run on (from 0): silence, stuck, frozen, offset, "
        "ignore_setpoints, reject_setpoints, garbage, reboot; may be repeated",
    )
    parser.add_argument(
        "--require-proof",
        action="store_true",
        help="refuse setpoints that do not echo this device's telemetry",
    )
    parser.add_argument(
        "--resume",
        metavar="RUN",
        help="the record of an interrupted run that continues: begin in the recorded state of this device",
    )
    parser.add_argument("--take-over", action="store_true", help="displace another device of this name")
    parser.add_argument("--supervised", action="store_true", help="end when standard input ends")
    add_priority_option(parser)
    add_options(parser)
    return parser


def _check(options: argparse.Namespace) -> None:
    """Raise ``ConfigError`` for a number that cannot be a time."""
    if options.duration is not None and not 0.0 < options.duration < math.inf:
        raise ConfigError(f"--duration {options.duration}: expected seconds, more than 0")


def _table(wanted: str, loaded: LoadedScenario, agent: str, name: str) -> DeviceTable:
    microgrids = loaded.scenario.microgrids
    if agent not in microgrids:
        raise ConfigError(f"--agent {agent}: not in {loaded.source}; it has {', '.join(microgrids)}")
    devices = microgrids[agent].devices
    if name not in devices:
        raise ConfigError(
            f"--name {name}: {agent} has no such device in {loaded.source}; it has {', '.join(devices)}"
        )
    kind = devices[name].spec.kind
    if kind != wanted:
        raise ConfigError(f"--name {name}: {agent}/{name} is a {kind} in {loaded.source}, not a {wanted}")
    return devices[name]


def _history(options: argparse.Namespace) -> DeviceHistory | None:
    if options.resume is None:
        return None
    from powergrid.emulators.history import device_history

    return device_history(Path(options.resume), options.agent, options.name)


async def _until_input_ends(serving: Coroutine[Any, Any, None]) -> None:
    """Serve as long as the run is there: from the beginning, the broker may be a while in coming."""
    await until_input_ends(asyncio.create_task(serving, name="emulated device"))


async def _serve(
    table: DeviceTable,
    randomisation: RandomisationTable,
    faults: FaultState,
    history: DeviceHistory | None,
    options: argparse.Namespace,
    env_id: str,
    settings: dict[str, Any],
) -> None:
    stamper = MessageStamper(f"{options.agent}/{options.name}", env_id)
    status = topics.device(options.agent, options.name, "status")
    will = (status, stamper.will(Status(state="offline")))
    mqtt = open_broker(options.broker, env_id=env_id, at_address=True, will=will, **settings)
    async with leaving_others_alone(mqtt) as broker:
        device = Emulator(
            table.spec,
            table.emulator,
            faults,
            options.agent,
            options.name,
            broker,
            env_id=env_id,
            period_s=options.period,
            require_proof=options.require_proof,
            take_over=options.take_over,
            stamper=stamper,
            randomisation=randomisation,
            history=history,
        )

        def tell() -> None:
            THE_SERVICE.tell_ready(f"{device.kind} {device.label} online")
            if not options.supervised:  # beside a run, the run tells
                before = topics_begin((settings.get("defaults") or {}).get("topic_prefix"))
                address, prefix = without_login(options.broker), before + topics.TopicMap(env_id).prefix
                sys.stdout.write(f"{device.kind} {device.label} online at {address}, topics {prefix}#\n")
                sys.stdout.flush()

        await device.run(duration_s=options.duration, once=options.once, on_online=tell)

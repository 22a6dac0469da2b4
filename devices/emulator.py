"""What the emulators share: a field device whose physics is the model that the simulation uses too."""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
from collections.abc import Sequence
from typing import Any

from heron_mqtt.errors import ConfigError, HeronError
from heron_mqtt.field.device import FieldDevice
from heron_mqtt.messages import RunState, Setpoint, Status, Telemetry
from heron_mqtt.messaging import topics
from heron_mqtt.messaging.mqtt import MqttBroker
from heron_mqtt.messaging.outbox import Outbox
from powergrid.devices import Device, make_device
from powergrid.scenario import LoadedScenario, load_scenario

REAL_TIME_DT_S = 1.0  # what a setpoint without dt_s moves an emulator by: nobody simulates its time


class Emulator(FieldDevice):
    """An ideal device: no delay, no noise; it answers a setpoint with what its model does.

    ``dt_s`` and ``p_available_mw`` of a setpoint stand for what a real device has by itself: the time
    that passes and the sun that shines.
    """

    follows_episodes = True

    def __init__(self, model: Device, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.model = model
        self._telemetry = self._at_rest()

    def apply(self, setpoint: Setpoint) -> None:
        """Let the model take the step."""
        done = self.model.step(
            setpoint.p_mw, setpoint.q_mvar, setpoint.dt_s or REAL_TIME_DT_S, setpoint.p_available_mw
        )
        self._telemetry = Telemetry(p_mw=done.p_mw, q_mvar=done.q_mvar, soc=done.soc, running=done.running)

    def measure(self) -> Telemetry:
        """Return what the model did last."""
        return self._telemetry

    def go_safe(self, reason: str) -> None:
        """Rest: no power; time does not move, because nobody says how much of it passed."""
        self._telemetry = self._telemetry.model_copy(update={"p_mw": 0.0, "q_mvar": 0.0})

    def begin_episode(self, run_state: RunState) -> None:
        """Go back to the model's initial state."""
        self.model.reset()
        self._telemetry = self._at_rest()

    def nameplate(self) -> dict[str, Any]:
        """Return the model's limits."""
        spec = self.model.spec
        low = -getattr(spec, "max_p_charge_mw", 0.0)
        high = getattr(spec, "max_p_discharge_mw", None)
        return {
            "p_min_mw": low + 0.0,
            "p_max_mw": getattr(spec, "max_p_mw", high),
            "max_e_mwh": getattr(spec, "max_e_mwh", None),
            "soc": getattr(self.model.state, "soc", None),
        }

    def _at_rest(self) -> Telemetry:
        state = self.model.state
        return Telemetry(
            p_mw=state.p_mw, soc=getattr(state, "soc", None), running=getattr(state, "running", None)
        )


def main(emulator: type[Emulator], script: str, argv: Sequence[str] | None) -> int:
    """Run one emulator as a program; returns its exit code.

    0 done, 1 the broker is not there or refuses, 2 arguments or scenario are wrong, 130 interrupted.
    """
    logging.basicConfig(
        stream=sys.stderr, level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s"
    )
    options = _parser(emulator, script).parse_args(argv)
    try:
        loaded = load_scenario(options.scenario)
        model = _model(emulator, loaded, options.agent, options.name)
        asyncio.run(_serve(emulator, model, options, options.env_id or loaded.scenario.topic_env_id))
    except KeyboardInterrupt:
        return 130
    except HeronError as exc:
        sys.stderr.write(f"{exc}\n")
        return 2 if isinstance(exc, ConfigError) else 1
    return 0


def _parser(emulator: type[Emulator], script: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"heron-mqtt device {script}", description=emulator.__doc__)
    parser.add_argument("--agent", required=True, help="agent that owns the device, for example MG1")
    parser.add_argument("--name", required=True, help="the device's name, for example ess")
    parser.add_argument("--broker", required=True, metavar="URL", help="mqtt://host:port")
    parser.add_argument("--scenario", default="three_microgrids", help="where its nameplate stands")
    parser.add_argument("--env-id", help="environment on the wire (default: the scenario's)")
    parser.add_argument("--period", type=float, default=1.0, metavar="S", help="time between telemetry, s")
    parser.add_argument("--once", action="store_true", help="end after the first answered setpoint")
    parser.add_argument("--duration", type=float, metavar="S", help="end after this time, s")
    parser.add_argument("--supervised", action="store_true", help="end when standard input ends")
    return parser


def _model(emulator: type[Emulator], loaded: LoadedScenario, agent: str, name: str) -> Device:
    microgrids = loaded.scenario.microgrids
    if agent not in microgrids:
        raise ConfigError(f"--agent {agent}: not in {loaded.source}; it has {', '.join(microgrids)}")
    devices = microgrids[agent].devices
    if name not in devices:
        raise ConfigError(
            f"--name {name}: {agent} has no such device in {loaded.source}; it has {', '.join(devices)}"
        )
    spec = devices[name].spec
    if spec.kind != emulator.kind:
        raise ConfigError(
            f"--name {name}: {agent}/{name} is a {spec.kind} in {loaded.source}, not a {emulator.kind}"
        )
    return make_device(spec)


async def _serve(emulator: type[Emulator], model: Device, options: argparse.Namespace, env_id: str) -> None:
    outbox = Outbox(f"{options.agent}/{options.name}", env_id)
    status = topics.device(options.agent, options.name, "status")
    will = (status, outbox.will(Status(state="offline")))
    async with MqttBroker(options.broker, env_id=env_id, will=will) as broker:
        device = emulator(
            model,
            options.agent,
            options.name,
            broker,
            env_id=env_id,
            period_s=options.period,
            outbox=outbox,
        )
        serving = asyncio.create_task(
            device.run(duration_s=options.duration, once=options.once), name=f"device {options.name}"
        )
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, serving.cancel)
        if options.supervised:
            loop.add_reader(sys.stdin, serving.cancel)  # readable means closed: nobody writes to it
        try:
            await serving
        except asyncio.CancelledError:
            if not serving.cancelled():
                raise  # we were cancelled ourselves: Ctrl-C

"""The distributed step beside what other tools need for the same: N observations out, N actions back.

    pip install mosaik helics aiomqtt
    python benchmarks/peers.py [--agents 3 30] [--steps 300] [--rounds 3] [--json]

Every contestant is a program of its own with its own broker, run in turn, round after round. Told is the CPU
time of a step, of all its processes together (their threads included), the median step, and the time from
the start of the program to the end of the first step. Trust the ratios. Texts are JSON of the size of ours
and are read and written by each agent.

mosaik and HELICS bring one message an agent and direction; over MQTT run state and price are two more, which
every agent reads. In mosaik's one process nothing is sent: its scheduler calls the simulator once for all.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion
from peer_agent import PREFIX, aiomqtt, mosaik_simulator, paho

from heron_mqtt.agents import SystemOperator
from heron_mqtt.bench.agent_exchange import CLOCK, OBSERVATION, READY_S, Exchange
from heron_mqtt.bench.processes import TUNED, mosquitto
from heron_mqtt.messaging.memory import InMemoryBroker
from heron_mqtt.messaging.mqtt import MqttBroker
from heron_mqtt.program_arguments import ProgramArguments

HERE = Path(__file__).resolve().parent
WARM = 20
WAIT_S = 30.0
LONGEST_S = 120.0  # for all steps of one contestant
MS_PER_S = 1e3
STATE = json.dumps(
    {"type": "run_state", "state": "running", "episode": 1, "seq": 10, "sender": "environment"}
)
PRICE = json.dumps({"type": "price", "value": 55.0, "episode": 1, "seq": 10, "sender": "environment"})


def told(step: int) -> str:
    """Return an observation as others send it, as long as ours."""
    sent_at = datetime.now(UTC).isoformat(timespec="milliseconds")
    own = {"type": "observation", **OBSERVATION, "episode": 1, "step": step, "sender": "environment"}
    return json.dumps({**own, "env_id": PREFIX, "seq": step, "boot": "0a1b2c3d", "sent_at": sent_at})


class Meter:
    """Notes the ends of steps; the first ``WARM`` do not count."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self._us = psutil.Process()
        self._ends: list[float] = []
        self._first_s = 0.0
        self._cpu_s = 0.0

    @property
    def wanted(self) -> int:
        """Steps to take."""
        return WARM + self.steps

    def stepped(self) -> None:
        """Take note of the end of a step."""
        self._ends.append(time.perf_counter())
        if len(self._ends) == 1:
            self._first_s = time.time() - self._us.create_time()
        elif len(self._ends) == WARM:
            self._cpu_s = self._tree_cpu_s()
        elif len(self._ends) == self.wanted:
            self._cpu_s = self._tree_cpu_s() - self._cpu_s

    def _tree_cpu_s(self) -> float:
        total_s = 0.0
        for process in (self._us, *self._us.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                total_s += times.user + times.system
        return total_s

    def result(self) -> dict[str, float]:
        """Return CPU and wall time of a step, ms, and the time to the end of the first, s."""
        ends = self._ends[WARM - 1 :]
        times_s = [b - a for a, b in itertools.pairwise(ends)]
        return {
            "cpu_ms": self._cpu_s * MS_PER_S / self.steps,
            "step_ms": statistics.median(times_s) * MS_PER_S,
            "first_s": self._first_s,
        }


def names(n: int) -> list[str]:
    """Return the agents' names."""
    return [f"MG{i}" for i in range(1, n + 1)]


def start(*arguments: str) -> subprocess.Popen[bytes]:
    """Start an agent as a program."""
    return subprocess.Popen([sys.executable, str(HERE / "peer_agent.py"), *arguments])


@contextlib.contextmanager
def ended(*programs: subprocess.Popen[bytes]) -> Iterator[None]:
    """End programs on leaving."""
    try:
        yield
    finally:
        for program in programs:
            program.terminate()
        for program in programs:
            program.wait()


# -- ours ----------------------------------------------------------------------------------------------


async def heron_memory(n: int, meter: Meter) -> None:
    """Ours in one process, without a broker program."""
    async with InMemoryBroker() as broker, Exchange.open(broker, n, PREFIX) as exchange:
        for _ in range(meter.wanted):
            await exchange.step()
            meter.stepped()


async def heron_one(n: int, meter: Meter) -> None:
    """Ours: all agents in one process, over mosquitto."""
    async with (
        mosquitto(*TUNED) as hop,
        MqttBroker(hop.url, env_id=PREFIX) as broker,
        Exchange.open(broker, n, PREFIX) as exchange,
    ):
        for _ in range(meter.wanted):
            await exchange.step()
            meter.stepped()


async def heron_each(n: int, meter: Meter) -> None:
    """Ours: a process an agent, over mosquitto."""
    async with mosquitto(*TUNED) as hop, MqttBroker(hop.url, env_id=PREFIX) as broker:
        with ended(*(start("heron", hop.url, name) for name in names(n))):
            operator = SystemOperator("system_operator", names(n), broker, env_id=PREFIX)
            await operator.start()
            try:
                await operator.begin_episode(1, 42, CLOCK, READY_S)
                exchange = Exchange(operator, names(n))
                for _ in range(meter.wanted):
                    await exchange.step()
                    meter.stepped()
            finally:
                await operator.close()


# -- other clients of MQTT -------------------------------------------------------------------------------


async def paho_one(n: int, meter: Meter) -> None:
    """Clients of paho, each with its thread, and its defaults; all in one process, mosquitto with its own."""
    loop = asyncio.get_running_loop()
    actions: asyncio.Queue[str] = asyncio.Queue()
    ready = asyncio.Event()

    def subscribed(*_: object) -> None:
        loop.call_soon_threadsafe(ready.set)

    def heard(_client: object, _data: object, message: MQTTMessage) -> None:
        loop.call_soon_threadsafe(actions.put_nowait, json.loads(message.payload)["sender"])

    async with mosquitto() as hop:
        environment = Client(CallbackAPIVersion.VERSION2)
        environment.on_subscribe = subscribed
        environment.on_message = heard
        environment.connect("127.0.0.1", hop.port)
        environment.loop_start()
        environment.subscribe(f"{PREFIX}/+/action", 1)
        await ready.wait()
        agents = [paho(hop.port, name) for name in names(n)]
        try:
            await asyncio.sleep(1.0 + n / 30)  # their subscriptions
            for step in range(meter.wanted):
                environment.publish(f"{PREFIX}/all/state", STATE, 1)
                environment.publish(f"{PREFIX}/all/price", PRICE, 1)
                for name in names(n):
                    environment.publish(f"{PREFIX}/{name}/observation", told(step), 1)
                async with asyncio.timeout(WAIT_S):
                    for _ in range(n):
                        await actions.get()
                meter.stepped()
        finally:
            for client in (environment, *agents):
                client.disconnect()
                client.loop_stop()


async def aiomqtt_one(n: int, meter: Meter) -> None:
    """Clients of aiomqtt with its defaults, all in one process; mosquitto with its own."""
    import aiomqtt as library

    async with mosquitto() as hop, library.Client("127.0.0.1", hop.port) as environment:
        await environment.subscribe(f"{PREFIX}/+/action", 1)
        agents = [asyncio.create_task(aiomqtt(hop.port, name), name=name) for name in names(n)]
        try:
            await asyncio.sleep(1.0 + n / 30)
            messages = aiter(environment.messages)
            for step in range(meter.wanted):
                await environment.publish(f"{PREFIX}/all/state", STATE, 1)
                await environment.publish(f"{PREFIX}/all/price", PRICE, 1)
                for name in names(n):
                    await environment.publish(f"{PREFIX}/{name}/observation", told(step), 1)
                async with asyncio.timeout(WAIT_S):
                    for _ in range(n):
                        json.loads((await anext(messages)).payload)
                meter.stepped()
        finally:
            for task in agents:
                task.cancel()
            await asyncio.gather(*agents, return_exceptions=True)


# -- co-simulation -----------------------------------------------------------------------------------------


def mosaik_environment(meter: Meter) -> type:
    """Return the class of a mosaik simulator that tells each agent, and hears what it said a step ago."""
    import mosaik_api_v3

    class Environment(mosaik_api_v3.Simulator):  # type: ignore[misc] # mosaik has no types
        def __init__(self) -> None:
            model = {"public": True, "params": [], "attrs": ["observation", "action"]}
            super().__init__({"type": "time-based", "models": {"Seat": model}})
            self._seats: list[str] = []
            self._told = ""

        def create(self, num: int, model: str) -> list[dict[str, Any]]:
            self._seats = [f"seat{i}" for i in range(num)]
            return [{"eid": seat, "type": model} for seat in self._seats]

        def step(self, time: int, inputs: dict[str, Any], max_advance: int) -> int:
            del max_advance
            if time > 0:
                for attributes in inputs.values():
                    (said,) = attributes["action"].values()
                    json.loads(said)
                meter.stepped()
            self._told = told(time)
            return time + 1

        def get_data(self, outputs: dict[str, Any]) -> dict[str, Any]:
            return {seat: {"observation": self._told} for seat in outputs}

    return Environment


def mosaik(n: int, meter: Meter, *, apart: bool) -> None:
    """mosaik: one simulator with all agents in this process, or a simulator process an agent."""
    import mosaik as library

    sys.modules["peers_classes"] = classes = type(sys)("peers_classes")
    classes.Environment, classes.Agents = mosaik_environment(meter), mosaik_simulator()  # type: ignore[attr-defined]
    command = f"{sys.executable} {HERE / 'peer_agent.py'} mosaik %(addr)s -"
    agents = {"cmd": command} if apart else {"python": "peers_classes:Agents"}
    config = {"Environment": {"python": "peers_classes:Environment"}, "Agents": agents}
    world = library.World(config, skip_greetings=True, configure_logging=False)
    seats = world.start("Environment").Seat.create(n)
    if apart:
        made = [world.start("Agents").Agent.create(1)[0] for _ in range(n)]
    else:
        made = world.start("Agents").Agent.create(n)
    for seat, agent in zip(seats, made, strict=True):
        world.connect(seat, agent, "observation")
        world.connect(agent, seat, "action", time_shifted=True, initial_data={"action": "{}"})
    world.run(until=meter.wanted + 1, print_progress=False)


def helics_each(n: int, meter: Meter) -> None:
    """HELICS over ZeroMQ: a federate and process an agent."""
    import helics as h

    port = "24567"
    broker = h.helicsCreateBroker("zmq", "", f"-f {n + 1} --port={port} --loglevel=error")
    with ended(*(start("helics", port, name) for name in names(n))):
        info = h.helicsCreateFederateInfo()
        h.helicsFederateInfoSetCoreTypeFromString(info, "zmq")
        h.helicsFederateInfoSetCoreInitString(info, f"--federates=1 --brokerport={port}")
        h.helicsFederateInfoSetTimeProperty(info, h.HELICS_PROPERTY_TIME_DELTA, 0.01)
        federate = h.helicsCreateMessageFederate("environment", info)
        endpoint = h.helicsFederateRegisterGlobalEndpoint(federate, "environment", "")
        h.helicsFederateEnterExecutingMode(federate)
        now = 0.0
        for step in range(meter.wanted):
            for name in names(n):
                h.helicsEndpointSendBytesTo(endpoint, told(step).encode(), name)
            heard = 0
            while heard < n:
                now = h.helicsFederateRequestTime(federate, float(step + 1))
                while h.helicsEndpointHasMessage(endpoint):
                    json.loads(h.helicsMessageGetString(h.helicsEndpointGetMessage(endpoint)))
                    heard += 1
            while now < step + 1:
                now = h.helicsFederateRequestTime(federate, float(step + 1))
            meter.stepped()
        for name in names(n):
            h.helicsEndpointSendBytesTo(endpoint, b"end", name)
        h.helicsFederateDisconnect(federate)
        h.helicsBrokerWaitForDisconnect(broker, 10_000)
    h.helicsCloseLibrary()


CONTESTANTS: dict[str, tuple[str, Callable[[int, Meter], Any]]] = {
    "heron-memory": ("heron-mqtt, in memory, one process", heron_memory),
    "mosaik-one": ("mosaik, one simulator, one process", lambda n, meter: mosaik(n, meter, apart=False)),
    "heron-one": ("heron-mqtt, mosquitto, agents in one process", heron_one),
    "paho": ("paho with its threads, mosquitto, one process", paho_one),
    "aiomqtt": ("aiomqtt, mosquitto, one process", aiomqtt_one),
    "heron-each": ("heron-mqtt, mosquitto, a process an agent", heron_each),
    "mosaik-each": ("mosaik, a process an agent", lambda n, meter: mosaik(n, meter, apart=True)),
    "helics-each": ("HELICS (ZeroMQ), a process an agent", helics_each),
}


def be(name: str, n: int, steps: int) -> None:
    """Be one contestant, and print what it took."""
    meter = Meter(steps)
    done = CONTESTANTS[name][1](n, meter)
    if asyncio.iscoroutine(done):
        asyncio.run(done)
    print(json.dumps(meter.result()))


class ContestantFailed(Exception):
    """A contestant has no result; says why."""


def measured(name: str, n: int, steps: int) -> dict[str, float]:
    """Run one contestant as a program.

    Raises:
        ContestantFailed: It did not end in time, or ended without a result.
    """
    command = [sys.executable, __file__, "--be", name, "--agents", str(n), "--steps", str(steps)]
    # Files, not pipes: an agent that lives on would hold a pipe open.
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+", errors="replace") as err:
        program = subprocess.Popen(command, stdout=out, stderr=err, start_new_session=True)
        try:
            code = program.wait(LONGEST_S)
        except subprocess.TimeoutExpired:
            raise ContestantFailed(f"did not end within {LONGEST_S:g} s") from None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(program.pid, signal.SIGKILL)  # its agents, too
            program.wait()
        out.seek(0)
        err.seek(0)
        results, said = out.read().splitlines(), err.read().splitlines()
    if code == 0 and results:
        found: dict[str, float] = json.loads(results[-1])
        return found
    why = next((line.strip() for line in reversed(said) if line.strip()), "it said nothing")
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    raise ContestantFailed(f"ended with {how}: {why}")


def main() -> None:
    parser = ProgramArguments(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", type=int, nargs="+", default=[3, 30])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS))
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--be", choices=CONTESTANTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.be is not None:
        be(options.be, options.agents[0], options.steps)
        return
    table: dict[int, dict[str, dict[str, float] | str]] = {}
    for n in options.agents:
        rounds: dict[str, list[dict[str, float]]] = {name: [] for name in options.only}
        failed: dict[str, str] = {}
        for _ in range(options.rounds):
            for name in [name for name in options.only if name not in failed]:
                try:
                    rounds[name].append(measured(name, n, options.steps))
                except ContestantFailed as exc:
                    failed[name] = str(exc)
        table[n] = {
            name: failed[name]
            if name in failed
            else {k: statistics.median(r[k] for r in ran) for k in ran[0]}
            for name, ran in rounds.items()
        }
    if options.json:
        print(json.dumps(table))
    else:
        print_tables(table)
    for n, rows in table.items():
        for name, row in rows.items():
            if isinstance(row, str):
                print(f"peers.py: {name}, N = {n}: {row}", file=sys.stderr)
    if any(isinstance(row, str) for rows in table.values() for row in rows.values()):
        raise SystemExit(1)


def print_tables(table: dict[int, dict[str, dict[str, float] | str]]) -> None:
    """Print the results, or why there is none, by number of agents and contestant."""
    for n, rows in table.items():
        print(f"\n| N = {n} | CPU ms a step | median step ms | start to first step s |\n|---|---|---|---|")
        for name, row in rows.items():
            if isinstance(row, str):
                print(f"| {CONTESTANTS[name][0]} | {row.replace('|', '/')} | | |")
                continue
            cpu_ms, step_ms, first_s = row["cpu_ms"], row["step_ms"], row["first_s"]
            print(f"| {CONTESTANTS[name][0]} | {cpu_ms:.2f} | {step_ms:.2f} | {first_s:.1f} |")


if __name__ == "__main__":
    main()

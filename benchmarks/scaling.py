"""What many agents and devices cost, over one broker and several proxy processes.

    python benchmarks/scaling.py [--agents 100] [--devices 10] [--proxies 4] [--steps 20] [--realtime 5]

A star of as many feeders as there are agents, each a microgrid with batteries that are external devices at
full authority: the hardware's way through gateway, lease and envelope. The devices are the shipped emulators,
many in a process, each with a connection of its own for its last will. Everything runs on this machine over
one mosquitto; what each kind of process takes is CPU time, read from the system, between two steps far apart.
Prints one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pandapower as pp
from paho.mqtt.enums import CallbackAPIVersion

from heron_mqtt.bench.processes import find_mosquitto
from heron_mqtt.messaging.mqtt import MqttBroker
from heron_mqtt.program_arguments import ProgramArguments

MOSQUITTO = """
listener {port} 127.0.0.1
allow_anonymous true
set_tcp_nodelay true
max_queued_messages 0
max_inflight_messages 0
sys_interval 1
user root
log_dest none
"""
COUNTS = {"publish/messages/received": "published", "publish/messages/sent": "delivered",
          "bytes/received": "bytes_in", "bytes/sent": "bytes_out"}  # fmt: skip
ENV_ID = "scaling"


def write_grid(folder: Path, agents: int) -> Path:
    """Write a star: a substation, and a feeder with one bus for each agent."""
    net = pp.create_empty_network()
    centre = pp.create_bus(net, 20.0)
    pp.create_ext_grid(net, centre)
    for _ in range(agents):
        bus = pp.create_bus(net, 20.0)
        pp.create_line_from_parameters(
            net, centre, bus, 1.0, r_ohm_per_km=0.1, x_ohm_per_km=0.1, c_nf_per_km=10.0, max_i_ka=0.4
        )
        pp.create_load(net, bus, 0.1, 0.02)
    path = folder / "star.json"
    pp.to_json(net, str(path))
    return path


def write_scenario(folder: Path, agents: int, devices: int, steps: int, realtime_s: float) -> Path:
    """Write the scenario; every agent is remote and every device external."""
    write_grid(folder, agents)
    lines = [
        f'name = "{ENV_ID}"', f"steps = {steps}", "step_s = 900.0", f"realtime_s = {realtime_s}",
        "lease_s = 30.0",
        "[network]", 'source = "star.json"',
        "[profiles]", "start_row = 28", "repeat = true",
        "[protocol]", 'horizontal = "none"',
        "[deadlines]", "upstream_s = 5.0", "peer_s = 5.0", "device_s = 5.0", "action_s = 20.0",
        "ready_s = 300.0",
    ]  # fmt: skip
    for a in range(agents):
        lines += [
            f"[microgrids.A{a}]", f"buses = [{a + 1}]", "remote = true",
            'loads = { p = "residential_p_pu", q = "residential_q_pu" }',
            "policy = { charge_below = 63.0, discharge_above = 75.0 }",
        ]  # fmt: skip
        for d in range(devices):
            lines += [
                f"[microgrids.A{a}.devices.b{d}]", 'kind = "battery"', "max_e_mwh = 0.03",
                "max_p_charge_mw = 0.008", "max_p_discharge_mw = 0.01", 'authority = "full"',
                "external = true", "gateway = { gate_steps = 2 }",
            ]  # fmt: skip
    path = folder / "scaling.toml"
    path.write_text("\n".join(lines) + "\n")
    return path


async def host(url: str, scenario: str, agents: list[str]) -> None:
    """Be the devices of some agents, until ended."""
    from powergrid.emulators.emulator import Emulator
    from powergrid.emulators.faults import FaultState
    from powergrid.scenario import load_scenario

    tables = load_scenario(scenario).scenario.microgrids
    async with MqttBroker(url, env_id=ENV_ID) as broker:
        batteries = [
            Emulator(t.spec, t.emulator, FaultState(), agent, name, broker, env_id=ENV_ID, period_s=1.0)
            for agent in agents
            for name, t in tables[agent].devices.items()
        ]
        await asyncio.gather(*(battery.run() for battery in batteries))


def cpu_s(pids: list[int]) -> float:
    """Return the CPU time that processes and their threads have taken, s."""
    total = 0.0
    for pid in pids:
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def rss_mb(pids: list[int]) -> float:
    """Return the resident memory of processes, MB."""
    pages = [int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids]
    return sum(pages) * os.sysconf("SC_PAGE_SIZE") / 1e6


class Watch:
    """The broker's counters, and the steps as they begin."""

    def __init__(self, port: int) -> None:
        self.counts: dict[str, float] = {}
        self.steps: dict[int, tuple[float, dict[str, float]]] = {}
        self.changed = threading.Event()
        self._client = paho.Client(CallbackAPIVersion.VERSION2)
        self._client.on_message = self._on_message
        self._client.connect("127.0.0.1", port)
        self._client.subscribe([("$SYS/broker/#", 0), (f"heron/{ENV_ID}/run/state", 1)])
        self._client.loop_start()

    def _on_message(self, _client: object, _data: object, message: paho.MQTTMessage) -> None:
        if message.topic.startswith("$SYS/broker/"):
            name = COUNTS.get(message.topic.removeprefix("$SYS/broker/"))
            if name is not None:
                self.counts[name] = float(message.payload)
            return
        state = json.loads(message.payload or b"{}")
        if state.get("step") is not None and state["step"] not in self.steps:
            self.steps[state["step"]] = (time.monotonic(), dict(self.counts))
            self.changed.set()

    def wait_step(self, step: int, within_s: float) -> None:
        """Wait until a step has begun."""
        end = time.monotonic() + within_s
        while step not in self.steps:
            self.changed.clear()
            if not self.changed.wait(max(0.0, end - time.monotonic())):
                raise SystemExit(f"step {step} did not begin within {within_s:g} s")


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run it, and return what was found."""
    scenario = write_scenario(folder, options.agents, options.devices, options.steps, options.realtime)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    config = folder / "mosquitto.conf"
    config.write_text(MOSQUITTO.format(port=port))
    url, me = f"mqtt://127.0.0.1:{port}", [sys.executable, "-m", "heron_mqtt"]
    names = [f"A{a}" for a in range(options.agents)]
    shares = [names[i :: options.proxies] for i in range(options.proxies)]
    kinds: dict[str, list[subprocess.Popen[bytes]]] = {}
    mosquitto = find_mosquitto()
    if mosquitto is None:
        raise SystemExit("mosquitto is not installed")

    def start(kind: str, command: list[str], **pipes: Any) -> subprocess.Popen[bytes]:
        kinds.setdefault(kind, []).append(subprocess.Popen(command, cwd=folder, **pipes))
        return kinds[kind][-1]

    try:
        start("broker", [str(mosquitto), "-c", str(config)])
        time.sleep(0.5)
        watch = Watch(port)
        for share in shares:
            start(
                "devices",
                [sys.executable, __file__, "--host", url, str(scenario), *share],
                stderr=subprocess.DEVNULL,
            )
        for share in shares:
            agents = [word for name in share for word in ("--agent", name)]
            command = [*me, "proxy", str(scenario), *agents, "--broker", url, "--no-record"]
            start("proxies", command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        began_s = time.monotonic()
        command = [*me, "run", str(scenario), "--broker", url, "--json", "--no-record"]
        run = start("run", command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        first, last = options.steps // 4, options.steps - 2
        watch.wait_step(0, 600.0)
        ready_s = time.monotonic() - began_s
        watch.wait_step(first, 600.0)
        pids = {kind: [p.pid for p in processes] for kind, processes in kinds.items()}
        before = {kind: cpu_s(found) for kind, found in pids.items()}
        watch.wait_step(last, 600.0)
        after = {kind: cpu_s(found) for kind, found in pids.items()}
        memory = {kind: round(rss_mb(found)) for kind, found in pids.items()}
        out, _ = run.communicate(timeout=120)
        result = json.loads(out)
    finally:
        for processes in kinds.values():
            for process in processes:
                process.kill()
                process.wait()
    (begin_s, counts), (end_s, counts_after) = watch.steps[first], watch.steps[last]
    took_s, steps = end_s - begin_s, last - first
    return {
        "agents": options.agents,
        "devices": options.agents * options.devices,
        "proxies": options.proxies,
        "ready_s": round(ready_s, 1),
        "step_s": round(took_s / steps, 3),
        "step_ms": result["step_ms"],
        "deadline_misses": result["deadline_misses"],
        "fallbacks": result["fallbacks"],
        "lost": result["messages"]["lost"],
        "cpu_ms_a_step": {kind: round(1e3 * (after[kind] - before[kind]) / steps, 1) for kind in before},
        "cores": {kind: round((after[kind] - before[kind]) / took_s, 3) for kind in before},
        "memory_mb": memory,
        "a_second": {
            n: round((counts_after[n] - counts[n]) / took_s, 1) for n in counts if n in counts_after
        },
    }


if __name__ == "__main__":
    if sys.argv[1:2] == ["--host"]:
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(host(sys.argv[2], sys.argv[3], sys.argv[4:]))
        raise SystemExit(0)
    parser = ProgramArguments(description="What many agents and devices cost.")
    parser.add_argument("--agents", type=int, default=100)
    parser.add_argument("--devices", type=int, default=10, help="of each agent")
    parser.add_argument("--proxies", type=int, default=4, help="processes that the agents are spread over")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--realtime", type=float, default=5.0, help="seconds a step")
    with tempfile.TemporaryDirectory() as scratch:
        print(json.dumps(measure(parser.parse_args(), Path(scratch)), indent=1))

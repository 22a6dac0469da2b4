"""Three NATS nodes as one MQTT broker: whichever is killed, runs end well and leases hold."""

from __future__ import annotations

import json
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from heron_mqtt.record.reader import RecordFile
from support.doc_pages import ROOT
from support.heron_command import Program, heron, until, write_toml
from support.leases import assert_within_lease
from support.nats_cluster import NODES, NatsCluster
from support.observer import Observed, Observer, PlainDevice

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

STEPS, STEP_S, LEASE_S = 40, 0.4, 2.0
STALL_S = 60.0  # an election, and 0.1 s for each filter that is subscribed to again
DEVICE = "MG3/ess"


class RoamingDevice(PlainDevice):
    """A battery of plain paho that goes to the next node when its own is gone."""

    def __init__(self, ports: list[int], **arguments: Any) -> None:
        self._ports = ports
        super().__init__(f"mqtt://127.0.0.1:{ports[0]}", "three_microgrids", DEVICE, **arguments)

    def _on_connect(self, client: Any, *arguments: Any) -> None:
        client.on_disconnect = self._on_disconnect
        super()._on_connect(client, *arguments)

    def _on_disconnect(self, client: Any, *_: Any) -> None:
        self._ports.append(self._ports.pop(0))
        client._port = self._ports[0]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsCluster]:
    with NatsCluster(tmp_path_factory.mktemp("cluster")) as nodes:
        yield nodes


def write_scenario(folder: Path) -> Path:
    """The default scenario; MG3's agent is elsewhere, and its battery a real one."""
    data = tomllib.loads((ROOT / "config" / "three_microgrids.toml").read_text())
    data |= {"steps": STEPS, "realtime_s": STEP_S, "lease_s": LEASE_S}
    data["profiles"] |= {n: str(ROOT / "config" / data["profiles"][n]) for n in ("file", "price_file")}
    data["deadlines"] = {"upstream_s": 0.5, "peer_s": 0.5, "device_s": 0.3, "action_s": 2.0, "ready_s": 90.0}
    data["microgrids"]["MG3"] |= {"remote": True}
    # always worth discharging: the battery is told something other than 0
    data["microgrids"]["MG3"]["policy"] = {"charge_below": -1000.0, "discharge_above": -999.0}
    data["microgrids"]["MG3"]["devices"]["ess"] |= {
        "authority": "full", "external": True, "max_e_mwh": 50.0, "gateway": {"gate_steps": 2},
    }  # fmt: skip
    return write_toml(folder / "three_microgrids.toml", data)


@pytest.mark.parametrize("killed", ["follower", "leader", "node of the gateway"])
def test_a_node_is_killed_and_the_run_ends_well(cluster: NatsCluster, tmp_path: Path, killed: str) -> None:
    """The run is on one follower, the gateway on the other, the device on the leader."""
    cluster.wait_healthy()
    leader = cluster.leader()
    of_run, of_gateway = (name for name in NODES if name != leader)
    victim = {"follower": of_run, "leader": leader, "node of the gateway": of_gateway}[killed]
    scenario, record = write_scenario(tmp_path), tmp_path / "proxy.heron"
    watched = [Observer(f"mqtt://127.0.0.1:{node.mqtt_port}") for node in cluster.nodes.values()]
    ports = [cluster.nodes[name].mqtt_port for name in (leader, of_run, of_gateway)]
    device = RoamingDevice(ports, birth={"p_min_mw": -0.05, "p_max_mw": 0.05, "max_e_mwh": 50.0})
    try:
        with (
            _proxy(scenario, cluster.url(of_gateway, of_run, leader), record) as proxy,
            _run(scenario, cluster.url(of_run, of_gateway, leader)) as run,
        ):
            until(lambda: device.p_mw != 0.0, "the device is driven", 120.0)
            cluster.nodes[victim].kill()
            done = run.wait(STALL_S + STEPS * (STEP_S + 3.0))
            proxy.signal(2)
            ended = proxy.wait()
    finally:
        for client in (device, *watched):
            client.close()
        cluster.nodes[victim].start()
    assert done.code == 0, done.err
    assert done.result["steps"] == STEPS
    assert ended.code in {0, 130}, ended.err
    _assert_every_step_is_accounted_for(done.result, watched)
    _assert_every_loss_is_counted(record, device)
    assert_within_lease(device, LEASE_S)
    for observer in watched:
        assert all(abs(m.json["p_mw"]) <= 0.05 + 1e-9 for m in observer.setpoints(DEVICE))


def _run(scenario: Path, url: str) -> Program:
    return heron("run", str(scenario), "--broker", url, "--json", "--no-record")


def _proxy(scenario: Path, url: str, record: Path) -> Program:
    return heron("proxy", str(scenario), "--agent", "MG3", "--broker", url, "--record", str(record))


def _assert_every_step_is_accounted_for(result: dict[str, Any], watched: list[Observer]) -> None:
    """A step without MG3's action is one that the run counts as missed."""
    acted = {m.json["step"] for o in watched for m in _actions(o)}
    silent = [step for step in range(STEPS) if step not in acted]
    assert len(silent) <= result["deadline_misses"]


def _actions(observer: Observer) -> list[Observed]:
    return [m for m in observer.on("agents/MG3/action") if m.json.get("type") == "action"]


def _assert_every_loss_is_counted(record: Path, device: PlainDevice) -> None:
    """What is missing among the numbers that the gateway has recorded is what it has counted as lost."""
    with RecordFile(record) as file:
        rows = file.query(
            "SELECT sender, boot, channel, seq FROM messages WHERE direction = 'in' AND seq IS NOT NULL"
        )
        (end,) = file.query("SELECT data FROM events WHERE kind = 'summary'")
    numbers: dict[tuple[str, str, str], set[int]] = defaultdict(set)
    for row in rows:
        numbers[row["sender"], row["boot"], row["channel"]].add(row["seq"])
    missing = sum(max(n) - min(n) + 1 - len(n) for n in numbers.values())
    counted = sum(counts["lost"] for counts in json.loads(end["data"])["brokers"])
    assert counted == missing
    assert any(c.endswith("ess/telemetry") and boot == device.boot for _, boot, c in numbers)

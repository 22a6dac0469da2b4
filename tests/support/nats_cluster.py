"""Three NATS servers on loopback as config/nats/node.conf makes them a cluster: nodes to kill and restart."""

from __future__ import annotations

import json
import re
import time
import urllib.request
from pathlib import Path
from typing import Any, Self

import paho.mqtt.client as paho

from heron_mqtt.config import shipped_config
from heron_mqtt.testing.loopback_server import free_port
from support.heron_command import until
from support.nats_server import NatsServer

NODES = ("n1", "n2", "n3")
READY_S = 90.0


class NatsNode(NatsServer):
    """One server of the cluster.

    Args:
        folder: For its configuration, log and store.
        name: Of the server.
        cluster: Ports of the routes, by name.
    """

    def __init__(self, folder: Path, name: str, cluster: dict[str, int]) -> None:
        folder.mkdir()
        self.name = name
        self.mqtt_port, self.http_port = free_port(), free_port()
        routes = ", ".join(f'"nats://127.0.0.1:{port}"' for node, port in cluster.items() if node != name)
        text = (shipped_config() / "nats" / "node.conf").read_text("utf-8")
        for ours, of_this_test in (
            (r"server_name: n1\nhost: 127.0.0.1\nport: 4222\n", f"server_name: {name}\n"),
            (r'listen: ".*"', f'listen: "127.0.0.1:{cluster[name]}"'),
            (r"routes: \[.*\]", f"routes: [{routes}]"),
            (r'store_dir: ".*"', f'store_dir: "{folder}/js"'),
            (r"port: 1883", f"port: {self.mqtt_port}"),
        ):
            text, found = re.subn(ours, of_this_test, text)
            assert found == 1, ours
        super().__init__(folder, f'http: "127.0.0.1:{self.http_port}"\n{text}')

    @property
    def is_up(self) -> bool:
        return self.process is not None

    def ask(self, path: str) -> dict[str, Any]:
        """Ask its monitoring; empty if it does not answer."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}/{path}", timeout=2) as answer:
                found: dict[str, Any] = json.load(answer)
                return found
        except OSError:
            return {}


class NatsCluster:
    """The nodes; use it as a context manager."""

    def __init__(self, folder: Path) -> None:
        routes = {name: free_port() for name in NODES}
        self.nodes = {name: NatsNode(folder / name, name, routes) for name in NODES}

    def __enter__(self) -> Self:
        try:
            for node in self.nodes.values():
                node.start()
            self.wait_healthy()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        for node in self.nodes.values():
            node.kill()

    def url(self, *order: str) -> str:
        """Return the address for clients that prefer the nodes in this order."""
        hosts = [f"127.0.0.1:{self.nodes[name].mqtt_port}" for name in order or NODES]
        return f"mqtt://{','.join(hosts)}"

    def leader(self) -> str:
        """Return who leads the cluster's metadata; empty while it is elected."""
        for node in self.nodes.values():
            if node.is_up:
                name = node.ask("jsz").get("meta_cluster", {}).get("leader", "")
                if name:
                    return str(name)
        return ""

    def wait_healthy(self) -> None:
        """Wait until every node has caught up and takes MQTT clients."""
        until(
            lambda: all(n.ask("healthz").get("status") == "ok" for n in self.nodes.values()),
            "the cluster is ready",
            READY_S,
        )
        until(self.leader, "the cluster is ready", READY_S)
        for node in self.nodes.values():
            until(lambda node=node: _connects(node.mqtt_port), "the cluster is ready", READY_S)  # type: ignore[misc]


def _connects(port: int) -> bool:
    """Whether a client can connect, subscribe and publish."""
    done: list[str] = []
    client = paho.Client(paho.CallbackAPIVersion.VERSION2)
    client.on_connect = lambda c, *_: c.subscribe("ready/check", qos=1)
    client.on_subscribe = lambda c, d, m, codes, p: done.append("no" if codes[0].is_failure else "yes")
    try:
        client.connect("127.0.0.1", port, keepalive=10)
    except OSError:
        return False
    client.loop_start()
    end = time.monotonic() + 6.0
    while not done and time.monotonic() < end:
        time.sleep(0.02)
    client.disconnect()
    client.loop_stop()
    return done == ["yes"]

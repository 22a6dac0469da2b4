"""The example flow in a real Node-RED: it follows the price, and when it ends the device goes safe."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.doc_pages import ROOT
from support.heron_command import heron
from support.mosquitto_clients import Watcher, publish
from support.mosquitto_server import Mosquitto
from support.node_packages import node_package

FLOW = ROOT / "docs" / "examples" / "node_red" / "flow.json"
TELEMETRY = "heron/node_red/devices/MG1/ess/telemetry"
PRICE = "heron/node_red/operators/me/price"


@contextmanager
def node_red(url: str, folder: Path) -> Iterator[None]:
    red = node_package("node-red") / "red.js"
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    settings = folder / "settings.js"
    settings.write_text(
        "module.exports = {uiHost: '127.0.0.1', telemetry: {enabled: false, updateNotification: false}, "
        "diagnostics: {enabled: false}, functionExternalModules: false};"
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    host, _, broker_port = url.removeprefix("mqtt://").partition(":")
    flow = shutil.copy(FLOW, folder / "flow.json")
    process = subprocess.Popen(
        [node, red, "-p", str(port), "-u", folder, "-s", settings, flow],
        env={**os.environ, "HERON_HOST": host, "HERON_PORT": broker_port},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(10.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.mark.slow
def test_the_flow_follows_the_price_and_leaves_the_device_safe(mosquitto: Mosquitto, tmp_path: Path) -> None:
    battery = ("device", "battery", "--agent", "MG1", "--name", "ess", "--env-id", "node_red")
    with heron(*battery, "--broker", mosquitto.url), Watcher(mosquitto.url) as watcher:
        with node_red(mosquitto.url, tmp_path):
            watcher.wait_seen(TELEMETRY)
            publish(mosquitto.url, PRICE, {"type": "price", "value": 72.5}, retain=True)
            watcher.wait_seen(TELEMETRY, lambda m: m["p_mw"] == 0.005)
            publish(mosquitto.url, PRICE, {"type": "price", "value": 20.0}, retain=True)
            watcher.wait_seen(TELEMETRY, lambda m: m["p_mw"] == -0.005)
        setpoints = [seen.json for seen in watcher.seen if seen.topic.endswith("MG1/ess/setpoint")]
        assert {setpoint["p_mw"] for setpoint in setpoints} == {0.005, -0.005}, "nothing without a price"
        driven = watcher.latest(TELEMETRY)
        assert driven is not None
        watcher.wait_seen(TELEMETRY, lambda m: m["safe"] and m["seq"] > driven["seq"])
    publish(mosquitto.url, PRICE, "", retain=True)

"""A box that reports only what changes, on a real broker: driven, tried, and lost when its will says so."""

from __future__ import annotations

import json
import socket
import threading
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import paho.mqtt.client as paho
import pytest

from support.heron_command import heron, run_heron, until
from support.mosquitto_server import Mosquitto
from support.small_runs import write_scenario

MAPPING = """
name = "quiet box"

[[telemetry]]
topic = "{base}/power"
format = "text"
reports = "on_change"
fields.p_mw = {{ unit = "W" }}

[[availability]]
topic = "{base}/lwt"
online = ["online"]
offline = ["offline"]

[liveness]
by = "availability"

[setpoint.values.p]
quantity = "p_mw"
unit = "W"

[[setpoint.messages]]
topic = "{base}/set"
payload = "{{p}}"

[[setpoint.release]]
topic = "{base}/set"
payload = "0"
"""


class QuietBox:
    """Says its power, retained, when it changes, and nothing else; its will says that it is gone."""

    def __init__(self, url: str, base: str) -> None:
        self.base = base
        self.told: list[str] = []
        self._ready = threading.Event()
        parts = urlsplit(url)
        self._client = paho.Client(paho.CallbackAPIVersion.VERSION2)
        self._client.will_set(f"{base}/lwt", "offline", retain=True)
        self._client.on_subscribe = lambda *_: self._ready.set()
        self._client.on_message = self._on_message
        self._client.connect(parts.hostname or "", parts.port or 1883)

    def __enter__(self) -> Self:
        self._client.loop_start()
        self._client.subscribe(f"{self.base}/set", 1)
        assert self._ready.wait(30.0)
        self._client.publish(f"{self.base}/lwt", "online", retain=True)
        self._client.publish(f"{self.base}/power", "0", retain=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._client.loop_stop()
        self._client.disconnect()

    def cut(self) -> None:
        """Lose its connection, without a goodbye."""
        self._client.reconnect_delay_set(60, 60)
        connection = self._client.socket()
        assert isinstance(connection, socket.socket)
        connection.shutdown(socket.SHUT_RDWR)

    def _on_message(self, _client: Any, _data: Any, message: paho.MQTTMessage) -> None:
        text = message.payload.decode()
        if not self.told or self.told[-1] != text:
            self._client.publish(f"{self.base}/power", text, retain=True)
        self.told.append(text)


def mapping(folder: Path, base: str) -> Path:
    file = folder / "quiet.toml"
    file.write_text(MAPPING.format(base=base))
    return file


@pytest.fixture(scope="module")
def mosquitto(file_mosquitto: Mosquitto) -> Mosquitto:
    """One of this file's own: a stop that another test left, in whatever environment, forbids a trial."""
    return file_mosquitto


@pytest.mark.slow_but("cut")
@pytest.mark.parametrize("ends", ["well", "cut"])
def test_it_is_driven_while_its_will_has_not_spoken(
    mosquitto: Mosquitto, env_id: str, tmp_path: Path, ends: str
) -> None:
    base = f"quiet/{env_id}"
    at = "microgrids.MG1.devices.ess"
    changes: dict[str, Any] = {
        f"microgrids.{agent}.devices.{name}.authority": "simulated"
        for agent in ("MG1", "MG2", "MG3")
        for name in ("gen", "ess", "pv")
    }
    changes |= {f"{at}.authority": "full", f"{at}.mapping": mapping(tmp_path, base).name}
    changes |= {f"{at}.gateway": {"stale_after_s": 0.5, "gate_steps": 1}, "env_id": env_id}
    # it is asked for nothing at all prices: for longer than its power counts there is nothing to report
    changes["microgrids.MG1.policy"] = {"charge_below": -1e4, "discharge_above": 1e4}
    file = write_scenario(tmp_path, changes)
    with (
        QuietBox(mosquitto.url, base) as box,
        heron(
            *("run", str(file), "--broker", mosquitto.url, "--realtime", "0.8", "--steps", "6", "--json"),
            "--no-record",
        ) as program,
    ):
        until(lambda: len(box.told) >= 2, "setpoints", 40.0)
        if ends == "cut":
            box.cut()
        done = program.wait()
    # Whether one that was cut off has heard its release cannot be known.
    assert done.code == (1 if ends == "cut" else 0), done.err
    assert ("its release was sent while it was not there" in done.err) is (ends == "cut")
    device = done.result["devices"]["MG1/ess"]
    if ends == "well":
        assert device["fallbacks"] == 0
        assert device["setpoints"] == 6
    else:
        assert device["fallbacks"] >= 2
        assert device["setpoints"] < 6
        assert "not reported since the device went offline" in done.err


@pytest.mark.slow
def test_one_setpoint_is_tried_on_it(mosquitto: Mosquitto, env_id: str, tmp_path: Path) -> None:
    base = f"quiet/{env_id}"
    with QuietBox(mosquitto.url, base):
        done = run_heron(
            *("probe", "--broker", mosquitto.url, "--mapping", str(mapping(tmp_path, base)), "--yes"),
            *("--send", "400W", "--for", "2s", "--listen", "1", "--env-id", env_id, "--json"),
        )
    assert done.code == 0, done.out + done.err
    assert {v["good"] for v in json.loads(done.out)["verdicts"].values()} == {True}

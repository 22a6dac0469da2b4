"""A box that speaks often and is gone in the last seconds of a run: its broker acknowledges its release."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import paho.mqtt.client as paho
import pytest

from support.heron_command import heron, until
from support.mosquitto_server import Mosquitto
from support.small_runs import write_scenario

MAPPING = """
name = "talking box"

[[telemetry]]
topic = "{base}/power"
format = "text"
fields.p_mw = {{ unit = "W" }}

[setpoint.values.p]
quantity = "p_mw"
unit = "W"

[[setpoint.messages]]
topic = "{base}/set"
payload = "{{p}}"

[[setpoint.release]]
topic = "{base}/mode"
payload = "auto"
"""


class TalkingBox:
    """Says its power ten times a second until it is gone, of which nothing tells."""

    def __init__(self, url: str, base: str) -> None:
        self.base = base
        self.told: list[tuple[str, str]] = []
        self._ready, self._gone = threading.Event(), threading.Event()
        self._speaking = threading.Thread(target=self._speak, name="talking box")
        parts = urlsplit(url)
        self._client = paho.Client(paho.CallbackAPIVersion.VERSION2)
        self._client.on_subscribe = lambda *_: self._ready.set()
        self._client.on_message = lambda _client, _data, m: self.told.append((m.topic, m.payload.decode()))
        self._client.connect(parts.hostname or "", parts.port or 1883)

    def __enter__(self) -> TalkingBox:
        self._client.loop_start()
        self._client.subscribe([(f"{self.base}/set", 1), (f"{self.base}/mode", 1)])
        assert self._ready.wait(30.0)
        self._speaking.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.go()

    def go(self) -> None:
        """Be gone."""
        self._gone.set()
        self._speaking.join()
        self._client.disconnect()
        self._client.loop_stop()

    def _speak(self) -> None:
        while not self._gone.wait(0.1):
            self._client.publish(f"{self.base}/power", "0")


@pytest.mark.slow
@pytest.mark.parametrize("is_gone", [False, True])
def test_its_release_is_not_known_to_be_taken_and_the_run_does_not_end_well(
    file_mosquitto: Mosquitto, env_id: str, tmp_path: Path, is_gone: bool
) -> None:
    """Quick counterpart: unit/field/vendor/test_vendor_device.py, a box that is late at the end."""
    base = f"talking/{env_id}"
    (tmp_path / "talking.toml").write_text(MAPPING.format(base=base))
    at = "microgrids.MG1.devices.ess"
    changes: dict[str, Any] = {
        f"microgrids.{agent}.devices.{name}.authority": "simulated"
        for agent in ("MG1", "MG2", "MG3")
        for name in ("gen", "ess", "pv")
    }
    changes |= {f"{at}.authority": "full", f"{at}.mapping": "talking.toml", "env_id": env_id}
    changes |= {f"{at}.gateway": {"stale_after_s": 5.0, "gate_steps": 1}}
    changes["microgrids.MG1.policy"] = {"charge_below": -1e4, "discharge_above": 1e4}
    file = write_scenario(tmp_path, changes)
    with (
        TalkingBox(file_mosquitto.url, base) as box,
        heron(
            *(
                "run",
                str(file),
                "--broker",
                file_mosquitto.url,
                "--realtime",
                "1.2",
                "--steps",
                "10",
                "--json",
            ),
            "--no-record",
        ) as program,
    ):
        until(
            lambda: sum(topic.endswith("/set") for topic, _ in box.told) >= 8, "setpoints", 60.0
        )  # gone for less than it may be silent
        if is_gone:
            box.go()
        done = program.wait()
    assert done.code == (1 if is_gone else 0), done.err
    assert ("it is not known whether it accepted its release: it has said nothing for" in done.err) is is_gone
    assert ((f"{base}/mode", "auto") in box.told) is not is_gone

"""A box in plain paho whose reaction to a setpoint is scripted: sign, factor, delay, limit, noise."""

from __future__ import annotations

import json
import random
import socket
import threading
import time
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

import paho.mqtt.client as paho

MAPPING = """
name = "scripted box"

[[telemetry]]
topic = "{base}/power"
format = "text"
{telemetry}
fields.p_mw = {{ unit = "W" }}

[setpoint]
{setpoint}

[setpoint.values.p]
quantity = "p_mw"
unit = "W"
decimals = 1
{value}

[[setpoint.messages]]
topic = "{base}/set"
payload = "{{p}}"

[[setpoint.release]]
topic = "{base}/mode"
payload = "auto"
{more}
"""
ON_CHANGE = """
[[availability]]
topic = "{base}/lwt"
online = ["online"]
offline = ["offline"]

[liveness]
by = "availability"
"""
ANSWER = """
[[setpoint.answers]]
topic = "{base}/answer"
success = {{ path = "ok", is = [true] }}
error = {{ path = "why" }}
"""


class ScriptedBox:
    """Speaks its power every ``every_s``, and does what the script says about ``<base>/set`` and ``/mode``.

    Args:
        url: Of the broker.
        base: Its topics.
        gain: Of the power over the number that it is told; negative: it does the opposite.
        delay_s: Before it begins to react.
        limit_w: What it can give.
        noise_w: Standard deviation of what it measures.
        own_w: Its power under its own control.
        drift_w_s: By which that rises each second.
        shows: Factor of what it says over what it does.
        answers: Whether it answers, and what: ok, no, or nothing.
        frees: Whether the release hands it back.
        every_s: Between two words.
        reports_changes: It says its power, retained, only when that changes; its will says that it is gone.
    """

    def __init__(
        self,
        url: str,
        base: str,
        *,
        gain: float = 1.0,
        delay_s: float = 0.0,
        limit_w: float = 1e9,
        noise_w: float = 0.0,
        own_w: float = 0.0,
        drift_w_s: float = 0.0,
        shows: float = 1.0,
        answers: str = "",
        frees: bool = True,
        every_s: float = 0.1,
        mute: bool = False,
        reports_changes: bool = False,
    ) -> None:
        self.base = base
        self.told: list[tuple[str, str]] = []
        self.is_mute = mute
        self._gain, self._delay_s, self._limit_w, self._noise_w = gain, delay_s, limit_w, noise_w
        self._own_w, self._drift_w_s, self._shows, self._frees = own_w, drift_w_s, shows, frees
        self._answers, self._every_s, self._reports_changes = answers, every_s, reports_changes
        self._rng = random.Random(1)
        self._target: float | None = None
        self._next: tuple[float, float | None] | None = None
        self._begun = time.monotonic()
        self._done = threading.Event()
        self._ready = threading.Event()
        parts = urlsplit(url)
        self._client = paho.Client(paho.CallbackAPIVersion.VERSION2)
        if reports_changes:
            self._client.will_set(f"{base}/lwt", "offline", retain=True)
        self._client.on_connect = self._on_connect
        self._client.on_subscribe = lambda *_: self._ready.set()
        self._client.on_message = self._on_message
        self._client.reconnect_delay_set(1, 1)
        self._client.connect(parts.hostname or "", parts.port or 1883)
        self._talking = threading.Thread(target=self._talk, daemon=True)

    def __enter__(self) -> Self:
        self._client.loop_start()
        assert self._ready.wait(30.0)
        self._talking.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()

    def leave(self) -> None:
        """Be gone with a goodbye, of which no message tells. Idempotent."""
        self._done.set()
        self._talking.join(5.0)
        self._client.disconnect()
        self._client.loop_stop()

    def cut(self) -> None:
        """Lose the connection for a minute, without a goodbye."""
        self._client.reconnect_delay_set(60, 60)
        connection = self._client.socket()
        assert isinstance(connection, socket.socket)
        connection.shutdown(socket.SHUT_RDWR)

    def mapping(self, folder: Path, *, setpoint: str = "", value: str = "", more: str = "") -> Path:
        """Write a mapping of this box, with further lines."""
        file = folder / f"{self.base.replace('/', '-')}.toml"
        text = MAPPING + (ANSWER if self._answers else "") + (ON_CHANGE if self._reports_changes else "")
        telemetry = 'reports = "on_change"' if self._reports_changes else ""
        lines = {"setpoint": setpoint, "value": value, "more": more, "telemetry": telemetry}
        file.write_text(text.format(base=self.base, **lines))
        return file

    @property
    def is_released(self) -> bool:
        """Whether the last that it was told is the release."""
        return bool(self.told) and self.told[-1] == (f"{self.base}/mode", "auto")

    @property
    def p_w(self) -> float:
        """What it gives now."""
        now = time.monotonic()
        if self._next is not None and now >= self._next[0]:
            self._target, self._next = self._next[1], None
        if self._target is None:
            return self._own_w + self._drift_w_s * (now - self._begun)
        return max(-self._limit_w, min(self._limit_w, self._gain * self._target))

    def _on_connect(self, *_: object) -> None:
        self._client.subscribe([(f"{self.base}/set", 1), (f"{self.base}/mode", 1)])
        if self._reports_changes:
            self._client.publish(f"{self.base}/lwt", "online", retain=True)

    def _on_message(self, _client: object, _data: object, message: paho.MQTTMessage) -> None:
        text = message.payload.decode()
        self.told.append((message.topic, text))
        if message.topic.endswith("/set"):
            if self._answers:
                said = {"ok": True} if self._answers == "ok" else {"ok": False, "why": "the door is open"}
                self._client.publish(f"{self.base}/answer", json.dumps(said))
            if self._answers != "no" and self._gain:
                self._next = (time.monotonic() + self._delay_s, float(text))
        elif self._frees:
            self._target = self._next = None

    def _talk(self) -> None:
        last = ""
        while not self._done.wait(self._every_s):
            if not self.is_mute:
                shown = self.p_w * self._shows + self._rng.gauss(0.0, self._noise_w)
                text = f"{shown:.3f}"
                if text != last or not self._reports_changes:
                    self._client.publish(f"{self.base}/power", text, retain=self._reports_changes)
                last = text

"""An observer and a device of plain paho: no line of code in common with what they watch."""

from __future__ import annotations

import contextlib
import json
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import urlsplit

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from heron_mqtt.errors import NotReady
from heron_mqtt.testing.faults.programs import until


@dataclass(frozen=True, slots=True)
class Observed:
    """One message as it arrived."""

    at: float
    topic: str
    payload: bytes
    retained: bool

    @property
    def json(self) -> dict[str, Any]:
        try:
            found = json.loads(self.payload)
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}


class PlainClient:
    """One paho connection with a thread of its own; subscribes again after every connect."""

    def __init__(
        self, url: str, filters: list[str], *, will: tuple[str, dict[str, Any]] | None = None
    ) -> None:
        parts = urlsplit(url)
        self._ready = threading.Event()
        self._filters = filters
        self._mark = f"heron-test/{uuid.uuid4().hex}"
        self.client = mqtt.Client(CallbackAPIVersion.VERSION2)
        self.client.reconnect_delay_set(0.1, 0.5)  # type: ignore[arg-type] # it takes parts of a second
        if will is not None:
            self.client.will_set(will[0], json.dumps(will[1]), qos=1, retain=True)
        self.client.on_connect = self._on_connect
        self.client.on_message = self._on_any_message
        assert parts.hostname is not None
        self.client.connect(parts.hostname, parts.port or 1883, keepalive=5)
        self.client.loop_start()
        if not self._ready.wait(30.0):
            self.client.loop_stop()
            raise NotReady(f"{url}: no connection, or no subscription, within 30 s")

    def _on_connect(self, client: Any, *_: Any) -> None:
        client.subscribe([(f, 1) for f in [*self._filters, self._mark]])
        client.publish(self._mark, b"", qos=1)

    def _on_any_message(self, client: Any, userdata: Any, message: mqtt.MQTTMessage) -> None:
        if message.topic == self._mark:
            self._ready.set()
            self.on_ready()
            return
        self.on_message(Observed(time.monotonic(), message.topic, bytes(message.payload), message.retain))

    def on_ready(self) -> None: ...

    def on_message(self, message: Observed) -> None: ...

    def publish(self, topic: str, payload: Any, *, retain: bool = False) -> None:
        data = payload if isinstance(payload, bytes | str) else json.dumps(payload)
        self.client.publish(topic, data, qos=1, retain=retain).wait_for_publish(5)

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()

    def die(self) -> None:
        """End the connection as a power cut would."""
        self.client._sock.close() if self.client._sock else None
        self.client.loop_stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


class SiteObserver(PlainClient):
    """Hears everything below ``heron/``."""

    def __init__(self, url: str, filters: list[str] | None = None) -> None:
        self.seen: list[Observed] = []
        super().__init__(url, filters or ["heron/#"])

    def on_message(self, message: Observed) -> None:
        self.seen.append(message)

    def on(self, topic_end: str, *, live: bool = True) -> list[Observed]:
        """Return the messages of topics with this end, in order."""
        return [m for m in list(self.seen) if m.topic.endswith(topic_end) and not (live and m.retained)]

    def setpoints(self, device: str = "MG1/ess", *, after: float = 0.0) -> list[Observed]:
        """Return setpoints and renewals (no releases) of one device since a moment."""
        return [
            m for m in self.on(f"devices/{device}/setpoint") if m.at > after and not m.json.get("release")
        ]

    def driving(self, device: str = "MG1/ess", *, after: float = 0.0) -> list[Observed]:
        """Return what asks a device for power since a moment."""
        return [m for m in self.setpoints(device, after=after) if m.json["p_mw"] != 0.0]

    def wait(self, what: str, condition: Callable[[], object], within_s: float = 40.0) -> None:
        until(condition, what, within_s)


class PlainDevice(PlainClient):
    """A battery that follows its page: it answers, keeps its lease, obeys a stop; or less, as a test says.

    Args:
        url: Of the broker.
        env: The environment.
        name: ``AGENT/DEVICE``.
        period_s: Between telemetry.
        judges_age: Whether it checks the echo of a setpoint; a simple device of another maker does not.
        birth: Further fields of its birth.
    """

    def __init__(
        self,
        url: str,
        env: str,
        name: str = "MG1/ess",
        *,
        period_s: float = 0.1,
        judges_age: bool = True,
        follows: bool = True,
        soc: float = 0.5,
        birth: dict[str, Any] | None = None,
    ) -> None:
        self.base = f"heron/{env}/devices/{name}"
        self.env, self.name = env, name
        self.boot = uuid.uuid4().hex[:8]
        self.seq = -1
        self.p_mw, self.soc = 0.0, soc
        self.power: list[tuple[float, float]] = []
        """When its power changed, and to what."""
        self.done: list[dict[str, Any]] = []
        """Setpoints that it followed."""
        self.heard: list[Observed] = []
        """Everything live that came on its setpoint topic."""
        self.stopped = False
        self.newest = ""
        """Its newest telemetry, as it was sent."""
        self.is_speaking = True
        self.lease_ends: float | None = None
        self._lease_s = 0.0
        self._said: dict[int, float] = {}
        self._newest: dict[str | None, int] = {}
        self._ack: dict[str, Any] = {}
        self._judges_age, self._follows = judges_age, follows
        self.period_s, self._birth = period_s, birth or {}
        self._lock = threading.RLock()
        self._ended = threading.Event()
        will = (f"{self.base}/status", {"type": "status", "state": "offline"})
        super().__init__(url, [f"{self.base}/setpoint", f"heron/{env}/estop"], will=will)
        self._clock = threading.Thread(target=self._keep_time, daemon=True)
        self._clock.start()

    def on_ready(self) -> None:
        birth = {"type": "status", "state": "online", "kind": "battery", "boot": self.boot, "soc": self.soc}
        self.client.publish(f"{self.base}/status", json.dumps({**birth, **self._birth}), qos=1, retain=True)
        self.say()

    def reborn(self, soc: float) -> None:
        """Start again, as after a power cut."""
        with self._lock:
            self.boot, self.seq, self.soc = uuid.uuid4().hex[:8], -1, soc
            self._said, self._newest, self._ack, self.lease_ends = {}, {}, {}, None
            self._set(0.0)
            self.on_ready()

    def say(self, **fields: Any) -> None:
        with self._lock:
            self.seq += 1
            self._said[self.seq] = time.monotonic()
            message = {"type": "telemetry", "p_mw": self.p_mw, "soc": self.soc, "boot": self.boot}
            message |= {"seq": self.seq, "sender": self.name, **self._ack, **fields}
            self.newest = json.dumps(message)
            self.client.publish(f"{self.base}/telemetry", self.newest, qos=1)

    def on_message(self, message: Observed) -> None:
        with self._lock:
            if message.topic.endswith("/estop"):
                self.stopped = message.json.get("active") is not False
                if self.stopped:
                    self.lease_ends = None
                    self._set(0.0)
                self.say(stopped=self.stopped)
            elif not message.retained:
                self.heard.append(message)
                with contextlib.suppress(KeyError, TypeError, OverflowError):  # no setpoint at all
                    self._take(message.json)

    def _take(self, told: dict[str, Any]) -> None:
        boot, seq = told.get("boot"), told.get("seq")
        if seq is not None and seq <= self._newest.get(boot, -1):
            return
        if seq is not None:
            self._newest[boot] = seq
        begins = time.monotonic()
        if self._judges_age and "heard_seq" in told:
            said = self._said.get(told["heard_seq"]) if told.get("heard_boot") == self.boot else None
            if said is None or said + told["lease_s"] <= begins:
                return
            begins = said
        if told.get("release"):
            self.lease_ends = None
            self._set(0.0)
        elif told.get("renewal"):
            if self.lease_ends is not None:
                self.lease_ends = begins + told["lease_s"]
        elif self._follows:
            self.lease_ends = begins + told["lease_s"]
            self._ack = {"ack_boot": boot, "ack_seq": seq}
            self.done.append(told)
            self._set(0.0 if self.stopped else told["p_mw"])
            self.say()

    def _set(self, p_mw: float) -> None:
        if p_mw != self.p_mw:
            self.p_mw = p_mw
            self.power.append((time.monotonic(), p_mw))

    def _keep_time(self) -> None:
        due = time.monotonic()
        while not self._ended.wait(0.01):
            with self._lock:
                now = time.monotonic()
                if self.lease_ends is not None and now >= self.lease_ends:
                    self.lease_ends = None
                    self._set(0.0)
                    due = now
                if now >= due:
                    due = now + self.period_s
                    if self.is_speaking:
                        self.say()

    def close(self) -> None:
        self._ended.set()
        super().close()

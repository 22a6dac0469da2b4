"""One device on a broker, watched and spoken to with plain paho: no part of the gateway takes part.

The checks of ``heron_mqtt.testing.device_checks`` use it. It knows topics and JSON, and nothing else.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from heron_mqtt.messaging.topics import ESTOP, TopicMap, device, stop_confirm

Json = dict[str, Any]
TOLERANCE = 0.02
"""How far a device's power may be from the setpoint, as a part of its nameplate."""


class CheckFailed(AssertionError):
    """A device did not do what the contract says; the text says what was expected and what was seen."""


@dataclass(frozen=True, slots=True)
class WatchedMessage:
    """One message as an independent subscriber got it.

    Attributes:
        topic: Where.
        payload: What, as it came.
        retained: Whether the broker had kept it.
        at_s: When, by this process's monotonic clock.
    """

    topic: str
    payload: bytes
    retained: bool
    at_s: float

    @property
    def json(self) -> Json:
        """Its JSON object; empty if it holds none."""
        try:
            found = json.loads(self.payload)
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}


class DeviceHarness:
    """Watches one device, and sends it what a gateway or a person would send.

    Use it as a context manager: it is connected and subscribed inside.

    Args:
        url: ``mqtt://host:port``.
        env_id: The environment.
        agent_id: The agent that owns the device.
        name: The device's name.
        within_s: How long the device may take for anything, wall-clock s; for a machine under load.
    """

    def __init__(
        self, url: str, *, env_id: str, agent_id: str = "MG1", name: str = "ess", within_s: float = 20.0
    ) -> None:
        self.url = url
        self.env_id = env_id
        self.label = f"{agent_id}/{name}"
        self.within_s = within_s
        topics = TopicMap(env_id)
        self.estop_topic = topics.topic(ESTOP)
        self.confirm_topic = topics.topic(stop_confirm(agent_id, name))
        self._base = topics.topic(device(agent_id, name, ""))
        self._heard: list[WatchedMessage] = []
        self._changed = threading.Condition()
        self._ready = threading.Event()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, f"harness-{uuid.uuid4().hex[:12]}")
        self._client.on_connect = self._on_connect
        self._client.on_subscribe = self._on_subscribe
        self._client.on_message = self._on_message
        self._watched = [(f"{self._base}#", 1), (self.confirm_topic, 1)]

    def __enter__(self) -> Self:
        address = urlsplit(self.url)
        self._client.reconnect_delay_set(1, 1)
        self._client.connect(address.hostname or "127.0.0.1", address.port or 1883, keepalive=30)
        self._client.loop_start()  # a thread, because the checks are plain functions that wait
        if not self._ready.wait(self.within_s):
            raise CheckFailed(f"no subscription at {self.url} within {self.within_s:g} s")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    # -- what is heard -----------------------------------------------------------------------------

    def topic(self, leaf: str) -> str:
        """Return the topic of one of the device's channels."""
        return f"{self._base}{leaf}"

    @property
    def now(self) -> int:
        """A mark: what is heard from here on is new."""
        return len(self._heard)

    def heard(self, leaf: str, since: int = 0) -> list[WatchedMessage]:
        """Return what came on one of the device's channels since a mark, oldest first."""
        return self.heard_on(self.topic(leaf), since)

    def heard_on(self, topic: str, since: int = 0) -> list[WatchedMessage]:
        """Return what came on a topic since a mark, oldest first."""
        return [message for message in self._heard[since:] if message.topic == topic]

    def until(self, condition: Callable[[], object], what: str, within_s: float | None = None) -> None:
        """Return as soon as ``condition()`` is true.

        Raises:
            CheckFailed: It is not in time; names ``what`` was waited for and what the device said last.
        """
        limit_s = self.within_s if within_s is None else within_s
        with self._changed:
            if not self._changed.wait_for(condition, limit_s):
                last = [m.payload.decode(errors="replace") for m in self.heard("telemetry")[-3:]]
                raise CheckFailed(f"{what} did not come within {limit_s:g} s; last telemetry: {last}")

    def wait_for(
        self, topic: str, accept: Callable[[Json], object], what: str, since: int = 0
    ) -> WatchedMessage:
        """Return the first message on a topic that is accepted, since a mark."""
        found: list[WatchedMessage] = []

        def look() -> bool:
            found.extend(m for m in self.heard_on(topic, since) if accept(m.json))
            return bool(found)

        self.until(look, what)
        return found[0]

    def telemetry(self, accept: Callable[[Json], object], what: str, since: int = 0) -> Json:
        """Return the first telemetry that is accepted, since a mark."""
        return self.wait_for(self.topic("telemetry"), accept, what, since).json

    def wait_for_power(self, p_mw: float, what: str, since: int = 0) -> Json:
        """Return the first telemetry with a power, since a mark."""
        return self.telemetry(lambda m: self.is_at(p_mw, m), what, since)

    def next_telemetry(self) -> Json:
        """Return the next telemetry from now on."""
        return self.telemetry(lambda m: m.get("type") == "telemetry", "more telemetry", self.now)

    def state_now(self) -> Json:
        """Return what it does now: the answer to a setpoint that is stale, and so changes nothing."""
        probe = self.sender("probe")
        seq = probe.send(0.0, echo=False, heard_boot="no-such-boot", heard_seq=0)
        return probe.answer(seq)

    @property
    def newest(self) -> Json:
        """The newest telemetry; empty before the first."""
        found = self.heard("telemetry")
        return found[-1].json if found else {}

    def birth(self, since: int = 0) -> Json:
        """Return the birth."""
        return self.wait_for(
            self.topic("status"), lambda m: m.get("state") == "online", "the birth", since
        ).json

    def is_at(self, p_mw: float, telemetry: Json) -> bool:
        """Whether telemetry says a power, within the tolerance."""
        said = telemetry.get("p_mw")
        return isinstance(said, int | float) and abs(said - p_mw) <= TOLERANCE * self.p_max_mw

    @property
    def p_max_mw(self) -> float:
        """Its largest power by its birth, MW."""
        return float(self.birth()["p_max_mw"])

    # -- what is sent ------------------------------------------------------------------------------

    def publish(self, topic: str, payload: bytes | str | Json, *, retain: bool = False) -> None:
        """Publish at QoS 1, and wait until the broker has it."""
        data = json.dumps(payload) if isinstance(payload, dict) else payload
        told = self._client.publish(topic, data, qos=1, retain=retain)
        told.wait_for_publish(self.within_s)

    def stop(self, payload: bytes | str | Json | None = None, *, retain: bool = False) -> int:
        """Press the emergency stop; returns the mark from before."""
        mark = self.now
        self.publish(
            self.estop_topic, {"type": "estop", "active": True} if payload is None else payload, retain=retain
        )
        return mark

    def release_stop(self, *, retain: bool = False, **fields: Any) -> None:
        """Release the emergency stop, and wait until the device confirms it."""
        mark = self.now
        self.publish(self.estop_topic, {"type": "estop", "active": False, **fields}, retain=retain)
        self.wait_for(self.confirm_topic, lambda m: m.get("active") is False, "the confirmed release", mark)

    def sender(self, name: str = "MG1") -> SetpointSender:
        """Return a sender of setpoints with a boot of its own."""
        return SetpointSender(self, name)

    def make_free(self) -> None:
        """Bring the device to where a check begins: no stop, no lease, no power."""
        self.birth()
        self.release_stop()
        sender = self.sender("harness")
        seq = sender.send(0.0, take_over=True)
        sender.answer(seq)
        sender.release()

    # -- callbacks, in paho's thread ---------------------------------------------------------------

    def _on_connect(self, client: mqtt.Client, *_: Any) -> None:
        client.subscribe(self._watched)

    def _on_subscribe(self, *_: Any) -> None:
        self._ready.set()

    def _on_message(self, _client: mqtt.Client, _data: Any, message: mqtt.MQTTMessage) -> None:
        with self._changed:
            heard = WatchedMessage(message.topic, bytes(message.payload), message.retain, time.monotonic())
            self._heard.append(heard)
            self._changed.notify_all()


class SetpointSender:
    """One sender of setpoints with its boot and its numbers; the newest telemetry is echoed.

    Args:
        harness: The device.
        name: ``sender`` of the setpoints.
        boot: Of the sender; by default a new one.
    """

    def __init__(self, harness: DeviceHarness, name: str, boot: str | None = None) -> None:
        self.name = name
        self.boot = boot or uuid.uuid4().hex[:8]
        self.next_seq = 0
        self.last: Json = {}
        """The message sent last."""
        self._harness = harness

    def send(self, p_mw: float, *, lease_s: float = 30.0, echo: bool = True, **fields: Any) -> int:
        """Publish a setpoint; returns its seq. ``fields`` are added, or replace what stands there."""
        seq = self.next_seq
        self.next_seq += 1
        message: Json = {"type": "setpoint", "p_mw": p_mw, "q_mvar": 0.0, "lease_s": lease_s}
        message |= {"sender": self.name, "env_id": self._harness.env_id, "boot": self.boot, "seq": seq}
        if echo:
            with contextlib.suppress(KeyError):
                newest = self._harness.newest
                message |= {"heard_boot": newest["boot"], "heard_seq": newest["seq"]}
        self.last = message | fields
        self._harness.publish(self._harness.topic("setpoint"), self.last)
        return seq

    def do(self, p_mw: float, **fields: Any) -> Json:
        """Publish a setpoint, wait until it is done, and return the answer."""
        answer = self.answer(self.send(p_mw, **fields))
        if answer.get("rejected") is not None or not self._harness.is_at(p_mw, answer):
            raise CheckFailed(f"expected {p_mw} MW for {self.last}, got {answer}")
        return answer

    def answer(self, seq: int) -> Json:
        """Return the first telemetry that acknowledges a setpoint."""
        return self._harness.telemetry(
            lambda m: m.get("ack_seq") == seq and str(m.get("ack_boot")) == str(self.last.get("boot")),
            f"the answer to {self.last}",
        )

    def refused(self, p_mw: float, **fields: Any) -> str:
        """Publish a setpoint that must be refused; returns the reason."""
        before = self._harness.newest
        answer = self.answer(self.send(p_mw, **fields))
        reason = answer.get("rejected")
        if not isinstance(reason, str) or not reason:
            raise CheckFailed(f"expected `rejected` with a reason for {self.last}, got {answer}")
        if not self._harness.is_at(before["p_mw"], answer):
            raise CheckFailed(f"a refused setpoint moved it from {before['p_mw']} MW: {answer}")
        return reason

    def release(self) -> None:
        """Give the lease back, and wait until the device is at 0."""
        mark = self._harness.now
        self.send(0.0, release=True)
        self._harness.telemetry(lambda m: m.get("p_mw") == 0.0, "0 MW after the release", mark)

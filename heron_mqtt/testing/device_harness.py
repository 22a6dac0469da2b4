"""One device on a broker, watched and driven with plain paho: no part of the gateway takes part.

The checks of ``heron_mqtt.testing.device_checks`` use it. It knows topics and JSON, and nothing else.
"""

from __future__ import annotations

import contextlib
import json
import math
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from heron_mqtt.errors import BrokerError
from heron_mqtt.json_object import Json
from heron_mqtt.messaging.mqtt.connect_errors import no_answer
from heron_mqtt.messaging.mqtt.options import read_options
from heron_mqtt.messaging.topics import ESTOP, RUN_STATE, TopicMap, device, stop_confirm
from heron_mqtt.messaging.urls import WEB

TOLERANCE = 0.02
"""How far a device's power may be from the setpoint, as a part of its nameplate."""
SLOWEST_S = 7.5  # between telemetry: a quarter of the lease of 30 s that most checks use
LOOK_S = 0.1
LARGE, SMALL = 0.4, 0.1
"""Powers that are asked for, as parts of the largest."""
LEAST_TOLERANCES = 3.0  # a power of so many tolerances is surely not 0
USUAL_LEASE_S = 30.0
LONGEST_LEASE_S = 60.0
"""Of what a harness sends on purpose; a bounded one sends no longer one by mistake either."""


class CheckFailed(AssertionError):
    """A device did not do what the contract says; the text says what was expected and what was seen."""


def need(condition: object, what: str) -> None:
    """Raise ``CheckFailed`` with ``what`` was seen, unless the condition holds."""
    if not condition:
        raise CheckFailed(what)


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
        """Its JSON object, without fields that are null, which count as left out; empty if it holds none."""
        try:
            found = json.loads(self.payload)
        except (ValueError, RecursionError):
            return {}
        if not isinstance(found, dict):
            return {}
        return {name: value for name, value in found.items() if value is not None}


@dataclass(frozen=True, slots=True)
class SentMessage:
    """One message that the harness has sent.

    Attributes:
        topic: Where.
        payload: What.
        retained: Whether the broker is to keep it.
        at_s: When, by this process's monotonic clock.
    """

    topic: str
    payload: bytes
    retained: bool
    at_s: float


class DeviceHarness:
    """Watches one device, and sends it what a gateway or a person would send.

    Use it as a context manager: it is connected and subscribed inside.

    Args:
        url: ``mqtt://host:port``, ``mqtts://...`` and so on; login and certificates as for every program.
        env_id: The environment.
        agent_id: The agent that owns the device.
        name: The device's name.
        within_s: How long the device may take for anything, wall-clock s; for a machine under load.
        dt_s: Simulated time of each setpoint, s, for an emulated device that ramps in it; None = none.
        settle_s: How long the output may continue moving after the answer to a setpoint, s.
        least_mw: The smallest power beside 0 that it can hold, MW, >= 0; less is not asked for.
        tolerance: How far its power may be from the setpoint, as a part of its nameplate.
        bound_mw: Largest power that may be asked for, MW, > 0; None = the nameplate of its birth.
        is_bounded: Send nothing that a device without bounds of its own would follow beyond nameplate and
            lease: for real hardware.
        requires_proof: The device is set to refuse setpoints that echo nothing.

    Raises:
        ConfigError: The URL or a setting of the connection is wrong.
        BrokerError: On entering: the broker is not there or refuses.
    """

    def __init__(
        self,
        url: str,
        *,
        env_id: str,
        agent_id: str = "MG1",
        name: str = "ess",
        within_s: float = 20.0,
        dt_s: float | None = None,
        settle_s: float = 0.0,
        least_mw: float = 0.0,
        tolerance: float = TOLERANCE,
        bound_mw: float | None = None,
        is_bounded: bool = False,
        requires_proof: bool = False,
    ) -> None:
        self.url = url
        self.env_id = env_id
        self.agent_id, self.name = agent_id, name
        self.label = f"{agent_id}/{name}"
        self.within_s, self.settle_s, self.tolerance = within_s, settle_s, tolerance
        self.least_mw = least_mw
        self.dt_s = dt_s
        self.bound_mw, self.is_bounded = bound_mw, is_bounded
        self.requires_proof = requires_proof
        self._options = options = read_options(url, client_id=f"harness-{uuid.uuid4().hex[:12]}")
        topics, before = TopicMap(env_id), options.topic_prefix
        self.estop_topic = before + topics.topic(ESTOP)
        self.run_topic = before + topics.topic(RUN_STATE)
        self.confirm_topic = before + topics.topic(stop_confirm(agent_id, name))
        self.sent: list[SentMessage] = []
        """Everything that it has sent, oldest first."""
        self._base = before + topics.topic(device(agent_id, name, ""))
        self._heard: list[WatchedMessage] = []
        self._turn = 0
        self._changed = threading.Condition()
        self._ready = threading.Event()
        self._refused = ""
        transport: Literal["tcp", "websockets"] = "websockets" if options.scheme in WEB else "tcp"
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, options.client_id, transport=transport)
        if options.username is not None:
            self._client.username_pw_set(options.username, options.password)
        if options.tls is not None:
            self._client.tls_set_context(options.tls)
        if options.path:
            self._client.ws_set_options(path=options.path)
        self._client.on_connect = self._on_connect
        self._client.on_subscribe = self._on_subscribe
        self._client.on_message = self._on_message
        watched = (f"{self._base}#", self.confirm_topic, self.estop_topic, self.run_topic)
        self._watched = [(topic, 1) for topic in watched]

    def __enter__(self) -> Self:
        where = self._options.address
        self._client.reconnect_delay_set(1, 1)
        try:
            self._client.connect(self._options.host, self._options.port, keepalive=30)
        except OSError as exc:
            raise no_answer(where, exc) from exc
        self._client.loop_start()  # a thread, because the checks are plain functions that wait
        if not self._ready.wait(self.within_s) or self._refused:
            self.__exit__(None, None, None)
            raise BrokerError(f"{where}: {self._refused or f'no subscription within {self.within_s:g} s'}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def late_one(self) -> DeviceHarness:
        """Return a harness that is not entered yet: it hears first what the broker has kept."""
        return DeviceHarness(
            self.url,
            env_id=self.env_id,
            agent_id=self.agent_id,
            name=self.name,
            within_s=self.within_s,
        )

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

    def all_heard(self, since: int = 0) -> list[WatchedMessage]:
        """Return everything that came since a mark, oldest first."""
        return self._heard[since:]

    def short(self, topic: str) -> str:
        """Return the end of a topic: what stands behind the device's name, or ``estop``."""
        prefix = self.estop_topic.removesuffix(ESTOP)
        return topic.removeprefix(self._base).removeprefix(prefix)

    @property
    def address(self) -> str:
        """The broker's URL without a login."""
        return self._options.address

    def until(self, condition: Callable[[], object], what: str, within_s: float | None = None) -> None:
        """Return as soon as ``condition()`` is true.

        Raises:
            CheckFailed: It is not in time; names ``what`` was waited for and what the device said last.
        """
        limit_s = self.within_s if within_s is None else within_s
        end_s = time.monotonic() + limit_s
        with self._changed:
            # Looked at again with each message, and in between: a program may end without one.
            while not (is_true := condition()) and (left_s := end_s - time.monotonic()) > 0.0:
                self._changed.wait(min(left_s, LOOK_S))
            if not is_true:
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

    def pause(self, seconds: float) -> None:
        """Let time pass: where the passage of time is what is tested, or nothing can be seen."""
        time.sleep(seconds)

    def telemetry(self, accept: Callable[[Json], object], what: str, since: int = 0) -> Json:
        """Return the first telemetry that is accepted, since a mark."""
        return self.wait_for(self.topic("telemetry"), accept, what, since).json

    def settle(self, p_mw: float, within_s: float | None = None) -> None:
        """Wait until its power is there, or telemetry came after ``settle_s`` (or ``within_s``)."""
        limit_s = self.settle_s if within_s is None else within_s
        end_s = time.monotonic() + limit_s

        def is_settled() -> bool:
            found = self.heard("telemetry")  # the newest may be of before the end: it comes once a second
            return self.is_at(p_mw, self.newest) or (bool(found) and found[-1].at_s >= end_s)

        with contextlib.suppress(CheckFailed):
            self.until(is_settled, f"{p_mw:g} MW", limit_s + SLOWEST_S)

    def wait_for_power(self, p_mw: float, what: str, since: int = 0) -> Json:
        """Return the first telemetry with a power, since a mark."""
        return self.telemetry(lambda m: self.is_at(p_mw, m), what, since)

    def next_telemetry(self) -> Json:
        """Return the next telemetry from now on."""
        mark = self.now
        self.until(lambda: self.heard("telemetry", mark), "more telemetry", self.within_s + SLOWEST_S)
        return self.heard("telemetry", mark)[0].json

    def later_telemetry(self) -> Json:
        """Return telemetry that was surely sent after everything that has been published so far."""
        mark = self.now
        limit_s = self.within_s + 2.0 * SLOWEST_S
        self.until(lambda: len(self.heard("telemetry", mark)) >= 2, "more telemetry", limit_s)
        return self.newest

    @property
    def newest(self) -> Json:
        """The newest telemetry; empty before the first."""
        found = self.heard("telemetry")
        return found[-1].json if found else {}

    def was_heard_within(self, seconds: float) -> bool:
        """Whether telemetry came in the last so many seconds."""
        found = self.heard("telemetry")
        return bool(found) and time.monotonic() - found[-1].at_s < seconds

    def birth(self, since: int = 0) -> Json:
        """Return the birth."""
        return self.wait_for(
            self.topic("status"), lambda m: m.get("state") == "online", "the birth", since
        ).json

    def is_at(self, p_mw: float, telemetry: Json) -> bool:
        """Whether telemetry says a power, within the tolerance."""
        said = telemetry.get("p_mw")
        if isinstance(said, bool) or not isinstance(said, int | float):
            return False
        return abs(said - p_mw) <= self.tolerance * abs(self.full_mw)

    def is_safe(self, telemetry: Json) -> bool:
        """Whether telemetry says the safe state: 0 MW; of what only consumes also ``safe`` alone.

        A load continues with what it cannot shed.
        """
        return self.is_at(0.0, telemetry) or (self.full_mw < 0.0 and telemetry.get("safe") is True)

    @property
    def full_mw(self) -> float:
        """The power of which the checks ask for parts, MW: the largest by its birth, within the bound.

        Negative for a device that only consumes.
        """
        told = self.birth()
        high, low = float(told["p_max_mw"]), float(told["p_min_mw"])
        full = high if high > 0.0 else low
        return full if self.bound_mw is None else max(-self.bound_mw, min(self.bound_mw, full))

    def part_mw(self, part: float) -> float:
        """Return a power between the smallest (``part`` 0) and ``full_mw`` (1), MW."""
        full_mw = self.full_mw
        least_mw = math.copysign(min(self.least_mw, abs(full_mw)), full_mw)
        return least_mw + part * (full_mw - least_mw)

    @property
    def powers_mw(self) -> list[float]:
        """Powers of which a defect may spare one: large and small, in each direction that it has, MW.

        Each is surely another one than 0, and than the others.
        """
        birth = self.birth()
        least_mw = LEAST_TOLERANCES * self.tolerance * abs(self.full_mw)
        large_mw = self.part_mw(LARGE)
        small_mw = self.part_mw(max(SMALL, LEAST_TOLERANCES * self.tolerance))
        powers_mw = [large_mw, small_mw]
        if birth["p_min_mw"] < 0.0 < birth["p_max_mw"]:
            low_mw = abs(float(birth["p_min_mw"]))
            if 0.8 * low_mw >= max(least_mw, self.least_mw):
                powers_mw = [large_mw, -min(small_mw, 0.8 * low_mw), small_mw, -min(large_mw, 0.8 * low_mw)]
        return powers_mw

    def next_mw(self) -> float:
        """Return one of ``powers_mw``, in turn: what is examined often is examined with each of them."""
        powers_mw = self.powers_mw
        self._turn += 1
        return powers_mw[(self._turn - 1) % len(powers_mw)]

    # -- what is sent ------------------------------------------------------------------------------

    def publish(self, topic: str, payload: bytes | str | Json, *, retain: bool = False) -> None:
        """Publish at QoS 1, and wait until the broker has it; nothing is queued while it is away.

        Raises:
            CheckFailed: The broker is not there.
        """
        text = json.dumps(payload) if isinstance(payload, dict) else payload
        data = text.encode() if isinstance(text, str) else text
        self._wait_for_connection()
        self.sent.append(SentMessage(topic, data, retain, time.monotonic()))
        self._wait_until_taken(self._client.publish(topic, data, qos=1, retain=retain))

    def flood(self, topic: str, payloads: Sequence[Json]) -> None:
        """Publish many messages as fast as the broker takes them, and wait until it has the last one."""
        self._wait_for_connection()
        told = None
        for payload in payloads:
            data = json.dumps(payload).encode()
            self.sent.append(SentMessage(topic, data, False, time.monotonic()))
            told = self._client.publish(topic, data, qos=1)
        if told is not None:
            self._wait_until_taken(told)

    def _wait_for_connection(self) -> None:
        end = time.monotonic() + self.within_s
        while not self._client.is_connected():
            if time.monotonic() > end:
                raise CheckFailed(f"{self.address}: the broker is not there")
            time.sleep(0.02)

    def _wait_until_taken(self, told: mqtt.MQTTMessageInfo) -> None:
        try:
            told.wait_for_publish(self.within_s)
        except (RuntimeError, ValueError) as exc:
            raise CheckFailed(f"{self.address}: the broker does not take a message: {exc}") from exc

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
        self.send_release_of_stop(retain=retain, **fields)
        self.wait_for(self.confirm_topic, lambda m: m.get("active") is False, "the confirmed release", mark)

    def send_release_of_stop(self, *, retain: bool = False, **fields: Any) -> None:
        """Release the emergency stop, for every receiver."""
        self.publish(self.estop_topic, {"type": "estop", "active": False, **fields}, retain=retain)

    def send_by_hand(self, p_mw: float, *, lease_s: float = USUAL_LEASE_S, **fields: Any) -> None:
        """Publish a setpoint as a person would: power and lease, without sender, time and device."""
        self.must_be_within_bounds(p_mw, lease_s)
        by_hand: Json = {"p_mw": p_mw, "lease_s": lease_s}
        by_hand |= {} if self.dt_s is None else {"dt_s": self.dt_s}
        self.publish(self.topic("setpoint"), by_hand | fields)

    def do_by_hand(self, p_mw: float, *, lease_s: float = USUAL_LEASE_S) -> None:
        """Publish a setpoint by hand, and wait until it is done."""
        mark = self.now
        self.send_by_hand(p_mw, lease_s=lease_s)
        if self.settle_s > 0.0:
            self.settle(p_mw)
        self.wait_for_power(p_mw, f"{p_mw:g} MW by hand", mark)

    def refused_by_hand(self, p_mw: float, **fields: Any) -> Json:
        """Publish a setpoint by hand that must be refused; returns the telemetry with the refusal."""
        before_mw = self.newest["p_mw"]
        mark = self.now
        self.send_by_hand(p_mw, **fields)
        told = self.telemetry(
            lambda m: isinstance(m.get("rejected"), str), "the refusal of one by hand", mark
        )
        if not self.is_at(before_mw, told):
            raise CheckFailed(f"a refused setpoint by hand moved it from {before_mw} MW: {told}")
        return told

    def must_be_within_bounds(self, p_mw: float, lease_s: float) -> None:
        """Raise ``CheckFailed`` instead of asking real hardware for more than it may be asked for."""
        if self.is_bounded and (abs(p_mw) > abs(self.full_mw) * (1.0 + 1e-9) or lease_s > LONGEST_LEASE_S):
            raise CheckFailed(
                f"not sent: {p_mw:g} MW for {lease_s:g} s is beyond what this bench may ask for"
            )

    def sender(self, name: str = "MG1") -> SetpointSender:
        """Return a sender of setpoints with a boot of its own."""
        return SetpointSender(self, name)

    def make_free(self) -> None:
        """Bring the device to where a check begins: no stop, no lease, no power."""
        self.birth()
        self.send_release_of_stop()
        sender = self.sender("harness")
        sender.answer(sender.send(0.0, take_over=True))
        sender.release()

    # -- callbacks, in paho's thread ---------------------------------------------------------------

    def _on_connect(
        self, client: mqtt.Client, _data: Any, _flags: Any, reason: Any, _properties: Any
    ) -> None:
        if reason.is_failure:
            self._refused = f"the broker refuses the connection: {reason}"
            self._ready.set()
            return
        client.subscribe(self._watched)

    def _on_subscribe(self, _client: Any, _data: Any, _mid: int, reasons: Any, _properties: Any) -> None:
        if any(reason.is_failure for reason in reasons):
            self._refused = "the broker refuses a subscription: this user may not read the device's topics"
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

    def send(self, p_mw: float, *, lease_s: float = USUAL_LEASE_S, echo: bool = True, **fields: Any) -> int:
        """Publish a setpoint; returns its seq. ``fields`` are added, or replace what stands there."""
        device = self._harness
        device.must_be_within_bounds(p_mw, lease_s)
        seq = self.next_seq
        self.next_seq += 1
        message: Json = {"type": "setpoint", "p_mw": p_mw, "q_mvar": 0.0, "lease_s": lease_s}
        message |= {"sender": self.name, "env_id": self._harness.env_id, "boot": self.boot, "seq": seq}
        if device.dt_s is not None:
            message["dt_s"] = device.dt_s
        if echo:
            with contextlib.suppress(KeyError):
                newest = self._harness.newest
                message |= {"heard_boot": newest["boot"], "heard_seq": newest["seq"]}
        self.last = message | fields
        self._harness.publish(self._harness.topic("setpoint"), self.last)
        return seq

    def do(self, p_mw: float, *, lease_s: float = USUAL_LEASE_S, **fields: Any) -> Json:
        """Publish a setpoint, wait until it is done, and return the answer."""
        device = self._harness
        if lease_s < min(device.settle_s, USUAL_LEASE_S):  # over before it is there: it goes there first
            self.do(p_mw, **fields)
        mark = device.now
        answer = self.answer(self.send(p_mw, lease_s=lease_s, **fields))
        if answer.get("rejected") is not None:
            raise CheckFailed(f"expected {p_mw:g} MW for {self.last}, got a refusal: {answer}")
        if not device.is_at(p_mw, answer) and device.settle_s > 0.0:  # it answers while it still ramps
            device.settle(p_mw)
            answer = device.heard("telemetry", mark)[-1].json
        if not device.is_at(p_mw, answer):
            raise CheckFailed(f"expected {p_mw:g} MW for {self.last}, got {answer}")
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
        """Give the lease back, and wait until the device is at rest."""
        device = self._harness
        mark = device.now
        self.send(0.0, release=True)
        device.telemetry(device.is_safe, "the safe state after the release", mark)

"""Runs the cases in tests/vendor_cases: a scripted device (plain paho) on a broker, its mapping, an observer.

A case is a folder with ``mapping.toml``, what an engineer writes, and ``case.json``:

- ``about``, ``kind``, ``every_s`` (0.1), ``cycles`` (8), ``stale_after_s`` (3.0; what is to be said of what
  came has to have come by then, on a busy machine too)
- ``before``: what the device publishes before the adapter starts (``retain`` as given)
- ``publish``: what it publishes each cycle; ``mod``/``phase``: every n-th cycle; ``from``/``until``: cycles
- ``replies``: what it publishes when told something ``on`` a filter; ``"$a.b"`` is taken from a JSON
  command, ``"$payload"`` the command itself, ``"$3"`` the third level of its topic
- ``do``: at which cycle (``at``) a gateway sends ``setpoint_kw`` (``lease_s``, ``renewal``), a ``level``,
  or a ``stop``
- ``expect``: ``kw`` and ``soc`` of the last telemetry, ``seen_kw``, ``never_kw``, ``status`` and ``reason``
  at the end, ``silent`` (no telemetry at all), ``rejected`` (part of a text, null = none), ``told`` (all
  commands, the release included), ``reported`` (part of a report)

A payload that is an object or array is sent as JSON; ``{"hex": ...}`` as bytes.
"""

from __future__ import annotations

import asyncio
import json
import re
import threading
import time
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

import paho.mqtt.client as mqtt

from heron_mqtt.field.vendor import VendorDevice, load_mapping
from heron_mqtt.field.vendor.commands import WriteBudget
from heron_mqtt.field.vendor.link import MqttLink
from heron_mqtt.field.vendor.mapping import DeviceMapping
from heron_mqtt.messages import AuthorityState, EmergencyStop, Setpoint
from heron_mqtt.messaging import topics
from heron_mqtt.messaging.mqtt import MqttBroker
from heron_mqtt.messaging.mqtt.raw import RawMqtt
from heron_mqtt.messaging.stamping import MessageStamper

FOLDER = Path(__file__).parents[1] / "vendor_cases"
AT_ONCE = 12
SHOWN_S = 10.0
PLAYS = 6
"""Of a case whose values come and go: a busy machine may sample none of one that stood for a cycle."""


@dataclass
class Outcome:
    """What an observer saw of one case."""

    telemetry: list[dict[str, Any]] = field(default_factory=list)
    status: list[dict[str, Any]] = field(default_factory=list)
    told: list[tuple[str, str]] = field(default_factory=list)
    reports: list[str] = field(default_factory=list)
    failure: BaseException | None = None

    @property
    def kw(self) -> list[float]:
        return [t["p_mw"] * 1e3 for t in self.telemetry]


def names() -> list[str]:
    """Return the names of all cases."""
    return sorted(p.name for p in FOLDER.iterdir() if (p / "case.json").is_file())


def case_of(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / name / "case.json").read_text())
    return found


def mapping_of(name: str) -> DeviceMapping:
    file = FOLDER / name / "mapping.toml"
    return load_mapping(tomllib.loads(file.read_text()), agent="MG1", device=name, source=str(file))


class Device:
    """The scripted device: plain paho, in a thread of its own."""

    def __init__(self, url: str, case: dict[str, Any], outcome: Outcome) -> None:
        self._case = case
        self._outcome = outcome
        self._ready = threading.Event()
        self._commands = list(case.get("commands", []))
        self._client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
        self._client.on_connect = self._on_connect
        self._client.on_subscribe = lambda *_: self._ready.set()
        self._client.on_message = self._on_message
        parts = urlsplit(url)
        self._client.connect(parts.hostname or "", parts.port or 0)
        self._client.loop_start()

    def _on_connect(self, *_: Any) -> None:
        if self._commands:
            self._client.subscribe([(topic, 1) for topic in self._commands])
        else:
            self._ready.set()

    async def ready(self) -> None:
        await asyncio.to_thread(self._ready.wait, 10.0)

    def says(self, message: dict[str, Any]) -> None:
        payload = _bytes(_timed(message["payload"]))
        self._client.publish(message["topic"], payload, qos=1, retain=message.get("retain", False))

    def _on_message(self, _client: Any, _data: Any, message: mqtt.MQTTMessage) -> None:
        payload = message.payload.decode("utf-8", "backslashreplace")
        self._outcome.told.append((message.topic, payload))
        for reply in self._case.get("replies", []):
            if mqtt.topic_matches_sub(reply["on"], message.topic):
                filled = _filled(
                    {"topic": reply["topic"], "payload": reply["payload"]}, message.topic, payload
                )
                self.says({**reply, **filled})

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


async def run_all(url: str, names: Sequence[str]) -> dict[str, Outcome]:
    """Run these cases, some at a time; a failure is kept for its own test."""
    limit = asyncio.Semaphore(AT_ONCE)

    async def one(name: str) -> Outcome:
        async with limit:
            outcome = Outcome()
            try:
                await run_case(url, name, outcome)
            except Exception as exc:  # told by the case's own test
                outcome.failure = exc
            return outcome

    return dict(zip(names, await asyncio.gather(*map(one, names)), strict=True))


async def run_case(url: str, name: str, outcome: Outcome) -> None:
    case, mapping = case_of(name), mapping_of(name)
    env_id = f"case-{name}"
    device = Device(url, case, outcome)
    try:
        await device.ready()
        for message in case.get("before", []):
            device.says(message)
        async with MqttBroker(url, env_id=env_id) as broker, RawMqtt(broker.options, broker.stats) as raw:
            await broker.subscribe(topics.device("MG1", name, "telemetry"), outcome.telemetry.append)
            await broker.subscribe(topics.device("MG1", name, "status"), outcome.status.append)
            broker.stats.listeners.append(lambda r: outcome.reports.append(f"{r.where}: {r.what}"))
            adapter = VendorDevice(
                mapping,
                MqttLink(raw),
                "MG1",
                name,
                broker,
                env_id=env_id,
                kind=case.get("kind", "battery"),
                power_range_mw=(-1.0, 1.0),
                stale_after_s=case.get("stale_after_s", 3.0),
                period_s=0.05,
                budget=WriteBudget(case["budget"]) if "budget" in case else None,
            )
            running = asyncio.create_task(adapter.run())
            await _until(lambda: outcome.status, running)
            await _play(case, name, device, broker)
            for _ in range(PLAYS if _may_be_repeated(case) else 0):
                if _lacks(case["expect"], outcome) is None:
                    break
                await _play(case, name, device, broker)
            await _until_shown(case["expect"], outcome)
            seen = len(outcome.status)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            await asyncio.sleep(0.1)
            del outcome.status[seen:]
    finally:
        device.close()


async def _play(case: dict[str, Any], name: str, device: Device, broker: MqttBroker) -> None:
    stamper = MessageStamper("MG1", f"case-{name}")
    for cycle in range(case.get("cycles", 8)):
        for message in case.get("publish", []):
            on = cycle % message.get("mod", 1) == message.get("phase", 0)
            if on and message.get("from", 0) <= cycle < message.get("until", 1 << 30):
                device.says(message)
        for action in case.get("do", []):
            if action["at"] == cycle:
                _act(action, name, broker, stamper)
        await asyncio.sleep(case.get("every_s", 0.1))


def _may_be_repeated(case: dict[str, Any]) -> bool:
    """Whether the device says the same in every round, and nothing is done meanwhile."""
    return "do" not in case and not any({"from", "until"} & m.keys() for m in case.get("publish", []))


def _lacks(expect: dict[str, Any], outcome: Outcome) -> str | None:
    """Return what is expected and was not seen yet; None = nothing. Whether the rest fits is the test's."""
    seen = {round(kw, 6) for kw in outcome.kw}
    for key in ("only_kw", "seen_kw"):
        if not set(expect.get(key, ())) <= seen:
            return key
    part = expect.get("reported")
    if part and not any(part in report for report in outcome.reports):
        return "reported"
    return None


async def _until_shown(expect: dict[str, Any], outcome: Outcome) -> None:
    """Give a report, a value and the last power their time; whether they came is the test's to say."""
    until = time.monotonic() + SHOWN_S
    while time.monotonic() < until:
        last_kw = expect.get("kw")
        is_last = last_kw is None or (
            outcome.kw and abs(outcome.kw[-1] - last_kw) <= 1e-6 * abs(last_kw) + 1e-9
        )
        if is_last and _lacks(expect, outcome) is None:
            return
        await asyncio.sleep(0.02)


def _act(action: dict[str, Any], name: str, broker: MqttBroker, stamper: MessageStamper) -> None:
    message: Any
    if "setpoint_kw" in action:
        channel = topics.device("MG1", name, "setpoint")
        message = Setpoint(
            p_mw=action["setpoint_kw"] / 1e3,
            lease_s=action.get("lease_s", 30.0),
            renewal=action.get("renewal", False),
        )
    elif "level" in action:
        channel = topics.device("MG1", name, "authority_state")
        message = AuthorityState(level=action["level"])
    else:
        channel, message = topics.ESTOP, EmergencyStop(active=action["stop"], who="tests")
    broker.publish(channel, stamper.stamp(channel, message))


async def _until(condition: Any, running: asyncio.Task[None]) -> None:
    until = time.monotonic() + 15.0
    while not condition():
        if running.done():
            running.result()
        if time.monotonic() > until:
            raise AssertionError("the adapter was not born")
        await asyncio.sleep(0.01)


def _bytes(payload: Any) -> bytes:
    if isinstance(payload, dict) and payload.keys() == {"hex"}:
        return bytes.fromhex(payload["hex"])
    if isinstance(payload, str):
        return payload.encode()
    return json.dumps(payload, ensure_ascii=False).encode()


def _timed(node: Any) -> Any:
    """Return a payload with ``$now_ms``, ``$now:FORMAT``, ``$now@ZONE:FORMAT`` as the time is now."""
    if isinstance(node, dict):
        return {k: _time_of(v) if isinstance(v, str) and v.startswith("$now") else v for k, v in node.items()}
    return node


def _time_of(text: str) -> int | str:
    if text == "$now_ms":
        return int(time.time() * 1e3)
    zone, _, shape = text.removeprefix("$now").partition(":")
    return datetime.now(ZoneInfo(zone.removeprefix("@") or "UTC")).strftime(shape)


def _filled(node: Any, topic: str, payload: str) -> Any:
    if isinstance(node, dict):
        return {k: _filled(v, topic, payload) for k, v in node.items()}
    if isinstance(node, list):
        return [_filled(v, topic, payload) for v in node]
    if not isinstance(node, str) or "$" not in node:
        return node
    if node == "$payload":
        return payload
    if re.fullmatch(r"\$[A-Za-z][\w.]*", node):
        found: Any = json.loads(payload)
        for part in node[1:].split("."):
            found = found.get(part) if isinstance(found, dict) else None
        return found
    return re.sub(r"\$(\d+)", lambda m: topic.split("/")[int(m[1]) - 1], node)


def fits(got: Any, wanted: Any) -> bool:
    """Whether a command is what was wanted; ``$int``, ``$text``, ``$now``, ``$now_ms`` stand for such."""
    if isinstance(wanted, dict) and isinstance(got, dict):
        return wanted.keys() == got.keys() and all(fits(got[k], v) for k, v in wanted.items())
    if isinstance(wanted, list) and isinstance(got, list):
        return len(wanted) == len(got) and all(map(fits, got, wanted))
    match wanted:
        case "$int":
            return isinstance(got, int) or (isinstance(got, str) and got.lstrip("-").isdigit())
        case "$text":
            return isinstance(got, str) and got != ""
        case "$now":
            return abs(float(got) - time.time()) < 60
        case "$now_ms":
            return abs(float(got) / 1e3 - time.time()) < 60
    if isinstance(wanted, float) and isinstance(got, int | float):
        return abs(got - wanted) < 1e-9 * max(1.0, abs(wanted))
    return bool(got == wanted)

"""Participants of an environment in plain paho, and what an observer sees: no line shared with ours."""

from __future__ import annotations

import itertools
import json
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any, Self
from urllib.parse import urlsplit

import paho.mqtt.client as paho

Json = dict[str, Any]


class Site:
    """One connection that plays gateways and devices, and keeps all that passes.

    Args:
        url: Of the broker.
        env_id: The environment.
    """

    def __init__(self, url: str, env_id: str) -> None:
        self.env_id = env_id
        self.seen: list[tuple[str, Json | None, bool]] = []
        self.answers: dict[str, Callable[[Json], None]] = {}
        self._telling = threading.Event()
        self._talkers: list[threading.Thread] = []
        parts = urlsplit(url)
        self._client = paho.Client(paho.CallbackAPIVersion.VERSION2, f"site-{uuid.uuid4().hex[:8]}")
        self._client.on_message = self._on_message
        ready = threading.Event()
        self._client.on_subscribe = lambda *_: ready.set()
        self._client.connect(parts.hostname or "", parts.port or 1883)
        self._client.loop_start()
        self._client.subscribe("heron/#", qos=1)
        assert ready.wait(30.0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Leave nothing behind."""
        self._telling.set()
        for talker in self._talkers:
            talker.join(5.0)
        for topic in {topic for topic, _, _ in self.seen}:
            self._client.publish(topic, b"", qos=1, retain=True).wait_for_publish(5.0)
        self._client.disconnect()
        self._client.loop_stop()

    def say(
        self, channel: str, message: Json | bytes, *, retain: bool = False, env_id: str | None = None
    ) -> None:
        """Publish, and return when the broker has it."""
        payload = message if isinstance(message, bytes) else json.dumps(message).encode()
        info = self._client.publish(f"heron/{env_id or self.env_id}/{channel}", payload, qos=1, retain=retain)
        if threading.current_thread() is threading.main_thread():
            info.wait_for_publish(5.0)

    def messages(self, channel: str, env_id: str | None = None) -> list[Json]:
        """Return what came on a channel, oldest first."""
        topic = f"heron/{env_id or self.env_id}/{channel}"
        return [fields for at, fields, _ in self.seen if at == topic and fields is not None]

    # -- participants ------------------------------------------------------------------------------

    def run_state(self, state: str = "running", env_id: str | None = None) -> None:
        self.say("run/state", {"type": "run_state", "state": state, "boot": "r1"}, retain=True, env_id=env_id)

    def gateway(self, agent: str, *, confirms: bool = True, **confirm: Any) -> None:
        """Be an agent's gateway."""
        self.say(f"agents/{agent}/status", {"type": "status", "state": "online"}, retain=True)
        if confirms:
            self._confirm_stops(f"estop/confirm/{agent}", confirm)

    def device(self, label: str, *, confirms: bool = True, every_s: float = 0.2, **confirm: Any) -> None:
        """Be a device that follows the contract, periodic telemetry included."""
        self.say(
            f"devices/{label}/status", {"type": "status", "state": "online", "kind": "battery"}, retain=True
        )
        state: Json = {"p_mw": 0.001, "safe": False}
        self.talk(label, state, every_s, boot="d1")
        if confirms:
            self._confirm_stops(f"estop/confirm/{label}", confirm, state)

    def device_confirms(self, label: str, **confirm: Any) -> None:
        """Confirm stops in the name of a device, and say nothing else."""
        self._confirm_stops(f"estop/confirm/{label}", confirm)

    def bare_device(self, label: str, *, obeys: bool = True) -> None:
        """Be a device that confirms nothing, and says in its telemetry whether it is safe."""
        self.say(f"devices/{label}/status", {"state": "online"}, retain=True)
        state: Json = {"p_mw": 0.002, "safe": False}
        self.talk(label, state)

        def on_stop(stop: Json) -> None:
            if obeys:
                state.update({"p_mw": 0.0, "safe": True} if stop["active"] else {"safe": False})

        self.answers[label] = on_stop

    def talk(self, label: str, telemetry: Json, every_s: float = 0.2, boot: str | None = None) -> None:
        """Publish telemetry periodically; of a life with a name it is numbered."""

        def go_on() -> None:
            for seq in itertools.count():
                if self._telling.wait(every_s):
                    return
                numbered = {} if boot is None else {"boot": boot, "seq": seq}
                self.say(f"devices/{label}/telemetry", {"type": "telemetry", **telemetry, **numbered})

        self._talkers.append(threading.Thread(target=go_on, daemon=True))
        self._talkers[-1].start()

    def _confirm_stops(self, channel: str, changes: Json, state: Json | None = None) -> None:
        def on_stop(stop: Json) -> None:
            if state is not None and changes.get("safe", True):
                state.update({"p_mw": 0.0, "safe": True} if stop["active"] else {"safe": False})
            said = {
                "active": stop["active"],
                "safe": True,
                "stop_boot": stop.get("boot"),
                "stop_seq": stop.get("seq"),
            }
            self.say(channel, {"type": "estop_confirm", **said, **changes})

        self.answers[channel] = on_stop

    def _on_message(self, _client: Any, _data: Any, message: Any) -> None:
        try:
            fields = json.loads(message.payload) if message.payload else None
        except ValueError:
            fields = None
        self.seen.append((message.topic, fields, bool(message.retain)))
        if message.topic == f"heron/{self.env_id}/estop" and message.payload and not message.retain:
            fields = fields or {"active": True}  # what cannot be read is a stop
            for answer in tuple(self.answers.values()):
                answer(fields)


def until(condition: Callable[[], object], within_s: float = 5.0) -> bool:
    """Wait for a condition; return whether it came true."""
    end = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True

"""One scripted box for every shipped profile: it says what was recorded, and does what its maker documents.

The recorded file of a profile (``tests/unit/field/vendor/device_profiles/<make>.json``) holds its payloads.
The first of each topic is said again and again; ``box`` says what differs from that, and what the box does
about commands. Every text that begins with ``=`` is a formula over what the box knows (``w``, its power,
positive = injected, W; what it was told):

- ``kind``, ``send``, ``max``: for a scenario, and for one test setpoint
- ``knows``: names and values at the start, under its own control
- ``w``: the power that it aims at, W, over what it knows; without it the recorded power stays
- ``says``: topic -> a whole payload, or a table of paths and values within the recorded one
- ``besides``: topics and payloads that no mapping reads
- ``asked``: topic -> topics that it says when asked there, and not by itself
- ``told``: topic -> steps, the first one that holds: ``if`` a formula over ``text`` and what it took;
  ``takes`` name -> path in the JSON command (``@``: all of it); ``sets`` name -> value; ``answers`` topics
  said at once
- ``holding``: registers of a box on Modbus at the start; ``registers``: area -> address -> value; ``takes``:
  name -> holding register
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import jmespath
import paho.mqtt.client as paho

from heron_mqtt.field.vendor.formula import Formula
from support.modbus_box import BoxThread, ModbusBox

RECORDED = Path(__file__).parents[1] / "unit/field/vendor/device_profiles"
EVERY_S = 0.4
TICK_S = 0.1
SETTLING = 0.6
"""Of what is left to its aim the power goes so much in each tick."""


def recorded(profile: str) -> dict[str, Any]:
    """Return the recorded file of a profile."""
    found: dict[str, Any] = json.loads((RECORDED / f"{profile}.json").read_text())
    return found


def profiles() -> list[str]:
    """Return the names of all shipped profiles."""
    return sorted(path.stem for path in RECORDED.glob("*.json"))


def mapping_table(profile: str) -> dict[str, Any]:
    """Return the mapping that an engineer writes for the recorded box."""
    return {"profile": f"device_profiles/{profile}.toml", "parameters": recorded(profile)["parameters"]}


class Behaviour:
    """What a box knows, and the power that it gives.

    Args:
        script: ``box`` of the recorded file.
    """

    def __init__(self, script: Mapping[str, Any]) -> None:
        self.known: dict[str, Any] = {**script.get("knows", {}), "w": 0.0}
        self._aim = script.get("w")
        steps = [step for each in script.get("told", {}).values() for step in each]
        took = {name for step in [script, *steps] for name in (*step.get("takes", {}), *step.get("sets", {}))}
        # Made here: Python 3.11 cannot parse in two threads at once.
        self._formulas = {
            text: Formula(text, [*self.known, *took, "text"], _refuse) for text in _formulas(script)
        }
        self.own_w = self.known["w"] = self.aim_w

    @property
    def aim_w(self) -> float:
        """The power that it goes to, W."""
        return 0.0 if self._aim is None else float(self.value(f"={self._aim}"))

    @property
    def w(self) -> float:
        """Its power, W, positive = injected."""
        return float(self.known["w"])

    def move(self) -> None:
        """Go on towards the power that it aims at."""
        left = self.aim_w - self.w
        self.known["w"] += left if abs(left) < 1.0 else SETTLING * left

    def value(self, given: Any) -> Any:
        """Return a value: itself, or what its formula gives."""
        if not isinstance(given, str) or not given.startswith("="):
            return given
        found = self._formulas[given[1:]].evaluate(self.known)
        return int(found) if isinstance(found, float) and found.is_integer() else found


def _refuse(key: str, why: str) -> None:
    raise AssertionError(f"{key}: {why}")


def _formulas(node: Any) -> Iterator[str]:
    """Return the formulas of a script: texts that begin with =, and what stands at ``w`` and ``if``."""
    if isinstance(node, dict):
        yield "true"
        yield from (node[key] for key in ("w", "if") if isinstance(node.get(key), str))
        node = list(node.values())
    if isinstance(node, list):
        for each in node:
            yield from _formulas(each)
    elif isinstance(node, str) and node.startswith("="):
        yield node[1:]


class ProfileBox:
    """A box of one profile.

    Args:
        profile: Whose recorded file it plays.
    """

    def __init__(self, profile: str) -> None:
        self.profile = profile
        self.script: dict[str, Any] = recorded(profile).get("box", {})
        self.behaviour = Behaviour(self.script)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    @property
    def w(self) -> float:
        """Its power, W, positive = injected."""
        return self.behaviour.w

    @property
    def own_w(self) -> float:
        """Its power under its own control, W."""
        return self.behaviour.own_w

    @property
    def is_free(self) -> bool:
        """Whether it is under its own control again."""
        return self.behaviour.aim_w == self.own_w

    def orders(self) -> list[Any]:
        """Return what it was told, without questions."""
        raise NotImplementedError


class MqttProfileBox(ProfileBox):
    """A box of one profile, in plain paho.

    Args:
        url: Of the broker.
        profile: Whose recorded file it plays.
    """

    def __init__(self, url: str, profile: str) -> None:
        super().__init__(profile)
        taken = recorded(profile)
        self.told: list[tuple[str, str]] = []
        self._payloads = _first_payloads([*taken["received"], *taken["answers"]])
        self._payloads |= self.script.get("besides", {})
        self._asked: dict[str, list[str]] = self.script.get("asked", {})
        self._own = {sample["topic"] for sample in taken["received"]} | self.script.get("besides", {}).keys()
        self._own -= {topic for topics in self._asked.values() for topic in topics}
        self._retained = {sample["topic"] for sample in taken["received"] if "state" in sample}
        self._lock = threading.RLock()
        self._ready, self._done = threading.Event(), threading.Event()
        self._talking = threading.Thread(target=self._talk, name=profile, daemon=True)
        self._commands = [*self.script.get("told", {}), *self._asked]
        parts = urlsplit(url)
        self._client = paho.Client(paho.CallbackAPIVersion.VERSION2)
        self._client.on_connect = lambda *_: self._on_connect()
        self._client.on_subscribe = lambda *_: self._ready.set()
        self._client.on_message = self._on_message
        self._client.connect(parts.hostname or "", parts.port or 1883)

    def __enter__(self) -> Self:
        self._client.loop_start()
        assert self._ready.wait(10.0)
        self._talking.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._talking.join(5.0)
        self._client.disconnect()
        self._client.loop_stop()

    def orders(self) -> list[tuple[str, str]]:
        """Return what it was told, without questions."""
        return [each for each in self.told if each[0] not in self._asked]

    def _on_connect(self) -> None:
        if self._commands:
            self._client.subscribe([(topic, 1) for topic in dict.fromkeys(self._commands)])
        else:
            self._ready.set()

    def _on_message(self, _client: object, _data: object, message: paho.MQTTMessage) -> None:
        text = message.payload.decode()
        with self._lock:
            self.told.append((message.topic, text))
            for step in self.script.get("told", {}).get(message.topic, []):
                if self._took(step, text):
                    self._say(step.get("answers", []))
                    break
            self._say(self._asked.get(message.topic, []))

    def _took(self, step: Mapping[str, Any], text: str) -> bool:
        known = self.behaviour.known
        document = _document(text)
        took = {name: jmespath.search(path, document) for name, path in step.get("takes", {}).items()}
        known |= {name: value for name, value in took.items() if value is not None} | {"text": text}
        if not self.behaviour.value(f"={step.get('if', 'true')}"):
            return False
        known |= {name: self.behaviour.value(given) for name, given in step.get("sets", {}).items()}
        return True

    def _talk(self) -> None:
        said_s = 0.0
        while not self._done.wait(TICK_S):
            with self._lock:
                self.behaviour.move()
                if time.monotonic() - said_s >= EVERY_S:
                    said_s = time.monotonic()
                    self._say(self._own)

    def _say(self, topics: Iterable[str]) -> None:
        for topic in topics:
            payload = self._payload(topic)
            self._client.publish(topic, payload, qos=0, retain=topic in self._retained)

    def _payload(self, topic: str) -> str:
        change = self.script.get("says", {}).get(topic)
        if change is None:
            return self._payloads[topic]
        if not isinstance(change, dict):
            value = self.behaviour.value(change)
            return f"{value:.6g}" if isinstance(value, float) else _text(value)
        document = json.loads(re.sub(r"\bnan\b", "NaN", self._payloads[topic]))
        for path, given in change.items():
            _put(document, path, self.behaviour.value(given))
        return json.dumps(document).replace("NaN", "nan")


class ModbusProfileBox(ProfileBox):
    """A box of one profile on Modbus TCP.

    Args:
        profile: Whose recorded file it plays.
    """

    def __init__(self, profile: str) -> None:
        super().__init__(profile)
        taken = recorded(profile)
        words = {area: _addresses(blocks) for area, blocks in taken["polled"][0]["words"].items()}
        words.setdefault("holding", {}).update(_addresses(self.script.get("holding", {})))
        self.box = ModbusBox({1: words})
        self._done = threading.Event()
        self._talking = threading.Thread(target=self._talk, name=profile, daemon=True)
        self._serving: AbstractContextManager[ModbusBox] = BoxThread(self.box)

    def __enter__(self) -> Self:
        self._put()
        self._serving.__enter__()
        self._talking.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._talking.join(5.0)
        self._serving.__exit__(None, None, None)

    @property
    def address(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self.box.port}"

    def orders(self) -> list[tuple[int, list[int]]]:
        """Return what was written."""
        return self.box.writes()

    def _talk(self) -> None:
        while not self._done.wait(TICK_S):
            self.behaviour.known |= {
                name: self.box[address] for name, address in self.script.get("takes", {}).items()
            }
            self.behaviour.move()
            self._put()

    def _put(self) -> None:
        for area, values in self.script.get("registers", {}).items():
            for address, given in values.items():
                self.box.put(int(address), round(self.behaviour.value(given)), area=area)


def is_modbus(profile: str) -> bool:
    """Whether a profile is one of registers."""
    return "polled" in recorded(profile)


def profile_box(url: str, profile: str) -> ProfileBox:
    """Return the box of a profile, not started yet."""
    return ModbusProfileBox(profile) if is_modbus(profile) else MqttProfileBox(url, profile)


def _first_payloads(samples: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    found: dict[str, str] = {}
    for sample in samples:
        found.setdefault(sample["topic"], sample["payload"])
    return found


def _addresses(blocks: Mapping[str, list[int]]) -> dict[int, list[int]]:
    """Return registers by address; a real box has the unused ones between them, too."""
    found = {int(address) + i: word for address, words in blocks.items() for i, word in enumerate(words)}
    return (
        {address: [found.get(address, 0)] for address in range(min(found), max(found) + 1)} if found else {}
    )


def _document(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _put(document: Any, path: str, value: Any) -> None:
    *steps, last = [int(part) if part.isdigit() else part for part in re.findall(r"[^.\[\]]+", path)]
    for step in steps:
        document = document[step]
    document[last] = value

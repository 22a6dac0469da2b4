"""Vendors' boxes in a run, by configuration alone: scripted boxes that speak their makers' topics."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import paho.mqtt.client as mqtt
import pytest

from heron_mqtt.messaging.core.stats import MessageStats
from heron_mqtt.messaging.mqtt import MqttBroker
from heron_mqtt.messaging.mqtt.raw import RawMqtt
from support import waiting
from support.heron_command import heron, run_heron, until
from support.mosquitto_server import Mosquitto
from support.small_runs import write_scenario


class Box:
    """A box that does what it is told; its words are those of its maker's documentation.

    Args:
        url: Of the broker.
        commands: Topics on which it is told something.
    """

    def __init__(self, url: str, *commands: str) -> None:
        self.told: list[tuple[str, str]] = []
        self.p_w = 0.0
        self.is_dead = threading.Event()
        self._commands = commands
        parts = urlsplit(url)
        self._ready = threading.Event()
        self._ended = threading.Event()
        self._speaking = threading.Thread(target=self._speak, name="box", daemon=True)
        self._client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
        self._client.on_connect = lambda *_: self._client.subscribe([(topic, 1) for topic in self._commands])
        self._client.on_subscribe = lambda *_: self._ready.set()
        self._client.on_message = self._on_message
        self._client.connect(parts.hostname or "", parts.port or 0)

    def __enter__(self) -> Self:
        self._client.loop_start()
        assert self._ready.wait(30.0)
        self.begin()
        self._speaking.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._speaking.join()
        self._client.disconnect()
        self._client.loop_stop()

    def says(self, topic: str, payload: Any, *, retain: bool = False) -> None:
        text = payload if isinstance(payload, str) else json.dumps(payload)
        self._client.publish(topic, text, qos=0, retain=retain)

    def _on_message(self, _client: Any, _data: Any, message: mqtt.MQTTMessage) -> None:
        if not self.is_dead.is_set():
            self.told.append((message.topic, message.payload.decode()))
            self.hear(message.topic, message.payload.decode())

    def begin(self) -> None:
        """Say what is said once connected."""

    def tell(self) -> None:
        """Say the power."""

    def _speak(self) -> None:
        """Say the power again and again: nothing is sent to a device that was never heard."""
        while not self._ended.wait(0.2):
            if not self.is_dead.is_set():
                self.tell()

    def hear(self, topic: str, text: str) -> None:
        """Do what the box does about a message."""

    def orders(self) -> list[str]:
        """Return what it was told to do, without polls."""
        raise NotImplementedError


class Victron(Box):
    """A Multi behind a GX device, which gives nine tenths of what it is told."""

    def __init__(self, url: str, portal: str) -> None:
        self.at = f"{portal}/vebus/257"
        self.set_topic = f"W/{self.at}/Hub4/L1/AcPowerSetpoint"
        self.portal = portal
        super().__init__(url, self.set_topic, f"R/{portal}/#")

    def begin(self) -> None:
        self.says(f"N/{self.at}/Connected", {"value": 1}, retain=True)

    def hear(self, topic: str, text: str) -> None:
        if topic == self.set_topic:
            self.p_w = 0.9 * json.loads(text)["value"]
            self.tell()
        elif topic == f"R/{self.portal}/keepalive" and text == "":
            self.says(f"N/{self.portal}/system/0/Dc/Battery/Soc", {"value": 61.0})
            self.tell()
        elif topic.endswith("/P"):
            self.tell()

    def tell(self) -> None:
        self.says(f"N/{self.at}/Ac/ActiveIn/L1/P", {"value": self.p_w})

    def orders(self) -> list[str]:
        return [text for topic, text in self.told if topic == self.set_topic]


class Shelly(Box):
    """A switch with a heater of 2 kW; it confirms what it was told by its number."""

    def __init__(self, url: str, prefix: str) -> None:
        self.prefix = prefix
        super().__init__(url, f"{prefix}/rpc")

    def begin(self) -> None:
        self.says(f"{self.prefix}/online", "true", retain=True)

    def hear(self, topic: str, text: str) -> None:
        asked = json.loads(text)
        answer = {"id": asked["id"], "src": self.prefix, "dst": asked["src"]}
        if asked["method"] == "Switch.Set":
            result: dict[str, Any] = {"was_on": self.p_w > 0.0}
            self.p_w = 2000.0 if asked["params"]["on"] else 0.0
            status = {"id": 0, "output": self.p_w > 0.0, "apower": self.p_w, "voltage": 229.4}
            self.says(f"{self.prefix}/status/switch:0", status)
        else:
            result = {"id": 0, "output": self.p_w > 0.0, "apower": self.p_w, "voltage": 229.4}
        self.says(f"{asked['src']}/rpc", {**answer, "result": result})

    def orders(self) -> list[str]:
        return [text for _, text in self.told if json.loads(text)["method"] == "Switch.Set"]


class HomeAssistant(Box):
    """A battery with plain numbers, W, positive = charging."""

    def __init__(self, url: str, base: str) -> None:
        self.base, self.power = base, "0"
        super().__init__(url, f"{base}/set")

    def begin(self) -> None:
        self.says(f"{self.base}/there", "online", retain=True)
        self.says(f"{self.base}/soc", "40", retain=True)

    def hear(self, topic: str, text: str) -> None:
        self.power = text
        self.tell()

    def tell(self) -> None:
        self.says(f"{self.base}/power", self.power)

    def orders(self) -> list[str]:
        return [text for _, text in self.told]


class OpenDtu(Box):
    """A micro-inverter whose limit stays where it was set."""

    def __init__(self, url: str, base: str) -> None:
        self.base = f"{base}/114"
        super().__init__(url, f"{self.base}/cmd/#")

    def begin(self) -> None:
        self.says(f"{self.base}/status/reachable", "1", retain=True)
        self.says(f"{base_of(self.base)}/dtu/status", "online", retain=True)

    def hear(self, topic: str, text: str) -> None:
        self.tell()

    def tell(self) -> None:
        self.says(f"{self.base}/0/power", "900")

    def orders(self) -> list[str]:
        return [text for _, text in self.told]


def base_of(topic: str) -> str:
    return topic.rpartition("/")[0]


def mapping(box: Box) -> dict[str, Any]:
    match box:
        case Victron():
            return {
                "profile": "device_profiles/victron_venus.toml",
                "parameters": {"portal_id": box.portal, "vebus": 257},
            }
        case Shelly():
            return {
                "profile": "device_profiles/shelly_gen2.toml",
                "parameters": {"prefix": box.prefix, "on_from_w": 1000},
            }
        case HomeAssistant():
            topics = {"command": "set", "power": "power", "soc": "soc", "availability": "there"}
            named: dict[str, Any] = {f"{name}_topic": f"{box.base}/{leaf}" for name, leaf in topics.items()}
            return {
                "profile": "device_profiles/home_assistant.toml",
                "parameters": {**named, "sign": -1},
            }
        case OpenDtu():
            return {
                "profile": "device_profiles/opendtu.toml",
                "parameters": {"base": base_of(box.base), "serial": "114", "rated_mw": 0.04},
            }
    raise TypeError(type(box))


HEATER = {"kind": "load", "max_p_mw": 0.002, "max_shed_fraction": 1.0, "profile": "residential_p_pu"}
ONCE = {"gate_steps": 1}  # these boxes say their power when it changes: there is no second measurement
OTHERS = {
    f"microgrids.{agent}.devices.{name}.authority": "simulated"
    for agent in ("MG1", "MG2", "MG3")
    for name in ("gen", "ess", "pv")
}


def write(folder: Path, env_id: str, changes: dict[str, Any]) -> Path:
    """Write a scenario in which all but the changed devices are simulated."""
    return write_scenario(folder, {"env_id": env_id, "lease_s": 20.0, **OTHERS, **changes})


@pytest.fixture
def victron(mosquitto: Mosquitto, env_id: str) -> Iterator[Victron]:
    with Victron(mosquitto.url, f"portal-{env_id}") as box:
        yield box


@pytest.mark.slow  # of one: the tests below
def test_three_makes_of_box_are_driven_and_read_by_configuration_alone(
    mosquitto: Mosquitto, victron: Victron, env_id: str, tmp_path: Path
) -> None:
    with Shelly(mosquitto.url, f"shelly-{env_id}") as shelly, HomeAssistant(mosquitto.url, env_id) as ha:
        changes = {
            "microgrids.MG1.devices.ess.authority": "full",
            "microgrids.MG1.devices.ess.mapping": mapping(victron),
            "microgrids.MG2.devices.ess.authority": "full",
            "microgrids.MG2.devices.ess.mapping": mapping(ha),
            "microgrids.MG3.devices.heater": {
                **HEATER,
                "authority": "full",
                "mapping": mapping(shelly),
                "gateway": ONCE,
            },
            "microgrids.MG1.devices.ess.gateway": ONCE,
            "microgrids.MG2.devices.ess.gateway": ONCE,
        }
        file = write(tmp_path, env_id, changes)
        record = str(tmp_path / "run.heron")
        options = ("--steps", "5", "--broker", mosquitto.url, "--record", record, "--json")
        result = run_heron("run", str(file), *options).result
        boxes: dict[str, Box] = {"MG1/ess": victron, "MG2/ess": ha, "MG3/heater": shelly}
        for name, box in boxes.items():
            until(lambda box=box: len(box.orders()) == 6, f"five setpoints and the end for {name}")
    verified = run_heron("verify", record)  # what the boxes are sent is no message of ours, and not counted
    assert verified.code == 0, verified.out
    assert result["fallbacks"] == 0
    assert set(result["devices"]) == set(boxes)
    assert {d["authority"] for d in result["devices"].values()} == {"full"}
    assert all(d["telemetry"] >= 5 for d in result["devices"].values())

    powers = [json.loads(text)["value"] for text in victron.orders()]
    assert victron.orders()[-1] == '{"value":0}'  # told to rest at the end
    assert max(map(abs, powers)) >= 1000  # W
    error = result["devices"]["MG1/ess"]["tracking_error_mw"]
    mean_w = sum(map(abs, powers[:5])) / 5
    # What it measured is what counted: nine tenths, or what it still did when its report left before it
    # had read the setpoint (a box acknowledges nothing that would tell the two apart).
    assert 0.0999 * mean_w / 1e6 <= error <= 2.0 * max(map(abs, powers)) / 1e6

    assert ha.orders()[-1] == "0"
    assert max(abs(float(text)) for text in ha.orders()) >= 1000
    assert result["devices"]["MG2/ess"]["tracking_error_mw"] < 1e-6  # whole watts

    first, last = json.loads(shelly.orders()[0]), json.loads(shelly.orders()[-1])
    assert first["params"] == {"id": 0, "on": True, "toggle_after": pytest.approx(20.0, abs=0.5)}
    assert first["src"] == "heron-MG3-heater"
    assert last["params"] == {"id": 0, "on": False}


def test_a_box_that_dies_is_replaced_by_its_model_and_the_run_goes_on(
    mosquitto: Mosquitto, victron: Victron, env_id: str, tmp_path: Path
) -> None:
    hear = victron.hear

    def until_the_third(topic: str, text: str) -> None:
        if len(victron.orders()) >= 3:
            victron.is_dead.set()
        else:
            hear(topic, text)

    victron.hear = until_the_third  # type: ignore[method-assign]
    changes = {
        "deadlines.device_s": 3.0,
        "microgrids.MG1.devices.ess.authority": "full",
        "microgrids.MG1.devices.ess.mapping": mapping(victron),
        "microgrids.MG1.devices.ess.gateway": {"stale_after_s": 2.0, "gate_steps": 1},
    }
    file = write(tmp_path, env_id, changes)
    ended = run_heron("run", str(file), "--steps", "6", "--broker", mosquitto.url, "--json")
    assert ended.code == 1  # nothing has heard its release
    assert (
        "it was not handed back, and may hold its last setpoint: its release was sent while it was not"
        in ended.err
    )
    device = ended.result["devices"]["MG1/ess"]
    # What it measured before its death may still answer the third setpoint.
    assert device["fallbacks"] == device["longest_fallback"]
    assert device["fallbacks"] in {3, 4}
    assert "no power from the device for 2 s" in ended.err


@pytest.mark.slow
def test_in_shadow_a_box_is_read_and_polled_and_told_nothing(
    mosquitto: Mosquitto, victron: Victron, env_id: str, tmp_path: Path
) -> None:
    changes = {
        "microgrids.MG1.devices.ess.authority": "shadow",
        "microgrids.MG1.devices.ess.mapping": mapping(victron),
        "realtime_s": 0.3,
    }
    file = write(tmp_path, env_id, changes)
    with heron("run", str(file), "--steps", "5", "--broker", mosquitto.url, "--json") as program:
        until(lambda: victron.told, "the first poll", within_s=30.0)
        assert run_heron("estop", "on", "--broker", mosquitto.url, "--env-id", env_id).code == 0
        ended = program.wait()
    assert ended.result["devices"]["MG1/ess"]["telemetry"] > 0
    assert victron.orders() == []
    assert {topic.split("/")[0] for topic, _ in victron.told} == {"R"}


@pytest.mark.slow_but("15")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_run_that_is_ended_from_outside_hands_the_device_back(
    mosquitto: Mosquitto, env_id: str, tmp_path: Path, number: signal.Signals
) -> None:
    with OpenDtu(mosquitto.url, env_id) as dtu:
        changes = {
            "microgrids.MG1.devices.pv.authority": "full",
            "microgrids.MG1.devices.pv.control_q": False,
            "microgrids.MG1.devices.pv.mapping": mapping(dtu),
            "microgrids.MG1.devices.pv.gateway": {"stale_after_s": 60.0, "gate_steps": 1},
            "realtime_s": 0.2,
        }
        file = write(tmp_path, env_id, changes)
        with heron("run", str(file), "--broker", mosquitto.url) as program:
            until(dtu.orders, "the first limit", within_s=30.0)
            assert "100" not in dtu.orders()
            program.signal(number)
            program.wait()
        until(lambda: dtu.orders()[-1] == "100", "the release")


async def test_whoever_has_something_to_say_after_a_reconnection_is_called(
    own_mosquitto: Callable[..., Mosquitto],
) -> None:
    server = own_mosquitto()
    options = MqttBroker(server.url).options
    async with RawMqtt(options, MessageStats()) as raw:
        calls: list[str] = []
        raw.on_reconnect(lambda: calls.append("kept"))
        raw.on_reconnect(lambda: calls.append("ended"))()
        assert raw.connected
        server.kill()
        await waiting.until(lambda: not raw.connected, "the loss")
        server.start()
        await waiting.until(lambda: calls, "the reconnection")
        assert raw.connected
        assert calls == ["kept"]


def test_check_refuses_control_of_what_does_not_say_how_it_is_handed_back(
    env_id: str, tmp_path: Path
) -> None:
    (tmp_path / "plain.toml").write_text(
        """
        name = "plain"
        [setpoint.values.p]
        quantity = "p_mw"
        unit = "W"
        [[setpoint.messages]]
        topic = "plain/set"
        payload = "{p}"
        [[telemetry]]
        topic = "plain/p"
        format = "text"
        fields.p_mw = { unit = "W" }
        """
    )
    changes = {
        "microgrids.MG1.devices.ess.authority": "limited",
        "microgrids.MG1.devices.ess.gateway": {"band": {"p_min_mw": -0.001, "p_max_mw": 0.001}},
        "microgrids.MG1.devices.ess.mapping": "plain.toml",
    }
    file = write(tmp_path, env_id, changes)
    for command in ("check", "run"):
        ended = run_heron(command, str(file))
        assert ended.code == 2
        assert ["setpoint.release: missing" in line for line in ended.errors] == [True]

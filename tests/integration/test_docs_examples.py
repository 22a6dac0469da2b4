"""Every example runs, and shows what it says that it shows."""

from __future__ import annotations

import asyncio
import re
import runpy
import sys
from typing import Any

import pytest

from heron_mqtt.messages import Setpoint
from heron_mqtt.messaging import topics
from heron_mqtt.messaging.mqtt import MqttBroker
from heron_mqtt.messaging.mqtt.raw import RawMqtt
from heron_mqtt.messaging.stamping import MessageStamper
from support.doc_pages import PAGES, ROOT
from support.waiting import until

pytestmark = pytest.mark.usefixtures("built_once")

EXAMPLES = ROOT / "docs" / "examples"


def _run(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str, *argv: str) -> str:
    """Run an example as a program, in this process; return what it and its children print."""
    monkeypatch.setattr(sys, "argv", [name, *argv])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    printed, errors = capfd.readouterr()
    assert "Traceback" not in errors, errors
    return printed


@pytest.mark.parametrize("mode", [(), ("--distributed",)], ids=["centralized", "distributed"])
def test_the_loop_compares_own_policies_with_random_actions(
    mode: tuple[str, ...], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    printed = _run(capfd, monkeypatch, "01_pettingzoo_loop.py", "--steps", "8", *mode)
    assert "MG1 acts on     p_gen, p_ess, p_pv, q_pv" in printed
    assert re.search(r"own policies +MG1 +-?\d+\.\d\d \$", printed)
    assert re.search(r"random +MG1 +-?\d+\.\d\d \$", printed)


def test_the_device_of_ones_own_gives_whole_kilowatts(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    printed = _run(capfd, monkeypatch, "02_device_of_your_own.py", "--steps", "2")
    assert "wanted +0.0333 MW, the device gave +0.0330 MW" in printed
    assert "wanted -0.0333 MW, the device gave -0.0330 MW" in printed
    assert "fallbacks {}" in printed


def test_the_broker_of_ones_own_carries_a_whole_episode(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    printed = _run(capfd, monkeypatch, "04_broker_of_your_own.py", "--steps", "4")
    assert "missed [0, 0, 0]" in printed
    assert "    4 records in agents.MG1.action" in printed
    assert "    4 records in p2p.MG1.MG2" in printed  # at night no agent sells: one offer a step


def test_names_of_the_logs_topics_never_collide() -> None:
    topic_of = runpy.run_path(str(EXAMPLES / "04_broker_of_your_own.py"))["topic_of"]
    channels = ["a/b", "a.b", "a_2fb", "a%2Fb", "a/b/", "A/b", "ä/b", "a/_b"]
    names = [topic_of(channel) for channel in channels]
    assert len(set(names)) == len(channels)
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+", name) for name in names)


def test_the_agent_of_ones_own_decides_in_a_process_of_its_own(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    printed = _run(capfd, monkeypatch, "05_agent_of_your_own.py", "--steps", "2")
    lines = [line for line in printed.splitlines() if line.startswith("MG3: ")]
    assert len(lines) == 2
    assert all("'gen': 0.0, 'ess': -0.04" in line and line.endswith("missed 0") for line in lines)


def test_the_tour_shows_every_message_and_equal_rewards(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    printed = _run(capfd, monkeypatch, "06_distributed_mode_with_proxy.py", "--steps", "12")
    for shown in (
        "operators/system_operator/price   price",
        "agents/MG1/observation            observation",
        "-> MG1 is told: price 50.0 $/MWh",
        "-> MG2 follows a command",
        "p2p/MG1/MG2                       offer",
        "p2p/MG2/MG1                       accept",
        "p2p/MG1/MG2                       confirm",
        "agents/MG1/action                 action",
        "settled: MG1 sells",
    ):
        assert shown in printed
    steps = re.findall(r"missed 0: (.*)", printed)
    assert len(steps) == 3
    differences = re.findall(
        r"(centralized|in memory|embedded MQTT).*median +([\d.]+) ms.*difference (\S+)", printed
    )
    assert [name for name, _, _ in differences] == ["centralized", "in memory", "embedded MQTT"]
    assert all(float(difference) < 1e-9 for _, _, difference in differences)


async def test_the_adapter_of_a_vendors_device_sets_it_and_hands_it_back(embedded_url: str) -> None:
    """At each end of its wire stands what the page says: a battery of plain topics, and a gateway."""
    serve = runpy.run_path(str(EXAMPLES / "07_vendor_adapter.py"))["serve"]
    async with MqttBroker(embedded_url, env_id="site") as gateway:
        battery = RawMqtt(gateway.options, gateway.stats)
        told: list[bytes] = []

        async def measure() -> None:
            while True:
                for topic, payload in (("status", b"online"), ("soc/state", b"50")):
                    battery.publish_raw(f"battery/{topic}", payload, qos=1, retain=False)
                power = told[-1] if told else b"0"
                battery.publish_raw("battery/power/state", power, qos=1, retain=False)
                await asyncio.sleep(0.05)

        async with battery, asyncio.TaskGroup() as tasks:
            battery.subscribe_raw("battery/power/set", lambda _, payload, __: told.append(payload))
            measuring = tasks.create_task(measure())
            telemetry: list[dict[str, Any]] = []
            gateway.subscribe(topics.device("MG1", "ess", "telemetry"), telemetry.append)
            adapter = asyncio.create_task(serve(embedded_url, embedded_url, "site"))
            await until(lambda: telemetry and telemetry[-1].get("soc") == 0.5, "the battery is read")
            channel = topics.device("MG1", "ess", "setpoint")
            setpoint = Setpoint(p_mw=0.002, lease_s=30.0)
            gateway.publish(channel, MessageStamper("MG1", "site").stamp(channel, setpoint))
            await until(lambda: telemetry[-1]["p_mw"] == 0.002, "it does what it is told")
            assert told == [b"2000"]
            adapter.cancel()
            await asyncio.wait([adapter])
            await until(lambda: told[-1] == b"0", "it is handed back")
            measuring.cancel()


def test_every_example_is_named_in_a_page() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    for example in EXAMPLES.glob("0*.py"):
        assert example.name in text, f"no page tells of {example.name}"

"""Home Assistant on a real broker: announced, replaced, retracted, and by a run that is asked to."""

from __future__ import annotations

from pathlib import Path

import pytest

from heron_mqtt.config import shipped_config
from support.heron_command import run_heron
from support.mosquitto_clients import retained
from support.mosquitto_server import Mosquitto


def _scenario(folder: Path, table: str = "") -> Path:
    shipped = shipped_config()
    text = (
        (shipped / "three_microgrids.toml").read_text("utf-8").replace('"profiles/', f'"{shipped}/profiles/')
    )
    path = folder / "mine.toml"
    path.write_text(text.replace("[network]", f"{table}\n[network]", 1), "utf-8")
    return path


def _announced(server: Mosquitto) -> set[str]:
    return {topic for topic in retained(server.url, "homeassistant/#") if topic.startswith("homeassistant/")}


def test_it_is_announced_replaced_and_retracted(mosquitto: Mosquitto, tmp_path: Path) -> None:
    plain = _scenario(tmp_path)
    done = run_heron("home-assistant", str(plain), "--broker", mosquitto.url)
    assert (done.code, done.err) == (0, "")
    before = _announced(mosquitto)
    assert f"Home Assistant: {len(before)} entities of three_microgrids announced" in done.out
    assert not [topic for topic in before if "/switch/" in topic]

    switch = _scenario(tmp_path, "[integrations.home_assistant]\nstop_switch = true\n")
    assert run_heron("home-assistant", str(switch), "--broker", mosquitto.url).code == 0
    assert len(_announced(mosquitto) - before) == 1
    assert run_heron("home-assistant", str(_scenario(tmp_path)), "--broker", mosquitto.url).code == 0
    assert _announced(mosquitto) == before, "what is no more is taken away"

    done = run_heron("home-assistant", str(plain), "--broker", mosquitto.url, "--retract")
    assert f"{len(before)} entities of three_microgrids retracted" in done.out
    assert _announced(mosquitto) == set()


@pytest.mark.slow
def test_a_run_announces_itself_where_the_scenario_says_so(mosquitto: Mosquitto, tmp_path: Path) -> None:
    asked = _scenario(tmp_path, "[integrations.home_assistant]\n")
    done = run_heron(
        *("run", str(asked), "--steps", "1", "--devices", "simulated", "--no-record"),
        *("--broker", mosquitto.url),
    )
    assert done.code == 0
    assert "Home Assistant: " in done.out + done.err
    assert _announced(mosquitto)
    run_heron("home-assistant", str(asked), "--broker", mosquitto.url, "--retract")


def test_a_prefix_that_cannot_be_is_named(tmp_path: Path) -> None:
    wrong = _scenario(tmp_path, "[integrations.home_assistant]\nprefix = 'home/#'\n")
    done = run_heron("check", str(wrong))
    assert done.code == 2
    assert "integrations.home_assistant.prefix" in done.errors[0]

"""Two runs whose scenarios map the same vendor's box, each under an environment of its own."""

from __future__ import annotations

import signal
import tomllib
from pathlib import Path
from typing import Any

import pytest

from support.heron_command import Program, until
from support.mosquitto_server import Mosquitto
from support.observer import Observer
from support.safety_runs import run, write
from support.scripted_box import ScriptedBox

AGENTS = ("MG1", "MG2")


def scenario(folder: Path, env_id: str, mapping: Path, agent: str) -> Path:
    """Write a scenario in which the box is the battery of an agent, and nothing else is real."""
    real: dict[str, Any] = {
        "authority": "full",
        "mapping": tomllib.loads(mapping.read_text()),
        "gateway": {"gate_steps": 2},
    }
    where = folder / env_id
    where.mkdir()
    if agent == "MG1":
        return write(where, real, env_id=env_id)
    changes = {f"microgrids.{agent}.devices.ess.{key}": value for key, value in real.items()}
    always = {f"microgrids.{agent}.policy": {"charge_below": -1000.0, "discharge_above": -999.0}}
    return write(where, {"authority": "simulated"}, env_id=env_id, **always, **changes)


@pytest.mark.slow
@pytest.mark.parametrize("agent", AGENTS)
def test_the_second_of_two_runs_with_one_box_ends_before_it_has_said_anything_to_it(
    mosquitto: Mosquitto, env_id: str, tmp_path: Path, agent: str
) -> None:
    """As the same device of its own environment, or as another one.

    The claim itself, quickly: ``unit/field/test_place_claim.py``, and "what a killed program left" in
    ``unit/field/vendor/test_vendor_device.py``.
    """
    url, first_env, second_env = mosquitto.url, f"a-{env_id}", f"b-{env_id}"
    box = ScriptedBox(url, f"plant/{env_id}")
    mapping = box.mapping(tmp_path)
    files = scenario(tmp_path, first_env, mapping, "MG1"), scenario(tmp_path, second_env, mapping, agent)

    def told_by(program: Program) -> None:
        count = len(box.told)
        until(lambda: len(box.told) > count, "the box is driven", 30.0)
        assert program.process.poll() is None

    with box, Observer(url, [f"heron/{second_env}/#"]) as second_site:
        with run(files[0], url) as first:
            told_by(first)
            refused = run(files[1], url).wait()
            assert refused.code == 1
            (line,) = refused.errors
            assert f"plant/{env_id}/set: environment '{first_env[:16]}' drives it already, by process" in line
            assert second_site.setpoints() == []
            assert [text for topic, text in box.told if topic.endswith("/mode")] == [], "handed back by none"
            told_by(first)
            first.signal(signal.SIGKILL)
            first.wait()
        with run(files[1], url) as second:
            told_by(second)

"""Tables that list something of the code list all of it, and nothing else."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

from heron_mqtt.agents.deadlines import Deadlines
from heron_mqtt.app.run_summary import Summary
from heron_mqtt.messaging.base import Features, MessageBroker
from heron_mqtt.messaging.codec import MAX_PAYLOAD_BYTES
from heron_mqtt.messaging.core.dispatcher import UNASKED
from heron_mqtt.messaging.core.stats import MessageStats
from heron_mqtt.messaging.core.subscription import MAX_QUEUE
from heron_mqtt.messaging.mqtt import MqttBroker
from heron_mqtt.messaging.mqtt.session import FIRST_DELAY_S, MAX_DELAY_S
from powergrid.envs import MultiAgentMicrogrids
from powergrid.envs.config import EnvConfig
from powergrid.rewards import TERMS
from support.doc_pages import ROOT, section

BROKERS, MODES, QUICKSTART, MODELS = (
    ROOT / "docs" / f"{name}.md" for name in ("brokers", "modes", "quickstart", "models")
)


def first_cells(page: Path, heading: str) -> Iterator[str]:
    """Yield the names in the first column of the tables below a heading."""
    for row in re.findall(r"^\| (`.*?) \|", section(page, heading), re.MULTILINE):
        yield from re.findall(r"`([^`]+)`", row)


def test_counters() -> None:
    counters = {field.name for field in fields(MessageStats) if field.type == "int"}
    assert set(first_cells(BROKERS, "Counters and reports")) == counters


def test_arguments_of_the_mqtt_broker() -> None:
    named = set(first_cells(BROKERS, "MqttBroker"))
    parameters = inspect.signature(MqttBroker.__init__).parameters
    assert named == set(parameters) - {"self"}
    text = section(BROKERS, "MqttBroker")
    for name in ("keepalive_s", "connect_timeout_s", "max_pending"):
        assert re.search(rf"^\| `{name}` \| {parameters[name].default:g} \|", text, re.MULTILINE), name
    assert f"({FIRST_DELAY_S:g} s to {MAX_DELAY_S:g} s)" in text


def test_methods_and_features_of_a_broker() -> None:
    public = {name for name in vars(MessageBroker) if not name.startswith("_")}
    named = set(re.findall(r"\w+", " ".join(first_cells(BROKERS, "The interface"))))
    assert public <= named
    features = {cell for cell in first_cells(BROKERS, "Features") if cell.startswith("features.")}
    assert features == {f"features.{field.name}" for field in fields(Features)}


def test_bounds_of_a_broker() -> None:
    text = section(BROKERS, "What every broker promises")
    default = inspect.signature(MqttBroker.__init__).parameters["max_pending"].default
    for bound in (MAX_QUEUE, UNASKED, default):
        assert f"| {bound} |" in text
    assert f"| {MAX_PAYLOAD_BYTES >> 20} MiB |" in text


def test_keys_of_the_environments_configuration() -> None:
    assert set(first_cells(MODES, "Configuration")) == set(EnvConfig.model_fields)


def test_what_a_step_tells_and_how_much_an_agent_sees() -> None:
    env = MultiAgentMicrogrids({"observation": "local"})
    env.reset(seed=0)
    _, _, _, _, infos = env.step({})
    assert set(first_cells(MODES, "What a step returns")) == {*infos["MG1"], "diverged"}
    assert f"{len(env.observation_names('MG1'))} numbers in the default scenario" in MODES.read_text("utf-8")


def test_the_result_as_json() -> None:
    summary = Summary.__new__(Summary)
    summary.__init__("s", "distributed", "memory", 0, 900.0, {})  # type: ignore[misc]
    named = set(first_cells(QUICKSTART, "Run the main job"))
    assert named == set(summary.as_dict())


def test_terms_of_the_reward() -> None:
    assert set(TERMS) <= set(first_cells(MODELS, "Reward"))


def test_every_deadline_is_told_in_the_modes() -> None:
    """Who waits for whom: as many rows as there are deadlines of a step."""
    of_a_step = set(Deadlines.model_fields) - {"ready_s"}
    rows = re.findall(
        r"^\| (?:the operator|a peer|a device|an agent)", section(MODES, "Communication"), re.MULTILINE
    )
    assert len(rows) == len(of_a_step)

"""The keys of MultiAgentMicrogrids: what each does, and one clear line for what is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from heron_mqtt.config import shipped_config
from heron_mqtt.errors import ConfigError
from heron_mqtt.messaging.memory import InMemoryBroker
from powergrid.envs import BatchedMicrogrids, MultiAgentMicrogrids
from powergrid.envs.config import load_config
from powergrid.scenario import load_scenario, scenario_from_dict
from support.small_grid import scenario as small

pytestmark = pytest.mark.usefixtures("built_once")


def test_without_a_config_it_is_the_shipped_scenario_by_direct_calls() -> None:
    configs: tuple[dict[str, Any] | None, ...] = (None, {})
    for config in configs:
        made, loaded = load_config(config)
        assert made.centralized is True
        assert made.message_broker is None
        assert loaded.scenario.name == "three_microgrids"


@pytest.mark.parametrize(
    "scenario",
    [
        "three_microgrids",
        "config/three_microgrids.toml",
        shipped_config() / "three_microgrids.toml",
        str(shipped_config() / "three_microgrids.toml"),
        load_scenario("three_microgrids"),
        load_scenario("three_microgrids").scenario,
    ],
    ids=["name", "shipped path", "path", "path as text", "loaded", "scenario"],
)
def test_a_scenario_may_be_named_or_handed_in(scenario: Any) -> None:
    assert load_config({"scenario": scenario})[1].scenario.name == "three_microgrids"


def test_a_scenario_may_be_a_dict() -> None:
    assert load_config({"scenario": small()})[1].scenario.name == "small"


def test_a_broker_is_handed_through_as_it_is() -> None:
    broker = InMemoryBroker()
    made, _ = load_config({"centralized": False, "message_broker": broker})
    assert made.message_broker is broker


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (
            {"centralised": True},
            "MultiAgentMicrogrids: centralised: unknown key; did you mean 'centralized'?",
        ),
        ({"centralized": "yes"}, "MultiAgentMicrogrids: centralized = 'yes': should be a valid boolean"),
        ({"max_episode_steps": 0}, "MultiAgentMicrogrids: max_episode_steps = 0: should be greater"),
        (
            {"max_episode_steps": 2.5},
            "MultiAgentMicrogrids: max_episode_steps = 2.5: should be a valid integer",
        ),
        (
            {"message_broker": "mqtt://x"},
            "message_broker = 'mqtt://x': should be an instance of MessageBroker",
        ),
        ({"observation": "some"}, "MultiAgentMicrogrids: observation = 'some': should be 'full' or 'local'"),
        ({"devices": "real"}, "MultiAgentMicrogrids: devices = 'real': should be 'simulated' or 'emulated'"),
        ({"render_mode": "human"}, "MultiAgentMicrogrids: render_mode = 'human': should be 'ansi'"),
        ({"env_id": ""}, "MultiAgentMicrogrids: env_id = '': "),
        ({"scenario": 5}, "MultiAgentMicrogrids: scenario = 5: should be a valid string"),
        ({"scenario": "nope"}, "nope: no such scenario file; shipped scenarios are: "),
        ({"scenario": {"name": "x"}}, "scenario: microgrids: missing; it must be given"),
        ({"scenario": small({"stepz": 1})}, "scenario: stepz: unknown key; did you mean 'steps'?"),
        (5, "MultiAgentMicrogrids: should be a table"),
    ],
    ids=str,
)
def test_what_is_wrong_is_said_in_one_line(config: Any, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        MultiAgentMicrogrids(config)
    assert any(expected in problem for problem in caught.value.problems), caught.value.problems
    assert "pydantic" not in str(caught.value)


@pytest.mark.parametrize("key", ["centralized", "render_mode", "message_broker"])
def test_a_key_of_a_single_environment_is_compared_with_those_of_a_batch_alone(key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        BatchedMicrogrids({"num_envs": 2, key: 1})
    assert caught.value.problems == (f"BatchedMicrogrids: {key}: unknown key",)


def test_every_wrong_key_is_named_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        MultiAgentMicrogrids({"centralised": True, "max_episode_steps": 0, "devices": "real"})
    assert len(caught.value.problems) == 3


def test_an_episode_longer_than_the_series_is_refused_before_it_begins() -> None:
    scenario = small({"profiles.repeat": False, "profiles.start_row": 660})
    MultiAgentMicrogrids({"scenario": scenario, "max_episode_steps": 12})
    with pytest.raises(ConfigError, match=r"max_episode_steps = 13: .*672 rows.*start_row = 660"):
        MultiAgentMicrogrids({"scenario": scenario, "max_episode_steps": 13})


def test_a_grid_without_a_solution_is_a_wrong_scenario() -> None:
    """The devices are at rest: nothing an agent does could help."""
    with pytest.raises(ConfigError, match=r"^scenario: network: .*no power-flow solution.*row 28") as caught:
        MultiAgentMicrogrids({"scenario": small({"microgrids.MG3.loads.scale": 1000.0})})
    (problem,) = caught.value.problems
    assert "\n" not in problem


def test_the_environments_id_is_its_own_or_the_scenarios() -> None:
    scenario = scenario_from_dict(small({"env_id": "plant"}))
    assert MultiAgentMicrogrids({"scenario": scenario}).env_id == "plant"
    assert MultiAgentMicrogrids({"scenario": scenario, "env_id": "mine"}).env_id == "mine"


def test_files_of_a_scenario_in_another_directory_are_found_beside_it(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for name in ("simbench_week.csv", "price_week.csv"):
        text = (shipped_config() / "profiles" / name).read_text()
        (tmp_path / "data" / name).write_text(text)
    toml = (shipped_config() / "three_microgrids.toml").read_text().replace('"profiles/', '"data/')
    (tmp_path / "mine.toml").write_text(toml)
    assert load_config({"scenario": tmp_path / "mine.toml"})[1].path("data/price_week.csv").is_file()

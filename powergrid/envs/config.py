"""What ``MultiAgentMicrogrids`` is made from: a dict, as its documentation shows it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field, InstanceOf

from heron_mqtt.config import Table, validate
from heron_mqtt.messaging.base import MessageBroker
from powergrid.scenario import LoadedScenario, Scenario, load_scenario, scenario_from_dict


class EnvConfig(Table):
    """The keys of the environment's configuration."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    centralized: bool = Field(True, description="Direct calls; False = messages over message_broker.")
    message_broker: InstanceOf[MessageBroker] | None = Field(
        None, description="None in distributed mode = an InMemoryBroker of its own."
    )
    scenario: str | Path | dict[str, Any] | InstanceOf[Scenario] | InstanceOf[LoadedScenario] = Field(
        "three_microgrids", description="A file, a shipped scenario's name, or a scenario itself."
    )
    max_episode_steps: int | None = Field(None, ge=1, description="None = the scenario's steps.")
    env_id: str | None = Field(None, min_length=1, description="None = the scenario's.")
    observation: Literal["full", "local"] | None = Field(
        None, description="None = the scenario's, else full when centralized and local when distributed."
    )
    devices: Literal["simulated", "emulated"] = Field(
        "simulated", description="For devices whose authority the scenario leaves open."
    )
    render_mode: Literal["ansi"] | None = None


def load_config(config: Mapping[str, Any] | None) -> tuple[EnvConfig, LoadedScenario]:
    """Return the validated configuration and the scenario it names.

    Raises:
        ConfigError: One line for each problem.
    """
    made = validate(EnvConfig, {} if config is None else config, "MultiAgentMicrogrids")
    scenario = made.scenario
    if isinstance(scenario, LoadedScenario):
        return made, scenario
    if isinstance(scenario, Scenario):
        return made, LoadedScenario(scenario=scenario, source=scenario.name, directory=Path())
    if isinstance(scenario, dict):
        return made, scenario_from_dict(scenario)
    return made, load_scenario(scenario)

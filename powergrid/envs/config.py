"""What the environments are made from: a dict, as their documentation shows it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field, InstanceOf

from heron_mqtt.config import Table, validate
from heron_mqtt.errors import ConfigError
from heron_mqtt.field.gateway.succession import Succession
from heron_mqtt.messaging.base import MessageBroker
from heron_mqtt.messaging.impairment import ImpairmentTable, load_impairment
from heron_mqtt.record.base import Recorder
from powergrid.scenario import LoadedScenario, Scenario, load_scenario, scenario_from_dict


class _EpisodeConfig(Table):
    """What is run, and for how long."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    scenario: str | Path | dict[str, Any] | InstanceOf[Scenario] | InstanceOf[LoadedScenario] = Field(
        "three_microgrids", description="A file, a shipped scenario's name, or a scenario itself."
    )
    max_episode_steps: int | None = Field(None, ge=1, description="None = the scenario's steps.")
    observation_scale: Literal["si", "unit"] | None = Field(None, description="None = the scenario's.")
    observation_form: Literal["flat", "dict"] = Field(
        "flat", description="One array an agent, or a dict of arrays by name."
    )
    networks: list[str | Path | InstanceOf[ImpairmentTable]] = Field(
        [],
        description="Impaired networks (files, shipped names) whose losses and delays hold though no "
        "messages are sent; each episode has one of them.",
    )

    def impairments(self) -> list[ImpairmentTable]:
        """Return the tables of ``networks``.

        Raises:
            ConfigError: There is no such network, or its file is wrong.
        """
        return [
            each if isinstance(each, ImpairmentTable) else load_impairment(each) for each in self.networks
        ]


class EnvConfig(_EpisodeConfig):
    """The keys of the environment's configuration."""

    centralized: bool = Field(True, description="Direct calls; False = messages over message_broker.")
    message_broker: InstanceOf[MessageBroker] | None = Field(
        None, description="None in distributed mode = an InMemoryBroker of its own."
    )
    env_id: str | None = Field(None, min_length=1, description="None = the scenario's.")
    observation: Literal["full", "local"] | None = Field(
        None, description="None = the scenario's, else full when centralized and local when distributed."
    )
    devices: Literal["simulated", "emulated"] = Field(
        "simulated", description="For devices whose authority the scenario leaves open."
    )
    take_over: bool = Field(False, description="Displace an environment of this env_id that runs elsewhere.")
    successions: dict[str, InstanceOf[Succession]] = Field(
        {},
        description="Earlier starts of the agents' gateways, whose leases they continue; not closed here.",
    )
    publish_grid: bool = Field(
        False, description="Publish the network and each step's power flow (run/network, run/grid)."
    )
    recorder: InstanceOf[Recorder] | None = Field(None, description="Records every step; not closed here.")
    render_mode: Literal["ansi"] | None = None


class BatchConfig(_EpisodeConfig):
    """The keys of ``BatchedMicrogrids``' configuration."""

    num_envs: int = Field(ge=1, le=1_000_000, description="Number of copies.")
    observation: Literal["full", "local"] | None = Field(
        None, description="None = the scenario's, else full."
    )
    start_rows: Literal["random", "scenario"] | None = Field(
        None,
        description="Where a copy's episode begins: at any row, drawn for each episode, or where the "
        "scenario says; None = at any row, unless the scenario's [randomisation] draws the day.",
    )


def load_config(config: Mapping[str, Any] | None) -> tuple[EnvConfig, LoadedScenario]:
    """Return the validated configuration and the scenario it names.

    Raises:
        ConfigError: One line for each problem.
    """
    made = validate(EnvConfig, {} if config is None else config, "MultiAgentMicrogrids")
    if made.networks and not made.centralized:
        raise ConfigError(
            "MultiAgentMicrogrids: networks: messages are sent in distributed mode; put the network around "
            "their broker (ImpairedBroker), or set centralized to true"
        )
    return made, _load(made)


def load_batch_config(config: Mapping[str, Any]) -> tuple[BatchConfig, LoadedScenario]:
    """Return the validated configuration of a batch and the scenario it names.

    Raises:
        ConfigError: One line for each problem.
    """
    made = validate(BatchConfig, config, "BatchedMicrogrids")
    return made, _load(made)


def _load(config: _EpisodeConfig) -> LoadedScenario:
    scenario = config.scenario
    if isinstance(scenario, LoadedScenario):
        return scenario
    if isinstance(scenario, Scenario):
        return LoadedScenario(scenario=scenario, source=scenario.name, directory=Path())
    if isinstance(scenario, dict):
        return scenario_from_dict(scenario)
    return load_scenario(scenario)

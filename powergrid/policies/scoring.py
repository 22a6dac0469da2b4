"""How policies are compared: the return of a day, and the worth of the energy that is left in batteries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from heron_mqtt.errors import ConfigError
from powergrid.policies import POLICIES
from powergrid.policies.baselines import batteries
from powergrid.scenario import LoadedScenario, Scenario

__all__ = ["AS_NAMED", "policy_name", "stored_usd", "with_policy"]

AS_NAMED = "scenario"
"""Instead of a policy for all: each microgrid's own, as the scenario names it, with its arguments."""


def policy_name(name: str) -> str | None:
    """Return ``module:Class`` of a policy that is named shortly or in full; None = the agents' own rules.

    Raises:
        ConfigError: It is neither.
    """
    if name not in POLICIES and ":" not in name:
        known = ", ".join((*POLICIES, AS_NAMED))
        raise ConfigError(f"policy {name!r}: expected {known}, module:Class or file.py:Class")
    return POLICIES.get(name, name)


def with_policy(
    loaded: LoadedScenario, name: str, arguments: Mapping[str, Any] | None = None
) -> LoadedScenario:
    """Return the scenario with one policy for every microgrid, or with those that it names.

    Args:
        loaded: The scenario.
        name: A short name (``POLICIES``), ``AS_NAMED``, ``module:Class``, or ``file.py:Class`` below the
            working directory.
        arguments: Of the class.

    Raises:
        ConfigError: As ``policy_name``.
    """
    if name == AS_NAMED:
        return loaded
    scenario = loaded.scenario
    update = {"use": policy_name(name), "arguments": dict(arguments or {})}
    microgrids = {
        agent: table.model_copy(update={"policy": table.policy.model_copy(update=update)})
        for agent, table in scenario.microgrids.items()
    }
    return loaded.model_copy(update={"scenario": scenario.model_copy(update={"microgrids": microgrids})})


def stored_usd(
    scenario: Scenario,
    begin: Mapping[tuple[str, str], Any],
    end: Mapping[tuple[str, str], Any],
    price: Any,
) -> Any:
    """Return what the energy that batteries gained in an episode is worth, $; negative = they lost some.

    Energy counts as what can be fed in of it, at the episode's mean price: without it the best end of a day
    would be an empty battery.

    Args:
        scenario: With the nameplates.
        begin: State of charge by (agent, device), fraction; numbers, or (n,) for copies.
        end: Likewise, at the end.
        price: Mean price of the episode, $/MWh.
    """
    total: Any = 0.0
    for agent in scenario.microgrids:
        for name, spec in batteries(scenario, agent).items():
            gained_mwh = (end[agent, name] - begin[agent, name]) * spec.max_e_mwh
            total = total + gained_mwh * spec.efficiency_discharge * price
    return total

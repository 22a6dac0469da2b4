"""Policies of people's own, by name: what decides in place of the agents' rule in a run or a replay."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, cast

from heron_mqtt.errors import ConfigError


class Policy(Protocol):
    """Decides for one or more agents; made with the environment: ``Class(env)``."""

    def act(self, agent: str, observation: Any) -> Any:
        """Return an action, shape as ``env.action_space(agent)``; None = the agent's own policy."""


def policy_maker(name: str) -> Callable[[Any], Any]:
    """Return what ``module:Class`` names; modules in the working directory are found first.

    Raises:
        ConfigError: There is no such module or class.
    """
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise ConfigError(f"--policy {name}: expected module:Class")
    sys.path.insert(0, str(Path.cwd()))
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, SyntaxError) as exc:
        raise ConfigError(f"--policy {name}: cannot be imported: {exc}") from None
    except AttributeError:
        raise ConfigError(f"--policy {name}: {module} has no {attribute}") from None
    finally:
        sys.path.pop(0)
    if not callable(found):
        raise ConfigError(f"--policy {name}: expected a class, made with the environment")
    return cast("Callable[[Any], Any]", found)


def load_policy(name: str, env: Any) -> Policy:
    """Return an object of ``module:Class``, made with an environment.

    Raises:
        ConfigError: There is no such module or class, or it has no ``act``.
    """
    policy = policy_maker(name)(env)
    if not callable(getattr(policy, "act", None)):
        raise ConfigError(f"--policy {name}: it has no method act(agent, observation)")
    return cast("Policy", policy)


def actions_of(policy: Policy | None, env: Any, observations: Mapping[str, Any]) -> dict[str, Any]:
    """Return the actions of the agents for which a policy decides; of none without a policy."""
    if policy is None:
        return {}
    wanted = {agent: policy.act(agent, observations[agent]) for agent in env.agents}
    return {agent: action for agent, action in wanted.items() if action is not None}

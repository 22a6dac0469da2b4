"""Policies of people's own, by name: what decides in place of the agents' rule in a run or a replay."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, cast

from heron_mqtt.errors import ConfigError

NO_ACT = "it has no method act(agent, observation)"


class Policy(Protocol):
    """Decides for one or more agents; made with the environment: ``Class(env)``."""

    def act(self, agent: str, observation: Any) -> Any:
        """Return an action, shape as ``env.action_space(agent)``; None = the agent's own policy."""


def policy_maker(name: str) -> Callable[[Any], Any]:
    """Return what ``module:Class`` names; modules in the working directory are found first.

    Raises:
        ConfigError: There is no such module or class, or it cannot be a policy.
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
    if not callable(found) or not _takes_one_argument(found):
        raise ConfigError(f"--policy {name}: expected a class that is made with the environment: Class(env)")
    if isinstance(found, type) and not callable(getattr(found, "act", None)):
        raise ConfigError(f"--policy {name}: {NO_ACT}")
    return cast("Callable[[Any], Any]", found)


def _takes_one_argument(found: Callable[..., Any]) -> bool:
    """Whether it can be called with an environment; true where that cannot be said."""
    try:
        inspect.signature(found).bind(None)
    except TypeError:
        return False
    except ValueError:  # written in C, without saying what it takes
        return True
    return not inspect.isbuiltin(found)  # as os.system: it takes one argument and is no policy


def load_policy(name: str, env: Any) -> Policy:
    """Return an object of ``module:Class``, made with an environment.

    Raises:
        ConfigError: There is no such module or class, or it has no ``act``.
    """
    policy = policy_maker(name)(env)
    if not callable(getattr(policy, "act", None)):
        raise ConfigError(f"--policy {name}: {NO_ACT}")
    return cast("Policy", policy)


def actions_of(policy: Policy | None, env: Any, observations: Mapping[str, Any]) -> dict[str, Any]:
    """Return the actions of the agents for which a policy decides; of none without a policy."""
    if policy is None:
        return {}
    wanted = {agent: policy.act(agent, observations[agent]) for agent in env.agents}
    return {agent: action for agent, action in wanted.items() if action is not None}

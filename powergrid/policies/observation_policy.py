"""Policies that decide as a learner does: from its observation, an action in [-1, 1]."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from heron_mqtt.errors import ConfigError
from powergrid.agents.policy import AgentPolicy, PolicyContext, PolicyView
from powergrid.policies.checkpoint import numbers, read_arrays

__all__ = ["NetworkPolicy", "ObservationPolicy"]

ACTIVATIONS: dict[str, Callable[[Any], Any]] = {"tanh": np.tanh, "relu": lambda x: np.maximum(x, 0.0)}


class ObservationPolicy(AgentPolicy):
    """Decides for every control of a microgrid by ``act``; the rules decide where no observation came.

    The observation is the agent's ``local`` one, flat, in the scenario's ``observation_scale``: to the bit
    what ``MultiAgentMicrogrids`` shows a learner with ``{"observation": "local"}``, in every mode.

    Args:
        context: What it is made for.
    """

    decides_for_copies: ClassVar[bool] = True
    takes_observation: ClassVar[bool] = True

    def __init__(self, context: PolicyContext) -> None:
        from powergrid.envs.spaces import ActionMap  # with gymnasium: imported only where it is used

        super().__init__(context)
        self._actions = ActionMap(context.agent_id, context.scenario.microgrids[context.agent_id])

    @abstractmethod
    def act(self, observations: NDArray[np.float32]) -> ArrayLike:
        """Return (n, n_actions) in [-1, 1], as the environment's ``action_names`` says.

        Args:
            observations: (n, n_entries) of n copies; one row over messages.
        """

    def decide(self, view: PolicyView) -> Mapping[str, Any]:
        """Return the setpoints of the action."""
        if view.observation is None:
            return {}
        seen = np.asarray(view.observation, dtype=np.float32)
        rows = np.atleast_2d(seen)
        setpoints = self._actions.setpoints(self.act(rows), len(rows))
        return setpoints if seen.ndim > 1 else {name: float(values[0]) for name, values in setpoints.items()}


class NetworkPolicy(ObservationPolicy):
    """A feed-forward network trained elsewhere, in numpy: no learning library is needed to run it.

    Args:
        context: What it is made for.
        checkpoint: A ``.npz`` with ``weight_0`` (n_out, n_in) and ``bias_0`` (n_out,), ``weight_1`` and so
            on, and optionally ``activation`` ("tanh" or "relu") between them; the output counts as it is.

    Raises:
        ConfigError: The checkpoint cannot be read, or its layers do not fit together or to the agent.
    """

    def __init__(self, context: PolicyContext, checkpoint: str) -> None:
        super().__init__(context)
        self._layers, self._activation = _read(Path(checkpoint))
        self._n_seen, self._source = self._layers[0][0].shape[1], checkpoint
        if len(self._layers[-1][1]) != len(self._actions.names):
            raise ConfigError(
                f"checkpoint {checkpoint}: {len(self._layers[-1][1])} outputs, and {context.agent_id} has "
                f"{len(self._actions.names)} actions: {', '.join(self._actions.names)}"
            )

    def act(self, observations: NDArray[np.float32]) -> ArrayLike:
        """Return the network's output for each row."""
        if observations.shape[1] != self._n_seen:
            raise ConfigError(
                f"checkpoint {self._source}: {self._n_seen} inputs, and the observation of "
                f"{self.context.agent_id} has {observations.shape[1]} entries"
            )
        values = observations.astype(float)
        for number, (weight, bias) in enumerate(self._layers):
            values = values @ weight.T + bias
            if number < len(self._layers) - 1:
                values = ACTIVATIONS[self._activation](values)
        return values


def _read(path: Path) -> tuple[list[tuple[Any, Any]], str]:
    stored = read_arrays(path)
    n = sum(name.startswith("weight_") for name in stored)
    layers: list[tuple[Any, Any]] = []
    for i in range(max(n, 1)):
        weight, bias = numbers(path, stored, f"weight_{i}"), numbers(path, stored, f"bias_{i}")
        follows = not layers or weight.shape[1:] == layers[-1][1].shape
        if weight.ndim != 2 or 0 in weight.shape or bias.shape != weight.shape[:1] or not follows:
            before = len(layers[-1][1]) if layers else "inputs"
            raise ConfigError(
                f"checkpoint {path}: layers of {weight.shape} and {bias.shape} do not fit: "
                f"expected weight_{i} (outputs, {before}) and bias_{i} (outputs,)"
            )
        layers.append((weight, bias))
    activation = str(stored.get("activation", "tanh"))
    if activation not in ACTIVATIONS:
        raise ConfigError(f"checkpoint {path}: activation {activation[:60]!r}: expected tanh or relu")
    return layers, activation

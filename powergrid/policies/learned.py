"""A small neural network that drives a microgrid's batteries; trained by ``scripts/train_policy.py``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from heron_mqtt.errors import ConfigError
from powergrid.agents.policy import AgentPolicy, PolicyContext, PolicyView
from powergrid.policies.baselines import batteries
from powergrid.policies.checkpoint import numbers, read_arrays

__all__ = [
    "CHECKPOINT",
    "FIELD_CHECKPOINT",
    "N_WEIGHTS",
    "FieldPolicy",
    "LearnedPolicy",
    "features",
    "read_weights",
]

Array = NDArray[np.float64]

CHECKPOINT = Path(__file__).with_name("learned.npz")
FIELD_CHECKPOINT = Path(__file__).with_name("learned_field.npz")
N_FEATURES, N_HIDDEN = 12, 16
N_WEIGHTS = N_HIDDEN * (N_FEATURES + 1) + N_HIDDEN + 1
LEADS_H = (1.0, 3.0, 6.0, 12.0)  # of the foretold prices that it looks at, in means from now on


class LearnedPolicy(AgentPolicy):
    """Battery power as a function of price, foretold prices, time of day, charge, load and sun.

    One hidden layer of tanh, the output a fraction of the nameplate's power. Everything else follows the
    agent's own rules. The same weights serve every microgrid: powers count as parts of their own size.

    Args:
        context: What it is made for.
        checkpoint: A ``.npz`` with ``weights`` (N_WEIGHTS,); None = the one that is shipped.

    Attributes:
        weights: (N_WEIGHTS,), or (n, N_WEIGHTS) for copies that each have their own.

    Raises:
        ConfigError: The checkpoint cannot be read, or is of another network.
    """

    decides_for_copies: ClassVar[bool] = True
    shipped: ClassVar[Path] = CHECKPOINT

    def __init__(self, context: PolicyContext, checkpoint: str | None = None) -> None:
        super().__init__(context)
        path = self.shipped if checkpoint is None else Path(checkpoint)
        self._specs = batteries(context.scenario, context.agent_id)
        specs = [table.spec for table in context.scenario.microgrids[context.agent_id].devices.values()]
        self._size_mw = max(sum(spec.rated_s_mva for spec in specs if spec.kind == "battery"), 1e-9)
        self._step_h = context.scenario.step_s / 3600.0
        self.weights = read_weights(path)

    def decide(self, view: PolicyView) -> Mapping[str, Any]:
        """Return the setpoint of each battery, MW."""
        wanted = {}
        for name, spec in self._specs.items():
            seen = features(view, view.soc[name], self._size_mw, self._step_h)
            part = forward(self.weights, seen)
            power = np.where(part >= 0.0, part * spec.max_p_discharge_mw, part * spec.max_p_charge_mw)
            wanted[f"p_{name}"] = power if power.ndim else float(power)
        return wanted


class FieldPolicy(LearnedPolicy):
    """``LearnedPolicy`` with the weights that were trained on with the losses of impaired networks."""

    shipped: ClassVar[Path] = FIELD_CHECKPOINT


def features(view: PolicyView, soc: Any, size_mw: float, step_h: float) -> Array:
    """Return (..., N_FEATURES) what the network sees, each of the order of 1.

    Without a forecast the price now stands for the prices to come.
    """
    price = np.asarray(view.price, dtype=float)
    clock = np.asarray(0.0 if view.clock_s is None else view.clock_s) * (2.0 * np.pi / 86_400.0)
    ahead = view.forecast.get("price")
    foretold = price[..., np.newaxis] if ahead is None else np.asarray(ahead, dtype=float)
    means = [foretold[..., : max(int(lead / step_h), 1)].mean(axis=-1) for lead in LEADS_H]
    least = foretold[..., : int(12.0 / step_h)].min(axis=-1)
    parts = [
        (price - 50.0) / 20.0,
        *((mean - price) / 20.0 for mean in means),
        (price - least) / 20.0,
        2.0 * np.asarray(soc, dtype=float) - 1.0,
        np.sin(clock),
        np.cos(clock),
        np.sin(2.0 * clock),
        np.asarray(view.p_load_mw) / (2.0 * size_mw),
        sum(np.asarray(p) for p in view.p_available_mw.values()) / (2.0 * size_mw),
    ]
    return np.stack(np.broadcast_arrays(*parts), axis=-1)


def forward(weights: Array, seen: Array) -> Array:
    """Return (...) the network's output in [-1, 1]; weights (N_WEIGHTS,) or one row a copy."""
    lead = weights.shape[:-1]
    split = N_HIDDEN * N_FEATURES
    first = weights[..., :split].reshape(*lead, N_HIDDEN, N_FEATURES)
    bias = weights[..., split : split + N_HIDDEN]
    last = weights[..., split + N_HIDDEN : split + 2 * N_HIDDEN]
    hidden = np.tanh(np.einsum("...hf,...f->...h", first, seen) + bias)
    out: Array = np.tanh(np.einsum("...h,...h->...", hidden, last) + weights[..., -1])
    return out


def read_weights(path: Path) -> Array:
    """Return the (N_WEIGHTS,) weights of a checkpoint.

    Raises:
        ConfigError: It cannot be read, or is of another network.
    """
    weights = numbers(path, read_arrays(path), "weights")
    if weights.shape != (N_WEIGHTS,):
        raise ConfigError(f"checkpoint {path}: expected {N_WEIGHTS} finite weights, got {weights.shape}")
    return weights

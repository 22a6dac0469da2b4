"""From the state vector to what a learner sees: which entries, in which unit, flat or by name."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from powergrid.envs.observation_bounds import StateBounds
from powergrid.envs.state_layout import Positions

if TYPE_CHECKING:
    from gymnasium.spaces import Box, Dict

__all__ = ["AgentObservation", "ObservationForm", "ObservationScale", "by_name"]

Array = NDArray[np.float64]
AgentObservation = Any
"""An observation: a flat float32 array, or a dict of such by name."""
ObservationScale = Literal["si", "unit"]


class ObservationForm:
    """Entries of the state vector, each within its bounds, as they are or mapped to [-1, 1].

    A value beyond a bound counts as the bound: learners and spaces rely on it. ``infos``, messages and
    records have it as it is. NaN stays NaN (``reward.on_divergence = "nan"``).

    Args:
        names: Of the entries.
        positions: Where they stand in the state vector.
        bounds: Of the state vector.
        scale: ``si`` = in the units of the quantities, ``unit`` = [-1, 1] from lowest to highest.
    """

    def __init__(
        self,
        names: tuple[str, ...],
        positions: Positions,
        bounds: StateBounds,
        scale: ObservationScale,
    ) -> None:
        self.names, self._at = names, positions
        self._low, self._high = bounds.low[positions], bounds.high[positions]
        self._unit = scale == "unit"
        width = self._high - self._low
        self._middle = 0.5 * (self._low + self._high)
        self._factor = np.divide(2.0, width, out=np.zeros_like(width), where=width > 0.0)
        self.parts = by_name(names)

    @cached_property
    def flat_space(self) -> Box:
        """The space of the flat form."""
        from gymnasium.spaces import Box  # not for a run: see MicrogridEnvironment

        edges = np.stack((self._low, self._high)).astype(np.float32)
        if self._unit:
            edges[0], edges[1] = -1.0, 1.0
        return Box(edges[0], edges[1], dtype=np.float32)

    @cached_property
    def named_space(self) -> Dict:
        """The space of the form by name."""
        from gymnasium.spaces import Box, Dict

        box = self.flat_space
        return Dict(
            {name: Box(box.low[part], box.high[part], dtype=np.float32) for name, part in self.parts.items()}
        )

    def flat(self, state: Array) -> NDArray[np.float32]:
        """Return (..., n_entries) float32 of (..., size) state vectors; the array is the caller's."""
        seen = state.take(self._at, -1)
        np.minimum(np.maximum(seen, self._low, out=seen), self._high, out=seen)
        if self._unit:
            seen -= self._middle
            seen *= self._factor
            np.minimum(np.maximum(seen, -1.0, out=seen), 1.0, out=seen)  # of rounding
        return seen.astype(np.float32)

    def split(self, flat: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """Return a flat observation by name, (..., n) each."""
        return {name: flat[..., part].copy() for name, part in self.parts.items()}


def by_name(names: Sequence[str]) -> dict[str, slice]:
    """Return where each entry of the form by name stands among flat ones.

    What is foretold (``price+1``, ``price+2``, ...) is one entry ``price_ahead``, and what the grid has of
    buses, lines and transformers (``vm_pu/...``) one entry ``vm_pu``.
    """
    found: dict[str, slice] = {}
    for at, name in enumerate(names):
        key = _entry(name)
        begin = found[key].start if key in found else at
        found[key] = slice(begin, at + 1)
    return found


def _entry(name: str) -> str:
    grid, slash, _ = name.partition("/")
    if slash and grid in {"vm_pu", "line_loading_percent", "trafo_loading_percent"}:
        return grid
    quantity, plus, lead = name.rpartition("+")
    return f"{quantity}_ahead" if plus and lead.isdigit() else name

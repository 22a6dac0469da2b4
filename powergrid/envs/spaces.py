"""Between normalised actions and physical setpoints."""

from __future__ import annotations

from functools import cached_property
from math import isfinite
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from heron_mqtt.protocols.setpoint import StepCommand
from powergrid.devices.base import make_tuple
from powergrid.scenario import MicrogridTable

if TYPE_CHECKING:
    from gymnasium.spaces import Box

Array = NDArray[np.float64]
_FLOAT = np.dtype(float)


class ActionMap:
    """Maps one agent's normalised action to a command and back to names.

    Entries, device by device in the scenario's order: ``p_<device>`` and, where ``control_q``,
    ``q_<device>``. The values mean:

    - battery: 0 is no power;
    - generator: -1 is off, +1 is its largest power;
    - PV: -1 curtails everything, +1 nothing;
    - load: -1 sheds nothing, +1 all that may be shed (a load that sheds nothing has no entry);
    - reactive power: 0 is none.

    Args:
        agent: For error messages.
        microgrid: Its devices.
    """

    def __init__(self, agent: str, microgrid: MicrogridTable) -> None:
        self._agent = agent
        rows: list[tuple[str, float, float, float]] = []  # name, and setpoint at -1, 0 and +1
        for name, table in microgrid.devices.items():
            span = table.spec.action_range_mw
            if span is not None:
                rows.append((f"p_{name}", *span))
            if table.control_q:
                rows.append((f"q_{name}", -table.rated_s_mva, 0.0, table.rated_s_mva))
        self.names = tuple(row[0] for row in rows)
        low, self._middle, high = np.array([row[1:] for row in rows]).reshape(-1, 3).T
        self._below, self._above = self._middle - low, high - self._middle
        # The same for the few numbers of one copy, on which numpy would spend most of its time on calls.
        spans = zip(*(part.tolist() for part in (self._below, self._middle, self._above)), strict=True)
        self._entries = [
            (at, name.startswith("p_"), name[2:], *span)
            for at, (name, span) in enumerate(zip(self.names, spans, strict=True))
        ]
        self._shape = (len(rows),)

    @cached_property
    def space(self) -> Box:
        """[-1, 1] for each entry."""
        from gymnasium.spaces import Box  # not for a run: see MicrogridEnvironment

        return Box(-1.0, 1.0, self._shape, np.float32)

    def command(self, action: ArrayLike, episode: int | None = None, step: int | None = None) -> StepCommand:
        """Return the command of a normalised action; values beyond [-1, 1] count as the nearest bound.

        Args:
            action: One entry a control, in the order of ``names``.
            episode: For which it holds, as ``step``.
            step: None = the next step that begins.

        Raises:
            ValueError: Wrong shape, or an entry that is not a finite number; names agent and index.
        """
        values = self._numbers(action, self._shape)
        numbers: list[float] = values.tolist()
        if not isfinite(sum(numbers)) and not np.isfinite(values).all():  # the sum of large ones is inf, too
            raise self._not_finite(values)
        p_mw: dict[str, float] = {}
        q_mvar: dict[str, float] = {}
        for at, is_active, device, below, middle, above in self._entries:
            value = numbers[at]
            # As ``setpoints`` of many: linear from -1 to 0 to +1.
            if value >= 0.0:
                power = middle + (above if value >= 1.0 else value * above)
            else:
                power = middle + (-below if value <= -1.0 else value * below)
            (p_mw if is_active else q_mvar)[device] = power
        return make_tuple(StepCommand, (episode, step, p_mw, q_mvar, None))

    def setpoints(self, actions: ArrayLike, n: int) -> dict[str, Array]:
        """Return the setpoints of ``n`` copies' normalised actions, (n,) MW or Mvar, by name.

        Args:
            actions: (n, n_controls).
            n: How many.

        Raises:
            ValueError: As ``command``.
        """
        values = self._numbers(actions, (n, len(self.names)))
        if not np.isfinite(values).all():
            raise self._not_finite(values)
        bounded = np.minimum(np.maximum(values, -1.0), 1.0)
        powers = self._middle + bounded * np.where(bounded >= 0.0, self._above, self._below)
        return dict(zip(self.names, powers.T, strict=True))

    def _numbers(self, action: ArrayLike, shape: tuple[int, ...]) -> Array:
        """Return an action as an array of floats.

        Raises:
            ValueError: It is something else, or of another shape.
        """
        if type(action) is np.ndarray and action.dtype is _FLOAT and action.shape == shape:
            return action  # most are just that
        try:
            given = np.asarray(action)
            if isinstance(action, np.ma.MaskedArray) or given.dtype.kind not in "fiub":
                raise TypeError
            values = given if given.dtype == _FLOAT else given.astype(float)
        except (TypeError, ValueError, OverflowError):  # a text, complex, masked, ragged, or 10**400
            raise ValueError(f"action of {self._agent}: expected {len(self.names)} numbers") from None
        if values.shape != shape:
            raise ValueError(
                f"action of {self._agent}: shape {values.shape}, expected {shape}: {', '.join(self.names)}"
            )
        return values

    def _not_finite(self, values: Array) -> ValueError:
        """Return what to raise: the first entry that is NaN or infinite."""
        at = tuple(np.argwhere(~np.isfinite(values))[0].tolist())
        where = f"index {at[-1]}" if len(at) == 1 else f"copy {at[0]}, index {at[-1]}"
        return ValueError(
            f"action of {self._agent}: {where} ({self.names[at[-1]]}) is {values[at]}, "
            "expected a number in [-1, 1]"
        )

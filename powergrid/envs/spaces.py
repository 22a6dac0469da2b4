"""Between normalised actions and physical setpoints."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from gymnasium.spaces import Box
from numpy.typing import ArrayLike

from heron_mqtt.messages import Command
from powergrid.devices import BatterySpec, GeneratorSpec, PvSpec
from powergrid.scenario import MicrogridTable


@dataclass(frozen=True, slots=True)
class _Control:
    """One entry of an action: -1 -> ``low``, 0 -> ``middle``, +1 -> ``high``, linear between."""

    field: str
    low: float
    middle: float
    high: float

    def value(self, a: float) -> float:
        """Return the physical setpoint, MW or Mvar, positive = injected."""
        return self.middle + (a * (self.high - self.middle) if a >= 0.0 else -a * (self.low - self.middle))


class ActionMap:
    """Maps one agent's normalised action to a command and back to names.

    Entries, device by device in the scenario's order: ``p_<device>`` and, where ``control_q``,
    ``q_<device>``. A battery's 0 is rest; a generator's -1 is off and +1 its largest power; PV's -1
    curtails everything and +1 nothing; reactive power's 0 is none.

    Args:
        agent: For error messages.
        microgrid: Its devices.
    """

    def __init__(self, agent: str, microgrid: MicrogridTable) -> None:
        self._agent = agent
        controls: list[_Control] = []
        for name, table in microgrid.devices.items():
            match table.spec:
                case BatterySpec() as spec:
                    controls.append(
                        _Control(f"p_{name}", -spec.max_p_charge_mw, 0.0, spec.max_p_discharge_mw)
                    )
                case GeneratorSpec() | PvSpec() as spec:
                    controls.append(_Control(f"p_{name}", 0.0, 0.5 * spec.max_p_mw, spec.max_p_mw))
            if table.control_q:
                rated = table.rated_s_mva
                controls.append(_Control(f"q_{name}", -rated, 0.0, rated))
        self._controls = tuple(controls)
        self.names = tuple(control.field for control in controls)
        self.space = Box(-1.0, 1.0, (len(controls),), np.float32)

    def command(self, action: ArrayLike, episode: int | None = None, step: int | None = None) -> Command:
        """Return the command of a normalised action; values beyond [-1, 1] count as the nearest bound.

        Args:
            action: One entry a control, in the order of ``names``.
            episode: For which it holds, as ``step``.
            step: None = the next step that begins.

        Raises:
            ValueError: Wrong shape, or an entry that is not a finite number; names agent and index.
        """
        try:
            values = np.asarray(action, dtype=float)
        except (TypeError, ValueError):
            raise ValueError(f"action of {self._agent}: expected {len(self._controls)} numbers") from None
        if values.shape != self.space.shape:
            raise ValueError(
                f"action of {self._agent}: shape {values.shape}, expected {self.space.shape}: "
                f"{', '.join(self.names)}"
            )
        if not np.isfinite(values).all():
            index = int(np.flatnonzero(~np.isfinite(values))[0])
            raise ValueError(
                f"action of {self._agent}: index {index} ({self.names[index]}) is {values[index]}, "
                "expected a number in [-1, 1]"
            )
        bounded = np.clip(values, -1.0, 1.0)
        powers = {c.field: c.value(a) for c, a in zip(self._controls, bounded.tolist(), strict=True)}
        return Command.model_validate({"episode": episode, "step": step, **powers})

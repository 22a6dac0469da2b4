"""Between normalised actions and physical setpoints, and from quantities to observation vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from gymnasium.spaces import Box
from numpy.typing import ArrayLike, NDArray

from heron_mqtt.messages import Command
from powergrid.devices import BatterySpec, GeneratorSpec, PvSpec
from powergrid.scenario import MicrogridTable

Float32 = NDArray[np.float32]


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

    def command(self, action: ArrayLike) -> Command:
        """Return the command of a normalised action; values beyond [-1, 1] count as the nearest bound.

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
        return Command.model_validate(
            {c.field: c.value(a) for c, a in zip(self._controls, bounded.tolist(), strict=True)}
        )


class LocalView:
    """Lays out what one agent may know as a vector.

    Entries: ``price`` ($/MWh), ``hour_sin``, ``hour_cos``, ``p_load_mw``, ``q_load_mvar``; for each device
    ``p_`` and ``q_`` (last step), ``soc_`` of batteries, ``p_available_`` of PV; ``vm_min_pu``,
    ``vm_max_pu``, ``loading_max_percent`` (last step); for each peer ``trade_`` (MWh sold to it, last
    step). Powers are positive when injected. Before the first step the last step's entries are 0, and
    the voltages those of the grid without devices.
    """

    def __init__(self, agent: str, microgrid: MicrogridTable, peers: Sequence[str]) -> None:
        names = ["price", "hour_sin", "hour_cos", "p_load_mw", "q_load_mvar"]
        for device, table in microgrid.devices.items():
            names += [f"p_{device}", f"q_{device}"]
            if isinstance(table.spec, BatterySpec):
                names.append(f"soc_{device}")
            elif isinstance(table.spec, PvSpec):
                names.append(f"p_available_{device}")
        names += ["vm_min_pu", "vm_max_pu", "loading_max_percent"]
        names += [f"trade_{peer}" for peer in peers]
        self.agent = agent
        self.names = tuple(names)

    def vector(self, values: Mapping[str, float]) -> list[float]:
        """Return the values in the order of ``names``.

        Raises:
            KeyError: One is missing.
        """
        return [values[name] for name in self.names]


def observation_space(size: int) -> Box:
    """Return the space of an observation of ``size`` unbounded entries."""
    return Box(-np.inf, np.inf, (size,), np.float32)

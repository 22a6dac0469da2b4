"""What an inverter says about itself, gathered from whichever models it has."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from heron_mqtt.field.sunspec.block import Block

InverterKind = Literal["battery", "pv"]

STATIC_MODELS = (1, 120, 121, 124, 702, 713)
SETTINGS_MODELS = (121, 702)
"""Those of them that are set while the inverter runs, and say what 100 % of a setpoint is."""
PV_WITH_STORAGE = 82  # 120 DERTyp


@dataclass(frozen=True, slots=True)
class Nameplate:
    """One inverter.

    Attributes:
        kind: Storage, or generation only.
        maker, type, serial: As it says; empty if it does not.
        w_max: What 100 % of a power limit is, W; None = it does not say.
        charge_w, discharge_w: Largest powers of its storage, W, magnitudes; None = it does not say.
        energy_wh: Energy of its storage, Wh; None = it does not say.
        var_max: 100 % of reactive power, and the most that it injects, var; None = not given.
        var_absorbed: Largest reactive power that it absorbs, var, a magnitude; None = it does not say.
        va_max: Largest apparent power, VA; None = it does not say.
    """

    kind: InverterKind
    maker: str
    type: str
    serial: str
    w_max: float | None
    charge_w: float | None
    discharge_w: float | None
    energy_wh: float | None
    var_max: float | None = None
    var_absorbed: float | None = None
    va_max: float | None = None

    def clipped(self, p_w: float, q_var: float) -> tuple[float, float]:
        """Return the nearest power that the inverter can have: active power first, reactive by what is left.

        Without an apparent power, reactive power is bounded by its own largest, else by ``w_max``.

        Args:
            p_w: W, positive = injected.
            q_var: var, positive = injected.
        """
        low_w, high_w = self.power_range_w
        p_w = min(max(p_w, -math.inf if low_w is None else low_w), math.inf if high_w is None else high_w)
        left = math.inf
        if self.va_max is not None:
            left = math.sqrt(max(self.va_max**2 - p_w**2, 0.0))
        injected, absorbed = self.var_max or self.var_absorbed, self.var_absorbed or self.var_max
        if self.va_max is None and injected is None and self.w_max is not None:
            left = self.w_max
        most = min(left, math.inf if injected is None else injected)
        least = -min(left, math.inf if absorbed is None else absorbed)
        return p_w, min(max(q_var, least), most)

    @property
    def power_range_w(self) -> tuple[float | None, float | None]:
        """Smallest and largest power, W, positive = injected; None = it does not say."""
        if self.kind == "pv":
            return 0.0, self.w_max
        charge_w = self.charge_w or self.w_max
        known = [w for w in (self.discharge_w, self.w_max) if w is not None]
        return (None if charge_w is None else -charge_w), min(known, default=None)

    @property
    def identity(self) -> tuple[str, str, str]:
        """What tells one inverter from another."""
        return self.maker, self.type, self.serial


def read_nameplate(blocks: dict[int, Block], kind: InverterKind | None) -> Nameplate:
    """Return the nameplate.

    Args:
        blocks: Those of ``STATIC_MODELS`` that the inverter has.
        kind: What it is, if the user knows better.
    """
    common = blocks.get(1)
    return Nameplate(
        kind=kind or _kind(blocks),
        maker=common.text("Mn") if common else "",
        type=common.text("Md") if common else "",
        serial=common.text("SN") if common else "",
        w_max=_first(blocks, (702, "WMax"), (702, "WMaxRtg"), (121, "WMax"), (120, "WRtg")),
        charge_w=_first(
            blocks, (702, "WChaRteMax"), (702, "WChaRteMaxRtg"), (124, "WChaMax"), (120, "MaxChaRte")
        ),
        discharge_w=_first(blocks, (702, "WDisChaRteMax"), (702, "WDisChaRteMaxRtg"), (120, "MaxDisChaRte")),
        energy_wh=_first(blocks, (713, "WHRtg"), (120, "WHRtg")),
        var_max=_first(blocks, (702, "VarMaxInj"), (702, "VarMaxInjRtg")),
        var_absorbed=_first(blocks, (702, "VarMaxAbs"), (702, "VarMaxAbsRtg")),
        va_max=_first(blocks, (702, "VAMax"), (702, "VAMaxRtg"), (121, "VAMax"), (120, "VARtg")),
    )


def _kind(blocks: dict[int, Block]) -> InverterKind:
    stores = (
        713 in blocks or 124 in blocks or (120 in blocks and blocks[120].raw("DERTyp") == PV_WITH_STORAGE)
    )
    return "battery" if stores else "pv"


def _first(blocks: dict[int, Block], *points: tuple[int, str]) -> float | None:
    """Return the first of these points that the inverter has and that is not 0."""
    values = (blocks[model].value(name) for model, name in points if model in blocks)
    return next((value for value in values if value), None)

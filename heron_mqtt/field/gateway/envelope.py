"""Bounds on one setpoint before it leaves: nameplate, state, apparent power, band of the authority.

The result is finite and inside every bound for any input. Not-a-number becomes no power, and
the record says so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SetpointLimits:
    """What bounds a device's setpoint in one step; MW and MVA, positive = injected.

    Attributes:
        p_min_mw, p_max_mw: Nameplate.
        s_max_mva: Apparent power of its inverter or machine.
        feasible_min_mw, feasible_max_mw: What its state of charge and ramp allow in this step.
    """

    p_min_mw: float
    p_max_mw: float
    s_max_mva: float
    feasible_min_mw: float
    feasible_max_mw: float


@dataclass(frozen=True, slots=True)
class Band:
    """A reduced range within the nameplate, MW, positive = injected; holds where authority is limited."""

    p_min_mw: float
    p_max_mw: float


def standing_range_mw(limits: SetpointLimits, band: Band | None = None) -> tuple[float, float]:
    """Return the powers that a device may be sent, whatever its state: nameplate, apparent power, band.

    Lowest and highest, MW, positive = injected.
    """
    low, high = max(limits.p_min_mw, -limits.s_max_mva), min(limits.p_max_mw, limits.s_max_mva)
    return (low, high) if band is None else (max(low, band.p_min_mw), min(high, band.p_max_mw))


def reactive_room_mvar(s_max_mva: float, p_mw: float) -> float:
    """Return the largest reactive power that the apparent power leaves beside an active power, Mvar, >= 0."""
    return math.sqrt(max(0.0, (s_max_mva - p_mw) * (s_max_mva + p_mw)))


@dataclass(frozen=True, slots=True)
class ClampedSetpoint:
    """A setpoint that may be sent, and the bounds that changed it."""

    p_mw: float
    q_mvar: float
    bound_by: tuple[str, ...] = ()


def clamp(
    p_mw: float,
    q_mvar: float,
    limits: SetpointLimits,
    band: Band | None = None,
    *,
    p_available_mw: float | None = None,
) -> ClampedSetpoint:
    """Return the setpoint nearest to the one wanted that keeps every bound.

    Active power comes first: nameplate, then state of charge and ramp, then the band. If state and band
    exclude each other, the band has priority, because it is a safety limit of the setpoint. Reactive power
    gets the rest of the apparent power.

    Args:
        p_mw: Wanted, MW, positive = injected; any float.
        q_mvar: Wanted, Mvar; any float.
        limits: Of the device, in this step.
        band: Where authority is limited.
        p_available_mw: What the source offers, where that is known: the active power that reactive power
            has to leave room for is then no more than this.
    """
    hit: list[str] = []
    p = _finite(p_mw, "p_mw", hit)
    q = _finite(q_mvar, "q_mvar", hit)
    p = _clip(p, limits.p_min_mw, limits.p_max_mw, "nameplate", hit)
    p = _clip(p, limits.feasible_min_mw, limits.feasible_max_mw, "state of charge or ramp", hit)
    p = _clip(p, limits.p_min_mw, limits.p_max_mw, "nameplate", hit)  # whatever a state says
    if band is not None:
        p = _clip(p, band.p_min_mw, band.p_max_mw, "band of limited authority", hit)
    p = _clip(p, -limits.s_max_mva, limits.s_max_mva, "apparent power", hit)
    held = p if p_available_mw is None else min(p, p_available_mw)
    room_mvar = reactive_room_mvar(limits.s_max_mva, held)
    q = _clip(q, -room_mvar, room_mvar, "apparent power", hit)
    return ClampedSetpoint(p, q, tuple(dict.fromkeys(hit)))


def _finite(value: float, name: str, hit: list[str]) -> float:
    if math.isfinite(value):
        return value
    hit.append(f"{name} was not a finite number")
    return 0.0


def _clip(value: float, low: float, high: float, name: str, hit: list[str]) -> float:
    """Return the point of [low, high] nearest to ``value``; 0 where that is no range."""
    clipped = min(max(value, low), high) if low <= high else 0.0
    if clipped != value:
        hit.append(name)
    return clipped

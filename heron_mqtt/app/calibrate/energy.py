"""What a store loses: capacity, efficiency up and down, standby loss, from its state of charge."""

from __future__ import annotations

import math

import numpy as np
import scipy

from heron_mqtt.app.calibrate.estimate import CONFIDENCE, Estimate, untold
from heron_mqtt.app.calibrate.samples import DeviceSamples
from powergrid.devices.battery import BatterySpec

KEYS = ("max_e_mwh", "efficiency_charge", "efficiency_discharge", "standby_loss_mw")
MOVING_SHARE = 0.02  # of the rated power: below it a step counts as rest
EQUAL = "efficiencies are taken as equal both ways: power and state of charge do not tell all three apart"


def fit_energy(samples: DeviceSamples, spec: BatterySpec, offset_mw: float) -> tuple[Estimate, ...]:
    """Fit the energy balance of a battery, which is linear in three numbers.

    With E the capacity, d and c the efficiencies of discharging and charging, s the standby loss::

        soc_before - soc = P+ dt / (d E) - P- dt c / E + s dt / E        (docs/models.md, battery)

    Three numbers for four unknowns: efficiencies are taken as equal both ways where the nameplate's capacity
    does not fit, and the capacity follows.
    """
    known = np.isfinite(samples.soc_before) & np.isfinite(samples.soc)
    if np.count_nonzero(known) < 8:
        note = "the device reports too few values of its state of charge"
        return tuple(untold(key, "nameplate", note, getattr(spec, key)) for key in KEYS)
    p_mw, dt_h = samples.p_mw[known] - offset_mw, samples.dt_s / 3600.0
    used = samples.soc_before[known] - samples.soc[known]
    rated = max(spec.max_p_discharge_mw, spec.max_p_charge_mw)
    out, into = np.maximum(p_mw, 0.0) * dt_h, np.maximum(-p_mw, 0.0) * dt_h
    moving = MOVING_SHARE * rated * dt_h
    missing = [
        what for what, flow in (("discharged", out), ("charged", into)) if np.count_nonzero(flow > moving) < 3
    ]
    if missing:
        note = f"it hardly {' or '.join(missing)}: charge and discharge it at several powers"
        return tuple(untold(key, "nameplate", note, getattr(spec, key)) for key in KEYS)
    matrix = np.column_stack((out, -into, np.full_like(out, dt_h)))
    found, _, _, _ = np.linalg.lstsq(matrix, used, rcond=None)
    freedom = len(used) - 3
    variance = float(np.sum((used - matrix @ found) ** 2)) / freedom
    covariance = np.linalg.inv(matrix.T @ matrix) * variance
    return _from_numbers(found, covariance, freedom, spec)


def _from_numbers(
    found: np.ndarray, covariance: np.ndarray, freedom: int, spec: BatterySpec
) -> tuple[Estimate, ...]:
    """Turn 1 / (d E), c / E, s / E into the keys of the nameplate, with their intervals."""
    a, b, s = (float(value) for value in found)
    if a <= 0.0 or b <= 0.0:
        note = "state of charge does not follow power: check sign and unit of both"
        return tuple(untold(key, "nameplate", note, getattr(spec, key)) for key in KEYS)
    quantile = float(scipy.stats.t.ppf(0.5 + CONFIDENCE / 2.0, freedom))

    def half(gradient: tuple[float, float, float]) -> float:
        slope = np.array(gradient)
        return quantile * math.sqrt(max(float(slope @ covariance @ slope), 0.0))

    round_trip = math.sqrt(b / a)
    capacity = 1.0 / math.sqrt(a * b)
    capacity_half = half((-capacity / (2.0 * a), -capacity / (2.0 * b), 0.0))
    given = spec.max_e_mwh
    one_way = 1.0 / (a * given), b * given
    fits = all(0.0 < each <= 1.0 + 1e-6 for each in one_way) and abs(capacity - given) <= max(
        capacity_half, 1e-3 * given
    )
    if fits:
        capacity, capacity_half = given, 0.0
        down, up = one_way
        halves = half((-down / a, 0.0, 0.0)), half((0.0, given, 0.0))
        note = "with the nameplate's capacity, which fits"
    else:
        down = up = round_trip
        each = half((-round_trip / (2.0 * a), round_trip / (2.0 * b), 0.0))
        halves, note = (each, each), EQUAL
    loss = s * capacity
    of_capacity = (0.0, 0.0) if fits else (-loss / (2.0 * a), -loss / (2.0 * b))
    loss_half = half((*of_capacity, capacity))
    values = (capacity, min(up, 1.0), min(down, 1.0), max(loss, 0.0))
    spreads = (capacity_half, halves[1], halves[0], loss_half)
    notes = (note, note, note, "")
    return tuple(
        Estimate(key, "nameplate", value, value - spread, value + spread, getattr(spec, key), why)
        for key, value, spread, why in zip(KEYS, values, spreads, notes, strict=True)
    )

"""Between which values each observed quantity lies, from nameplates, series and limits of the scenario.

Formulas: docs/training.md, bounds and units.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from powergrid.devices import DeviceSpecBase
from powergrid.envs.state_layout import Layout
from powergrid.simulation.grid_simulation import GridSimulation

__all__ = ["StateBounds", "state_bounds"]

Array = NDArray[np.float64]

SIGMAS = 4.0
"""Noise counts up to so many standard deviations; one number in 16,000 is further out."""


class StateBounds(NamedTuple):
    """Of the whole state vector.

    Attributes:
        low, high: (size,) finite, in the units of the quantities; equal where a quantity cannot change.
    """

    low: Array
    high: Array


def state_bounds(simulation: GridSimulation, layout: Layout, at_rest: Array, n_bus: int) -> StateBounds:
    """Return the bounds of every entry of the state vector.

    Args:
        simulation: With the scenario and its series.
        layout: Of the state vector.
        at_rest: Voltages of all buses, pu, then loadings, %, with every device at rest; NaN without supply.
        n_bus: How many of them are voltages.
    """
    specs = [device.spec for device in simulation.devices]
    p_low, p_high = _columns([_with_zero(*spec.power_range_mw) for spec in specs])
    q = np.array([_largest_q(spec) for spec in specs])
    everything = simulation.series.outlook(np.arange(simulation.series.n_rows))
    scale = _noisiest_load(simulation)
    load_low, load_high = _range(everything.p_load_mw, scale)
    q_load_low, q_load_high = _range(everything.q_load_mvar, scale)
    available_low, available_high = _available(simulation, everything.p_available_mw)
    price_low, price_high = _price(simulation, everything.price)
    vm_low, vm_high, loading_high = _results(simulation, at_rest, n_bus)

    owners = simulation.positions()
    dt_h = simulation.scenario.step_s / 3600.0
    most = dt_h * (np.array([p_high[own].sum() for own in owners]) + load_high)
    least = dt_h * (np.array([p_low[own].sum() for own in owners]) + load_low)
    sells, buys = np.maximum(most, 0.0), np.maximum(-least, 0.0)
    traded_high = np.minimum(sells[:, np.newaxis], buys[np.newaxis, :])

    horizon = layout.horizon
    n_grid = layout.size - layout.n_local
    grid_vm = np.arange(n_grid) < layout.n_live_buses
    parts: dict[str, tuple[ArrayLike, ArrayLike]] = {
        "price": ([price_low], [price_high]),
        "hour": ([-1.0, -1.0], [1.0, 1.0]),
        "p_load_mw": (load_low, load_high),
        "q_load_mvar": (q_load_low, q_load_high),
        "p_mw": (p_low, p_high),
        "q_mvar": (-q, q),
        "soc": (0.0, 1.0),
        "p_available_mw": (available_low, available_high),
        "vm_min_pu": (vm_low, vm_high),
        "vm_max_pu": (vm_low, vm_high),
        "loading_max_percent": (0.0, loading_high),
        "traded_mwh": (-traded_high.T.ravel(), traded_high.ravel()),
        "net_mwh": (np.minimum(least, 0.0), np.maximum(most, 0.0)),
        # What is foretold lies where what it foretells does.
        "price_ahead": (price_low, price_high),
        "p_load_ahead_mw": (np.tile(load_low, horizon), np.tile(load_high, horizon)),
        "p_available_ahead_mw": (np.tile(available_low, horizon), np.tile(available_high, horizon)),
        "grid": (np.where(grid_vm, vm_low, 0.0), np.where(grid_vm, vm_high, loading_high)),
    }
    low, high = np.empty(layout.size), np.empty(layout.size)
    for name, (lowest, highest) in parts.items():
        low[layout.sections[name]], high[layout.sections[name]] = lowest, highest
    return StateBounds(low, high)


def _price(simulation: GridSimulation, prices: Array) -> tuple[float, float]:
    margin = SIGMAS * simulation.scenario.randomisation.price_noise_per_mwh
    return float(prices.min()) - margin, float(prices.max()) + margin


def _noisiest_load(simulation: GridSimulation) -> float:
    table = simulation.scenario.randomisation
    return float(table.load_scale[1]) * (1.0 + SIGMAS * table.load_noise)


def _range(series: Array, scale: float) -> tuple[Array, Array]:
    """Return the range of (n_rows, n) series, each times a factor from 0 to ``scale``, and 0."""
    most = max(scale, 1.0)
    return np.minimum(series.min(axis=0), 0.0) * most, np.maximum(series.max(axis=0), 0.0) * most


def _available(simulation: GridSimulation, series: Array) -> tuple[Array, Array]:
    """Return the range of what profiles offer: up to the nameplate, or to the series where these are more."""
    nameplate = np.array(
        [float(device.spec.profile_mw) for device in simulation.devices if device.follows_profile]
    )
    return (
        np.minimum(series.min(axis=0), np.minimum(nameplate, 0.0)),
        np.maximum(series.max(axis=0), np.maximum(nameplate, 0.0)),
    )


def _results(simulation: GridSimulation, at_rest: Array, n_bus: int) -> tuple[float, float, float]:
    """Return lowest and highest voltage, pu, and highest loading, %: the limits, and their width beyond."""
    reward, envelope = simulation.scenario.reward, simulation.scenario.envelope
    low, high = min(reward.vm_min_pu, envelope.vm_min_pu), max(reward.vm_max_pu, envelope.vm_max_pu)
    vm, loading = at_rest[:n_bus], at_rest[n_bus:]
    width = high - low
    limit = max(reward.loading_max_percent, envelope.loading_max_percent)
    return (
        max(min(low, float(np.nanmin(vm, initial=low))) - width, 0.0),
        max(high, float(np.nanmax(vm, initial=high))) + width,
        2.0 * max(limit, float(np.nanmax(loading, initial=limit))),
    )


def _with_zero(low: float, high: float) -> tuple[float, float]:
    return min(low, 0.0), max(high, 0.0)


def _largest_q(spec: DeviceSpecBase) -> float:
    """Return the largest reactive power, Mvar; where there is no limit, as much as active power."""
    return spec.rated_s_mva if np.isfinite(spec.rated_s_mva) else max(map(abs, spec.power_range_mw))


def _columns(pairs: Sequence[tuple[float, float]]) -> tuple[Array, Array]:
    low, high = np.array(pairs, dtype=float).reshape(-1, 2).T
    return low, high

"""Random values of an episode: where it begins, and how load, sun and price differ from the series.

Everything is a function of one number, the episode's seed, so that single, batched and distributed
environments come to the same episode. Each quantity has a stream of its own: what is asked of one changes
nothing in another. Formulas: docs/models.md, randomisation.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from heron_mqtt.errors import ConfigError
from powergrid.devices.draws import draw_device, drawn_soc
from powergrid.simulation.grid_simulation import GridSimulation
from powergrid.simulation.time_series import Outlook

__all__ = ["NO_NOISE", "EpisodeSeeds", "Noise", "Randomiser", "StepNoise", "drawn_socs"]

Array = NDArray[np.float64]

_START, _LOAD, _PLANT, _PRICE, _FORECAST = range(5)  # streams
_DAY_S = 86_400.0


def drawn_socs(simulation: GridSimulation, seed: int) -> list[float] | None:
    """Return the (n_storage,) states of charge with which an episode begins; None = the nameplates'."""
    table = simulation.scenario.randomisation
    if table.initial_soc is None:
        return None
    return [
        drawn_soc(device.spec, draw_device(table, seed, device.agent, device.name))
        for device in simulation.devices
        if device.has_soc
    ]


class EpisodeSeeds:
    """The seeds of one environment's episodes: the given one first, then a sequence made of it.

    Args:
        seed: At least 0.

    Source of the sequence: numpy's ``SeedSequence`` of [seed, number of the episode].
    """

    def __init__(self, seed: int) -> None:
        self.state = (seed, 0)
        """The seed, and how many episodes have begun since."""

    def restart(self, seed: int) -> None:
        """Begin the sequence of another seed."""
        self.state = (seed, 0)

    def draw(self) -> int:
        """Return the seed of the next episode."""
        seed, count = self.state
        self.state = (seed, count + 1)
        if count == 0:
            return seed
        return int(np.random.SeedSequence([seed, count]).generate_state(1)[0])


class Noise(NamedTuple):
    """How one episode differs from the series, or (n, ...) episodes of copies; None = not at all.

    Attributes:
        load: (..., n_known, n_agents) factors on each microgrid's loads, >= 0; known are the steps of the
            episode, the one after it, and as many more as are foretold.
        plant: (..., n_known, n_profiled) factors on what PV offers and loads want, >= 0.
        price: (..., n_known) added to the price, $/MWh.
        forecast: (..., n_known, 1 + n_agents + n_profiled) errors of forecasts, of variance 1.
    """

    load: Array | None = None
    plant: Array | None = None
    price: Array | None = None
    forecast: Array | None = None

    @property
    def changes_steps(self) -> bool:
        """Whether steps differ from the series, and not forecasts alone."""
        return self.load is not None or self.plant is not None or self.price is not None

    def load_at(self, at: Any) -> Array | None:
        """Return (..., n_agents) factors at an index of copies and steps."""
        return None if self.load is None else self.load[at]


NO_NOISE = Noise()


class StepNoise(NamedTuple):
    """How one step differs from the series.

    Attributes:
        randomiser: That drew it.
        noise: Of the episode.
        step: Which.
    """

    randomiser: Randomiser
    noise: Noise
    step: int

    def outlook(self, series: Outlook) -> Outlook:
        """Return what holds in the step whose series are given."""
        return self.randomiser.outlook(series, self.noise, self.step)

    @property
    def load_factor(self) -> Array | None:
        """Factors on each microgrid's loads, (n_agents,)."""
        return self.noise.load_at(self.step)


class Randomiser:
    """Draws the episodes of a scenario.

    Args:
        simulation: With the scenario and its series.
        n_steps: Length of an episode.

    Raises:
        ConfigError: No day of the series is what ``[randomisation]`` asks for.
    """

    def __init__(self, simulation: GridSimulation, n_steps: int) -> None:
        self._table = simulation.scenario.randomisation
        self._series, self._n_steps = simulation.series, n_steps
        forecast = simulation.scenario.forecast
        self._n_known = n_steps + 1 + (0 if forecast.kind == "none" else forecast.horizon)
        self._is_noisy = forecast.kind == "noisy"
        self._step_s = simulation.scenario.step_s
        self._fixed_row = simulation.scenario.profiles.start_row
        self._n_agents = len(simulation.agents)
        specs = [device.spec for device in simulation.devices if device.follows_profile]
        self._caps = np.abs([float(spec.profile_mw) for spec in specs]).reshape(-1)
        self._is_demand = np.array([spec.profile_mw < 0.0 for spec in specs], dtype=bool)
        self._rows = self._candidates(simulation) if self._table.start == "random" else None

    def start_row(self, seed: int) -> int:
        """Return the row with which an episode begins."""
        if self._rows is None:
            return self._fixed_row
        return int(self._rows[_generator(seed, _START).integers(len(self._rows))])

    def noise(self, seed: int) -> Noise:
        """Return how an episode differs from the series."""
        table, n = self._table, self._n_agents
        load = self._factors(seed, _LOAD, n, [table.load_scale] * n, np.full(n, table.load_noise))
        scales = [table.load_scale if demand else table.pv_scale for demand in self._is_demand]
        sigmas = np.where(self._is_demand, table.load_noise, table.pv_noise)
        price = None
        if table.price_noise_per_mwh > 0.0:
            wander = self._wander(_generator(seed, _PRICE), 1)
            price = table.price_noise_per_mwh * wander[:, 0]
        forecast = None
        if self._is_noisy:
            forecast = self._wander(_generator(seed, _FORECAST), 1 + n + len(scales))
        return Noise(load, self._factors(seed, _PLANT, len(scales), scales, sigmas), price, forecast)

    def noises(self, seeds: Iterable[int]) -> Noise:
        """Return the noise of (n,) episodes, side by side."""
        each = [self.noise(seed) for seed in seeds]
        parts = (list(part) for part in zip(*each, strict=True))
        return Noise(*(None if part[0] is None else np.stack(part) for part in parts))

    def outlook(self, series: Outlook, noise: Noise, at: Any) -> Outlook:
        """Return what holds in a step: the series with their noise.

        Args:
            series: Of the step's row, or of (n,) rows.
            noise: Of the episode, or of (n,) episodes.
            at: Index of the step within ``noise``; for copies (copies, steps).
        """
        price, p_load, q_load, available = series
        if noise.price is not None:
            price = price + noise.price[at]
        if noise.load is not None:
            p_load, q_load = p_load * noise.load[at], q_load * noise.load[at]
        if noise.plant is not None:
            most = np.maximum(np.abs(available), self._caps)
            available = np.minimum(np.maximum(available * noise.plant[at], -most), most)
        return Outlook(price, p_load, q_load, available)

    def step(self, noise: Noise, step: int) -> StepNoise:
        """Return how one step of an episode differs from the series."""
        return StepNoise(self, noise, step)

    def _factors(
        self, seed: int, stream: int, n: int, scales: list[tuple[float, float]], sigma: Array
    ) -> Array | None:
        """Return (n_known, n) factors: one a column for the whole episode, times one that wanders."""
        if n == 0 or (not sigma.any() and all(scale == (1.0, 1.0) for scale in scales)):
            return None
        rng = _generator(seed, stream)
        low, high = np.array(scales).T
        scale = low + rng.random(n) * (high - low)
        factors: Array = np.maximum(scale * (1.0 + sigma * self._wander(rng, n)), 0.0)
        return factors

    def _wander(self, rng: np.random.Generator, n: int) -> Array:
        """Return (n_known, n) normal numbers of variance 1, correlated in time."""
        x: Array = rng.standard_normal((self._n_known, n))
        tau_s = self._table.noise_correlation_s
        if tau_s > 0.0:
            # Imported here: it takes longer than all other imports of a run.
            from scipy.signal import lfilter

            keep = math.exp(-self._step_s / tau_s)
            x[1:] *= math.sqrt(1.0 - keep * keep)
            x = lfilter([1.0], [1.0, -keep], x, axis=0)  # x[t] += keep * x[t - 1]
        return x

    def _candidates(self, simulation: GridSimulation) -> NDArray[np.int64]:
        """Return the rows with which a random episode may begin: the scenario's hour of each fitting day."""
        table, series = self._table, self._series
        source = simulation.blueprint.loaded.source
        per_day = _DAY_S / self._step_s
        if per_day != int(per_day):
            raise ConfigError(
                f'{source}: randomisation.start = "random": a day is not a whole number of steps of '
                f"{self._step_s:g} s"
            )
        first = self._fixed_row % int(per_day)
        rows = np.arange(first, series.last_start(self._n_steps) + 1, int(per_day))
        fits = [row for row in rows.tolist() if self._fits(row)]
        if not fits:
            raise ConfigError(
                f'{source}: randomisation: no day of the time series fits days = "{table.days}", months = '
                f"{list(table.months)} with {self._n_steps} steps from row {first} of the day"
            )
        return np.array(fits, dtype=np.int64)

    def _fits(self, row: int) -> bool:
        table, day = self._table, self._series.local_clock(row)
        is_weekend = day.weekday() >= 5
        if table.days != "all" and is_weekend != (table.days == "weekends"):
            return False
        return not table.months or day.month in table.months


def _generator(seed: int, stream: int) -> np.random.Generator:
    return np.random.default_rng([seed, stream])

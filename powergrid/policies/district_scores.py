"""CityLearn's scores of a district's exchange with the grid. Formulas: docs/training.md, CityLearn's scores.

Source: J. R. Vázquez-Canteli, S. Dey, G. Henze, Z. Nagy, CityLearn: Standardizing Research in Multi-Agent
Reinforcement Learning for Demand Response and Urban Energy Management, 2020; definitions as in
``citylearn.cost_function.CostFunction``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["DistrictScores", "district_scores"]

DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class DistrictScores:
    """What an episode draws from the grid, all microgrids as one customer; less is better.

    Attributes:
        cost_usd: Paid for what is drawn, $; what is fed in earns nothing.
        consumption_mwh: Drawn, MWh.
        ramping_mw: Sum of the rises of the net demand, MW.
        daily_peak_mw: Highest net demand of a day, mean over the days, MW, positive = drawn.
        one_minus_load_factor: 1 less a day's mean over its highest net demand, mean over the days, 1; None
            where nothing was drawn in a whole day.
    """

    cost_usd: float
    consumption_mwh: float
    ramping_mw: float
    daily_peak_mw: float
    one_minus_load_factor: float | None


def district_scores(
    drawn_mwh: Sequence[float], price_per_mwh: Sequence[float], step_s: float
) -> DistrictScores:
    """Return the scores of an episode.

    Args:
        drawn_mwh: (n_steps,) net demand of all microgrids together, MWh, positive = drawn from the grid.
        price_per_mwh: (n_steps,) of what is drawn, $/MWh.
        step_s: Length of a step, s. A last day that is not whole counts as a day, as in CityLearn.

    Raises:
        ValueError: There is no step.
    """
    if not drawn_mwh:
        raise ValueError("drawn_mwh: expected at least one step")
    energy, price = np.asarray(drawn_mwh, dtype=float), np.asarray(price_per_mwh, dtype=float)
    power = energy * 3600.0 / step_s
    a_day = max(1, round(DAY_S / step_s))
    days = [power[k : k + a_day] for k in range(0, len(power), a_day)]
    peaks = np.array([day.max() for day in days])
    means = np.array([day.mean() for day in days])
    return DistrictScores(
        cost_usd=float((energy * price).clip(min=0.0).sum()),
        consumption_mwh=float(energy.clip(min=0.0).sum()),
        ramping_mw=float(np.diff(power).clip(min=0.0).sum()),
        daily_peak_mw=float(peaks.mean()),
        one_minus_load_factor=float((1.0 - means / peaks).mean()) if (peaks > 0.0).all() else None,
    )

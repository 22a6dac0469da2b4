"""How a device's power follows its setpoint within a step: dead time, ramp, first-order lag.

P is the power before, T the target, d the dead time, tau the lag, dt the step. The mean over the step is
used, so that energy is right:

- ramp: the target is first moved to at most ramp * (dt - d) away from P
- dead time and lag: mean = (d P + (dt - d) T + (P - T) tau (1 - exp(-(dt - d) / tau))) / dt
"""

from __future__ import annotations

import math
from typing import Any


def delayed_mean(before_mw: Any, target_mw: Any, dead_s: Any, dt_s: float) -> Any:
    """Return the mean power over a step in which a device stays where it was for ``dead_s``, MW.

    Numbers, or arrays of copies; arguments as in ``mean_and_end``, ``dead_s`` from 0 to ``dt_s``.
    """
    return (dead_s * before_mw + (dt_s - dead_s) * target_mw) / dt_s


def mean_and_end(
    before_mw: float,
    target_mw: float,
    dt_s: float,
    *,
    response_delay_s: float = 0.0,
    lag_s: float = 0.0,
    ramp_mw_per_s: float | None = None,
) -> tuple[float, float]:
    """Return the mean power over a step, and the power at its end, MW, positive = injected.

    Args:
        before_mw: Power at the end of the step before.
        target_mw: Where the device goes to, from the beginning of the step.
        dt_s: Length of the step, s, > 0.
        response_delay_s: Dead time before it moves, s.
        lag_s: Time constant, s.
        ramp_mw_per_s: Largest change, MW/s; None = unlimited.
    """
    dead_s = min(response_delay_s, dt_s)
    moving_s = dt_s - dead_s
    reach = math.inf if ramp_mw_per_s is None else ramp_mw_per_s * moving_s
    target = min(max(target_mw, before_mw - reach), before_mw + reach)
    if lag_s == 0.0:
        end = target if moving_s > 0.0 else before_mw
        return delayed_mean(before_mw, target, dead_s, dt_s) if dead_s > 0.0 else target, end
    left = math.exp(-moving_s / lag_s)
    lagging = (before_mw - target) * lag_s * (1.0 - left)
    end = target + (before_mw - target) * left
    return (dead_s * before_mw + moving_s * target + lagging) / dt_s, end

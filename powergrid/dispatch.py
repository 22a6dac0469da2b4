"""Economic dispatch and commitment of one generator for one step. Formulas: docs/models.md, economics."""

from __future__ import annotations

from powergrid.devices import Generator
from powergrid.devices.base import clip, hours


def economic_setpoint(
    generator: Generator, need_mw: float, export_value: float, import_value: float, dt_s: float
) -> float:
    """Return the setpoint with which the step earns most; 0 = off, also where both earn the same.

    A MWh is worth ``import_value`` while the microgrid draws from the grid and ``export_value`` once it
    feeds in; between the two the generator just covers the microgrid's own need. Earnings are concave
    over the running range, so the only other candidate is not to run; ramps, minimum times, and start
    and stop costs are the model's own.

    Args:
        generator: In the state in which the step begins; not moved.
        need_mw: What the microgrid would draw from the grid without it, MW; negative = it feeds in.
        export_value: $/MWh.
        import_value: $/MWh, >= ``export_value``.
        dt_s: Length of the step, s.
    """
    at_margin = clip(need_mw, generator.economic_p_mw(export_value), generator.economic_p_mw(import_value))
    earned = {
        p_mw: _earned(generator, p_mw, need_mw, export_value, import_value, dt_s) for p_mw in (0.0, at_margin)
    }
    return max(earned, key=earned.__getitem__)


def _earned(
    generator: Generator,
    p_mw: float,
    need_mw: float,
    export_value: float,
    import_value: float,
    dt_s: float,
) -> float:
    """Return the worth of the energy less the cost, $, if the generator is asked for ``p_mw``."""
    before = generator.state
    done = generator.step(p_mw, 0.0, dt_s)
    generator.state = before
    covered_mw = min(done.p_mw, max(need_mw, 0.0))
    worth_per_h = covered_mw * import_value + (done.p_mw - covered_mw) * export_value
    return worth_per_h * hours(dt_s) - done.cost

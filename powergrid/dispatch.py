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
    dt_h, need_mw = hours(dt_s), max(need_mw, 0.0)

    def earned(asked_mw: float) -> float:
        """Return the worth of the energy less the cost, $, if the generator is asked for ``asked_mw``."""
        p_mw, cost = generator.preview(asked_mw, dt_s)
        covered_mw = min(p_mw, need_mw)
        return (covered_mw * import_value + (p_mw - covered_mw) * export_value) * dt_h - cost

    at_margin = clip(need_mw, generator.economic_p_mw(export_value), generator.economic_p_mw(import_value))
    return at_margin if earned(at_margin) > earned(0.0) else 0.0

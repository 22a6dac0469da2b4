"""Economic dispatch and commitment of one generator for one step. Formulas: docs/models.md, economics."""

from __future__ import annotations

from powergrid.devices.base import Device, clip, hours


def economic_setpoint(
    generator: Device, need_mw: float, export_value: float, import_value: float, dt_s: float
) -> tuple[float, float]:
    """Return the setpoint with which the step earns most, and the power that comes of it, MW.

    The setpoint is 0 = off also where both earn the same.

    A MWh is worth ``import_value`` while the microgrid draws from the grid and ``export_value`` when it feeds
    in. Between the two the generator exactly covers the microgrid's own need. Earnings are concave over the
    running range, so the only other candidate is not to run; ramps, minimum times, and start and stop costs
    are the model's own.

    Args:
        generator: A device that ``is_dispatched``, in the state in which the step begins; not moved.
        need_mw: What the microgrid would draw from the grid without it, MW; negative = it feeds in.
        export_value: $/MWh.
        import_value: $/MWh, >= ``export_value``.
        dt_s: Length of the step, s.
    """
    dt_h, need_mw = hours(dt_s), max(need_mw, 0.0)

    def outcome(asked_mw: float) -> tuple[float, float]:
        """Return the worth of the energy less the cost, $, and the power, MW, of asking for ``asked_mw``."""
        p_mw, cost = generator.preview(asked_mw, dt_s)
        covered_mw = clip(p_mw, 0.0, need_mw)
        return (covered_mw * import_value + (p_mw - covered_mw) * export_value) * dt_h - cost, p_mw

    at_margin = clip(need_mw, generator.economic_p_mw(export_value), generator.economic_p_mw(import_value))
    (earned, running_mw), (earned_off, off_mw) = outcome(at_margin), outcome(0.0)
    return (at_margin, running_mw) if earned > earned_off else (0.0, off_mw)

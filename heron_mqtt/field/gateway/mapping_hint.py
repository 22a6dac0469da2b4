"""Reports when a device does the opposite of its setpoint, or a thousandth or thousandfold of it."""

from __future__ import annotations

from collections import deque

from heron_mqtt.units import KW_PER_MW

IN_A_ROW = 3  # once is noise, twice a coincidence
LEAST_SHARE = 0.02  # of the nameplate: smaller setpoints prove nothing
AGREEMENT = 0.15  # how far the measured value may lie from the suspected one, as a share of it


class MappingHint:
    """Compares setpoints with what is measured.

    Args:
        largest_mw: Nameplate power, MW, >= 0.
    """

    def __init__(self, largest_mw: float) -> None:
        self._least_mw = LEAST_SHARE * largest_mw
        self._row: deque[str] = deque(maxlen=IN_A_ROW)

    def compare(self, told_mw: float, measured_mw: float) -> str | None:
        """Take one setpoint and its measurement, MW; return the suspicion once it is well founded."""
        if abs(told_mw) < self._least_mw or told_mw == 0.0:
            return None
        suspect = ""
        for factor, what in (
            (-1.0, "the sign"),
            (1e-3, "kW for W, a factor of 1,000"),
            (1e3, "W for kW, a factor of 1,000"),
            (-1e-3, "sign, and kW for W"),
            (-1e3, "sign, and W for kW"),
        ):
            expected_mw = factor * told_mw
            if abs(measured_mw - expected_mw) <= AGREEMENT * abs(expected_mw):
                suspect = what
        self._row.append(suspect)
        if not suspect or self._row.count(suspect) < IN_A_ROW:
            return None
        self._row.clear()
        return (
            f"setpoint {told_mw * KW_PER_MW:.4g} kW, measured {measured_mw * KW_PER_MW:.4g} kW, "
            f"{IN_A_ROW} times in a row: is it {suspect}? positive = injected into the grid"
        )

"""Powers and energies for people: kW, kvar and kWh, without exponents."""

from __future__ import annotations

import math

from heron_mqtt.units import KW_PER_MW

DIGITS = 4
MAX_DECIMALS = 6
MOST = 1e12
"""Beyond any grid's; what comes from the network may be anything, and shall not fill the line."""


def kilo(mega: float, *, signed: bool = False) -> str:
    """Return MW as kW (Mvar as kvar, MWh as kWh): 4 digits, and all of those before the point."""
    value = mega * KW_PER_MW
    size = abs(value)
    if size >= MOST:
        return f"{value:{'+' if signed else ''}.3g}"
    before = math.floor(math.log10(size)) + 1 if size > 0.0 else 0
    decimals = min(max(DIGITS - before, 0), MAX_DECIMALS)
    shown = f"{value:{'+' if signed else ''}.{decimals}f}"
    if "." in shown:
        shown = shown.rstrip("0").rstrip(".")
    return {"-0": "+0" if signed else "0"}.get(shown, shown)

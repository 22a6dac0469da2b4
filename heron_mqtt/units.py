"""How many of a smaller unit make one of ours, where numbers are shown to people or told to hardware."""

from __future__ import annotations

KW_PER_MW = 1e3
"""kW of an MW, kvar of an Mvar, kWh of an MWh."""
W_PER_MW = 1e6
"""W of an MW, var of an Mvar, Wh of an MWh."""

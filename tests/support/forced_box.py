"""The mapping of a box that takes a power in a mode of its own, on registers."""

from __future__ import annotations

FORCED_BOX = """
name = "box"

[registers]
power = { address = 0, type = "int16" }
mode = { address = 10, words = { 0 = "auto", 2 = "forced" } }
watts = { address = 20, type = "int16" }

[quantities.p_mw]
formula = "power"
unit = "W"

[setpoint.values.p]
quantity = "p_mw"
unit = "W"
decimals = 0

[[setpoint.messages]]
registers = { watts = "{p}", mode = "forced" }
"""
"""Without a release."""
TO_ZERO, TO_AUTO = '[setpoint]\nrelease = "zero"\n', '[[setpoint.release]]\nregisters = { mode = "auto" }\n'

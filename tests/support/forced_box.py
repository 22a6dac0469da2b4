"""The mapping of a box that takes a power in a mode of its own, on registers."""

from __future__ import annotations


def forced_box(area: str, watts: int) -> str:
    """Return the mapping, without a release.

    Args:
        area: Of the register with the measured power.
        watts: Address of the register that takes a power.
    """
    return f"""
name = "box"

[registers]
power = {{ address = 0, area = "{area}", type = "int16" }}
mode = {{ address = 10, words = {{ 0 = "auto", 2 = "forced" }} }}
watts = {{ address = {watts}, type = "int16" }}

[quantities.p_mw]
formula = "power"
unit = "W"

[setpoint.values.p]
quantity = "p_mw"
unit = "W"
decimals = 0

[[setpoint.messages]]
registers = {{ watts = "{{p}}", mode = "forced" }}
"""


FORCED_BOX = forced_box("holding", 20)
TO_ZERO, TO_AUTO = '[setpoint]\nrelease = "zero"\n', '[[setpoint.release]]\nregisters = { mode = "auto" }\n'

"""Units that vendors use, and how many of them make one of ours."""

from __future__ import annotations

from typing import Annotated, Literal, Protocol

from pydantic import Field

from heron_mqtt.config import Table
from heron_mqtt.units import KW_PER_MW, W_PER_MW

PER_SI: dict[str, dict[str, float]] = {
    "p_mw": {"W": W_PER_MW, "kW": KW_PER_MW, "MW": 1.0},
    "q_mvar": {"var": W_PER_MW, "kvar": KW_PER_MW, "Mvar": 1.0},
    "soc": {"percent": 100.0, "fraction": 1.0},
    "vm_pu": {"pu": 1.0},
    "lease_s": {"ms": 1e3, "s": 1.0, "min": 1.0 / 60.0},
}
"""Quantity -> unit -> how many of that unit make one MW, Mvar, 1 (soc), pu or s."""

RELATIVE: dict[str, dict[str, str]] = {
    "p_mw": {"A": "nominal_v", "percent": "rated_mw", "fraction": "rated_mw"},
    "vm_pu": {"V": "nominal_v", "kV": "nominal_v"},
}
"""Quantity -> unit -> the key that says what the unit is relative to."""

Positive = Annotated[float, Field(gt=0.0)]


class UnitKeys(Table):
    """The keys of a unit and of its reference value."""

    unit: str | None = Field(None, description="Unit of the number in the payload.")
    nominal_v: Positive | None = Field(
        None, description="V; for vm_pu in V the voltage that is 1 pu, for p_mw in A the phase voltage."
    )
    phases: Literal[1, 3] | None = Field(None, description="For p_mw in A: phases that carry the current.")
    rated_mw: Positive | None = Field(None, description="For p_mw in percent or fraction: what 100 % is, MW.")


class Complain(Protocol):
    """Takes note of a problem at a key; see ``problems.Problems.at``."""

    def __call__(self, key: str, text: str) -> None:
        """Note it."""


def per_si(quantity: str, keys: UnitKeys, complain: Complain) -> float:
    """Return how many of the vendor's unit make one of ours.

    For A: one MW is 1e6 / (nominal_v * phases) A at unity power factor, nominal_v phase to neutral.
    What is missing, unknown or superfluous is complained about; the result is then meaningless.
    """
    fixed, relative = PER_SI.get(quantity, {}), RELATIVE.get(quantity, {})
    known = ", ".join((*fixed, *relative))
    unit = keys.unit
    if unit is None:
        if known:
            complain("unit", f"missing; {quantity} needs one of {known}")
    elif not known:
        complain("unit", f"{quantity} has no unit; leave it out")
    elif unit not in fixed and unit not in relative:
        complain("unit", f"unknown unit {unit!r} for {quantity}; expected one of {known}")
    elif _has_what_it_needs(quantity, unit, relative, keys, complain):
        return fixed[unit] if unit in fixed else _relative(unit, keys)
    return 1.0


def _has_what_it_needs(
    quantity: str, unit: str, relative: dict[str, str], keys: UnitKeys, complain: Complain
) -> bool:
    wanted = {relative[unit]} if unit in relative else set()
    if unit == "A":
        wanted.add("phases")
    given = {name for name in ("nominal_v", "phases", "rated_mw") if getattr(keys, name) is not None}
    for name in sorted(given - wanted):
        complain(name, f"not needed for {quantity} in {unit}; leave it out")
    for name in sorted(wanted - given):
        complain(name, f"missing; {quantity} in {unit} needs it")
    return wanted <= given


def _relative(unit: str, keys: UnitKeys) -> float:
    if keys.rated_mw is not None:
        return (100.0 if unit == "percent" else 1.0) / keys.rated_mw
    assert keys.nominal_v is not None
    if unit == "A":
        assert keys.phases is not None
        return 1e6 / (keys.nominal_v * keys.phases)
    return keys.nominal_v if unit == "V" else keys.nominal_v / 1e3

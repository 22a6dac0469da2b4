"""An estimate with its confidence interval, or why there is none."""

from __future__ import annotations

import math
from dataclasses import dataclass

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Estimate:
    """One quantity that was looked for.

    Attributes:
        name: Key of the scenario (``lag_s``), or a plain name.
        table: Where it belongs: ``nameplate``, ``response`` (of the twin and of an emulator), ``meter`` or
            ``answers`` (of an emulator alone).
        value: Found; None = the record does not tell.
        low: Lower end of the interval of 95 % confidence.
        high: Upper end.
        assumed: What the scenario has; None = nothing.
        note: What was assumed, or why it is not told, and which test signal would tell.
    """

    name: str
    table: str
    value: float | None
    low: float = math.nan
    high: float = math.nan
    assumed: float | None = None
    note: str = ""

    @property
    def is_told(self) -> bool:
        """Whether the record tells it."""
        return self.value is not None


def untold(name: str, table: str, note: str, assumed: float | None = None) -> Estimate:
    """Return that a record does not tell something, and what would."""
    return Estimate(name, table, None, assumed=assumed, note=note)

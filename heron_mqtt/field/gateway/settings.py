"""What a scenario says of one device's place in the gateway."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from heron_mqtt.config import Table
from heron_mqtt.field.gateway.authority import REAL_LEVELS, RULES
from heron_mqtt.messages import Level


class BandTable(Table):
    """The range that limited authority allows, MW, positive = injected."""

    p_min_mw: float = Field(description="Lowest setpoint, MW.")
    p_max_mw: float = Field(description="Highest setpoint, MW.")

    @model_validator(mode="after")
    def _holds_zero(self) -> Self:
        if not self.p_min_mw <= 0.0 <= self.p_max_mw:
            raise ValueError(f"a band must hold 0 (the safe state), got {self.p_min_mw} .. {self.p_max_mw}")
        return self


class GatewayTable(Table):
    """How the gateway treats a device; the defaults suit most."""

    stale_after_s: float = Field(5.0, gt=0.0, description="Telemetry older than this is stale, wall-clock s.")
    band: BandTable | None = Field(None, description="Setpoints allowed at authority limited.")
    gate_steps: int = Field(
        4, ge=1, le=10_000, description="Consecutive steady steps that a promotion requires."
    )
    gate_residual_mw: float | None = Field(
        None, gt=0.0, description="Residual that counts as steady, MW; None = 5 % of the nameplate."
    )
    tolerance: float = Field(
        0.1, ge=0.0, description="Telemetry beyond the nameplate by more than this part of it is refused."
    )
    max_rate_per_s: float = Field(100.0, gt=0.0, description="Telemetry beyond this rate is dropped.")

    def gate_mw(self, nameplate_mw: tuple[float, float]) -> float:
        """Return the residual up to which a device of this nameplate counts as steady, MW."""
        return 0.05 * max(map(abs, nameplate_mw)) if self.gate_residual_mw is None else self.gate_residual_mw


def authority_problem(
    level: Level | None, settings: GatewayTable, nameplate_mw: tuple[float, float], *, is_real: bool
) -> str | None:
    """Return what is wrong with a level and its band; None = nothing.

    Args:
        level: As the scenario has it; None = left open.
        settings: With the band.
        nameplate_mw: Smallest and largest power, MW, positive = injected.
        is_real: Whether a real device is at the other end.
    """
    band = settings.band
    if is_real and level is not None and not RULES[level].over_real:
        return (
            f"authority = {level!r} is for emulators, and a real device is at the other end (external or "
            f"mapping); expected {', '.join(REAL_LEVELS)}"
        )
    if level is not None and RULES[level].is_banded and band is None:
        return f"authority = {level!r} needs gateway.band, the setpoints it allows (p_min_mw, p_max_mw)"
    low, high = nameplate_mw
    slack = 1e-9 * max(abs(low), abs(high))
    if band is not None and not (low - slack <= band.p_min_mw and band.p_max_mw <= high + slack):
        return (
            f"gateway.band {band.p_min_mw} .. {band.p_max_mw} MW reaches beyond the nameplate "
            f"{low} .. {high} MW; expected a part of it"
        )
    return None


class DeviceSettings(Table):
    """A device as the gateway sees it: its authority at the start, and how it is treated."""

    authority: Level = "emulated"
    kind: str | None = None
    """Its kind, as scenarios name it; None = not known."""
    is_real: bool = False
    """Whether a real device is at the other end, not an emulator."""
    has_adapter: bool = False
    """Whether its adapter runs beside its gateway: it hands the device back, and says what came of it."""
    gap_mw: tuple[float, float] = (0.0, 0.0)
    """Powers between these two, MW, positive = injected, cannot be held by it; equal = there are none."""
    gateway: GatewayTable = GatewayTable()

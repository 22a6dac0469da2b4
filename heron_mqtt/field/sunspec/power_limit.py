"""Model 123, immediate controls: an upper limit of active power, for PV."""

from __future__ import annotations

import math

from heron_mqtt.field.modbus.registers import Registers
from heron_mqtt.field.sunspec.block import Block
from heron_mqtt.field.sunspec.controls import OFF, ON, Control, OwnSettings, in_safe_order, percent, seconds
from heron_mqtt.field.sunspec.discovery import Place
from heron_mqtt.field.sunspec.ramp import IncreaseRamp


class PowerLimit(Control):
    """Model 123: an upper limit in percent of WMax; for PV. Reactive power is left alone."""

    model = 123
    timer = "WMaxLimPct_RvrtTms"
    ramp_time = "WMaxLimPct_RmpTms"
    switches = ("WMaxLim_Ena",)
    whole = (121, "WMax")
    needed = ("WMaxLimPct", "WMaxLim_Ena", "WMaxLimPct_SF")

    def __init__(
        self, registers: Registers, place: Place, w_max: float, *, ramp: IncreaseRamp | None = None
    ) -> None:
        super().__init__(registers, place, ramp=ramp)
        self._w_max = w_max

    def _setting(self, block: Block, p_w: float, q_var: float, revert_s: float) -> dict[str, int]:
        limit = block.counts("WMaxLimPct", percent(p_w, self._w_max))
        values = in_safe_order({"WMaxLimPct": limit}, {self.timer: seconds(revert_s)}, revert_s)
        if limit == 0:  # with any scale, and without a ramp from what an older block holds: it may be a stop
            return {**self._ramp(None, 0.0), **values, "WMaxLim_Ena": ON}
        step = block.step("WMaxLimPct")
        raw = block.raw("WMaxLimPct") if block.raw("WMaxLim_Ena") == ON else None
        return {**self._ramp(None if raw is None else raw * step, limit * step), **values, "WMaxLim_Ena": ON}

    def _is_zero(self, block: Block) -> bool:
        return block.raw("WMaxLim_Ena") == ON and block.raw("WMaxLimPct") == 0

    def _is_armed(self, block: Block) -> bool:
        return block.raw("WMaxLim_Ena") == ON and bool(block.raw(self.timer))

    def _lasting(self, block: Block) -> dict[str, int]:
        limit = block.raw("WMaxLimPct")
        if block.raw("WMaxLim_Ena") != ON or block.raw(self.timer) or not limit:
            return self._off(block)
        return {"WMaxLimPct": limit, self.timer: 0, "WMaxLim_Ena": ON}

    def allowed_w(self, own: OwnSettings) -> tuple[float, float]:
        """Return what the limit of the installation allows; see ``Control.allowed_w``."""
        limit = own.value("WMaxLimPct") if own.raw.get("WMaxLim_Ena") == ON else None
        return -math.inf, math.inf if limit is None else limit / 100.0 * self._w_max

    def _off(self, block: Block) -> dict[str, int]:
        return {"WMaxLim_Ena": OFF}

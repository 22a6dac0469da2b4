"""Model 124, basic storage controls: the largest charge and discharge, which together hold one power."""

from __future__ import annotations

import math

from heron_mqtt.field.modbus.registers import Registers
from heron_mqtt.field.sunspec.block import Block, SunSpecError
from heron_mqtt.field.sunspec.controls import Control, OwnSettings, in_safe_order, percent, seconds
from heron_mqtt.field.sunspec.discovery import Place
from heron_mqtt.field.sunspec.ramp import IncreaseRamp

CHARGE, DISCHARGE = 0b01, 0b10  # StorCtl_Mod
CHARGE_AND_DISCHARGE = CHARGE | DISCHARGE
NO_POWER = (0, 0)  # OutWRte, InWRte


class StorageRates(Control):
    """Model 124: a window between charging and discharging that has no width; for storage.

    OutWRte is the largest discharge and InWRte the largest charge, in percent; a negative one demands the
    other direction. OutWRte = x with InWRte = -x leaves nothing but discharging with x.

    Args:
        registers: Of the inverter.
        place: Where model 124 stands.
        discharge_w: What 100 % of OutWRte is; None = WChaMax, like InWRte.
        ramp: Of increases of active power, in percent of the rates.
    """

    model = 124
    timer = "InOutWRte_RvrtTms"
    ramp_time = "InOutWRte_RmpTms"
    switches = ("StorCtl_Mod",)
    whole = (124, "WChaMax")
    needed = ("StorCtl_Mod", "OutWRte", "InWRte", "InOutWRte_SF", "WChaMax", "WChaMax_SF")

    def __init__(
        self,
        registers: Registers,
        place: Place,
        discharge_w: float | None,
        *,
        ramp: IncreaseRamp | None = None,
    ) -> None:
        super().__init__(registers, place, ramp=ramp)
        self._discharge_w = discharge_w

    def _setting(self, block: Block, p_w: float, q_var: float, revert_s: float) -> dict[str, int]:
        if p_w == 0.0:  # with any scale, and at once, also out of charging: it may be a stop
            return {**self._ramp(None, 0.0), **self._rates(*NO_POWER, revert_s)}
        out_rate, in_rate = self._window(block, p_w)
        return {**self._rate_ramp(block, out_rate, in_rate), **self._rates(out_rate, in_rate, revert_s)}

    def _window(self, block: Block, p_w: float) -> tuple[int, int]:
        charge_w = block.value("WChaMax")
        if not charge_w:
            raise SunSpecError(f"{self._registers.address}: model 124 WChaMax is {charge_w}: what is 100 %?")
        return _window(block, p_w, self._discharge_w or charge_w, charge_w)

    def _rate_ramp(self, block: Block, out_rate: int, in_rate: int) -> dict[str, int]:
        """Return the time of a ramp; OutWRte is the power that is injected, below 0 where it charges."""
        step = block.step("OutWRte")
        is_power = (out_rate, in_rate) != NO_POWER  # to nothing at once, also out of charging
        is_held = is_power and block.raw("StorCtl_Mod") == CHARGE_AND_DISCHARGE
        held = block.raw("OutWRte") if is_held else None
        return self._ramp(None if held is None else held * step, out_rate * step)

    def _rates(self, out_rate: int, in_rate: int, revert_s: float) -> dict[str, int]:
        rates = {"OutWRte": out_rate, "InWRte": in_rate}  # in one request: between them no window is empty
        values = in_safe_order(rates, {self.timer: seconds(revert_s)}, revert_s)
        return values | {"StorCtl_Mod": CHARGE_AND_DISCHARGE}

    def _is_zero(self, block: Block) -> bool:
        rates = block.raw("OutWRte"), block.raw("InWRte")
        return block.raw("StorCtl_Mod") == CHARGE_AND_DISCHARGE and rates == NO_POWER

    def _is_armed(self, block: Block) -> bool:
        out_rate, in_rate = block.raw("OutWRte"), block.raw("InWRte")
        has_width = out_rate is None or in_rate is None or out_rate + in_rate != 0
        return bool(block.raw("StorCtl_Mod")) and (bool(block.raw(self.timer)) or not has_width)

    def _lasting(self, block: Block) -> dict[str, int]:
        mode, out_rate, in_rate = (block.raw(name) for name in ("StorCtl_Mod", "OutWRte", "InWRte"))
        if not mode or block.raw(self.timer) or out_rate is None or in_rate is None:
            return self._off(block)
        if out_rate + in_rate == 0:  # a window without width: a setpoint
            return self._off(block)
        return {"OutWRte": out_rate, "InWRte": in_rate, self.timer: 0, "StorCtl_Mod": mode}

    def allowed_w(self, own: OwnSettings) -> tuple[float, float]:
        """Return the powers that the window of the installation allows, for each side that it limits.

        A negative rate demands the other direction: it allows nothing of its own. 0 is allowed always.
        """
        mode = own.raw.get("StorCtl_Mod", 0)
        charge_w = None if self._known is None else self._known.value("WChaMax")
        out_rate, in_rate = own.value("OutWRte"), own.value("InWRte")
        least, most = -math.inf, math.inf
        if mode & CHARGE and in_rate is not None and charge_w:
            least = 0.0 - max(in_rate, 0.0) / 100.0 * charge_w
        if mode & DISCHARGE and out_rate is not None and (discharge_w := self._discharge_w or charge_w):
            most = max(out_rate, 0.0) / 100.0 * discharge_w
        return least, most

    def _off(self, block: Block) -> dict[str, int]:
        full = block.counts("OutWRte", 100.0)
        return {"StorCtl_Mod": 0, "OutWRte": full, "InWRte": full}


def _window(block: Block, p_w: float, discharge_w: float, charge_w: float) -> tuple[int, int]:
    """Return OutWRte and InWRte that leave only ``p_w``, or what of it the steps can express."""
    step = block.step("OutWRte")
    if p_w >= 0.0:
        out_rate = block.counts("OutWRte", percent(p_w, discharge_w))
        held_w = out_rate * step / 100.0 * discharge_w
        return out_rate, -block.counts("InWRte", percent(held_w, charge_w))
    in_rate = block.counts("InWRte", percent(-p_w, charge_w))
    held_w = in_rate * step / 100.0 * charge_w
    return -block.counts("OutWRte", percent(held_w, discharge_w)), in_rate

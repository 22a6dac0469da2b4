"""Ways to control an inverter: the older models 123 (limit) and 124 (storage), and the DER model 704.

All take W and var, positive = injected, and can let a setpoint revert by itself after some seconds.
"""

from __future__ import annotations

import abc
import math
from typing import ClassVar

from heron_mqtt.field.modbus.registers import Registers
from heron_mqtt.field.sunspec.block import Block, SunSpecError
from heron_mqtt.field.sunspec.discovery import Place, read_model

ON, OFF = 1, 0
PERCENT_OF_W_MAX, WATTS = 0, 1  # 704 WSetMod
VARS = 4  # 704 VarSetMod
PERCENT_OF_VAR_MAX = 1
CHARGE_AND_DISCHARGE = 0b11  # 124 StorCtl_Mod
NEVER = 0.0  # a reversion time of 0 s: the setpoint stays
MAX_SECONDS = 0xFFFE


class Control(abc.ABC):
    """One way to control an inverter.

    Args:
        registers: Of the inverter.
        place: Where ``model`` stands in them.
    """

    model: ClassVar[int]
    timer: ClassVar[str]
    """The point that holds the reversion time."""
    needed: ClassVar[tuple[str, ...]]
    """Points without which it does not work."""
    takes_q: ClassVar[bool] = False
    """Whether it controls reactive power too."""

    def __init__(self, registers: Registers, place: Place) -> None:
        self._registers = registers
        self._place = place

    async def has_timer(self) -> bool:
        """Whether the inverter can revert by itself.

        Raises:
            SunSpecError: The inverter lacks what this control needs.
        """
        block = await self._read()
        missing = [name for name in self.needed if not block.has(name)]
        if missing:
            raise SunSpecError(
                f"{self._registers.address}: model {self.model} lacks {', '.join(missing)}: the inverter "
                f"cannot be controlled this way"
            )
        return block.has(self.timer)

    @abc.abstractmethod
    async def set(self, p_w: float, q_var: float, revert_s: float) -> None:
        """Hold a power, for ``revert_s`` at least (whole seconds, rounded up) where there is a timer."""

    async def hold_zero(self) -> None:
        """Hold zero power until told otherwise."""
        await self.set(0.0, 0.0, NEVER)

    @abc.abstractmethod
    async def release(self) -> None:
        """Leave the inverter to its own control."""

    async def _read(self) -> Block:
        return await read_model(self._registers, self.model, self._place)

    async def _write(self, block: Block, values: dict[str, int]) -> None:
        """Write points in this order; neighbours go in one request, what is not implemented is left out."""
        requests: list[tuple[int, list[int]]] = []
        for name, raw in values.items():
            if not block.has(name):
                continue
            address, words = block.at(name), block.words(name, raw)
            if requests and requests[-1][0] + len(requests[-1][1]) == address:
                requests[-1][1].extend(words)
            else:
                requests.append((address, words))
        for address, words in requests:
            await self._registers.write(address, words)


def seconds(revert_s: float) -> int:
    """Return a reversion time that is not shorter than the lease and fits every timer."""
    return min(math.ceil(revert_s), MAX_SECONDS)


def percent(p_w: float, of_w: float) -> float:
    """Return ``p_w`` in percent, within [0, 100]."""
    return min(max(100.0 * p_w / of_w, 0.0), 100.0)


def signed_percent(value: float, of: float) -> float:
    """Return ``value`` in percent, within [-100, 100]."""
    return min(max(100.0 * value / of, -100.0), 100.0)


class PowerLimit(Control):
    """Model 123: an upper limit in percent of WMax; for PV. Reactive power is left alone."""

    model = 123
    timer = "WMaxLimPct_RvrtTms"
    needed = ("WMaxLimPct", "WMaxLim_Ena", "WMaxLimPct_SF")

    def __init__(self, registers: Registers, place: Place, w_max: float) -> None:
        super().__init__(registers, place)
        self._w_max = w_max

    async def set(self, p_w: float, q_var: float, revert_s: float) -> None:
        """Limit the power to ``p_w``."""
        block = await self._read()
        limit = block.counts("WMaxLimPct", percent(p_w, self._w_max))
        await self._write(block, {self.timer: seconds(revert_s), "WMaxLimPct": limit, "WMaxLim_Ena": ON})

    async def release(self) -> None:
        """Take the limit away."""
        await self._write(await self._read(), {"WMaxLim_Ena": OFF})


class StorageRates(Control):
    """Model 124: a window between charging and discharging that has no width; for storage.

    OutWRte is the largest discharge and InWRte the largest charge, in percent; a negative one demands the
    other direction. OutWRte = x with InWRte = -x leaves nothing but discharging with x.

    Args:
        registers: Of the inverter.
        place: Where model 124 stands.
        discharge_w: What 100 % of OutWRte is; None = WChaMax, like InWRte.
    """

    model = 124
    timer = "InOutWRte_RvrtTms"
    needed = ("StorCtl_Mod", "OutWRte", "InWRte", "InOutWRte_SF", "WChaMax", "WChaMax_SF")

    def __init__(self, registers: Registers, place: Place, discharge_w: float | None) -> None:
        super().__init__(registers, place)
        self._discharge_w = discharge_w

    async def set(self, p_w: float, q_var: float, revert_s: float) -> None:
        """Discharge (positive) or charge with ``p_w``."""
        block = await self._read()
        charge_w = block.value("WChaMax")
        if not charge_w:
            raise SunSpecError(f"{self._registers.address}: model 124 WChaMax is {charge_w}: what is 100 %?")
        out_rate, in_rate = _window(block, p_w, self._discharge_w or charge_w, charge_w)
        await self._write(
            block,
            {
                self.timer: seconds(revert_s),
                "OutWRte": out_rate,  # with its neighbour in one request: between them no window is empty
                "InWRte": in_rate,
                "StorCtl_Mod": CHARGE_AND_DISCHARGE,
            },
        )

    async def release(self) -> None:
        """Leave charging and discharging to the inverter."""
        block = await self._read()
        full = block.counts("OutWRte", 100.0)
        await self._write(block, {"StorCtl_Mod": 0, "OutWRte": full, "InWRte": full})


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


class _Der(Control):
    """What all ways of model 704 share.

    Args:
        registers: Of the inverter.
        place: Where model 704 stands.
        w_max: What 100 % of active power is, W; None = it does not say.
        var_max: What 100 % of reactive power is, var; None = it does not say.
        zero_after: What a setpoint reverts to: zero power; otherwise the inverter's own control.
    """

    model = 704
    takes_q = True

    def __init__(
        self,
        registers: Registers,
        place: Place,
        w_max: float | None,
        var_max: float | None = None,
        *,
        zero_after: bool,
    ) -> None:
        super().__init__(registers, place)
        self._w_max = w_max
        self._var_max = var_max
        self._after = ON if zero_after else OFF

    def _vars(self, block: Block, q_var: float, revert_s: float) -> dict[str, int]:
        """Return what sets reactive power, in var where the inverter knows that, else in percent."""
        if not block.has("VarSetEna", "VarSetMod"):
            return {}
        if block.has("VarSet", "VarSet_SF"):
            name, mode, counts = "VarSet", VARS, block.counts("VarSet", q_var)
        elif block.has("VarSetPct", "VarSetPct_SF") and self._var_max:
            share = signed_percent(q_var, self._var_max)
            name, mode, counts = "VarSetPct", PERCENT_OF_VAR_MAX, block.counts("VarSetPct", share)
        else:
            return {}
        return {
            "VarSetMod": mode,
            name: counts,
            f"{name}Rvrt": 0,
            "VarSetEnaRvrt": self._after,
            "VarSetRvrtTms": seconds(revert_s),
            "VarSetEna": ON,
        }


class DerPower(_Der):
    """Model 704, WSet: active and reactive power in W and var; for storage."""

    timer = "WSetRvrtTms"
    needed = ("WSetEna", "WSetMod", "WSet", "WSet_SF")

    async def set(self, p_w: float, q_var: float, revert_s: float) -> None:
        """Hold ``p_w`` and ``q_var``."""
        block = await self._read()
        name, mode, counts = self._power(block, p_w)
        values = {
            "WSetMod": mode,
            name: counts,
            f"{name}Rvrt": 0,
            "WSetEnaRvrt": self._after,
            self.timer: seconds(revert_s),
            "WSetEna": ON,
        }
        await self._write(block, values | self._vars(block, q_var, revert_s))

    def _power(self, block: Block, p_w: float) -> tuple[str, int, int]:
        """Return the point that sets active power, its mode, and its number."""
        return "WSet", WATTS, block.counts("WSet", p_w)

    async def release(self) -> None:
        """Leave active and reactive power to the inverter."""
        await self._write(await self._read(), {"WSetEna": OFF, "VarSetEna": OFF})


class DerShare(DerPower):
    """Model 704, WSetPct: active power in percent of WMax, for storage whose inverter knows no WSet."""

    needed = ("WSetEna", "WSetMod", "WSetPct", "WSetPct_SF")

    def _power(self, block: Block, p_w: float) -> tuple[str, int, int]:
        if not self._w_max:
            raise SunSpecError(f"{self._registers.address}: it does not say what 100 % of WSetPct is (WMax)")
        return "WSetPct", PERCENT_OF_W_MAX, block.counts("WSetPct", signed_percent(p_w, self._w_max))


class DerLimit(_Der):
    """Model 704, WMaxLimPct: an upper limit in percent of WMax, and reactive power in var; for PV."""

    timer = "WMaxLimPctRvrtTms"
    needed = ("WMaxLimPctEna", "WMaxLimPct", "WMaxLimPct_SF")

    async def set(self, p_w: float, q_var: float, revert_s: float) -> None:
        """Limit the power to ``p_w``, hold ``q_var``."""
        block = await self._read()
        if not self._w_max:
            raise SunSpecError(f"{self._registers.address}: it does not say what 100 % of a limit is (WMax)")
        values = {
            "WMaxLimPct": block.counts("WMaxLimPct", percent(p_w, self._w_max)),
            "WMaxLimPctRvrt": 0,
            "WMaxLimPctEnaRvrt": self._after,
            self.timer: seconds(revert_s),
            "WMaxLimPctEna": ON,
        }
        await self._write(block, values | self._vars(block, q_var, revert_s))

    async def release(self) -> None:
        """Take the limit away, and leave reactive power to the inverter."""
        await self._write(await self._read(), {"WMaxLimPctEna": OFF, "VarSetEna": OFF})

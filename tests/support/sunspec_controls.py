"""A control of an inverter whose registers are an image in memory, and the points of each model."""

from __future__ import annotations

from typing import Any

from heron_mqtt.field.sunspec.controls import Control
from heron_mqtt.field.sunspec.der_ac_controls import DerOptions
from heron_mqtt.field.sunspec.discovery import Place
from heron_mqtt.field.sunspec.power_limit import PowerLimit
from heron_mqtt.field.sunspec.storage_rates import StorageRates
from support.sunspec_registers import ImageRegisters

LIMIT = {"WMaxLimPct": 10_000, "WMaxLimPct_SF": -2, "WMaxLimPct_RvrtTms": 0, "WMaxLim_Ena": 0}
RATES = {"WChaMax": 8000, "WChaMax_SF": 0, "StorCtl_Mod": 0, "OutWRte": 10_000, "InWRte": 10_000}
RATES |= {"InOutWRte_SF": -2, "InOutWRte_RvrtTms": 0}
VARS = {"VarSetEna": 0, "VarSetMod": 0, "VarSet": 0, "VarSetRvrt": 9, "VarSetEnaRvrt": 9}
VARS |= {"VarSetRvrtTms": 9, "VarSet_SF": 0}
DER = {"WSetEna": 0, "WSetMod": 0, "WSet": 0, "WSetRvrt": 9, "WSetEnaRvrt": 9, "WSetRvrtTms": 9, "WSet_SF": 0}
SHARE = {"WSetEna": 0, "WSetMod": 1, "WSetPct": 0, "WSetPctRvrt": 9, "WSetEnaRvrt": 9, "WSetRvrtTms": 9}
SHARE |= {"WSetPct_SF": -1}
LIMIT_704 = {"WMaxLimPctEna": 0, "WMaxLimPct": 100, "WMaxLimPctRvrt": 9, "WMaxLimPctEnaRvrt": 9}
LIMIT_704 |= {"WMaxLimPctRvrtTms": 9, "WMaxLimPct_SF": 0}
FACTOR = {"PF_SF": -2}
for _way in ("PFWInj", "PFWAbs"):
    FACTOR |= {
        f"{_way}Ena": 0,
        f"{_way}EnaRvrt": 9,
        f"{_way}RvrtTms": 9,
        f"{_way}[1].PF": 100,
        f"{_way}[1].Ext": 0,
    }


class Rig:
    """A control of a model with these points."""

    def __init__(self, way: type[Any], points: dict[str, int], *args: Any, **options: Any) -> None:
        self.registers = ImageRegisters({way.model: points})
        size = len(self.registers.box.image) - 4
        self.control: Control = way(self.registers, Place(40_002, size), *args, **options)

    def __setitem__(self, name: str, value: int) -> None:
        self.registers.box[self.control.model, name] = value

    async def set(self, p_w: float, q_var: float = 0.0, revert_s: float = 20.0) -> list[list[str]]:
        await self.control.set(p_w, q_var, revert_s)
        return self.registers.take_written()

    async def hold_zero(self) -> list[list[str]]:
        await self.control.hold_zero()
        return self.registers.take_written()

    async def release(self, *, known: bool = True) -> list[list[str]]:
        own = await self.control.lasting(fresh=True) if known else None
        await self.control.release(own)
        return self.registers.take_written()


def limit(w_max: float = 50_000.0, **points: int) -> Rig:
    return Rig(PowerLimit, {**LIMIT, **points}, w_max)


def rates(discharge_w: float | None = None, **points: int) -> Rig:
    return Rig(StorageRates, {**RATES, **points}, discharge_w)


def der(
    way: type[Any],
    points: dict[str, int],
    *,
    w_max: float | None = 10_000.0,
    var_max: float | None = 5_000.0,
    zero_after: bool = True,
    **options: Any,
) -> Rig:
    return Rig(way, points, w_max, var_max, zero_after=zero_after, options=DerOptions(**options))

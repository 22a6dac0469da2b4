"""Ways to control an inverter: the older models 123 (limit) and 124 (storage), and the DER model 704.

All take W and var, positive = injected, and can let a setpoint revert by itself after some seconds.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from heron_mqtt.field.modbus.registers import Registers
from heron_mqtt.field.sunspec.block import Block, SunSpecError
from heron_mqtt.field.sunspec.discovery import Place, read_model
from heron_mqtt.field.sunspec.ramp import IncreaseRamp

ON, OFF = 1, 0
PERCENT_OF_W_MAX, WATTS = 0, 1  # 704 WSetMod
VARS = 4  # 704 VarSetMod
OVER_EXCITED, UNDER_EXCITED = 0, 1  # 704 Ext
PERCENT_OF_VAR_MAX = 1
CHARGE_AND_DISCHARGE = 0b11  # 124 StorCtl_Mod
NO_POWER = (0, 0)  # 124 OutWRte, InWRte
NEVER = 0.0  # a reversion time of 0 s: the setpoint stays
MAX_SECONDS = 0xFFFE


Left = Literal["setpoint", "zero"]
"""What a controller may leave behind that ended without handing its inverter back."""


class Control(abc.ABC):
    """One way to control an inverter.

    Args:
        registers: Of the inverter.
        place: Where ``model`` stands in them.
        ramp: Of increases of active power, where the inverter is told the time of it; None = as it is.
    """

    model: ClassVar[int]
    timer: ClassVar[str]
    """The point that holds the reversion time."""
    needed: ClassVar[tuple[str, ...]]
    """Points without which it does not work."""
    takes_q: ClassVar[bool] = False
    """Whether it controls reactive power too."""
    ramp_time: ClassVar[str] = ""
    """The point that holds how long the way to a new setpoint takes, s; of one that is given a ramp."""

    def __init__(self, registers: Registers, place: Place, *, ramp: IncreaseRamp | None = None) -> None:
        self._registers = registers
        self._place = place
        self._increase = ramp
        self._known: Block | None = None  # as it was read last: which points there are, and their steps

    async def has_timer(self) -> bool:
        """Whether the inverter can revert by itself.

        Raises:
            SunSpecError: The inverter lacks what this control needs.
        """
        return (await self._read_needed()).has(self.timer)

    async def check_ramp(self) -> None:
        """Make sure that a ramp that is wanted can be set.

        Raises:
            SunSpecError: It cannot.
        """
        if self._increase is not None and not (await self._read_needed()).has(self.ramp_time):
            raise SunSpecError(
                f"{self._registers.address}: model {self.model} lacks {self.ramp_time}: no ramp can be set"
            )

    def _ramp(self, held: float | None, wanted: float) -> dict[str, int]:
        """Return the time of a ramp from the share that is held to the one that is wanted, both percent.

        Less power is not delayed. The same one again leaves the ramp that is under way as it is.

        Args:
            held: In the register; None = nothing is held, the inverter may be anywhere above.
            wanted: Injected, percent.
        """
        if self._increase is None:
            return {}
        takes_s = self._increase.time_to(held, wanted)
        return {} if takes_s is None else {self.ramp_time: takes_s}

    def _ramp_before(self, block: Block) -> dict[str, int]:
        """Return what puts the inverter's own time of a ramp back."""
        raw = None if self._increase is None else block.raw(self.ramp_time)
        return {} if raw is None else {self.ramp_time: raw}

    @abc.abstractmethod
    def _setting(self, block: Block, p_w: float, q_var: float, revert_s: float) -> dict[str, int]:
        """Return the points, in order, that hold a power.

        Raises:
            SunSpecError: The inverter does not say what it takes to tell it.
        """

    async def set(self, p_w: float, q_var: float, revert_s: float) -> None:
        """Hold a power, for ``revert_s`` at least (whole seconds, rounded up) where there is a timer."""
        block = await self._read_needed()
        await self._write_setting(block, self._setting(block, p_w, q_var, revert_s))

    async def hold_zero(self) -> None:
        """Hold zero power until told otherwise. Reads nothing: reading may be what fails."""
        block = await self._layout()
        await self._write_setting(block, self._setting(block, 0.0, 0.0, NEVER))

    async def holds_zero(self) -> bool:
        """Whether its registers say, read now, that zero power is held."""
        return self._is_zero(await self._read())

    @abc.abstractmethod
    def _is_zero(self, block: Block) -> bool:
        """Return what ``holds_zero`` does, of the model as it was read."""

    def found(self) -> Left | None:
        """Return what a controller before us has left in force, as the model was read last.

        That is a power that is armed to end by itself, or that leaves no choice (model 124), or zero power. A
        power that stands without a timer is a setting of the inverter's own.
        """
        block = self._known
        if block is None:
            return None
        return "zero" if self._is_zero(block) else "setpoint" if self._is_armed(block) else None

    @abc.abstractmethod
    def _is_armed(self, block: Block) -> bool:
        """Whether a power is in force that is no setting of the inverter's own."""

    async def lasting(self, *, fresh: bool) -> dict[str, int]:
        """Return the points, in order, that put the inverter's own settings in force again.

        Asked before the first setpoint. A setting that is armed to end by itself, or that is zero power, is
        what a controller before us left behind, and no setting of the inverter's own.

        Args:
            fresh: Read it now; else as it was read last.
        """
        block = await (self._read() if fresh else self._layout())
        return {**self._ramp_before(block), **self._lasting(block)}

    @abc.abstractmethod
    def _lasting(self, block: Block) -> dict[str, int]:
        """Return what ``lasting`` does, of the model as it was read."""

    async def release(self, lasting: Mapping[str, int] | None = None) -> None:
        """Leave the inverter to its own control.

        Args:
            lasting: Its own settings, from before the first setpoint; None = they are not known, off.
        """
        block = await self._layout()
        await self._write(block, dict(self._off(block) if lasting is None else lasting))

    @abc.abstractmethod
    def _off(self, block: Block) -> dict[str, int]:
        """Return what switches the control off."""

    async def _read(self) -> Block:
        block = await read_model(self._registers, self.model, self._place)
        if block.has(*self.needed):  # else it says nothing for now: what points it has is known already
            self._known = block
        return block

    async def _read_needed(self) -> Block:
        """Return the model as it is now.

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
        return block

    async def _layout(self) -> Block:
        return self._known or await self._read_needed()

    async def _write_setting(self, block: Block, values: Mapping[str, int]) -> None:
        await self._write(block, values)
        if self._increase is not None:
            self._increase.note_written()

    async def _write(self, block: Block, values: Mapping[str, int]) -> None:
        """Write points in this order; neighbours go in one request, what is not implemented is left out.

        "PFWInj.PF" is a point of the group PFWInj.
        """
        requests: list[tuple[int, list[int]]] = []
        for path, raw in values.items():
            part, name = place_of(block, path)
            if part is None or not part.has(name):
                continue
            address, words = part.at(name), part.words(name, raw)
            if requests and requests[-1][0] + len(requests[-1][1]) == address:
                requests[-1][1].extend(words)
            else:
                requests.append((address, words))
        for address, words in requests:
            await self._registers.write(address, words)


def place_of(block: Block, path: str) -> tuple[Block | None, str]:
    """Return the group that holds a point, and its name there; no group = the inverter does not have it."""
    group, dot, name = path.rpartition(".")
    if not dot:
        return block, path
    return next((part for part in block.parts() if part.group.name == group), None), name


def seconds(revert_s: float) -> int:
    """Return a reversion time that is not shorter than the lease and fits every timer."""
    return min(math.ceil(revert_s), MAX_SECONDS)


def in_safe_order(value: Mapping[str, int], timer: Mapping[str, int], revert_s: float) -> dict[str, int]:
    """Return the points of a value and of its timer in an order that may be broken off anywhere.

    Power never stands without a timer that ends it: the timer is there before a power, and ends after it.
    """
    first, second = (value, timer) if revert_s == NEVER else (timer, value)
    return {**first, **second}


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
    ramp_time = "WMaxLimPct_RmpTms"
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

    def _off(self, block: Block) -> dict[str, int]:
        return {"WMaxLim_Ena": OFF}


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


@dataclass(frozen=True, slots=True)
class DerOptions:
    """What a user wants beside setpoints, a power factor of model 704 only; given up with the release.

    Attributes:
        power_factor: Held in place of a reactive power, 0 < x <= 1; None = reactive power is set.
        over_excited: Whether it injects reactive power at that; else it absorbs it.
        ramp_percent_s: Ramp of increases of active power, percent of the maximum a second; None = as it is.
    """

    power_factor: float | None = None
    over_excited: bool = True
    ramp_percent_s: int | None = None

    @property
    def needed(self) -> tuple[str, ...]:
        """Points without which it cannot be had."""
        of_factor = ("PFWInjEna", "PF_SF", "PFWInj.PF", "PFWInj.Ext")
        return (*(of_factor if self.power_factor else ()), *(("WRmp",) if self.ramp_percent_s else ()))


class _Der(Control):
    """What all ways of model 704 share.

    Args:
        registers: Of the inverter.
        place: Where model 704 stands.
        w_max: What 100 % of active power is, W; None = it does not say.
        var_max: What 100 % of reactive power is, var; None = it does not say.
        zero_after: What a setpoint reverts to: zero power; otherwise the inverter's own control.
        options: What is wanted beside setpoints.
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
        options: DerOptions = DerOptions(),
    ) -> None:
        super().__init__(registers, place)
        self._w_max = w_max
        self._var_max = var_max
        self._after = ON if zero_after else OFF
        self._options = options

    async def has_timer(self) -> bool:
        """Whether the inverter can revert by itself.

        Raises:
            SunSpecError: The inverter lacks what this control needs, or what is wanted beside setpoints.
        """
        block = await self._read()
        for path in self._options.needed:
            part, name = place_of(block, path)
            if part is None or not part.has(name):
                what = "WRmp: no ramp can be set" if path == "WRmp" else f"{path}: no power factor can be set"
                raise SunSpecError(f"{self._registers.address}: model 704 lacks {what}")
        return await super().has_timer()

    def _beside(self, block: Block, q_var: float, revert_s: float) -> dict[str, int]:
        """Return what goes with an active power: ramp, and power factor or reactive power."""
        ramp = self._options.ramp_percent_s
        values = {} if ramp is None else {"WRmp": ramp}
        if self._options.power_factor is None:
            return values | self._vars(block, q_var, revert_s)
        values["VarSetEna"] = OFF
        for function in ("PFWInj", "PFWAbs"):
            part, name = place_of(block, f"{function}.PF")
            if part is not None and part.has(name):
                values |= self._factor(part, function, revert_s)
        return values

    def _factor(self, part: Block, function: str, revert_s: float) -> dict[str, int]:
        assert self._options.power_factor is not None
        return {
            f"{function}.PF": part.counts("PF", self._options.power_factor),
            f"{function}.Ext": OVER_EXCITED if self._options.over_excited else UNDER_EXCITED,
            f"{function}EnaRvrt": OFF,
            f"{function}RvrtTms": seconds(revert_s),
            f"{function}Ena": ON,
        }

    def _own_beside(self, block: Block) -> dict[str, int]:
        """Return what puts ramp and power factor back as they lastingly are."""
        values: dict[str, int] = {}
        if self._options.ramp_percent_s is not None and (ramp := block.raw("WRmp")) is not None:
            values["WRmp"] = ramp
        if self._options.power_factor is not None:
            for function in ("PFWInj", "PFWAbs"):
                values |= _own(block, function, f"{function}.PF", f"{function}.Ext")
        return values

    def _off_beside(self) -> dict[str, int]:
        return {"PFWInjEna": OFF, "PFWAbsEna": OFF} if self._options.power_factor is not None else {}

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
        return self._armed("VarSet", name, counts, revert_s, mode)

    def _armed(
        self, function: str, name: str, counts: int, revert_s: float, mode: int | None = None
    ) -> dict[str, int]:
        """Return what enables a function with a value, and lets it revert by itself."""
        value = {**({} if mode is None else {f"{function}Mod": mode}), name: counts}
        timer = {
            f"{name}Rvrt": 0,
            f"{function}EnaRvrt": self._after,
            f"{function}RvrtTms": seconds(revert_s),
        }
        return in_safe_order(value, timer, revert_s) | {f"{function}Ena": ON}


class DerPower(_Der):
    """Model 704, WSet: active and reactive power in W and var; for storage."""

    timer = "WSetRvrtTms"
    needed = ("WSetEna", "WSetMod", "WSet", "WSet_SF")
    power, mode = "WSet", WATTS
    """The point that sets active power, and its mode."""

    def _setting(self, block: Block, p_w: float, q_var: float, revert_s: float) -> dict[str, int]:
        values = self._armed("WSet", self.power, self._counts(block, p_w), revert_s, self.mode)
        return values | self._beside(block, q_var, revert_s)

    def _counts(self, block: Block, p_w: float) -> int:
        """Return the number of the point that sets active power."""
        return block.counts("WSet", p_w)

    def _is_zero(self, block: Block) -> bool:
        return [block.raw(each) for each in ("WSetEna", "WSetMod", self.power)] == [ON, self.mode, 0]

    def _is_armed(self, block: Block) -> bool:
        return block.raw("WSetEna") == ON and bool(block.raw(self.timer))

    def _lasting(self, block: Block) -> dict[str, int]:
        power = _own(block, "WSet", "WSetMod", "WSet", "WSetPct")
        reactive = _own(block, "VarSet", "VarSetMod", "VarSet", "VarSetPct")
        return power | reactive | self._own_beside(block)

    def _off(self, block: Block) -> dict[str, int]:
        return {"WSetEna": OFF, "VarSetEna": OFF, **self._off_beside()}


class DerShare(DerPower):
    """Model 704, WSetPct: active power in percent of WMax, for storage whose inverter knows no WSet."""

    needed = ("WSetEna", "WSetMod", "WSetPct", "WSetPct_SF")
    power, mode = "WSetPct", PERCENT_OF_W_MAX

    def _counts(self, block: Block, p_w: float) -> int:
        if not self._w_max:
            raise SunSpecError(f"{self._registers.address}: it does not say what 100 % of WSetPct is (WMax)")
        return block.counts("WSetPct", signed_percent(p_w, self._w_max))


class DerLimit(_Der):
    """Model 704, WMaxLimPct: an upper limit in percent of WMax, and reactive power in var; for PV."""

    timer = "WMaxLimPctRvrtTms"
    needed = ("WMaxLimPctEna", "WMaxLimPct", "WMaxLimPct_SF")

    def _setting(self, block: Block, p_w: float, q_var: float, revert_s: float) -> dict[str, int]:
        if not self._w_max:
            raise SunSpecError(f"{self._registers.address}: it does not say what 100 % of a limit is (WMax)")
        limit = block.counts("WMaxLimPct", percent(p_w, self._w_max))
        values = self._armed("WMaxLimPct", "WMaxLimPct", limit, revert_s)
        return values | self._beside(block, q_var, revert_s)

    def _is_zero(self, block: Block) -> bool:
        return block.raw("WMaxLimPctEna") == ON and block.raw("WMaxLimPct") == 0

    def _is_armed(self, block: Block) -> bool:
        return block.raw("WMaxLimPctEna") == ON and bool(block.raw(self.timer))

    def _lasting(self, block: Block) -> dict[str, int]:
        limit = _own(block, "WMaxLimPct", "WMaxLimPct")
        reactive = _own(block, "VarSet", "VarSetMod", "VarSet", "VarSetPct")
        return limit | reactive | self._own_beside(block)

    def _off(self, block: Block) -> dict[str, int]:
        return {"WMaxLimPctEna": OFF, "VarSetEna": OFF, **self._off_beside()}


def _own(block: Block, function: str, *paths: str) -> dict[str, int]:
    """Return what puts a function of model 704 back as it lastingly is; switched off if it is not."""
    values: dict[str, int] = {}
    for path in paths:
        part, name = place_of(block, path)
        raw = None if part is None else part.raw(name)
        if raw is not None:
            values[path] = raw
    says_something = any(value for path, value in values.items() if not path.endswith(("Mod", ".Ext")))
    if block.raw(f"{function}Ena") != ON or block.raw(f"{function}RvrtTms") or not says_something:
        return {f"{function}Ena": OFF}
    return {**values, f"{function}RvrtTms": 0, f"{function}Ena": ON}

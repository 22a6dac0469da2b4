"""Model 704, DER AC controls: active and reactive power, power factor and ramp of a newer inverter."""

from __future__ import annotations

import abc
import math
from dataclasses import dataclass

from heron_mqtt.field.modbus.registers import Registers
from heron_mqtt.field.sunspec.block import Block, SunSpecError
from heron_mqtt.field.sunspec.controls import (
    OFF,
    ON,
    Control,
    OwnSettings,
    in_safe_order,
    percent,
    place_of,
    seconds,
    signed_percent,
)
from heron_mqtt.field.sunspec.discovery import Place

PERCENT_OF_W_MAX, WATTS = 0, 1  # WSetMod
PERCENT_OF_VAR_MAX, VARS = 1, 4  # VarSetMod
OVER_EXCITED, UNDER_EXCITED = 0, 1  # Ext
BESIDE = ("VarSetEna", "PFWInjEna", "PFWAbsEna")
"""The points that switch on what goes with an active power."""


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

    def _lasting(self, block: Block) -> dict[str, int]:
        reactive = _own(block, "VarSet", "VarSetMod", "VarSet", "VarSetPct")
        values = self._own_power(block) | reactive | self._own_beside(block)
        # Last: nothing waits for it to be switched off, and what reverts until then does so as ours.
        values |= _reversion(block, *self.reverting)
        values |= _reversion(block, "VarSet", "VarSet" if block.has("VarSet", "VarSet_SF") else "VarSetPct")
        if self._options.power_factor is not None:
            values |= _reversion(block, "PFWInj") | _reversion(block, "PFWAbs")
        return values

    @property
    @abc.abstractmethod
    def reverting(self) -> tuple[str, str]:
        """The function that sets active power, and the point of it that is set."""

    @abc.abstractmethod
    def _own_power(self, block: Block) -> dict[str, int]:
        """Return what puts active power back as it lastingly is."""

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
    switches = ("WSetEna", *BESIDE)
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

    @property
    def reverting(self) -> tuple[str, str]:
        """Watts, or percent."""
        return "WSet", self.power

    def _own_power(self, block: Block) -> dict[str, int]:
        own = _own(block, "WSet", "WSetMod", "WSet", "WSetPct")
        return {"WSetEna": OFF} if self._is_zero(block) else own

    def _off(self, block: Block) -> dict[str, int]:
        return {"WSetEna": OFF, "VarSetEna": OFF, **self._off_beside()}


class DerShare(DerPower):
    """Model 704, WSetPct: active power in percent of WMax, for storage whose inverter knows no WSet."""

    whole = (702, "WMax")
    needed = ("WSetEna", "WSetMod", "WSetPct", "WSetPct_SF")
    power, mode = "WSetPct", PERCENT_OF_W_MAX

    def _counts(self, block: Block, p_w: float) -> int:
        if not self._w_max:
            raise SunSpecError(f"{self._registers.address}: it does not say what 100 % of WSetPct is (WMax)")
        return block.counts("WSetPct", signed_percent(p_w, self._w_max))


class DerLimit(_Der):
    """Model 704, WMaxLimPct: an upper limit in percent of WMax, and reactive power in var; for PV."""

    timer = "WMaxLimPctRvrtTms"
    switches = ("WMaxLimPctEna", *BESIDE)
    whole = (702, "WMax")
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

    @property
    def reverting(self) -> tuple[str, str]:
        """The limit."""
        return "WMaxLimPct", "WMaxLimPct"

    def _own_power(self, block: Block) -> dict[str, int]:
        return _own(block, "WMaxLimPct", "WMaxLimPct")

    def allowed_w(self, own: OwnSettings) -> tuple[float, float]:
        """Return what the limit of the installation allows; see ``Control.allowed_w``."""
        limit = own.value("WMaxLimPct") if own.raw.get("WMaxLimPctEna") == ON else None
        if limit is None or self._w_max is None:
            return -math.inf, math.inf
        return -math.inf, limit / 100.0 * self._w_max

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


def _reversion(block: Block, function: str, name: str | None = None) -> dict[str, int]:
    """Return what puts back what a function reverts to, and after what time where it is off.

    Another controller of the owner's may rely on it, and write a power and no more.

    Args:
        block: The model as it was read.
        function: Of model 704.
        name: The point that is set; None = it has no value to revert to that is written.
    """
    points = [f"{name}Rvrt"] if name is not None else []
    points.append(f"{function}EnaRvrt")
    if block.raw(f"{function}Ena") != ON:
        points.append(f"{function}RvrtTms")
    return {point: raw for point in points if (raw := block.raw(point)) is not None}

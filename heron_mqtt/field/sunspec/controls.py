"""What all ways to control an inverter share: read, set, hold zero, put its own settings back.

All take W and var, positive = injected, and can let a setpoint revert by itself after some seconds. The
ways are in ``power_limit.py`` (model 123), ``storage_rates.py`` (124) and ``der_ac_controls.py`` (704).
"""

from __future__ import annotations

import abc
import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar, Literal

from heron_mqtt.field.modbus.registers import Registers
from heron_mqtt.field.sunspec.block import Block, SunSpecError
from heron_mqtt.field.sunspec.discovery import Place, read_model
from heron_mqtt.field.sunspec.ramp import IncreaseRamp

ON, OFF = 1, 0
NEVER = 0.0  # a reversion time of 0 s: the setpoint stays
MAX_SECONDS = 0xFFFE

Left = Literal["setpoint", "zero", "settings"]
"""What a controller may leave behind that ended without handing its inverter back.

A power that it has set, zero power, or an inverter that has reverted by itself, without its own settings.
"""


@dataclass(frozen=True, slots=True)
class OwnSettings:
    """What an inverter itself is set to, as it was read before the first setpoint.

    Attributes:
        raw: The points, in the order in which to write them, as they stood in the registers.
        exponents: The powers of ten that they were scaled by, of points that are scaled.
    """

    raw: Mapping[str, int]
    exponents: Mapping[str, int]

    @classmethod
    def of(cls, block: Block, raw: Mapping[str, int]) -> OwnSettings:
        """Return points of a model as it was read, with its scale factors of then."""
        found = {path: _exponent(block, path) for path in raw}
        return cls(raw, {path: exponent for path, exponent in found.items() if exponent is not None})

    def at(self, block: Block) -> dict[str, int]:
        """Return what means the same with the scale factors of now; towards zero where steps are larger.

        Raises:
            SunSpecError: A point does not fit with its new scale.
        """
        values: dict[str, int] = {}
        for path, raw in self.raw.items():
            was, now = self.exponents.get(path), _exponent(block, path)
            moved = 0 if was is None or now is None else was - now
            values[path] = raw * 10**moved if moved >= 0 else math.trunc(Fraction(raw, 10**-moved))
        return values

    def value(self, path: str) -> float | None:
        """Return what a point was set to, in its unit; None = it is not of these, or has no scale."""
        raw, exponent = self.raw.get(path), self.exponents.get(path)
        return None if raw is None or exponent is None else float(f"{raw}e{exponent}")


class Control(abc.ABC):
    """One way to control an inverter.

    Args:
        registers: Of the inverter.
        place: Where ``model`` stands in them.
        ramp: Of increases of active power, if the inverter needs their time; None = unchanged.
    """

    model: ClassVar[int]
    timer: ClassVar[str]
    """The point that holds the reversion time."""
    needed: ClassVar[tuple[str, ...]]
    """Points without which it does not work."""
    switches: ClassVar[tuple[str, ...]]
    """The points that switch it on."""
    whole: ClassVar[tuple[int, str] | None] = None
    """Model and point that say what 100 % of its power is; None = its setpoint is in W."""
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

    @property
    def layout(self) -> Block:
        """Its model as it was read last; it was."""
        assert self._known is not None
        return self._known

    @property
    def known(self) -> Block | None:
        """Its model as it was read last; None = it was not."""
        return self._known

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

    async def lasting(self, *, fresh: bool) -> OwnSettings:
        """Return the points, in order, that put the inverter's own settings in force again.

        Asked before the first setpoint. A setting that is armed to end by itself, or that is zero power, was
        left by an earlier controller. It is not a setting of the inverter's own.

        Args:
            fresh: Read it now; else as it was read last.
        """
        await (self._read() if fresh else self._layout())
        own = self.own
        assert own is not None
        return own

    @property
    def own(self) -> OwnSettings | None:
        """What ``lasting`` returns, of the model as it was read last; None = it was not."""
        block = self._known
        if block is None:
            return None
        return OwnSettings.of(block, {**self._ramp_before(block), **self._lasting(block)})

    @abc.abstractmethod
    def _lasting(self, block: Block) -> dict[str, int]:
        """Return what ``lasting`` does, of the model as it was read."""

    def allowed_w(self, own: OwnSettings) -> tuple[float, float]:
        """Return the least and the most power that the inverter's own settings allow, W, with 0 between.

        Infinite where they are no limit. What 100 % is counts as it is now.

        Args:
            own: As of ``lasting``.
        """
        return -math.inf, math.inf

    def is_on(self, own: OwnSettings) -> bool:
        """Whether settings switch this control on."""
        return any(own.raw.get(name) for name in self.switches)

    async def release(self, lasting: OwnSettings | None = None) -> None:
        """Leave the inverter to its own control.

        Args:
            lasting: Its own settings, from before the first setpoint; None = they are not known, off.
        """
        block = await self._layout()
        await self._write(block, self._released(block, lasting))

    def _released(self, block: Block, lasting: OwnSettings | None) -> dict[str, int]:
        return self._off(block) if lasting is None else lasting.at(block)

    async def not_released(self, lasting: OwnSettings | None = None) -> str | None:
        """Return what its registers, read now, still hold after ``release``, for people; None = nothing.

        The points that switch the control on are compared with what was written, and no other: an inverter
        may round or clip the rest. A point that is not available proves nothing. If its own
        settings are switched on, too, neither a setpoint with a timer nor zero power may be in force. The
        scale factors must then be those with which the settings were written.

        Args:
            lasting: As with ``release``.
        """
        layout = await self._layout()
        written = self._released(layout, lasting)
        block = await self._read()
        if block.has(*self.needed) and self._released(block, lasting) != written:
            return f"model {self.model} is scaled otherwise than its own settings were written just now"
        for name in self.switches:
            raw = block.raw(name)
            if raw is not None and raw != written.get(name, raw):
                return f"model {self.model} {name} is {raw}, and {written[name]} was written"
        for is_left, what in ((self._is_zero, "zero power"), (self._is_armed, "a setpoint")):
            if is_left(block):
                return f"model {self.model} {self.switches[0]} still switches {what} on"
        return None

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


def _exponent(block: Block, path: str) -> int | None:
    part, name = place_of(block, path)
    return None if part is None or not part.has(name) else part.exponent(name)


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

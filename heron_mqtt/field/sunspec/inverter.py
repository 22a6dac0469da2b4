"""One SunSpec inverter: found, measured and controlled."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from heron_mqtt.errors import ConfigError
from heron_mqtt.field.sunspec.block import Block, SunSpecError
from heron_mqtt.field.sunspec.controls import Control, DerLimit, DerPower, PowerLimit, StorageRates
from heron_mqtt.field.sunspec.discovery import Place, find_models, read_model
from heron_mqtt.field.sunspec.layouts import LAYOUTS
from heron_mqtt.field.sunspec.nameplate import STATIC_MODELS, Kind, Nameplate, read_nameplate
from heron_mqtt.field.sunspec.registers import Registers
from heron_mqtt.messages import Telemetry

log = logging.getLogger("heron_mqtt.sunspec")

MEASURING = (701, 103, 102, 101)
FAULT_701, FAULT_103 = 6, 7  # InvSt and St
W_PER_MW = 1e6


class InverterFault(SunSpecError):
    """The inverter itself says that it is in a fault."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What a user has to say about an inverter.

    Attributes:
        kind: What it is; None = as its models say.
        nominal_v: Phase-to-neutral voltage that is 1 pu, V; None = voltage is not reported.
        discharge_w: What 100 % of OutWRte in model 124 is, W; None = WChaMax.
        safe_zero: The safe state is zero power; otherwise the inverter's own control.
        timer_needed: Refuse an inverter that cannot revert by itself.
    """

    kind: Kind | None = None
    nominal_v: float | None = None
    discharge_w: float | None = None
    safe_zero: bool = True
    timer_needed: bool = True


class Inverter:
    """A SunSpec inverter, made by ``connect``.

    Args:
        registers: Its registers.
        settings: What a user has to say about it.
    """

    nameplate: Nameplate
    _control: Control

    def __init__(self, registers: Registers, settings: Settings) -> None:
        self._registers = registers
        self._settings = settings
        self._models: dict[int, Place] = {}
        self._connection = 0
        self._identity = ("", "", "")

    @classmethod
    async def connect(cls, registers: Registers, settings: Settings) -> Inverter:
        """Find an inverter's models, read its nameplate, choose how it is measured and controlled.

        Raises:
            ConfigError: This bridge cannot serve it; says why and what to do.
            ModbusFault: No answer.
        """
        inverter = cls(registers, settings)
        try:
            await inverter._look_around()
            inverter._identity = inverter.nameplate.identity
            has_timer = await inverter._control.has_timer()
        except SunSpecError as exc:
            raise ConfigError(str(exc)) from None
        if not has_timer:
            text = (
                f"{registers.address}: the inverter has no reversion timer (model {inverter._control.model} "
                f"{inverter._control.timer}): if this bridge dies, it keeps its last setpoint"
            )
            if settings.timer_needed:
                raise ConfigError(f"{text}; to run it all the same, add --without-reversion")
            log.warning("%s", text)
        return inverter

    async def measure(self) -> Telemetry:
        """Return what the inverter measures now.

        Raises:
            InverterFault: It is in a fault.
            SunSpecError, ModbusFault: It cannot be read.
        """
        await self._after_reconnection()
        model = self._measuring()
        block = await self._read(model)
        if model == 701:
            faulty, events = block.raw("InvSt") == FAULT_701, block.raw("Alrm")
        else:
            faulty, events = block.raw("St") == FAULT_103, block.raw("Evt1")
        if faulty:
            raise InverterFault(
                f"{self._registers.address}: the inverter is in a fault, events {events or 0:#x}"
            )
        p_w = block.value("W")
        if p_w is None:
            raise SunSpecError(f"{self._registers.address}: model {model} W is not implemented")
        q_var = block.value("Var" if model == 701 else "VAr") or 0.0
        return Telemetry(
            p_mw=p_w / W_PER_MW, q_mvar=q_var / W_PER_MW, soc=await self._soc(), vm_pu=self._vm_pu(block)
        )

    async def set(self, p_mw: float, q_mvar: float, revert_s: float) -> None:
        """Hold a power, MW and Mvar, positive = injected; for PV p_mw is an upper limit.

        Args:
            p_mw: MW.
            q_mvar: Mvar; only model 704 is told.
            revert_s: After this time the inverter goes back by itself.
        """
        await self._after_reconnection()
        if q_mvar != 0.0 and not self._control.takes_q:
            log.warning(
                "%s: it is not told reactive power, model 704 would be needed", self._registers.address
            )
        await self._control.set(p_mw * W_PER_MW, q_mvar * W_PER_MW, revert_s)

    async def go_safe(self) -> None:
        """Go to the safe state of the settings."""
        await (self.hold_zero() if self._settings.safe_zero else self.release())

    async def hold_zero(self) -> None:
        """Hold zero power until told otherwise."""
        await self._after_reconnection()
        await self._control.hold_zero()

    async def release(self) -> None:
        """Leave the inverter to its own control."""
        await self._after_reconnection()
        await self._control.release()

    # -- finding out -------------------------------------------------------------------------------

    async def _look_around(self) -> None:
        """Read everything that does not change while connected."""
        found = await find_models(self._registers)
        self._models = {model: place for model, place in found.items() if model in LAYOUTS}
        if not any(model in found for model in MEASURING):
            raise SunSpecError(
                f"{self._registers.address}: no inverter: of models {', '.join(map(str, MEASURING))} it has "
                f"none, but {', '.join(map(str, found))} (111 to 113 are not read)"
            )
        blocks = {model: await self._read(model) for model in STATIC_MODELS if model in self._models}
        self.nameplate = read_nameplate(blocks, self._settings.kind)
        self._control = await self._choose()
        self._connection = self._registers.connections

    async def _after_reconnection(self) -> None:
        """Look around again on a new connection: settings may have changed, or the device itself."""
        await self._registers.connect()
        if self._registers.connections == self._connection:
            return
        await self._look_around()
        identity = self.nameplate.identity
        if identity != self._identity:
            self._connection = 0  # ask again, until the right one answers
            raise SunSpecError(
                f"{self._registers.address}: another inverter answers: {' '.join(identity)} instead of "
                f"{' '.join(self._identity)}"
            )

    async def _choose(self) -> Control:
        registers, models, settings = self._registers, self._models, self._settings
        newer = await self._read(704) if 704 in models else None
        w_max = self.nameplate.w_max
        if self.nameplate.kind == "battery":
            if newer is not None and newer.has(*DerPower.needed):
                return DerPower(registers, models[704], zero_after=settings.safe_zero)
            if 124 in models:
                return StorageRates(registers, models[124], await self._discharge_w())
        elif w_max is None:
            raise SunSpecError(f"{registers.address}: neither 702, 121 nor 120 says what 100 % of a limit is")
        else:
            if newer is not None and newer.has(*DerLimit.needed):
                return DerLimit(registers, models[704], w_max, zero_after=settings.safe_zero)
            if 123 in models:
                return PowerLimit(registers, models[123], w_max)
        raise SunSpecError(
            f"{registers.address}: no way to control it as {self.nameplate.kind}: that takes model 704, or "
            f"{'124 for storage' if self.nameplate.kind == 'battery' else '123'}; it has "
            f"{', '.join(map(str, models))}"
        )

    async def _discharge_w(self) -> float | None:
        """Return what 100 % of OutWRte is, W; None = WChaMax. The model itself does not say."""
        if self._settings.discharge_w is None:
            taken, rated = (await self._read(124)).value("WChaMax"), self.nameplate.discharge_w
            if taken and rated and taken != rated:
                log.warning(
                    "%s: 100 %% of OutWRte is taken to be WChaMax, %g W, but the largest discharge is %g W; "
                    "give --discharge-reference-w",
                    self._registers.address,
                    taken,
                    rated,
                )
        return self._settings.discharge_w

    def _measuring(self) -> int:
        return next(model for model in MEASURING if model in self._models)

    async def _soc(self) -> float | None:
        for model, name in ((713, "SoC"), (124, "ChaState")):
            if model in self._models:
                percent = (await self._read(model)).value(name)
                if percent is not None:
                    if not 0.0 <= percent <= 100.0:
                        raise SunSpecError(f"{self._registers.address}: {name} is {percent:g} %")
                    return percent / 100.0
        return None

    def _vm_pu(self, block: Block) -> float | None:
        """Return the mean phase-to-neutral voltage, pu."""
        if self._settings.nominal_v is None:
            return None
        names = ("LNV", "VL1") if block.model == 701 else ("PhVphA", "PhVphB", "PhVphC")
        volts = [v for v in map(block.value, names) if v]
        if block.model == 701:
            volts = volts[:1]
        return sum(volts) / len(volts) / self._settings.nominal_v if volts else None

    async def _read(self, model: int) -> Block:
        return await read_model(self._registers, model, self._models[model])

"""One SunSpec inverter: found, measured and controlled."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from heron_mqtt.errors import ConfigError, MessageError
from heron_mqtt.field.modbus.registers import ILLEGAL_ADDRESS, ModbusFault, Registers
from heron_mqtt.field.steady_clock import steady_s
from heron_mqtt.field.sunspec.block import Block, SunSpecError
from heron_mqtt.field.sunspec.control_choice import choose_control
from heron_mqtt.field.sunspec.controls import Control, Left
from heron_mqtt.field.sunspec.der_ac_controls import DerOptions
from heron_mqtt.field.sunspec.der_control import DerControl, active_functions, entry_problem
from heron_mqtt.field.sunspec.discovery import ModelMoved, Place, find_models, read_model
from heron_mqtt.field.sunspec.kept_settings import KeptSettings
from heron_mqtt.field.sunspec.measurement import (
    MEASURING,
    MOST_READ,
    battery_ports,
    read_ac,
    read_battery_ports,
    read_soc,
)
from heron_mqtt.field.sunspec.nameplate import (
    SETTINGS_MODELS,
    STATIC_MODELS,
    InverterKind,
    Nameplate,
    read_nameplate,
)
from heron_mqtt.field.sunspec.ramp import IncreaseRamp
from heron_mqtt.field.sunspec.settings_before import SettingsBefore
from heron_mqtt.messages import Telemetry, parse_known_fields
from heron_mqtt.units import W_PER_MW

log = logging.getLogger("heron_mqtt.sunspec")

SAME_WITHIN_S = 5.0  # one that answered so lately is no other one, if it was lost and found in between
IN_PLACE_S = 0.5  # a stop waits so long to be told that its registers are where they were
_FOUND = ("_models", "_static", "nameplate", "_control", "_operation")  # by one look at it
IN_PLACE_FOR_S = 10.0  # so long that counts, on further connections too
BEATS_MISSED = 3  # so many heartbeats on end that were not taken are a fault


class InverterFault(SunSpecError):
    """The inverter itself says that it is in a fault."""


class NotControllable(SunSpecError):
    """The inverter takes no setpoints: it is only read, is under local control, or does not answer."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What a user has to say about an inverter.

    Attributes:
        kind: What it is; None = as its models say.
        nominal_v: Phase-to-neutral voltage that is 1 pu, V; None = voltage is not reported.
        discharge_w: What 100 % of OutWRte in model 124 is, W; None = WChaMax.
        safe_zero: The safe state is zero power; otherwise the inverter's own control.
        timer_needed: Refuse an inverter that cannot revert by itself.
        read_only: Write nothing, whatever it can do.
        dark_is_zero: One that does not answer, or answers with nothing but "not available", has 0 W.
        dc_battery: If set, its power is that of the DC ports of its battery (model 714), and this is what a
            positive number there means. None = its power is that at its AC terminals.
    """

    kind: InverterKind | None = None
    nominal_v: float | None = None
    discharge_w: float | None = None
    safe_zero: bool = True
    timer_needed: bool = True
    read_only: bool = False
    dark_is_zero: bool = False
    dc_battery: Literal["charging", "discharging"] | None = None
    der: DerOptions = field(default_factory=DerOptions)


class Inverter:
    """A SunSpec inverter, made by ``connect``.

    Args:
        registers: Its registers.
        settings: What a user has to say about it.
        monotonic: The clock of its ramps, s.
        kept: Keeps its own settings for the next bridge, if this one is killed; None = they are lost then.
    """

    nameplate: Nameplate
    found: Left | None = None
    """What a controller before us had left in force when it was connected to."""
    _connection: int
    """Over which it was looked at last."""

    def __init__(
        self,
        registers: Registers,
        settings: Settings,
        monotonic: Callable[[], float] = steady_s,
        kept: KeptSettings | None = None,
    ) -> None:
        self._registers = registers
        percent_s = settings.der.ramp_percent_s
        self._ramp = None if percent_s is None else IncreaseRamp(percent_s, monotonic)
        self._settings = settings
        self._models: dict[int, Place] = {}
        self._control: Control | None = None
        self._operation: DerControl | None = None
        self._own = SettingsBefore(registers.address, kept)
        self._whole: tuple[int, int] | None = None  # place and word of what 100 % of the last setpoint is
        self._beats_missed = 0
        self._identity = ("", "", "")
        self._monotonic = monotonic
        self._in_place_until = -math.inf
        self._is_another = False
        self._is_moved = False  # its models are not where they were: it is looked at first
        self._is_unsure = False  # what answered last, in a look that ended half way, may be another one
        self._static: dict[int, Block] = {}
        self._clips = False
        self._told: set[str] = set()
        self._left_out = ""  # what the newest measurement said of readings that cannot be

    @classmethod
    async def connect(
        cls,
        registers: Registers,
        settings: Settings,
        monotonic: Callable[[], float] = steady_s,
        kept: KeptSettings | None = None,
    ) -> Inverter:
        """Find an inverter's models, read its nameplate, choose how it is measured and controlled.

        Raises:
            ConfigError: This bridge cannot serve it; says why and what to do.
            ModbusFault: No answer.
        """
        inverter = cls(registers, settings, monotonic, kept)
        try:
            await inverter._look_around()
            inverter._identity = inverter.nameplate.identity
            control = inverter._control
            if control is not None:
                inverter._own.load(inverter._identity, control)
                inverter.found = inverter._own.left(control)
            if control is None or inverter._own.has_timer:
                return inverter
        except SunSpecError as exc:
            raise ConfigError(str(exc)) from None
        text = (
            f"{registers.address}: the inverter has no reversion timer (model {control.model} "
            f"{control.timer}): if this bridge dies, it keeps its last setpoint"
        )
        if settings.timer_needed:
            raise ConfigError(f"{text}; to accept this, add --without-reversion")
        log.warning("%s", text)
        return inverter

    @property
    def safe_is_zero(self) -> bool:
        """Whether its safe state is zero power; otherwise it is its own control."""
        return self._settings.safe_zero

    @property
    def connections(self) -> int:
        """How many connections there have been; after a new one it may have restarted."""
        return self._registers.connections

    @property
    def is_controlled(self) -> bool:
        """Whether it can be told anything; otherwise it is only read."""
        return self._control is not None

    async def measure(self) -> Telemetry:
        """Return what the inverter measures now.

        Raises:
            InverterFault: It is in a fault.
            SunSpecError, ModbusFault: It cannot be read.
        """
        try:
            await self._after_reconnection()
            with self._noticing_moves():
                block = await read_model(
                    self._registers, self._measuring(), self._models[self._measuring()], most=MOST_READ
                )
        except ModbusFault as exc:
            if self.is_dark(exc):
                self._tell_once(f"{exc}; taken as 0 W until it answers")
                return Telemetry(p_mw=0.0, q_mvar=0.0)
            raise
        found = read_ac(block)
        if found.is_faulty:
            raise InverterFault(
                f"{self._registers.address}: the inverter is in a fault, events {found.events:#x}"
            )
        p_w = found.p_w
        if found.is_blank and self._settings.dark_is_zero:
            p_w = 0.0
        if p_w is None:
            hint = "; if that means 0 W (PV at night), add --dark-is-zero" if found.is_blank else ""
            raise SunSpecError(
                f"{self._registers.address}: model {block.model} W is not available, and its state is not "
                f"off, sleeping or standby{hint}"
            )
        self._told.clear()
        if self._settings.dc_battery is not None:
            p_w = await self._dc_battery_w()
        nominal_v = self._settings.nominal_v
        measured = {
            "p_mw": p_w / W_PER_MW,
            "q_mvar": found.q_var / W_PER_MW,
            "soc": await self._soc(),
            "vm_pu": None if nominal_v is None or found.volts is None else found.volts / nominal_v,
        }
        try:
            telemetry, left_out = parse_known_fields(Telemetry, measured)
        except MessageError as exc:
            raise SunSpecError(f"{self._registers.address}: model {block.model}: {exc}") from None
        if left_out != self._left_out:
            self._left_out = left_out
            if left_out:
                log.warning("%s: %s", self._registers.address, left_out)
        return telemetry

    async def set(self, p_mw: float, q_mvar: float, revert_s: float) -> None:
        """Hold a power, MW and Mvar, positive = injected; for PV p_mw is an upper limit.

        It is clipped to the limit of the installation and to the nameplate: active power, then reactive by
        the apparent power that is left.

        Args:
            p_mw: MW.
            q_mvar: Mvar; written to model 704 only.
            revert_s: After this time the inverter goes back by itself.

        Raises:
            NotControllable: It takes no setpoints now.
            SunSpecError, ModbusFault: It could not be told.
        """
        try:
            await self._after_reconnection()
        except ModbusFault as exc:
            if self.is_dark(exc):
                raise NotControllable(f"{exc}; taken as 0 W until it answers") from None
            raise
        self._whole = None
        settings = await self._after_other_settings()
        control = self._needed_control()
        if self._operation is not None and await self._operation.is_local():
            raise NotControllable(
                f"{self._registers.address}: it is under local control (model 715 LocRemCtl): it takes no "
                f"setpoints until that is switched to remote at the inverter"
            )
        if q_mvar != 0.0 and self._settings.der.power_factor is not None:
            self._tell_once(
                f"{self._registers.address}: it holds a power factor, and accepts no reactive power"
            )
        if q_mvar != 0.0 and not control.takes_q:
            log.warning(
                "%s: it gets no reactive power setpoint, that would need model 704", self._registers.address
            )
        await self._own.remember(control, fresh=True)
        self._own.save(self._identity, control)
        p_w, q_var = self._clipped(p_mw * W_PER_MW, q_mvar * W_PER_MW)
        with self._noticing_moves():
            await control.set(p_w, q_var, revert_s)
        self._whole = self._whole_of(control, settings)

    def _whole_of(self, control: Control, settings: dict[int, Block]) -> tuple[int, int] | None:
        """Return place and word of the point by which a setpoint was made percent; None = there is none."""
        if control.whole is None:
            return None
        model, name = control.whole
        block = control.known if model == control.model else settings.get(model)
        raw = None if block is None else block.raw(name)
        return None if block is None or raw is None else (block.at(name), raw)

    async def is_set_anew(self) -> bool:
        """Whether what 100 % of the last setpoint is was set again since, at the inverter itself.

        It reads one register, and no scale factor. Where it cannot be read now, that is found by the next
        setpoint or renewal.
        """
        if self._whole is None:
            return False
        place, word = self._whole
        try:
            with self._noticing_moves():
                return await self._registers.read(place, 1) != [word]
        except ModbusFault:
            return False

    @property
    def power_range_w(self) -> tuple[float | None, float | None]:
        """Smallest and largest power that is set, W, positive = injected; None = not known.

        Of the nameplate and the limit of the installation, which is known also before the first setpoint.
        """
        low_w, high_w = self.nameplate.power_range_w
        least_w, most_w = self._installation_w()
        low_w = max(-math.inf if low_w is None else low_w, least_w)
        high_w = min(math.inf if high_w is None else high_w, most_w)
        return None if low_w == -math.inf else low_w, None if high_w == math.inf else high_w

    def _installation_w(self) -> tuple[float, float]:
        """Return what the inverter's own settings allow, of before the first of ours; see ``allowed_w``."""
        control = self._control
        own = None if control is None else self._own.of(control) or control.own
        return (-math.inf, math.inf) if control is None or own is None else control.allowed_w(own)

    def _clipped(self, p_w: float, q_var: float) -> tuple[float, float]:
        """Return the nearest power that nameplate and installation allow; the first of several is reported.

        Raises:
            NotControllable: The nameplate gives no bound, and it is too much for any.
        """
        least_w, most_w = self._installation_w()
        limited_w = min(max(p_w, least_w), most_w)
        clipped = self.nameplate.clipped(limited_w, q_var)
        if not all(map(math.isfinite, clipped)):
            raise NotControllable(
                f"{self._registers.address}: {p_w:g} W, {q_var:g} var: it does not report its limits, and "
                f"this is too much"
            )
        clips = clipped != (p_w, q_var)
        if clips and not self._clips:
            is_by_plate = clipped[0] != limited_w or limited_w == p_w
            what = "its nameplate" if is_by_plate else "the limit of its installation"
            log.warning(
                "%s: %g W, %g var: clipped to what %s allows, %g W, %g var",
                self._registers.address,
                *(p_w, q_var, what, *clipped),
            )
        self._clips = clips
        return clipped

    def is_dark(self, fault: ModbusFault) -> bool:
        """Whether a fault is only that it does not answer, and the user says that this means 0 W."""
        return self._settings.dark_is_zero and fault.code is None

    async def heartbeat(self) -> None:
        """Write the heartbeat of its controller, if the inverter has one (model 715).

        One that it does not accept harms nothing, and is reported.

        Raises:
            SunSpecError, ModbusFault: It has not taken any for some time: it may revert by itself.
        """
        if self._operation is None:
            return
        try:
            await self._operation.beat()
            self._beats_missed = 0
        except (ModbusFault, SunSpecError) as exc:
            self._beats_missed += 1
            if self._beats_missed >= BEATS_MISSED:
                raise
            log.warning("%s: a heartbeat was not taken: %s", self._registers.address, exc)

    async def go_safe(self) -> None:
        """Go to the safe state of the settings."""
        await (self.hold_zero() if self._settings.safe_zero else self.release())

    async def hold_zero(self) -> None:
        """Hold zero power until told otherwise; by what is known of its layout, reading as little as can be.

        Raises:
            SunSpecError: Another inverter answers; nothing is written to it.
            ModbusFault: It could not be told.
        """
        await self._make_sure_it_is_the_same()
        control = self._needed_control()
        with self._noticing_moves():
            await self._own.remember(control, fresh=False)
            await control.hold_zero()
        self._own.save(self._identity, control)  # a stop does not wait for a disk

    async def holds_zero(self, *, just_told: bool = False) -> bool:
        """Whether its registers say, read now, that zero power is held.

        Args:
            just_told: It was told so just now: it is not checked again on a new connection.

        Raises:
            SunSpecError: Another inverter answers.
            ModbusFault: It could not be asked.
        """
        if not just_told:
            await self._after_reconnection()
        with self._noticing_moves():
            return await self._needed_control().holds_zero()

    async def what_was_left(self) -> Left | None:
        """Return what a controller before us has left in force, read now; asked before the first setpoint.

        Raises:
            SunSpecError: Another inverter answers.
            ModbusFault: It could not be asked.
        """
        await self._after_reconnection()
        control = self._needed_control()
        await control.holds_zero()  # reads it
        left = self._own.left(control)
        if left is None:
            self._own.note_handed_back(self._identity, control)
        return left

    @property
    def may_owe_settings(self) -> bool:
        """Whether an earlier bridge kept its own settings, and may not have put them back."""
        return self._own.may_be_owed

    @property
    def lacks_own_settings(self) -> bool:
        """Whether an earlier controller has left a setpoint, and the settings before it are not known."""
        return self._own.is_lost

    async def release(self) -> None:
        """Leave the inverter to its own control, with the settings that it had before the first setpoint."""
        await self._make_sure_it_is_the_same()
        control = self._needed_control()
        if self._own.is_back:  # what it would be told now is not known any more, and not wanted
            return
        with self._noticing_moves():
            await control.release(self._own.of(control))

    async def not_released(self) -> str | None:
        """Return what its registers, read now, still hold after it was released just now; None = nothing.

        Raises:
            SunSpecError: It is built otherwise than it was.
            ModbusFault: It could not be asked.
        """
        if self._own.is_back:
            return None
        control = self._needed_control()
        with self._noticing_moves():
            still = await control.not_released(self._own.of(control))
        if still is None:
            self._own.note_handed_back(self._identity, control)
        return still

    def _needed_control(self) -> Control:
        if self._control is None:
            raise NotControllable(f"{self._registers.address}: it is only read, it takes no setpoints")
        return self._control

    # -- finding out -------------------------------------------------------------------------------

    async def _look_around(self) -> None:
        """Read everything that does not change while connected.

        If this is cancelled, for example by a stop, the earlier results stay valid. The stop uses the earlier
        control and addresses of the models, and reads whether they are still correct.
        """
        before = {name: vars(self)[name] for name in _FOUND if name in vars(self)}
        try:
            await self._find_out()
        except BaseException:
            vars(self).update(before)
            self._is_unsure = True
            raise
        self._is_unsure = False

    async def _find_out(self) -> None:
        found = await find_models(self._registers)
        self._models = found
        if not any(model in found for model in MEASURING):
            raise SunSpecError(
                f"{self._registers.address}: no inverter: of models {', '.join(map(str, MEASURING))} it has "
                f"none, but {', '.join(map(str, found))}"
            )
        if self._settings.dc_battery is not None:
            await self._look_at_dc_ports()
        self._static = {model: await self._read(model) for model in STATIC_MODELS if model in self._models}
        self.nameplate = read_nameplate(self._static, self._settings.kind)
        control = None if self._settings.read_only else await self._chosen_control()
        has_timer = control is not None and await control.has_timer()
        self._control = control
        self._operation = None
        if control is not None:
            await self._look_at_operation()
        self._own.has_timer = has_timer  # last: where the look ends half way, what was known holds
        self._connection = self._registers.connections
        self._is_moved = False

    async def _chosen_control(self) -> Control:
        settings = self._settings
        return await choose_control(
            self._registers,
            self._models,
            self.nameplate,
            discharge_w=settings.discharge_w,
            zero_after=settings.safe_zero,
            der=settings.der,
            ramp=self._ramp,
        )

    async def _look_at_dc_ports(self) -> None:
        if 714 not in self._models or not battery_ports(await self._read(714)):
            raise SunSpecError(
                f"{self._registers.address}: no DC port of a battery (model 714, port type ESS); leave out "
                "--dc-battery"
            )

    async def _look_at_operation(self) -> None:
        """Find what may stand between a setpoint and the power: who controls it, and its own functions."""
        if 715 in self._models:
            self._operation = DerControl(self._registers, self._models[715])
        if 703 in self._models:
            problem = entry_problem(await self._read(703))
            if problem is not None:
                self._tell_once(f"{self._registers.address}: {problem}")
        functions = await active_functions(self._registers, self._models)
        if functions:
            log.info("%s: active beside setpoints: %s", self._registers.address, ", ".join(functions))

    async def _after_reconnection(self) -> None:
        """Look around again on a new connection: settings may have changed, or the device itself."""
        await self._registers.connect()
        if self._registers.connections == self._connection and not (self._is_another or self._is_moved):
            return
        await self._look_around()
        identity = self.nameplate.identity
        self._is_another = identity != self._identity
        if self._is_another:  # it is asked again, until the right one answers
            raise SunSpecError(
                f"{self._registers.address}: another inverter answers: {' '.join(identity)} instead of "
                f"{' '.join(self._identity)}"
            )

    @contextmanager
    def _noticing_moves(self) -> Iterator[None]:
        """Note that its registers have moved, whichever connection has found it."""
        try:
            yield
        except ModelMoved:
            self._is_moved = True
            raise
        except ModbusFault as exc:
            self._is_moved = self._is_moved or exc.code == ILLEGAL_ADDRESS
            raise

    async def _after_other_settings(self) -> dict[int, Block]:
        """Look around again if what 100 % of a setpoint is was set again, at the inverter itself.

        Returns:
            The models that show it, as they were read.

        Raises:
            SunSpecError, ModbusFault: It does not say.
        """
        with self._noticing_moves():
            now = {model: await self._read(model) for model in SETTINGS_MODELS if model in self._models}
        before, after = self.nameplate, read_nameplate({**self._static, **now}, self._settings.kind)
        if after == before:
            return now
        log.warning(
            "%s: its settings were changed: 100 %% of its power was %s W, and is %s W",
            self._registers.address,
            *(before.w_max, after.w_max),
        )
        await self._look_around()
        return {model: self._static[model] for model in now if model in self._static}

    async def _make_sure_it_is_the_same(self) -> None:
        """Make sure, before something is written that cannot wait, that it goes where it is meant to go.

        This is done only on a new connection, because the inverter may have restarted. The model to be
        written must still be at the same address. If the inverter was not heard for some time, no other
        inverter may answer. Where it cannot be asked, it is taken to be the same.

        Raises:
            SunSpecError: Another one answers, or it cannot be found where it has moved to.
            ModbusFault: There is no connection.
        """
        registers = self._registers
        if self._is_another or self._is_moved:
            await self._after_reconnection()
            return
        if self._monotonic() < self._in_place_until:  # it may close each connection once it has answered
            return
        was_heard = registers.silent_s < SAME_WITHIN_S and not self._is_unsure
        await registers.connect()
        if registers.connections == self._connection:
            return
        try:
            is_same = await self._is_in_place() and (was_heard or await self._is_the_same())
        except ModbusFault as exc:
            log.warning("%s; its safe state is still written", exc)
            return
        if is_same:
            self._in_place_until = self._monotonic() + IN_PLACE_FOR_S
        else:
            self._is_moved = True  # also if it cannot be looked at now
            await self._after_reconnection()

    async def _is_in_place(self) -> bool:
        """Whether the model that controls it is still at the address where it was found; read now."""
        if self._control is None:
            return True
        model, place = self._control.model, self._models[self._control.model]
        try:
            async with asyncio.timeout(IN_PLACE_S):
                return await self._registers.read(place.address, 2) == [model, place.size - 2]
        except TimeoutError:
            raise ModbusFault(f"{self._registers.address}: no answer within {IN_PLACE_S:g} s") from None
        except ModbusFault as exc:
            if exc.code == ILLEGAL_ADDRESS:
                return False
            raise

    async def _is_the_same(self) -> bool:
        """Whether it is the same inverter by its name, where it has one, asked now."""
        if 1 not in self._models:
            return True
        try:
            return read_nameplate({1: await self._read(1)}, "pv").identity == self._identity
        except SunSpecError:  # it is built otherwise than it was
            return False

    async def _dc_battery_w(self) -> float:
        """Return the power of the battery's DC ports, W, positive = discharging.

        Raises:
            SunSpecError: They do not say it.
        """
        p_w = read_battery_ports(await self._read(714))
        if p_w is None:
            raise SunSpecError(f"{self._registers.address}: model 714 DCW of its battery is not available")
        return p_w if self._settings.dc_battery == "discharging" else -p_w

    def _measuring(self) -> int:
        return next(model for model in MEASURING if model in self._models)

    async def _soc(self) -> float | None:
        for model, name in ((713, "SoC"), (124, "ChaState")):
            if model not in self._models:
                continue
            try:
                soc = read_soc(await self._read(model), name)
            except SunSpecError as exc:  # it harms nothing but itself
                self._tell_once(f"{self._registers.address}: {exc}; it is left out")
                continue
            if soc is not None:
                return soc
        return None

    def _tell_once(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            log.warning("%s", text)

    async def _read(self, model: int) -> Block:
        return await read_model(self._registers, model, self._models[model])

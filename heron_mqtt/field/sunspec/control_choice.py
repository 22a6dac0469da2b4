"""Which way an inverter is controlled: by the newest of its models that has what it takes."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from heron_mqtt.field.modbus.registers import Registers
from heron_mqtt.field.sunspec.block import SunSpecError
from heron_mqtt.field.sunspec.controls import Control
from heron_mqtt.field.sunspec.der_ac_controls import DerLimit, DerOptions, DerPower, DerShare
from heron_mqtt.field.sunspec.discovery import Place, read_model
from heron_mqtt.field.sunspec.nameplate import Nameplate
from heron_mqtt.field.sunspec.power_limit import PowerLimit
from heron_mqtt.field.sunspec.ramp import IncreaseRamp
from heron_mqtt.field.sunspec.storage_rates import StorageRates

log = logging.getLogger("heron_mqtt.sunspec")


async def choose_control(
    registers: Registers,
    models: Mapping[int, Place],
    plate: Nameplate,
    *,
    discharge_w: float | None,
    zero_after: bool,
    der: DerOptions,
    ramp: IncreaseRamp | None,
) -> Control:
    """Return how an inverter is controlled: model 704 before 124 (storage) and 123 (others).

    Args:
        registers: Of the inverter.
        models: Its models.
        plate: Its nameplate.
        discharge_w: What 100 % of OutWRte in model 124 is, W; None = WChaMax.
        zero_after: What a setpoint of model 704 reverts to: zero power; otherwise the inverter's own control.
        der: What is wanted of model 704 beside setpoints.
        ramp: Of increases of active power by models 123 and 124; None = as it is.

    Raises:
        SunSpecError: It has no way to be controlled, or not what is wanted beside setpoints.
        ModbusFault: No answer.
    """
    newer = await read_model(registers, 704, models[704]) if 704 in models else None
    is_storage = plate.kind == "battery"
    if not is_storage and plate.w_max is None:
        raise SunSpecError(
            f"{registers.address}: neither 702, 121 nor 120 says what 100 % of a limit is; to read it "
            f"only, add --read-only"
        )
    ways: tuple[type[DerPower | DerLimit], ...] = (DerPower, DerShare) if is_storage else (DerLimit,)
    for way in ways:
        if newer is not None and newer.has(*way.needed):
            return way(registers, models[704], plate.w_max, plate.var_max, zero_after=zero_after, options=der)
    if der.power_factor is not None:
        raise SunSpecError(
            f"{registers.address}: --power-factor needs model 704, which it cannot be controlled by"
        )
    older: StorageRates | PowerLimit
    if is_storage and 124 in models:
        if discharge_w is None:
            await _tell_reference(registers, models[124], plate)
        older = StorageRates(registers, models[124], discharge_w, ramp=ramp)
    elif plate.w_max is not None and not is_storage and 123 in models:
        older = PowerLimit(registers, models[123], plate.w_max, ramp=ramp)
    else:
        raise SunSpecError(
            f"{registers.address}: no way to control it as {plate.kind}: that takes model 704, or "
            f"{'124 for storage' if is_storage else '123'}; it has "
            f"{', '.join(map(str, models))}; to read it only, add --read-only"
        )
    await older.check_ramp()
    return older


async def _tell_reference(registers: Registers, place: Place, plate: Nameplate) -> None:
    """Log what 100 % of OutWRte is taken to be, where the nameplate differs: model 124 does not say."""
    taken = (await read_model(registers, 124, place)).value("WChaMax")
    if taken and plate.discharge_w and taken != plate.discharge_w:
        log.warning(
            "%s: 100 %% of OutWRte is taken to be WChaMax, %g W, but the largest discharge is %g W; "
            "give --discharge-reference-w",
            registers.address,
            taken,
            plate.discharge_w,
        )

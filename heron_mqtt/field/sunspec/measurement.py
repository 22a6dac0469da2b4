"""What an inverter measures at its AC terminals, out of whichever measuring model it has."""

from __future__ import annotations

from dataclasses import dataclass

from heron_mqtt.field.sunspec.block import Block, SunSpecError

MEASURING = (701, 103, 102, 101, 113, 112, 111)  # integers before floats: an inverter with both fills both
MOST_READ = 125
"""Registers of a measuring model that are read, from its beginning: the alarm text of 701 is not."""

ESS_PORT = 1  # 714 PrtTyp
_FAULT = {701: 6}
_RESTING = {701: (0, 1, 7)}  # off, sleeping, standby
_FAULT_OLDER, _RESTING_OLDER = 7, (1, 2, 8)
SOC_SLACK = 5.0
"""A state of charge is taken as 0 or 100 % up to so far beyond, percent: gauges drift at both ends."""


@dataclass(frozen=True, slots=True)
class AcMeasurement:
    """One reading.

    Attributes:
        p_w: Active power, W, positive = injected; None = the inverter does not say.
        q_var: Reactive power, var, positive = injected; 0 where the inverter does not say.
        volts: Mean phase-to-neutral voltage, V; None = the inverter does not say.
        is_faulty: Its state is a fault.
        is_resting: Its state says that it converts nothing: off, sleeping, standby.
        is_blank: It says neither power nor state nor voltage, as some do at night.
        events: Its alarm bits.
    """

    p_w: float | None
    q_var: float
    volts: float | None
    is_faulty: bool
    is_resting: bool
    is_blank: bool
    events: int


def read_ac(block: Block) -> AcMeasurement:
    """Return what a measuring model says.

    At night many inverters fill power with 0x8000 or with 0xFFFF. The second is -1 in a signed register, and
    counts as not available only where the inverter measures nothing else either, or says that it rests.

    Raises:
        SunSpecError: A scale factor is out of range.
    """
    newer = block.model == 701
    state = block.raw("InvSt" if newer else "St")
    names = ("LNV", "VL1") if newer else ("PhVphA", "PhVphB", "PhVphC")
    volts = [v for v in (_without_raising(block, name) for name in names) if v]
    if newer:
        volts = volts[:1]
    is_resting = state in _RESTING.get(block.model, _RESTING_OLDER)
    says_nothing = state is None and not volts
    p_w = _without_raising(block, "W") if is_resting or says_nothing else block.value("W")
    if (is_resting or says_nothing) and _is_all_ones(block, "W"):
        p_w = None
    if p_w is None and is_resting:
        p_w = 0.0
    q_var = None if is_resting or p_w is None else block.value("Var" if newer else "VAr")
    return AcMeasurement(
        p_w=p_w,
        q_var=q_var or 0.0,
        volts=sum(volts) / len(volts) if volts else None,
        is_faulty=state == _FAULT.get(block.model, _FAULT_OLDER),
        is_resting=is_resting,
        is_blank=says_nothing and p_w is None,
        events=block.raw("Alrm" if newer else "Evt1") or 0,
    )


def read_soc(block: Block, name: str) -> float | None:
    """Return a state of charge as a fraction; None if the inverter does not have it.

    Raises:
        SunSpecError: It is too far outside 0 to 100 %, or its scale factor is.
    """
    percent = block.value(name)
    if percent is None:
        return None
    if not -SOC_SLACK <= percent <= 100.0 + SOC_SLACK:
        raise SunSpecError(f"model {block.model} {name} is {percent:g} %")
    return min(max(percent, 0.0), 100.0) / 100.0


def battery_ports(block: Block) -> list[Block]:
    """Return the DC ports of model 714 that lead to a battery."""
    return [p for p in block.parts() if p.group.name == "Prt" and p.raw("PrtTyp") == ESS_PORT]


def read_battery_ports(block: Block) -> float | None:
    """Return the power of the battery's DC ports, W, as the inverter counts it; None if one does not say.

    Raises:
        SunSpecError: A scale factor is out of range.
    """
    powers = [port.value("DCW") for port in battery_ports(block)]
    known = [p_w for p_w in powers if p_w is not None]
    return sum(known) if known and len(known) == len(powers) else None


def _without_raising(block: Block, name: str) -> float | None:
    """Return a value; None also for a scale factor that is none, as where all registers are filled alike."""
    try:
        return block.value(name)
    except SunSpecError:
        return None


def _is_all_ones(block: Block, name: str) -> bool:
    return block.point(name).type == "int16" and block.raw(name) == -1

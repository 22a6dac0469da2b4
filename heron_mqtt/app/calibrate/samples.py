"""What a record has of one device, step by step, as arrays."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from heron_mqtt.errors import DataError
from heron_mqtt.record.reader import RecordFile

Array = NDArray[np.float64]
MIN_SAMPLES = 8
AT_LIMIT = 1e-3  # of the state of charge


@dataclass(frozen=True, slots=True)
class DeviceSamples:
    """Steps in which a device answered its setpoint; all arrays (n,), in order.

    Attributes:
        label: AGENT/DEVICE.
        dt_s: Length of a step, s.
        target_mw: Setpoint in force, MW, positive = injected; of a source no more than it offers.
        p_mw: Measured, MW.
        soc: Measured after the step, fraction; NaN where the device says none.
        available_mw: What a source offers or a load wants, MW; NaN where there is no profile.
        follows: Whether the step before is in the samples too, and nothing but the setpoint set the power.
        soc_before: Measured after the step before; NaN where that is not known.
        round_trip_s: From setpoint to its answer, s.
    """

    label: str
    dt_s: float
    target_mw: Array
    p_mw: Array
    soc: Array
    available_mw: Array
    follows: NDArray[np.bool_]
    soc_before: Array
    round_trip_s: Array

    def __len__(self) -> int:
        """Number of steps."""
        return len(self.p_mw)


def driven_devices(record: RecordFile) -> list[str]:
    """Return AGENT/DEVICE of those that answered setpoints."""
    rows = record.query(
        "SELECT DISTINCT agent, device FROM device_row WHERE acknowledged = 1 AND sent_p_mw IS NOT NULL "
        "AND telemetry_p_mw IS NOT NULL ORDER BY agent, device"
    )
    return [f"{row['agent']}/{row['device']}" for row in rows]


def samples_of(
    record: RecordFile, label: str, full_or_empty: tuple[float, float] | None = None
) -> DeviceSamples:
    """Return the steps of a device.

    Args:
        record: Of the run.
        label: AGENT/DEVICE.
        full_or_empty: States of charge at which the device is limited by its energy, not by its setpoint.

    Raises:
        DataError: There are too few of them, or no such device.
    """
    agent, _, device = label.partition("/")
    rows = record.query(
        "SELECT episode, step, cleared_p_mw, telemetry_p_mw, telemetry_soc, p_available_mw, round_trip_s, "
        "acknowledged, fallback, sent_p_mw FROM device_row WHERE agent = ? AND device = ? "
        "ORDER BY episode, step",
        agent,
        device,
    )
    if not rows:
        there = ", ".join(driven_devices(record)) or "no device that answered setpoints"
        raise DataError(f"{record.path}: no device {label}; there is {there}")
    used = [
        row
        for row in rows
        if row["acknowledged"] and row["fallback"] is None and row["sent_p_mw"] is not None
        if row["telemetry_p_mw"] is not None and row["cleared_p_mw"] is not None
    ]
    if len(used) < MIN_SAMPLES:
        few = f"{label} answered its setpoint in {len(used)} steps"
        raise DataError(f"{record.path}: {few}; expected at least {MIN_SAMPLES}")

    def column(name: str) -> Array:
        return np.array([np.nan if row[name] is None else row[name] for row in used], dtype=float)

    at = [(row["episode"], row["step"]) for row in used]
    known = np.array([False, *((e, s - 1) == before for before, (e, s) in itertools.pairwise(at))])
    soc, available = column("telemetry_soc"), column("p_available_mw")
    soc_before = np.where(known, np.concatenate(([np.nan], soc[:-1])), np.nan)
    responds = known
    if full_or_empty is not None:
        low, high = full_or_empty
        responds = known & ~((soc <= low + AT_LIMIT) | (soc >= high - AT_LIMIT))
    target = column("cleared_p_mw")
    return DeviceSamples(
        label,
        record.step_s,
        np.where(np.isnan(available), target, np.minimum(target, available)),
        column("telemetry_p_mw"),
        soc,
        available,
        responds,
        soc_before,
        column("round_trip_s"),
    )

"""What an emulated device went through in an interrupted run, from the run's record.

An emulator that is started again takes the same setpoints and faults once more, silently, and so stands where
it stood: model, imperfections, random numbers and faults.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heron_mqtt.errors import DataError
from heron_mqtt.messages import Fault, Setpoint
from heron_mqtt.messages import parse as parse_message
from heron_mqtt.messaging import topics
from heron_mqtt.record.reader import RecordFile
from heron_mqtt.record.run_part import is_abandoned

__all__ = ["DeviceHistory", "PastStep", "device_history"]


@dataclass(frozen=True, slots=True)
class PastStep:
    """One finished step, as one device saw it.

    Attributes:
        number: Of the step.
        faults: Faults on demand, before the step or in it.
        setpoint: That was sent to the device; None = none was.
        is_answered: The device said that it took the setpoint.
        is_safe: The device said at the end that it was in its safe state.
        p_mw, soc: What it showed at the end; None = nothing was heard.
    """

    number: int
    faults: tuple[Fault, ...] = ()
    setpoint: Setpoint | None = None
    is_answered: bool = False
    is_safe: bool = False
    p_mw: float | None = None
    soc: float | None = None


@dataclass(frozen=True, slots=True)
class DeviceHistory:
    """The finished steps of one episode, in order."""

    episode: int
    steps: tuple[PastStep, ...]


def device_history(path: Path, agent: str, device: str) -> DeviceHistory | None:
    """Return what a device went through in the last episode of a record; None = no step was finished.

    Raises:
        DataError: It is no record.
    """
    with RecordFile(path) as record:
        found = record.query(
            "SELECT d.*, s.begun_at_s FROM device_row AS d JOIN step_row AS s ON s.episode = d.episode "
            "AND s.step = d.step WHERE d.agent = ? AND d.device = ? AND d.episode = "
            "(SELECT max(episode) FROM step_row) ORDER BY d.step",
            agent,
            device,
        )
        if not found:
            return None
        late = record.late_devices()
        rows = [{**dict(row), **late.get((row["episode"], row["step"], agent, device), {})} for row in found]
        answered = _answered(record, agent, device)
        faults = _faults(record, agent, device, rows)
        steps = tuple(_past_step(record, row, faults[row["step"]], answered) for row in rows)
        return DeviceHistory(int(rows[0]["episode"]), steps)


def _past_step(
    record: RecordFile, row: Mapping[str, Any], faults: list[Fault], answered: set[tuple[Any, Any]]
) -> PastStep:
    setpoint = None
    if row["sent_p_mw"] is not None:
        setpoint = Setpoint(
            p_mw=row["sent_p_mw"],
            q_mvar=row["sent_q_mvar"] or 0.0,
            lease_s=row["lease_s"] or 1.0,
            dt_s=record.step_s,
            p_available_mw=row["p_available_mw"],
            step=row["step"],
        )
    return PastStep(
        row["step"],
        tuple(faults),
        setpoint,
        bool(row["acknowledged"]) or (row["sent_boot"], row["sent_seq"]) in answered,
        bool(row["safe"]),
        row["telemetry_p_mw"],
        row["telemetry_soc"],
    )


def _answered(record: RecordFile, agent: str, device: str) -> set[tuple[Any, Any]]:
    """Return boot and number of each setpoint that telemetry acknowledged, in time or later."""
    found = {
        (row["ack_boot"], row["ack_seq"])
        for row in record.query(
            "SELECT DISTINCT ack_boot, ack_seq FROM device_row WHERE agent = ? AND device = ?", agent, device
        )
    }
    for row in record.each(
        "SELECT payload FROM message_row WHERE channel = ? AND type = 'telemetry' AND payload IS NOT NULL",
        topics.device(agent, device, "telemetry"),
    ):
        said = json.loads(row["payload"])
        boot, seq = (said.get("ack_boot"), said.get("ack_seq")) if isinstance(said, dict) else (None, None)
        if isinstance(boot, str) and type(seq) is int:  # a stranger can have published anything
            found.add((boot, seq))
    return found


def _faults(
    record: RecordFile, agent: str, device: str, rows: list[dict[str, Any]]
) -> defaultdict[int, list[Fault]]:
    """Return by step the faults on demand that the run has told the device to have."""
    found: defaultdict[int, list[Fault]] = defaultdict(list)
    last = int(rows[-1]["step"])
    parts = record.parts()
    for row in record.query(
        "SELECT at_s, episode, step, data FROM event_row WHERE kind = 'fault' AND subject = ? ORDER BY id",
        topics.device(agent, device, "fault"),
    ):
        step = row["step"]
        if step is None:  # told by hand: it begins with the next step
            later = [one["step"] for one in rows if one["begun_at_s"] > row["at_s"]]
            step = min(later, default=last + 1)
        elif is_abandoned(parts, row["at_s"], (rows[0]["episode"], step)):
            continue  # it was told again when the step was done again
        try:
            found[step].append(parse_message(Fault, json.loads(row["data"] or "{}")))
        except ValueError:
            raise DataError(f"{record.path}: a fault of {agent}/{device} cannot be read") from None
    return found

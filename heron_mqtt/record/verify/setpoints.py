"""Setpoints stand in a record twice, as messages and in the rows of devices: both say the same."""

from __future__ import annotations

import json
from typing import Any

from heron_mqtt.messaging import topics
from heron_mqtt.record.reader import RecordFile
from heron_mqtt.record.verify.finding import Finding, at

SENT = {"p_mw": "sent_p_mw", "q_mvar": "sent_q_mvar", "lease_s": "lease_s"}
"""Fields of a setpoint, and the column of ``device_row`` that each is copied to."""


def check_setpoints_sent(record: RecordFile) -> Finding:
    """Compare each setpoint in a row with the message of its sender and number; and messages with their rows.

    A message whose columns are not those of its payload is found here, too: the other checks go by columns.
    """
    found = Finding("setpoints in rows as in messages")
    if record.meta.get("keeps_messages") != "1":
        found.note = "messages were not recorded"
        return found
    sent: dict[tuple[str, str, int], dict[str, Any]] = {}
    for row in record.each(
        "SELECT episode, step, channel, boot, seq, payload FROM message_row "
        "WHERE type = 'setpoint' AND direction = 'out' AND boot IS NOT NULL AND seq IS NOT NULL"
    ):
        said = _object(row["payload"])
        same = {name: row[name] for name in ("episode", "step", "boot", "seq")}
        told = {name: said.get(name) for name in same}
        where = f"message {row['boot']}/{row['seq']} on {row['channel']}"
        found.check(told == same, f"{where}: its payload says {told}, its columns {same}")
        sent[row["channel"], row["boot"], row["seq"]] = said
    is_whole = record.lost_rows() == 0 and (record.parts()[-1].summary is not None or "merged" in record.meta)
    for row in record.each(
        "SELECT episode, step, agent, device, sent_p_mw, sent_q_mvar, lease_s, sent_boot, sent_seq "
        "FROM device_row WHERE sent_seq IS NOT NULL AND sent_boot IS NOT NULL"
    ):
        channel = topics.device(row["agent"], row["device"], "setpoint")
        message = sent.get((channel, row["sent_boot"], row["sent_seq"]))
        where = at(row["episode"], row["step"], f"{row['agent']}/{row['device']}")
        if message is None:
            if is_whole:  # a record that is full drops messages before rows
                number = f"{row['sent_boot']}/{row['sent_seq']}"
                found.check(False, f"{where}: setpoint {number} was sent, and no message of it is there")
            continue
        for name, column in SENT.items():
            found.check(
                message.get(name) == row[column],
                f"{where}: {column} is {row[column]}, the message that was sent says {message.get(name)}",
            )
    return found


def _object(payload: str | None) -> dict[str, Any]:
    """Return what a payload holds; nothing of one that is no JSON object."""
    try:
        said = json.loads(payload or "")
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}

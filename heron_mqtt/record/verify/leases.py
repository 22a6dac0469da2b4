"""Leases and authority: no setpoints of two senders at once, beyond the lease, or without the right."""

from __future__ import annotations

import json
from typing import Any

from heron_mqtt.field.gateway.authority import SENDS
from heron_mqtt.messaging import topics
from heron_mqtt.record.reader import RecordFile
from heron_mqtt.record.run_part import is_abandoned
from heron_mqtt.record.verify.finding import Finding, at

MARGIN_S = 1.0  # for a message on its way and a busy machine


def check_authority(record: RecordFile) -> Finding:
    """Check that setpoints went only to devices whose level allows it."""
    found = Finding("no setpoint to a device in shadow or simulated")
    changed = {
        (row["episode"], row["step"], row["subject"].rsplit("/", 1)[0])
        for row in record.query("SELECT episode, step, subject FROM event_row WHERE kind = 'authority'")
    }
    late = record.late_devices()
    levels: dict[tuple[int, int, str, str], str | None] = {}
    for row in record.query(
        "SELECT episode, step, agent, device, authority, sent_p_mw FROM device_row ORDER BY id"
    ):
        here = row["episode"], row["step"], row["agent"], row["device"]
        levels[here] = row["authority"] or late.get(here, {}).get("authority")
        if row["sent_p_mw"] is not None:
            allowed = row["authority"] in SENDS or _was_changed(changed, row)
            where = at(row["episode"], row["step"], f"{row['agent']}/{row['device']}")
            found.check(allowed, f"{where}: a setpoint was sent at authority {row['authority']}")
    parts = record.parts()
    unheard = {
        (row["episode"], row["step"], row["agent"])
        for row in record.query("SELECT episode, step, agent FROM agent_row WHERE fallback IS NOT NULL")
    }
    for row in record.each(
        "SELECT at_s, episode, step, channel FROM message_row WHERE type = 'setpoint' AND direction = 'out'"
    ):
        place = topics.levels(row["channel"])
        if len(place) != 4:
            continue
        key = (row["episode"], row["step"], place[1], place[2])
        if key not in levels or is_abandoned(parts, row["at_s"], key[:2]):  # the step did not end
            continue
        if levels[key] is None and key[:3] in unheard:  # the agent's message of the step never came
            continue
        allowed = levels[key] in SENDS or (*key[:2], f"devices/{place[1]}/{place[2]}") in changed
        where = at(row["episode"], row["step"], f"{place[1]}/{place[2]}")
        found.check(allowed, f"{where}: a message on {row['channel']} at authority {levels[key]}")
    return found


def _was_changed(changed: set[tuple[Any, ...]], row: Any) -> bool:
    """Whether the authority changed in this step: the setpoint may have left before."""
    return (row["episode"], row["step"], f"devices/{row['agent']}/{row['device']}") in changed


def check_leases(record: RecordFile) -> tuple[Finding, Finding, Finding]:
    """Check that leases have one owner, are not outlived, and how long devices took to their safe state."""
    owners = Finding("a lease has one owner")
    outlived = Finding("no lease outlived")
    safe = Finding("time to the safe state within the lease")
    for channel in _channels(record):
        _check_device(record, channel, owners, outlived, safe)
    if not owners.checked and record.meta.get("keeps_messages") != "1":
        owners.note = outlived.note = safe.note = "messages were not recorded"
    return owners, outlived, safe


def _channels(record: RecordFile) -> list[str]:
    return [
        row["channel"].rsplit("/", 1)[0]
        for row in record.query("SELECT DISTINCT channel FROM message_row WHERE type = 'setpoint'")
    ]


def _check_device(record: RecordFile, device: str, owners: Finding, outlived: Finding, safe: Finding) -> None:
    """Follow one device's setpoints and telemetry in the order in which they passed."""
    owner: tuple[str | None, str | None] | None = None
    until_s, lease_s = 0.0, 0.0
    newest_seq, lease_before_s = None, 0.0  # of the newest setpoint, which may be rejected
    device_boot: str | None = None
    for row in record.each(
        "SELECT at_s, direction, type, sender, boot, arrival, network, delay_s, payload FROM message_row "
        "WHERE channel IN (?, ?) ORDER BY id",
        f"{device}/setpoint",
        f"{device}/telemetry",
    ):
        if row["payload"] is None:
            continue
        said = json.loads(row["payload"])
        now_s = row["at_s"]
        if row["type"] == "setpoint":
            me = (row["sender"], row["boot"])
            if said.get("release"):
                owner, until_s = None, now_s
                continue
            free = owner is None or now_s > until_s or said.get("take_over") is True
            owners.check(
                free or me == owner,
                f"{device} at {now_s:.3f} s: {_who(me)} sent a setpoint while {_who(owner)} held the lease "
                f"for another {until_s - now_s:.3f} s",
            )
            newest_seq, lease_before_s = said.get("seq"), lease_s
            lease_s = said.get("lease_s", 0.0)
            owner, until_s = me, now_s + lease_s + (row["delay_s"] or 0.0)
        elif row["type"] == "telemetry" and (row["direction"] == "out" or row["arrival"] == "new"):
            if row["boot"] != device_boot:  # born again, it knows of no lease
                owner, device_boot = None, row["boot"]
            if said.get("rejected") is not None and said.get("ack_seq") == newest_seq:
                lease_s, newest_seq = lease_before_s, None  # the power has that of the one before
            after_s = said.get("safe_after_s")
            if after_s is not None and lease_s:
                safe.check(
                    after_s <= lease_s + MARGIN_S,
                    f"{device} at {now_s:.3f} s: safe after {after_s:.3f} s, its lease was {lease_s:g} s",
                )
            late_s = now_s - (row["delay_s"] or 0.0) - until_s
            if owner is not None and late_s > MARGIN_S and said.get("safe") is not None:
                outlived.check(
                    said["safe"] is True,
                    f"{device} at {now_s:.3f} s: not in its safe state {late_s:.3f} s after its lease",
                )
            elif owner is not None:
                outlived.check(True, "")


def _who(owner: tuple[str | None, str | None] | None) -> str:
    return "no sender" if owner is None else f"{owner[0] or 'by hand'} (boot {owner[1]})"

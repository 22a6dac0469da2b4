"""What passed on each kind of channel up to a moment of a record, and what an impaired network did to it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from heron_mqtt.app.live_view.counts import channel_kind
from heron_mqtt.json_object import Json
from heron_mqtt.messaging import topics
from heron_mqtt.record.reader import RecordFile

NEVER_ARRIVES = frozenset({"lost", "partitioned", "overflowed", "abandoned"})


@dataclass(slots=True)
class RecordedKind:
    """Messages of one kind of channel; ``network`` counts what was done to them."""

    messages: int = 0
    lost: int = 0
    repeated: int = 0
    network: Counter[str] = field(default_factory=Counter)
    delayed: int = 0
    delay_sum_s: float = 0.0
    delay_max_s: float = 0.0


def recorded_channels(record: RecordFile, until_s: float) -> Json:
    """Return counts by kind of channel; a message counts once, although both sides may have recorded it.

    Args:
        record: The record.
        until_s: Moment, s since the record began.
    """
    found: dict[str, RecordedKind] = {}
    for row in record.each(
        "SELECT channel, direction, coalesce(arrival, 'new') AS arrival, network, "
        "coalesce(retained, 0) AS kept, count(*) AS n, count(payload) AS told, "
        "count(delay_s) AS delayed, total(delay_s) AS delay_sum_s, "
        "max(delay_s) AS delay_max_s FROM message_row WHERE at_s <= ? GROUP BY 1, 2, 3, 4, 5",
        until_s,
    ):
        kind = found.setdefault(channel_kind(topics.levels(row["channel"])), RecordedKind())
        done = row["network"].split("+") if row["network"] else []
        if row["direction"] == "out":
            kind.messages += row["n"]
        elif row["arrival"] in {"new", "late"}:
            kind.messages += row["told"]  # the payload of one of ours stands where it was published
        if row["arrival"] == "none" or NEVER_ARRIVES.intersection(done):
            kind.lost += row["n"]
        if row["arrival"] == "repeated" and not row["kept"]:
            kind.repeated += row["n"]
        kind.network.update(dict.fromkeys(done, row["n"]))
        if row["delay_max_s"]:
            kind.delayed += row["delayed"]
            kind.delay_sum_s += row["delay_sum_s"]
            kind.delay_max_s = max(kind.delay_max_s, row["delay_max_s"])
    return {name: _as_json(kind) for name, kind in sorted(found.items())}


def _as_json(kind: RecordedKind) -> Json:
    return {
        "messages": kind.messages,
        "lost": kind.lost,
        "repeated": kind.repeated,
        "rate": None,
        "network": dict(sorted(kind.network.items())),
        "delay_mean_s": kind.delay_sum_s / kind.delayed if kind.delayed else None,
        "delay_max_s": kind.delay_max_s if kind.delayed else None,
    }

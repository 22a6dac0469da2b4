"""Messages: what one side of a link sent, the other side has, or the record says what became of it."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from heron_mqtt.record.reader import RecordFile
from heron_mqtt.record.run_part import RunPart
from heron_mqtt.record.verify.finding import Finding

StreamKey = tuple[str, str, str]  # sender, boot, channel

GONE = frozenset({"lost", "partitioned"})


class Link(NamedTuple):
    """One stream of messages as the record has it.

    Attributes:
        stream: Sender, boot and channel.
        source: Whose file tells of the arrivals.
        sent: Numbers that were published, where the sender's side is recorded.
        lost: Numbers of which the record says that a network lost them.
        arrived: Number -> how often it arrived as something new.
        repeated: Arrivals of what was there already, retained ones left out.
    """

    stream: StreamKey
    source: str
    sent: set[int]
    lost: set[int]
    arrived: dict[int, int]
    repeated: int


def links(record: RecordFile, from_s: float = -math.inf, until_s: float = math.inf) -> Iterator[Link]:
    """Return every stream with numbers, for each side that receives it.

    Args:
        record: The run.
        from_s: Only of messages that passed then or later, s since the record began,
        until_s: and before this.
    """
    sent: dict[StreamKey, set[int]] = defaultdict(set)
    lost: dict[tuple[StreamKey, str], set[int]] = defaultdict(set)
    lost_out: dict[StreamKey, set[int]] = defaultdict(set)
    arrived: dict[tuple[StreamKey, str], dict[int, int]] = defaultdict(lambda: defaultdict(int))
    repeated: dict[tuple[StreamKey, str], int] = defaultdict(int)
    for row in record.each(
        "SELECT source, direction, channel, sender, boot, seq, retained, arrival, network FROM message_row "
        "WHERE seq IS NOT NULL AND sender IS NOT NULL AND boot IS NOT NULL AND at_s >= ? AND at_s < ? "
        "ORDER BY id",
        from_s,
        until_s,
    ):
        stream = (row["sender"], row["boot"], row["channel"])
        gone = bool(GONE & set((row["network"] or "").split("+")))
        seq, at = row["seq"], (stream, row["source"])
        if row["direction"] == "out":
            sent[stream].add(seq)
            if gone:
                lost_out[stream].add(seq)
        elif gone and row["arrival"] == "none":
            lost[at].add(seq)
        elif row["retained"] and seq in arrived[at]:
            continue  # the broker sends it once for each subscription; a stop is handed on each time
        elif row["arrival"] in {"new", "late"}:
            arrived[at][seq] += 1
        elif not row["retained"]:
            repeated[at] += 1
    for at in dict.fromkeys((*arrived, *lost, *repeated)):
        stream, source = at
        yield Link(
            stream,
            source,
            sent.get(stream, set()),
            lost.get(at, set()) | lost_out.get(stream, set()),
            dict(arrived.get(at, {})),
            repeated.get(at, 0),
        )


def check_links(record: RecordFile) -> Finding:
    """Compare both sides of each link, and both with what the broker counted, for each part of the run."""
    found = Finding("lost and duplicated alike on both sides")
    if record.meta.get("keeps_messages") != "1":
        found.note = "messages were not recorded"
        return found
    parts = record.parts()
    ends_s = [*(part.at_s for part in parts[1:]), math.inf]
    for part, until_s in zip(parts, ends_s, strict=True):
        gaps, repeated = _check_part(links(record, part.at_s, until_s), found)
        _compare_with_counts(record, found, part, until_s, gaps, repeated)
    return found


def _check_part(every: Iterable[Link], found: Finding) -> tuple[int, int]:
    """Check each link; return how many gaps and repeated arrivals there were."""
    gaps = repeated = 0
    for link in every:
        sender, _, channel = link.stream
        name = f"{channel} from {sender}"
        for seq, times in link.arrived.items():
            found.check(times == 1, f"{name}: seq {seq} arrived as new {times} times")
        heard = set(link.arrived)
        if link.sent:
            phantoms = sorted(heard - link.sent)
            found.check(not phantoms, f"{name}: seq {phantoms[:1]} arrived and was never sent")
            last = max(heard, default=-1)  # later ones may have been on their way when the record ended
            missing = sorted(seq for seq in link.sent - heard - link.lost if seq < last)
            before = min(heard, default=0)  # sent before the first subscription
            missing = [seq for seq in missing if seq > before]
            found.check(
                not missing, f"{name}: seq {missing[:1]} was sent, did not arrive, and no reason is recorded"
            )
            both = sorted(heard & link.lost)
            found.check(not both, f"{name}: seq {both[:1]} arrived although the network lost it")
        if heard:
            gaps += max(heard) - min(heard) + 1 - len(heard)
        repeated += link.repeated
    return gaps, repeated


def _compare_with_counts(
    record: RecordFile, found: Finding, part: RunPart, until_s: float, gaps: int, repeated: int
) -> None:
    """Compare the messages of one part with what its brokers counted."""
    summary = part.summary
    if summary is None or "merged" in record.meta:
        found.note = "merged, or the run did not end by itself: not compared with the broker's counts"
        return
    counts: list[dict[str, Any]] = summary.get("brokers", [])
    if not counts or summary.get("lost_rows") or part.lost_rows:
        found.note = "rows are missing from the record: not compared with the broker's counts"
        return
    lost = sum(one["lost"] for one in counts)
    found.check(gaps == lost, f"the arrivals have {gaps} gaps, the broker counted {lost} lost")
    impaired = bool(record.options.get("impairment"))
    foreign = sum(one["duplicated"] for one in counts)
    if not impaired:  # an impaired network also removes what the broker behind it repeats
        found.check(
            repeated == foreign, f"{repeated} repeated arrivals, the broker counted {foreign} duplicated"
        )
        (row,) = record.query(
            "SELECT count(*) AS n FROM message_row WHERE direction = 'out' AND at_s >= ? AND at_s < ?",
            part.at_s,
            until_s,
        )
        published = sum(one["published"] for one in counts)
        found.check(
            row["n"] == published, f"{row['n']} messages sent, the broker counted {published} published"
        )

"""``heron-mqtt calibrate RUN --network``: the delays, losses and bursts of each kind of channel, as rules."""

from __future__ import annotations

import itertools
import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import scipy
from numpy.typing import NDArray

from heron_mqtt.errors import DataError
from heron_mqtt.messaging import topics
from heron_mqtt.record.reader import RecordFile

Array = NDArray[np.float64]
MIN_MESSAGES = 30
MAX_FITTED = 4_000  # delays; of more, every so many-th
LAST_S = 2.0  # before the end of the record: what was sent then may have been on its way
GOOD_DISTANCE = 0.05  # of the distributions: below it they are as good as equal for training
BURSTY = 0.01  # losses follow each other more often than by chance, at this level


@dataclass(frozen=True, slots=True)
class ChannelFit:
    """What is known of one kind of channel.

    Attributes:
        pattern: Filter of the channels.
        sent: Messages, lost ones included.
        source: ``one way`` (both ends are in the record), ``half a round trip``, or ``gaps`` (losses alone).
        delay_s: Least delay, s.
        jitter: Distribution on top of it, by the name that rules use.
        jitter_s: Its scale, s.
        jitter_shape: Its shape; None = it has none.
        loss: Probability of loss outside bursts.
        burst: Probabilities of entering and of leaving a burst; None = losses come one by one.
        duplicate: Probability of a copy.
        distance: Of the fitted from the measured distribution of delays (Kolmogorov and Smirnov), 0 to 1.
        fits: Whether that is small, or no more than chance.
    """

    pattern: str
    sent: int
    source: str
    delay_s: float = 0.0
    jitter: str = "none"
    jitter_s: float = 0.0
    jitter_shape: float | None = None
    loss: float = 0.0
    burst: tuple[float, float] | None = None
    duplicate: float = 0.0
    distance: float = 0.0
    fits: bool = True

    @property
    def lost_share(self) -> float:
        """Share of messages that are lost, bursts included."""
        in_bursts = 0.0 if self.burst is None else self.burst[0] / (self.burst[0] + self.burst[1])
        return self.loss + (1.0 - self.loss) * in_bursts

    @property
    def jitter_text(self) -> str:
        """The distribution in short."""
        if self.jitter == "none":
            return "none"
        shape = "" if self.jitter_shape is None else f", {self.jitter_shape:.2f}"
        return f"{self.jitter} {self.jitter_s * 1e3:.2f} ms{shape}"

    def rule(self) -> str:
        """Return it as a rule of an ``[impairment]`` table."""
        lines = ["[[impairment.rules]]", f'pattern = "{self.pattern}"', f"delay_s = {self.delay_s:.6f}"]
        if self.jitter != "none":
            lines += [f'jitter = "{self.jitter}"', f"jitter_s = {self.jitter_s:.6f}"]
        if self.jitter_shape is not None:
            lines.append(f"jitter_shape = {self.jitter_shape:.4f}")
        if self.loss > 0.0:
            lines.append(f"loss = {self.loss:.6f}")
        if self.burst is not None:
            lines.append(
                f"burst = {{ enter = {self.burst[0]:.6f}, leave = {self.burst[1]:.6f}, loss = 1.0 }}"
            )
        if self.duplicate > 0.0:
            lines.append(f"duplicate = {self.duplicate:.6f}")
        return "\n".join(lines)


@dataclass(slots=True)
class NetworkFit:
    """The network of a record.

    Attributes:
        channels: By kind of channel.
        notes: What the record cannot tell.
    """

    name: str
    channels: list[ChannelFit] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def file(self) -> str:
        """Return a file for ``--network``."""
        head = (
            f"# The network of a run of {self.name}, fitted to its record. Presence and stops are retained\n"
            "# and repeated until they are through: late, never lost.\n"
            f'[impairment]\nname = "measured, {self.name[:40]}"\n'
        )
        return "\n\n".join([head, *(one.rule() for one in self.channels)]) + "\n"


def fit_network(record: RecordFile) -> NetworkFit:
    """Fit every kind of channel of a record.

    A delay is the difference of two times of one clock. It is the time from sending to receiving a message,
    if one process did both (or in a merged record, whose clocks were aligned). Or it is the time from a
    setpoint to the telemetry that answers it.

    Raises:
        DataError: Messages were not recorded, or too few.
    """
    if record.meta.get("keeps_messages") != "1":
        raise DataError(f"{record.path}: messages were not recorded: run with --record-messages")
    found = NetworkFit(record.meta.get("scenario", "run"))
    traffic = _read(record)
    for pattern in sorted(traffic):
        one = traffic[pattern]
        if one.is_retained:
            continue
        fit = _fit(pattern, one)
        if fit is not None:
            found.channels.append(fit)
    if not found.channels:
        raise DataError(f"{record.path}: no kind of channel has {MIN_MESSAGES} messages; run for longer")
    if any(one.source == "half a round trip" for one in found.channels):
        found.notes.append(
            "setpoint and telemetry: one side alone sees only the round trip, with the time that the device "
            "takes to answer; half of it is used for each direction. Record both sides and merge them to "
            "tell them apart."
        )
    return found


@dataclass(slots=True)
class _Traffic:
    """Messages of one kind of channel."""

    sent_at: dict[tuple[str, str, str, int], float] = field(default_factory=dict)
    heard_at: dict[tuple[str, str, str, int], float] = field(default_factory=dict)
    late: set[tuple[str, str, str, int]] = field(default_factory=set)
    copies: int = 0
    retained: int = 0
    round_trips_s: list[float] = field(default_factory=list)
    end_s: float = 0.0

    @property
    def is_retained(self) -> bool:
        """Whether it is presence: said again until it is heard, so its losses are not seen."""
        return self.retained > 0.1 * max(len(self.sent_at) + len(self.heard_at), 1)


def _pattern(channel: str) -> str:
    """Return the filter of a kind of channel: names of agents and devices are left open."""
    levels = topics.levels(channel)
    match levels:
        case ["devices", _, _, leaf]:
            return f"devices/+/+/{leaf}"
        case ["agents", _, leaf]:
            return f"agents/+/{leaf}"
        case [first, *rest] if first in {"p2p", "operators"}:
            return "/".join([first, *("+" for _ in rest[:-1]), "+" if first == "p2p" else rest[-1]])
        case _:
            return channel


def _read(record: RecordFile) -> Mapping[str, _Traffic]:
    traffic: dict[str, _Traffic] = defaultdict(_Traffic)
    setpoints: dict[tuple[str, int], float] = {}
    end_s = 0.0
    for row in record.each(
        "SELECT at_s, direction, channel, sender, boot, seq, type, retained, arrival, payload "
        "FROM message_row ORDER BY id"
    ):
        end_s = max(end_s, row["at_s"])
        if row["seq"] is None or row["boot"] is None:
            continue
        one = traffic[_pattern(row["channel"])]
        one.retained += bool(row["retained"])
        key = (row["channel"], row["sender"] or "", row["boot"], row["seq"])
        if row["direction"] == "out":
            one.sent_at.setdefault(key, row["at_s"])
            if row["type"] == "setpoint":
                setpoints[row["boot"], row["seq"]] = row["at_s"]
        elif row["arrival"] in {"new", None}:
            one.heard_at.setdefault(key, row["at_s"])
            if row["type"] == "telemetry" and row["payload"]:
                said = json.loads(row["payload"])
                sent = setpoints.pop((said.get("ack_boot"), said.get("ack_seq")), None)
                if sent is not None:
                    one.round_trips_s.append(row["at_s"] - sent)
        elif row["arrival"] == "late":  # it waited for a connection: that is no delay of the network
            one.late.add(key)
        elif row["arrival"] == "repeated":
            one.copies += 1
    for one in traffic.values():
        one.end_s = end_s
    if "devices/+/+/telemetry" in traffic and "devices/+/+/setpoint" in traffic:
        traffic["devices/+/+/setpoint"].round_trips_s = traffic["devices/+/+/telemetry"].round_trips_s
    return traffic


def _fit(pattern: str, one: _Traffic) -> ChannelFit | None:
    both = [
        (key, at)
        for key, at in one.sent_at.items()
        if key not in one.late and (key in one.heard_at or at < one.end_s - LAST_S)
    ]
    delays = np.array([one.heard_at[key] - at for key, at in both if key in one.heard_at])
    if len(delays) >= MIN_MESSAGES:
        streams: dict[tuple[str, str, str], list[bool]] = defaultdict(list)
        for key, _ in sorted(both, key=lambda pair: pair[0]):
            streams[key[:3]].append(key not in one.heard_at)
        return _whole(pattern, "one way", delays, list(streams.values()), one.copies)
    lost = list(_gaps({*one.heard_at, *one.late}))
    if len(one.round_trips_s) >= MIN_MESSAGES:
        half = np.array(one.round_trips_s) / 2.0
        return _whole(pattern, "half a round trip", half, lost, one.copies)
    if sum(map(len, lost)) >= MIN_MESSAGES:
        return _whole(pattern, "gaps", np.zeros(0), lost, one.copies)
    return None


def _gaps(heard: Iterable[tuple[str, str, str, int]]) -> Iterator[list[bool]]:
    """Return by stream, for each number from the first to the last that was heard, whether it was lost."""
    numbers: dict[tuple[str, str, str], set[int]] = defaultdict(set)
    for channel, sender, boot, seq in heard:
        numbers[channel, sender, boot].add(seq)
    for stream in sorted(numbers):
        known = numbers[stream]
        if max(known) - min(known) > 100 * len(known):
            continue  # no counter of ours
        yield [number not in known for number in range(min(known), max(known) + 1)]


def _whole(
    pattern: str, source: str, delays: Array, lost: Sequence[Sequence[bool]], copies: int
) -> ChannelFit:
    loss, burst = _losses(lost)
    sent, gone = sum(map(len, lost)), sum(map(sum, lost))
    delay = DelayFit() if len(delays) == 0 else fit_delay(delays)
    heard = max(sent - gone, 1) if sent else max(len(delays), 1)
    return ChannelFit(
        pattern,
        max(sent, len(delays)),
        source,
        delay.least_s,
        delay.jitter,
        delay.scale_s,
        delay.shape,
        loss,
        burst,
        copies / heard,
        delay.distance,
        delay.distance < max(GOOD_DISTANCE, 1.36 / math.sqrt(max(len(delays), 1))),
    )


def _losses(lost: Sequence[Sequence[bool]]) -> tuple[float, tuple[float, float] | None]:
    """Return the probability of single losses, or the burst (Gilbert's model) where losses come together."""
    n, gone = sum(map(len, lost)), sum(map(sum, lost))
    if not gone:
        return 0.0, None
    share = gone / n
    after = [later for stream in lost for before, later in itertools.pairwise(stream) if before]
    again = sum(after)
    if again >= 2 and scipy.stats.binomtest(again, len(after), share, alternative="greater").pvalue < BURSTY:
        leave = max(1.0 - again / len(after), 1e-3)
        return 0.0, (min(share * leave / max(1.0 - share, 1e-9), 1.0), leave)
    return share, None


@dataclass(frozen=True, slots=True)
class DelayFit:
    """Least delay and what comes on top of it, by the names of rules; ``distance``: of the distributions."""

    least_s: float = 0.0
    jitter: str = "none"
    scale_s: float = 0.0
    shape: float | None = None
    distance: float = 0.0


_Cdf = Callable[[Array, float, float], Array]
_DISTRIBUTIONS: Mapping[str, tuple[_Cdf, bool]] = {
    "uniform": (lambda y, scale, _: scipy.stats.uniform.cdf(y, scale=scale), False),
    "normal": (lambda y, scale, _: scipy.stats.halfnorm.cdf(y, scale=scale), False),
    "lognormal": (lambda y, scale, shape: scipy.stats.lognorm.cdf(y, shape, scale=scale), True),
    "pareto": (lambda y, scale, shape: scipy.stats.lomax.cdf(y, shape, scale=scale), True),
}
"""By the name that rules use: distribution function of the delay on top, and whether it has a shape."""


def _distance_of(cdf: _Cdf, shaped: bool, x: Array, steps: tuple[Array, Array]) -> Callable[[Array], float]:
    """Return the distance of a distribution from the measured one, by least delay, scale and shape."""
    middle, spread = float(np.median(x)), float(x[-1] - x[0])

    def distance(values: Array) -> float:
        least, scale = float(values[0]) * middle, math.exp(float(values[1]))
        shape = math.exp(float(values[2])) if shaped else 0.0
        if not 0.0 <= least <= x[0] + 0.05 * spread or not 0.1 <= (shape or 1.0) <= 10.0:
            return 2.0
        f = cdf(np.maximum(x - least, 0.0), scale, shape)
        return float(max(np.max(steps[0] - f), np.max(f - steps[1])))

    return distance


def fit_delay(delays: Array) -> DelayFit:
    """Fit least delay and jitter by the smallest distance between the distribution functions."""
    x = np.sort(np.maximum(delays, 0.0))
    if len(x) > MAX_FITTED:
        x = x[:: len(x) // MAX_FITTED + 1]
    n = len(x)
    steps = (np.arange(1, n + 1) / n, np.arange(n) / n)
    spread = float(x[-1] - x[0])
    if spread < 1e-6:
        return DelayFit(float(x[0]))
    middle = float(np.median(x))
    best, best_score = DelayFit(middle, distance=1.0), math.inf
    for name, (cdf, shaped) in _DISTRIBUTIONS.items():
        distance = _distance_of(cdf, shaped, x, steps)
        shapes = (0.5, 1.0, 3.0) if shaped else (1.0,)
        for share, shape0 in itertools.product((0.999, 0.9, 0.5), shapes):
            least = share * float(x[0])
            guess = [least / middle, math.log(max(middle - least, 1e-6)), math.log(shape0)]
            start = np.array(guess if shaped else guess[:2], dtype=np.float64)
            fit = scipy.optimize.minimize(
                distance, start, method="Nelder-Mead", options={"maxiter": 600, "xatol": 1e-5, "fatol": 1e-5}
            )
            score = float(fit.fun) + (0.3 / math.sqrt(n) if shaped else 0.0)  # a shape must pay for itself
            if score < best_score:
                shape = math.exp(float(fit.x[2])) if shaped else None
                scale = math.exp(float(fit.x[1]))
                best = DelayFit(float(fit.x[0]) * middle, name, scale, shape, float(fit.fun))
                best_score = score
    return best

"""What can be asserted of a signal; each returns if it holds, and raises ``SignalFailed`` if it does not."""

from __future__ import annotations

import math

from heron_mqtt.testing.signals.plot import Bound, plot_of
from heron_mqtt.testing.signals.signal import Signal, SignalFailed, SignalWindow


def stays_inside(
    signal: Signal, low: float, high: float, *, from_s: float | None = None, until_s: float | None = None
) -> None:
    """Assert that every value in a window lies from ``low`` to ``high``, both included.

    Raises:
        SignalFailed: One does not, or something in the window is not known.
    """
    _limits(low, high)
    window = signal.window(from_s, until_s)
    rule = f"stays inside {signal.told(low)} .. {signal.told(high)}"
    bounds = [Bound(window.from_s, window.until_s, low, high)]
    _known(window, rule, bounds)
    outside = [i for i in window.places if not low <= signal.values[i] <= high]
    if outside:
        i = outside[0]
        value = signal.values[i]
        side = f"above {signal.told(high)}" if value > high else f"below {signal.told(low)}"
        many = f"{len(outside)} of {len(window.places)} samples are outside"
        raise _failed(window, rule, f"{_at(signal, i)} is {side}; {many}", bounds, outside)


def settles_within(
    signal: Signal,
    target: float,
    tolerance: float,
    within_s: float,
    *,
    after_s: float | None = None,
    until_s: float | None = None,
) -> None:
    """Assert that from ``within_s`` after a moment on it is at ``target``, and stays there.

    Args:
        signal: Of what.
        target: Where it settles.
        tolerance: How far from there still counts, >= 0.
        within_s: Time to get there, s, >= 0.
        after_s: The moment; None = the signal's begin.
        until_s: How long it must stay; None = to the signal's end.

    Raises:
        SignalFailed: It is not there in time, leaves again, or something after the moment is not known.
    """
    rule = f"settles at {signal.told(target)} +- {signal.told(tolerance)} within {within_s:g} s"
    _settles(signal, target, tolerance, within_s, after_s, until_s, rule)


def reaches_safe_within(
    signal: Signal,
    within_s: float,
    *,
    after_s: float,
    until_s: float | None = None,
    safe: float = 0.0,
    tolerance: float = 1e-6,
) -> None:
    """Assert that the safe state is reached after a moment (a stop, the end of a lease), and is not left.

    Raises:
        SignalFailed: As ``settles_within``.
    """
    rule = f"reaches the safe state, {signal.told(safe)}, within {within_s:g} s of {after_s:g} s"
    _settles(signal, safe, tolerance, within_s, after_s, until_s, rule)


def ramps_no_faster_than(
    signal: Signal,
    per_s: float,
    *,
    down_per_s: float | None = None,
    from_s: float | None = None,
    until_s: float | None = None,
) -> None:
    """Assert that it changes by at most ``per_s`` a second, from each sample to the next.

    Args:
        signal: Of what.
        per_s: Largest rise, unit/s, >= 0.
        down_per_s: Largest fall, unit/s, >= 0; None = as the rise.
        from_s: Begin of the window.
        until_s: End of the window.

    Raises:
        SignalFailed: It changes faster, or something in the window is not known.
    """
    down = per_s if down_per_s is None else down_per_s
    if not (per_s >= 0.0 and down >= 0.0):
        raise ValueError(f"a ramp of {per_s} up and {down} down: expected numbers >= 0")
    window = signal.window(from_s, until_s)
    rule = f"ramps no faster than {per_s:g} up and {down:g} down, {signal.unit}/s"
    _known(window, rule, [])
    if len(window.places) < 2:
        raise _failed(window, rule, "there is one sample: no change can be seen", [], [])
    for a, b in zip(window.places, window.places[1:], strict=False):
        rate = (signal.values[b] - signal.values[a]) / (signal.t_s[b] - signal.t_s[a])
        if not -down * _ROUNDING <= rate <= per_s * _ROUNDING:
            change = f"{signal.told(signal.values[a])} at {signal.t_s[a]:g} s, {_at(signal, b)}"
            raise _failed(window, rule, f"{change}: {rate:.6g} {signal.unit}/s", [], [a, b])


def reacts_within(
    signal: Signal, within_s: float, *, after_s: float, by: float, until_s: float | None = None
) -> None:
    """Assert that a step in something else shows: it moves by at least ``by`` from where it was.

    Args:
        signal: Of what.
        within_s: Time to react, s.
        after_s: The moment of the step; the last sample up to it is where it was.
        by: Change that counts, with its direction: 0.01 = it rises, -0.01 = it falls; not 0.
        until_s: End of the signal that counts; None = ``after_s + within_s``.

    Raises:
        SignalFailed: It does not in time, or something is not known.
    """
    if not math.isfinite(by) or by == 0.0:
        raise ValueError(f"by = {by}: expected a change with its direction, not 0")
    end_s = after_s + within_s if until_s is None else min(until_s, after_s + within_s)
    rule = f"reacts by {signal.told(by)} within {within_s:g} s of {after_s:g} s"
    before = [i for i, t in enumerate(signal.t_s) if t <= after_s]
    if not before:
        window = signal.window(after_s, end_s)
        raise _failed(window, rule, "there is no sample before the step", [], [])
    window = signal.window(signal.t_s[before[-1]], end_s)
    _known(window, rule, [])
    was = signal.values[before[-1]]
    change = [(signal.values[i] - was) * math.copysign(1.0, by) for i in window.places]
    if max(change) < abs(by):
        best = window.places[change.index(max(change))]
        seen = f"it was {signal.told(was)}, and comes to {_at(signal, best)} at most"
        raise _failed(window, rule, seen, [Bound(after_s, end_s, was, was + by)], [best])


_ROUNDING = 1.0 + 1e-9  # a ramp that is used to the full is no violation


def _settles(
    signal: Signal,
    target: float,
    tolerance: float,
    within_s: float,
    after_s: float | None,
    until_s: float | None,
    rule: str,
) -> None:
    if not (tolerance >= 0.0 and within_s >= 0.0 and math.isfinite(target)):
        raise ValueError(
            f"target {target}, tolerance {tolerance}, within_s {within_s}: expected numbers >= 0"
        )
    whole = signal.window(after_s, until_s)
    due_s = whole.from_s + within_s
    bounds = [Bound(due_s, whole.until_s, target - tolerance, target + tolerance)]
    _known(whole, rule, bounds)
    late = [i for i in whole.places if signal.t_s[i] >= due_s]
    if not late:
        raise _failed(whole, rule, f"the signal ends at {whole.until_s:g} s, before that", bounds, [])
    away = [i for i in late if not abs(signal.values[i] - target) <= tolerance]
    if away:
        i = away[0]
        how = f"it is away from there in {len(away)} of {len(late)} samples from {due_s:g} s on"
        raise _failed(whole, rule, f"{_at(signal, i)}; {how}", bounds, away)


def _limits(low: float, high: float) -> None:
    if not low <= high:
        raise ValueError(f"{low} .. {high}: expected the smaller one first")


def _known(window: SignalWindow, rule: str, bounds: list[Bound]) -> None:
    unknown = window.unknown()
    if unknown is not None:
        raise _failed(window, rule, unknown[1], bounds, [])


def _at(signal: Signal, i: int) -> str:
    return f"{signal.told(signal.values[i])} at {signal.t_s[i]:g} s"


def _failed(window: SignalWindow, rule: str, seen: str, bounds: list[Bound], bad: list[int]) -> SignalFailed:
    text = f"{window.signal.name}: {rule}, from {window.from_s:g} to {window.until_s:g} s: {seen}"
    return SignalFailed(text, plot_of(window.signal, text, bounds, bad))

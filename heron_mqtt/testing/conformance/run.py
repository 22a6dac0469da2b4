"""Examines a device: promise after promise, each told with what was sent and what was seen."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime

import heron_mqtt
from heron_mqtt.errors import MessageError
from heron_mqtt.messages import Status, Telemetry, parse
from heron_mqtt.testing.conformance.bench import ConformanceBench
from heron_mqtt.testing.conformance.promises import PROMISES, DevicePromise
from heron_mqtt.testing.conformance.results import ConformanceResult, PromiseResult, PromiseVerdict
from heron_mqtt.testing.device_harness import CheckFailed, DeviceHarness, SentMessage, WatchedMessage

FIRST, LAST, LONGEST = 4, 8, 300
"""Messages of a check that are kept for the report, from its begin and its end, and characters of each."""

TellPromise = Callable[[PromiseResult], None]


def examine_device(
    bench: ConformanceBench,
    *,
    only: Collection[str] | None = None,
    tell: TellPromise = lambda _result: None,
    facts: Mapping[str, str] | None = None,
    result: ConformanceResult | None = None,
) -> ConformanceResult:
    """Examine a device that is online, or whose program the bench starts; returns what was found.

    It leaves the device at rest, without a lease, and without a stop that it has pressed, also where it
    is broken off.

    Args:
        bench: The device on its bench; the harness is entered.
        only: Names of promises; by default all. What they require is examined, too.
        tell: Called with each result as it comes.
        facts: Beside what the device says of itself.
        result: Filled during the examination, so that an interrupted one has left something.

    Raises:
        CheckFailed: The device is not there.
    """
    if bench.program is not None and not bench.program.is_running:
        bench.give_power()
    else:
        bench.make_ready()
    harness = bench.harness
    found = result or ConformanceResult(harness.label, {}, datetime.now(UTC))
    found.facts |= {**_facts(harness), **(facts or {})}
    wanted = _with_what_they_require(only)
    verdicts: dict[str, PromiseVerdict] = {}
    try:
        for promise in PROMISES:
            if wanted is None or promise.id in wanted:
                one = _examine(promise, bench, verdicts)
                verdicts[promise.id] = one.verdict
                found.results.append(one)
                tell(one)
    except BaseException:
        found.interrupted = True
        raise
    finally:
        _leave(harness)
    return found


def _with_what_they_require(only: Collection[str] | None) -> set[str] | None:
    if only is None:
        return None
    wanted = set(only)
    for promise in reversed(PROMISES):
        if promise.id in wanted:
            wanted |= set(promise.requires)
    return wanted


def _examine(
    promise: DevicePromise, bench: ConformanceBench, verdicts: Mapping[str, PromiseVerdict]
) -> PromiseResult:
    why_not = promise.why_not(bench)
    if why_not or promise.check is None:
        return PromiseResult(promise, "not applicable" if promise.is_choice else "not shown", why_not)
    broken = [name for name in promise.requires if verdicts.get(name) in {"fail", "not tried"}]
    if broken:
        return PromiseResult(promise, "not tried", f"it stands on {', '.join(broken)}")
    harness = bench.harness
    sent_before, heard_before, begun_s = len(harness.sent), harness.now, time.monotonic()
    verdict: PromiseVerdict = "pass"
    what = ""
    try:
        with _fields_as_expected(harness):
            bench.make_ready()
    except CheckFailed as exc:
        return PromiseResult(promise, "not tried", str(exc))
    try:
        with _fields_as_expected(harness):
            promise.check(bench)
        if bench.program is not None and not bench.program.is_running:
            raise CheckFailed("it did all that was asked for, and then it was gone")
    except CheckFailed as exc:
        ending = "" if bench.program is None else bench.program.ending
        verdict, what = "fail", f"{exc}; {ending}" if ending else str(exc)
    return PromiseResult(
        promise,
        verdict,
        what,
        _shown(harness, harness.sent[sent_before:], begun_s),
        _shown(harness, harness.all_heard(heard_before), begun_s),
        time.monotonic() - begun_s,
    )


@contextlib.contextmanager
def _fields_as_expected(harness: DeviceHarness) -> Iterator[None]:
    """Use what a device says as if each field were there and of its type.

    Raises:
        CheckFailed: One is not.
    """
    try:
        yield
    except KeyError as exc:
        what = f"a message of the device lacks {exc}; its last: {harness.newest}"
        raise CheckFailed(what) from exc
    except (AttributeError, TypeError, ValueError) as exc:
        if (wrong := _wrong_field(harness)) is None:
            raise  # a bug of ours
        raise CheckFailed(wrong) from exc


def _wrong_field(harness: DeviceHarness) -> str | None:
    """Return which field of the newest message of a kind is of another type or size; None = none is."""
    for leaf, model in (("telemetry", Telemetry), ("status", Status)):
        for message in reversed(harness.heard(leaf)):
            try:
                parse(model, message.json)
            except MessageError as exc:
                return f"{exc}, in {message.payload.decode(errors='backslashreplace')[:LONGEST]}"
    return None


def _shown(
    harness: DeviceHarness, messages: Sequence[SentMessage | WatchedMessage], begun_s: float
) -> tuple[str, ...]:
    """Return messages as lines: when, where, what; of many the first and the last ones."""
    left_out = len(messages) - FIRST - LAST
    kept = list(messages) if left_out <= 0 else [*messages[:FIRST], *messages[-LAST:]]
    lines = []
    for message in kept:
        text = message.payload.decode(errors="backslashreplace")
        text = text if len(text) <= LONGEST else f"{text[:LONGEST]}... ({len(message.payload)} bytes)"
        flag = " (retained)" if message.retained else ""
        lines.append(f"{message.at_s - begun_s:8.3f} s  {harness.short(message.topic)}{flag}  {text}")
    if left_out > 0:
        lines.insert(FIRST, f"          ... {left_out} more ...")
    return tuple(lines)


def _facts(harness: DeviceHarness) -> dict[str, str]:
    told = harness.birth()
    names = ("kind", "p_min_mw", "p_max_mw", "max_e_mwh", "boot")
    limit: dict[str, str] = {}
    with contextlib.suppress(KeyError, TypeError, ValueError):  # a birth that is wrong fails its promise
        limit["asked for at most"] = f"{abs(harness.full_mw):g} MW"
    return {
        "device": harness.label,
        "environment": harness.env_id,
        "broker": harness.address,
        **{name: str(told[name]) for name in names if told.get(name) is not None},
        **limit,
        "heron-mqtt": heron_mqtt.__version__,
    }


def _leave(harness: DeviceHarness) -> None:
    """Leave the device at rest and without a stop of ours; it may be gone."""
    with contextlib.suppress(CheckFailed, KeyError, TypeError, ValueError, RuntimeError):
        harness.send_release_of_stop()
        sender = harness.sender("harness")
        sender.send(0.0, take_over=True)
        sender.send(0.0, release=True)

"""Runs fault trials, one after another, and keeps what came of them."""

from __future__ import annotations

import random
import tempfile
import time
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from heron_mqtt.errors import ConfigError
from heron_mqtt.testing.faults.registry import FAULT_TRIALS
from heron_mqtt.testing.faults.stream import NumberedStream
from heron_mqtt.testing.faults.tally import LEASE_S, FaultTally
from heron_mqtt.testing.faults.trial import FaultTrial
from heron_mqtt.testing.faults.trial_broker import KINDS, why_no_broker
from heron_mqtt.testing.faults.trial_site import TrialSite
from heron_mqtt.testing.faults.trial_verdict import judge

__all__ = ["FaultResult", "FaultsOutcome", "chosen_trials", "run_trials"]

TellFault = Callable[["FaultResult"], None]


@dataclass(slots=True)
class FaultResult:
    """One fault on one broker; ``why_not`` says why it was not tried."""

    trial: FaultTrial
    broker: str
    tally: FaultTally = field(default_factory=FaultTally)
    why_not: str = ""
    seconds: float = 0.0

    @property
    def verdict(self) -> str:
        """``kept``, ``BROKEN`` or ``not tried``."""
        if not self.tally.tried and self.tally.is_kept:
            return "not tried"
        return "kept" if self.tally.is_kept else "BROKEN"

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        about = {"fault": self.trial.name, "what": self.trial.what, "promise": self.trial.promise}
        told = {**about, "broker": self.broker, "verdict": self.verdict, **self.tally.as_dict()}
        told["seconds"] = round(self.seconds, 1)
        return told | ({"why_not": self.why_not} if self.why_not else {})


@dataclass(slots=True)
class FaultsOutcome:
    """All of them.

    Attributes:
        seed: Of the moments.
        asked: Names of faults and brokers that were asked for: not to try them is a failure.
        results: In the order of the registry, a broker at a time.
        longest_stall_s: The longest that the machine kept the observer waiting, s.
        seconds: What it took.
    """

    seed: int
    asked: frozenset[str] = frozenset()
    results: list[FaultResult] = field(default_factory=list)
    longest_stall_s: float = 0.0
    seconds: float = 0.0

    @property
    def is_kept(self) -> bool:
        """Whether something was tried, all that was asked for by name, and every promise was kept."""
        kept = all(one.tally.is_kept for one in self.results)
        return kept and any(one.tally.tried for one in self.results) and not self.asked_in_vain

    @property
    def not_tried(self) -> list[FaultResult]:
        """What was not tried; each says why."""
        return [one for one in self.results if one.verdict == "not tried"]

    @property
    def asked_in_vain(self) -> list[FaultResult]:
        """What was asked for by name and was not tried: a fault, or a broker on which nothing was."""
        in_vain = self.asked - {one.broker for one in self.results if one.tally.tried}
        return [one for one in self.not_tried if one.trial.name in in_vain or one.broker in in_vain]

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {
            "kept": self.is_kept,
            "not_tried": len(self.not_tried),
            "seed": self.seed,
            "lease_s": LEASE_S,
            "seconds": round(self.seconds, 1),
            "observer_waited_s": round(self.longest_stall_s, 3),
            "faults": [one.as_dict() for one in self.results],
        }


def chosen_trials(only: Sequence[str] | None, *, quick: bool) -> list[FaultTrial]:
    """Return the trials of these names; without names all, or all quick ones.

    Raises:
        ConfigError: There is no such fault; says which there are.
    """
    known = {trial.name: trial for trial in FAULT_TRIALS}
    unknown = [name for name in only or () if name not in known]
    if unknown:
        raise ConfigError(f"--only {unknown[0]}: no such fault; expected {', '.join(known)}")
    if only:
        return [trial for trial in FAULT_TRIALS if trial.name in only]
    return [trial for trial in FAULT_TRIALS if trial.is_quick or not quick]


def run_trials(
    trials: Iterable[FaultTrial],
    brokers: Sequence[str],
    *,
    times: int,
    outcome: FaultsOutcome,
    compare_each: bool = True,
    tell: TellFault = lambda _: None,
) -> FaultsOutcome:
    """Try each fault on each broker.

    Args:
        trials: What.
        brokers: On what; see ``KINDS``.
        times: How often each.
        outcome: Where results go as they come; its seed is used.
        compare_each: Whether a site's run is ended after each fault, to compare its counts with the messages
            that were sent. False = only after faults that end the run anyway, and at the end.
        tell: Called with each.

    Raises:
        ConfigError: There is no such broker.
        NotReady: What the trials need does not start.
    """
    begun = time.monotonic()
    wanted = list(trials)
    for kind in brokers:
        if kind not in KINDS:
            raise ConfigError(f"--on {kind}: no such broker; expected {', '.join(KINDS)}")
    try:
        for kind in brokers:
            mine = [FaultResult(trial, kind) for trial in wanted if kind in trial.brokers]
            outcome.results += mine
            for result in mine:
                result.why_not = why_no_broker(kind) or result.trial.why_not()
            possible = [result for result in mine if not result.why_not]
            for result in mine:
                if result.why_not:
                    tell(result)
            _try_at_site([r for r in possible if r.trial.at_site], times, outcome, compare_each, tell)
            for result in possible:
                if result.trial.in_stream is not None:
                    _try_in_stream(result, times, outcome.seed)
                    tell(result)
    finally:
        outcome.seconds = time.monotonic() - begun
        for result in outcome.results:
            if result.verdict == "not tried" and not result.why_not:
                result.why_not = "the trials ended before it"
    return outcome


def _try_at_site(
    results: Sequence[FaultResult], times: int, outcome: FaultsOutcome, compare_each: bool, tell: TellFault
) -> None:
    """Try faults on one site, which is mended in between; after a trial that fails on a new one."""
    waiting = list(results)
    while waiting:
        kind = waiting[0].broker
        with (
            tempfile.TemporaryDirectory() as folder,
            TrialSite(kind, Path(folder), _rng(outcome.seed, kind, "site")) as site,
        ):
            is_whole = True
            while waiting and is_whole:
                result = waiting.pop(0)
                begun = time.monotonic()
                try:
                    for trial in range(times):
                        _one_at_site(site, result, _rng(outcome.seed, kind, result.trial.name, trial))
                    if compare_each or not waiting:
                        site.compare_counts()
                except Exception as exc:
                    if not site.was_driven:  # nothing was broken yet: the trials cannot be made here at all
                        raise
                    is_whole = False
                    _failed(result, exc)
                outcome.longest_stall_s = max(outcome.longest_stall_s, site.longest_stall_s)
                result.seconds = time.monotonic() - begun
                result.why_not = "" if result.tally.tried else result.tally.untried
                tell(result)


def _one_at_site(site: TrialSite, result: FaultResult, rng: random.Random) -> None:
    assert result.trial.at_site is not None
    site.begin(result.tally)
    result.trial.at_site(site, rng)
    site.recover()
    judge(site)


def _failed(result: FaultResult, exc: Exception) -> None:
    """Count a trial that did not come to its end as broken: what it promises was not seen."""
    result.tally.break_promise(f"the trial itself failed: {type(exc).__name__}: {exc}")


def _try_in_stream(result: FaultResult, times: int, seed: int) -> None:
    """Try a fault of a stream, each time with programs of its own."""
    trial, begun = result.trial, time.monotonic()
    assert trial.in_stream is not None
    for number in range(times):
        rng = _rng(seed, result.broker, trial.name, number)
        lost, result.tally.lost = result.tally.lost, 0
        with (
            tempfile.TemporaryDirectory() as folder,
            NumberedStream(result.broker, Path(folder), rng, is_receiver_far=trial.is_receiver_far) as stream,
        ):
            stream.tally = result.tally
            result.tally.tried += 1
            try:
                trial.in_stream(stream)
            except Exception as exc:  # the other faults are worth trying all the same
                _failed(result, exc)
        result.tally.lost += lost
    result.seconds = time.monotonic() - begun


def _rng(*parts: object) -> random.Random:
    """Return dice of one trial, the same whatever else is tried."""
    return random.Random(zlib.crc32(repr(parts).encode()))  # noqa: S311 - moments, no secrets

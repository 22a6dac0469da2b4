"""What an examination of a device has found, promise by promise."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from heron_mqtt.testing.conformance.promises import PROMISES, RULES, DevicePromise

PromiseVerdict = Literal["pass", "fail", "not tried", "not shown", "not applicable"]
"""``not tried``: what it stands on is broken, so it cannot be told. ``not shown``: this bench cannot examine
it. ``not applicable``: a device that is set up as this one does not promise it. None of them is a pass."""


@dataclass(frozen=True, slots=True)
class PromiseResult:
    """The outcome of one promise.

    Attributes:
        promise: Which one.
        verdict: How it is.
        what: What was expected and what was seen instead, or why it was not examined; empty for a pass.
        sent: What was sent, oldest first, shortened.
        seen: What was seen, oldest first, shortened.
        seconds: How long it took, wall-clock s.
    """

    promise: DevicePromise
    verdict: PromiseVerdict
    what: str = ""
    sent: tuple[str, ...] = ()
    seen: tuple[str, ...] = ()
    seconds: float = 0.0


@dataclass(slots=True)
class ConformanceResult:
    """Everything that was found about one device.

    Attributes:
        device: ``AGENT/DEVICE``.
        facts: What a reader needs to know about device and bench, by name.
        begun: When, UTC.
        results: One for each promise, as they were examined.
        interrupted: It was broken off: what is missing was not examined.
    """

    device: str
    facts: dict[str, str]
    begun: datetime
    results: list[PromiseResult] = field(default_factory=list)
    interrupted: bool = False

    @property
    def conforms(self) -> bool:
        """Whether every promise that could be examined is kept; at least one was."""
        verdicts = {result.verdict for result in self.results}
        harmless = {"pass", "not shown", "not applicable"}
        return not self.interrupted and "pass" in verdicts and verdicts <= harmless

    @property
    def is_whole(self) -> bool:
        """Whether every promise was examined, not only chosen ones."""
        return {result.promise.id for result in self.results} >= {promise.id for promise in PROMISES}

    def not_shown(self) -> list[str]:
        """Return the promises that this bench could not examine."""
        return [result.promise.id for result in self.results if result.verdict == "not shown"]

    def not_shown_of_rule(self, rule: int) -> list[str]:
        """Return the promises of a line that were not examined, because of the bench or by choice."""
        verdicts = {result.promise.id: result.verdict for result in self.of_rule(rule)}
        return [
            promise.id
            for promise in PROMISES
            if promise.rule == rule
            and verdicts.get(promise.id, "not applicable" if promise.is_choice else "not shown")
            == "not shown"
        ]

    def count(self, verdict: PromiseVerdict) -> int:
        """Return how many promises have a verdict."""
        return sum(result.verdict == verdict for result in self.results)

    def of_rule(self, rule: int) -> list[PromiseResult]:
        """Return what was found about one line of ``docs/safety.md``."""
        return [result for result in self.results if result.promise.rule == rule]

    def verdict_of_rule(self, rule: int) -> PromiseVerdict:
        """Return the verdict of a line: fail if one promise fails, pass if all that apply pass."""
        found = {result.verdict for result in self.of_rule(rule)}
        if self.not_shown_of_rule(rule):
            found.add("not shown")
        for verdict in ("fail", "not tried", "not shown", "pass"):
            if verdict in found:
                return verdict
        return "not applicable"

    def as_dict(self) -> dict[str, Any]:
        """Return it as one JSON object."""
        return {
            "device": self.device,
            "facts": self.facts,
            "begun": self.begun.isoformat(timespec="seconds"),
            "conforms": self.conforms,
            "interrupted": self.interrupted,
            "whole": self.is_whole,
            "rules": {str(rule): self.verdict_of_rule(rule) for rule in RULES},
            "promises": [
                {
                    "id": result.promise.id,
                    "rule": result.promise.rule,
                    "promise": result.promise.text,
                    "verdict": result.verdict,
                    "what": result.what,
                    "sent": list(result.sent),
                    "seen": list(result.seen),
                    "seconds": round(result.seconds, 3),
                }
                for result in self.results
            ],
        }

    @property
    def digest(self) -> str:
        """SHA-256 of the results, so that a signed page names exactly these."""
        text = json.dumps(self.as_dict(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

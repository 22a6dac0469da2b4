"""What an examination of a broker has found: one line for each check, and what to change."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

DoctorVerdict = Literal["go", "no-go", "note", "not tried"]
"""``note``: worth to know, and no reason against a start."""


@dataclass(frozen=True, slots=True)
class BrokerFinding:
    """The outcome of one check.

    Attributes:
        check: What was looked at.
        verdict: Whether a run may rely on it.
        what: What was seen.
        change: What to change; empty where there is nothing to.
        figures: Numbers behind it, with units in their names.
    """

    check: str
    verdict: DoctorVerdict
    what: str
    change: str = ""
    figures: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Examination:
    """Everything that was found at one broker."""

    broker: str
    env_id: str
    findings: list[BrokerFinding] = field(default_factory=list)

    @property
    def is_go(self) -> bool:
        """Whether there is no reason against a start."""
        return bool(self.findings) and all(f.verdict != "no-go" for f in self.findings)

    def has(self, check: str, change: str) -> bool:
        """Whether a check has ended with this advice."""
        return any((found.check, found.change) == (check, change) for found in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """Return it as one JSON object."""
        return {
            "broker": self.broker,
            "env_id": self.env_id,
            "go": self.is_go,
            "findings": [
                {
                    "check": f.check,
                    "verdict": f.verdict,
                    "what": f.what,
                    "change": f.change,
                    "figures": f.figures,
                }
                for f in self.findings
            ],
        }

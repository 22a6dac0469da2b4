"""What the runs of a suite came to, beside their budgets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from heron_mqtt.app.suite_file import SuiteCase
from heron_mqtt.testing.junit import JUnitCase, junit_xml

FLOORS = {"vm_min_pu", "reward"}
"""Limits that may not be fallen short of; all others may not be exceeded."""
SHOWN = ("fallbacks", "missed", "lost", "p99_ms", "vm_min_pu", "vm_max_pu", "loading_max_percent", "cost")

CaseVerdict = Literal["pass", "fail", "error", "not run"]


@dataclass(frozen=True, slots=True)
class CaseOutcome:
    """One run.

    Attributes:
        case: Which one.
        verdict: ``fail``: over budget; ``error``: it did not come to its end; ``not run``: the suite was
            broken off.
        why: One line for each budget that was broken, or the error.
        figures: What it did, by the names of the limits; None = not known.
        seconds: How long it took, wall-clock s.
        record: Its record, where it is kept.
    """

    case: SuiteCase
    verdict: CaseVerdict
    why: tuple[str, ...] = ()
    figures: dict[str, float | None] = field(default_factory=dict)
    seconds: float = 0.0
    record: str | None = None


def figures_of(summary: Mapping[str, Any]) -> dict[str, float | None]:
    """Return what a run did, by the names of the limits, from what ``heron-mqtt run --json`` prints."""
    cost, rewards = summary["cost"].values(), summary["rewards"].values()
    return {
        "fallbacks": summary["fallbacks"],
        "missed": summary["deadline_misses"],
        "lost": summary["messages"].get("lost", 0),
        "overruns": summary["overruns"],
        "p99_ms": summary["step_ms"]["p99"],
        "max_ms": summary["step_ms"]["max"],
        "vm_min_pu": summary["vm_pu"]["min"],
        "vm_max_pu": summary["vm_pu"]["max"],
        "loading_max_percent": summary["loading_max_percent"],
        "cost": None if None in cost else sum(cost),
        "reward": None if None in rewards else sum(rewards),
    }


def judged(
    case: SuiteCase, summary: Mapping[str, Any], seconds: float, record: str | None = None
) -> CaseOutcome:
    """Return the outcome of a run that has printed its summary; what is not known is within no budget."""
    figures = figures_of(summary)
    error = summary["error"] or summary["diverged"]
    if error:
        return CaseOutcome(case, "error", (str(error),), figures, seconds, record)
    why = []
    for name, limit in case.limits.items():
        value = figures[name]
        if value is None:
            why.append(f"{name} is not known, allowed {limit:g}")
        elif name in FLOORS and value < limit:
            why.append(f"{name} is {value:.6g}, at least {limit:g} is allowed")
        elif name not in FLOORS and value > limit:
            why.append(f"{name} is {value:.6g}, at most {limit:g} is allowed")
    return CaseOutcome(case, "fail" if why else "pass", tuple(why), figures, seconds, record)


@dataclass(slots=True)
class SuiteOutcome:
    """All runs of a suite.

    Attributes:
        name: Of the suite.
        begun: When, UTC.
        cases: In the order of the file.
    """

    name: str
    begun: datetime
    cases: list[CaseOutcome] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether every case was run and is within its budget."""
        return bool(self.cases) and all(case.verdict == "pass" for case in self.cases)

    def count(self, verdict: CaseVerdict) -> int:
        """Return how many cases have a verdict."""
        return sum(case.verdict == verdict for case in self.cases)

    @property
    def told(self) -> str:
        """The outcome in one line."""
        counts = [f"{self.count('pass')} passed", f"{self.count('fail')} over budget"]
        counts += [f"{self.count('error')} ended with an error", f"{self.count('not run')} not run"]
        return f"{self.name}: {'PASSED' if self.passed else 'FAILED'}: {', '.join(counts)}"

    def as_dict(self) -> dict[str, Any]:
        """Return it as one JSON object."""
        return {
            "suite": self.name,
            "begun": self.begun.isoformat(timespec="seconds"),
            "passed": self.passed,
            "cases": [
                {
                    "scenario": one.case.scenario,
                    "network": one.case.network,
                    "faults": one.case.faults,
                    "seed": one.case.seed,
                    "verdict": one.verdict,
                    "why": list(one.why),
                    "limits": one.case.limits,
                    "figures": one.figures,
                    "seconds": round(one.seconds, 3),
                    "record": one.record,
                }
                for one in self.cases
            ],
        }

    def junit(self) -> str:
        """Return it as JUnit XML; what was not run is an error."""
        kinds: dict[CaseVerdict, Literal["pass", "fail", "error"]] = {"not run": "error"}
        kinds |= {"pass": "pass", "fail": "fail", "error": "error"}
        return junit_xml(
            self.name,
            self.begun,
            [
                JUnitCase(
                    f"{self.name}.{one.case.scenario}",
                    f"{one.case.network} / {one.case.faults} / seed {one.case.seed}",
                    kinds[one.verdict],
                    "; ".join(one.why),
                    "\n".join(f"{name} = {value}" for name, value in one.figures.items()),
                    one.seconds,
                )
                for one in self.cases
            ],
        )

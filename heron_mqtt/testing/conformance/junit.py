"""The results as JUnit XML: a case for each promise, grouped by the lines of ``docs/safety.md``."""

from __future__ import annotations

from typing import Literal

from heron_mqtt.testing.conformance.promises import RULES
from heron_mqtt.testing.conformance.results import ConformanceResult, PromiseResult
from heron_mqtt.testing.junit import JUnitCase, junit_xml

OUTCOMES: dict[str, Literal["pass", "fail", "error", "skip"]] = {
    "pass": "pass",
    "fail": "fail",
    "not tried": "error",
    "not shown": "skip",
    "not applicable": "skip",
}


def conformance_junit(result: ConformanceResult) -> str:
    """Return the results; what was not tried is an error, what was not shown or does not apply is skipped."""
    cases = [_case(one) for one in result.results]
    if result.interrupted:
        cases.append(JUnitCase("examination", "was broken off", "error", "the rest was not examined"))
    return junit_xml(f"conformance of {result.device}", result.begun, cases)


def _case(one: PromiseResult) -> JUnitCase:
    rule = one.promise.rule
    output = "\n".join(["sent:", *one.sent, "seen:", *one.seen]) if one.sent or one.seen else ""
    name = f"{one.promise.id}: {one.promise.text}"
    outcome = OUTCOMES[one.verdict]
    what = f"{one.verdict}: {one.what}" if outcome == "skip" else one.what
    return JUnitCase(f"{rule}. {RULES[rule]}", name, outcome, what, output, one.seconds)

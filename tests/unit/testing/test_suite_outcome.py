"""What a suite makes of its runs: budgets that apply, what is over, and what is not known."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from heron_mqtt.app.suite_file import SuiteCase, load_suite
from heron_mqtt.errors import ConfigError
from heron_mqtt.testing.suite import CaseOutcome, SuiteOutcome, suite_page
from heron_mqtt.testing.suite.outcome import judged

SUITE = """
scenarios = ["three_microgrids"]
networks = ["none", "lan"]
seeds = [0, 1]

[[budgets]]
fallbacks = 3
vm_min_pu = 0.9

[[budgets]]
networks = ["lan"]
fallbacks = 9
"""


def summary(**changes: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "fallbacks": 0, "deadline_misses": 0, "messages": {"lost": 0}, "overruns": 0,
        "step_ms": {"p99": 5.0, "max": 6.0}, "vm_pu": {"min": 0.95, "max": 1.02},
        "loading_max_percent": 40.0, "cost": {"MG1": 1.0, "MG2": 2.0}, "rewards": {"MG1": -1.0},
        "error": None, "diverged": None,
    }  # fmt: skip
    return {**base, **changes}


def case(**limits: float) -> SuiteCase:
    return SuiteCase("s", "none", "none", 0, limits)


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "suite.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_suite_is_the_product_and_the_last_budget_that_applies_wins(tmp_path: Path) -> None:
    cases = load_suite(written(tmp_path, SUITE)).cases()
    assert [(one.network, one.seed) for one in cases] == [("none", 0), ("none", 1), ("lan", 0), ("lan", 1)]
    assert cases[0].limits == {"fallbacks": 3, "vm_min_pu": 0.9}
    assert cases[3].limits == {"fallbacks": 9, "vm_min_pu": 0.9}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("scenarios = []", "scenarios"),
        ('scenarios = ["nowhere"]', "nowhere"),
        ('scenarios = ["three_microgrids"]\nnetworks = ["dial_up"]', "networks: dial_up: no such network"),
        ('scenarios = ["three_microgrids"]\nseeds = [-1]', "seeds: expected numbers >= 0"),
        ('scenarios = ["three_microgrids"]\n[[budgets]]\nfallback = 1', "did you mean 'fallbacks'"),
        ('scenarios = ["three_microgrids"]\n[[budgets]]\nnetworks = ["lan"]', "'lan' is not among none"),
        (
            'scenarios = ["three_microgrids"]\n[[faults.a]]\nat_step = 0\ndevice = "MG1/ess"\nkind = "stuck"',
            "they need broker = 'embedded'",
        ),
        (
            'broker = "embedded"\nscenarios = ["three_microgrids"]\n'
            '[[faults.a]]\nat_step = 0\ndevice = "MG1/nothing"\nkind = "stuck"',
            "MG1/nothing",
        ),
    ],
)
def test_what_is_wrong_in_a_suite_is_named_before_anything_runs(
    text: str, complaint: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_suite(written(tmp_path, text))
    assert complaint in str(caught.value)


@pytest.mark.parametrize(
    ("limits", "changes", "why"),
    [
        ({"fallbacks": 2}, {"fallbacks": 2}, ()),
        ({"fallbacks": 2}, {"fallbacks": 3}, ("fallbacks is 3, at most 2 is allowed",)),
        ({"vm_min_pu": 0.96}, {}, ("vm_min_pu is 0.95, at least 0.96 is allowed",)),
        ({"reward": 0.0}, {}, ("reward is -1, at least 0 is allowed",)),
        ({"cost": 2.5}, {}, ("cost is 3, at most 2.5 is allowed",)),
        ({"cost": 9.0}, {"cost": {"MG1": None}}, ("cost is not known, allowed 9",)),
        (
            {"p99_ms": 1.0, "lost": 0},
            {"messages": {"lost": 4}},
            ("p99_ms is 5, at most 1 is allowed", "lost is 4, at most 0 is allowed"),
        ),
    ],
)  # fmt: skip
def test_a_run_is_compared_with_its_budget(
    limits: dict[str, float], changes: dict[str, Any], why: tuple[str, ...]
) -> None:
    found = judged(case(**limits), summary(**changes), 1.0)
    assert (found.verdict, found.why) == ("fail" if why else "pass", why)


@pytest.mark.parametrize("changes", [{"error": "the broker is gone"}, {"diverged": "step 3"}])
def test_a_run_that_did_not_come_to_its_end_is_no_pass(changes: dict[str, Any]) -> None:
    assert judged(case(), summary(**changes), 1.0).verdict == "error"


def test_the_reports_count_what_was_not_run_as_an_error_and_escape_what_they_show() -> None:
    nasty = SuiteCase("<s>", "none", "none", 0, {})
    outcome = SuiteOutcome("suite", datetime(2026, 1, 2, tzinfo=UTC))
    assert not outcome.passed
    outcome.cases = [judged(nasty, summary(), 1.0), CaseOutcome(nasty, "not run", ("<broken off>",))]
    assert not outcome.passed
    assert ET.fromstring(outcome.junit()).attrib["errors"] == "1"
    assert "<s>" not in suite_page(outcome)
    assert "&lt;broken off&gt;" in suite_page(outcome)

"""Safety and security pages: the tests that they name exist; the table has zeros where they must be."""

from __future__ import annotations

import re

from heron_mqtt.testing.faults import FAULT_TRIALS, HEADINGS, KINDS, SUM_HEADINGS, FaultResult, sums
from heron_mqtt.testing.faults.tally import LEASE_S, TOLERATED_S, FaultTally
from support.doc_pages import ROOT

PAGE = (ROOT / "docs" / "safety.md").read_text(encoding="utf-8")
SECURITY = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
FAULTS = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE + SECURITY)))


def rows() -> list[dict[str, str]]:
    """Return the rows of the table of trials."""
    lines = [line.strip("| ").split(" | ") for line in FAULTS.splitlines() if line.startswith("| ")]
    head, _, *body = [line for line in lines if len(line) == len(HEADINGS)]
    assert tuple(head) == HEADINGS
    return [dict(zip(HEADINGS, line, strict=True)) for line in body]


def test_every_test_that_proves_a_rule_exists() -> None:
    assert len(NAMED) > 100
    for file in {file for file, _ in NAMED}:
        text = (ROOT / file).read_text(encoding="utf-8")
        found = set(re.findall(r"^ *(?:async )?def (\w+)\(", text, flags=re.MULTILINE))
        missing = {test for named, test in NAMED if named == file} - found
        assert not missing, f"{file} has no {missing}"


def test_each_of_the_nine_rules_says_how_it_is_enforced_and_proven() -> None:
    rules = re.split(r"^### \d\. ", PAGE.partition("\n## Trials")[0], flags=re.MULTILINE)[1:]
    assert len(rules) == 9
    for rule in rules:
        for part in ("**Gateway**", "**Device**", "**A maker must**", "**Proven by**"):
            assert part in rule, f"{rule.splitlines()[0]}: no {part}"
        assert "::test_" in rule


def test_every_threat_is_backed_by_a_test() -> None:
    threats = [
        line
        for line in SECURITY.splitlines()
        if line.startswith("| ") and not line.startswith(("| tries", "| file"))
    ]
    assert len(threats) > 20
    assert [line for line in threats if "::test_" not in line] == []


def test_the_table_has_every_fault_on_every_broker() -> None:
    expected = {(f"`{trial.name}`", kind) for trial in FAULT_TRIALS for kind in trial.brokers}
    assert {(row["fault"], row["broker"]) for row in rows()} == expected
    assert {kind for trial in FAULT_TRIALS for kind in trial.brokers} == set(KINDS)
    promised = {f"`{trial.name}`": (trial.what, trial.promise) for trial in FAULT_TRIALS}
    for row in rows():
        assert (row["what is done"], row["promised"]) == promised[row["fault"]]


def test_the_table_has_zeros_where_they_must_be() -> None:
    for row in rows():
        assert row["verdict"] == "kept", row["fault"]
        assert int(row["tried"]) > 0, row["fault"]
        assert (row["undetected"], row["hung"]) == ("0", "0"), row["fault"]
        held_s = row["longest power after the last rightful setpoint, s"]
        assert held_s == "-" or float(held_s) <= LEASE_S + TOLERATED_S, row["fault"]


def test_the_safety_page_has_the_sums_of_that_table_and_25_kills_on_each_broker() -> None:
    trials = {f"`{trial.name}`": trial for trial in FAULT_TRIALS}
    results = []
    for row in rows():
        held_s = row[HEADINGS[6]]
        outside, past_lease, forbidden = (
            0 if row[name] == "-" else int(row[name]) for name in HEADINGS[9:12]
        )
        tally = FaultTally(
            tried=int(row["tried"]),
            held_s=0.0 if held_s == "-" else float(held_s),
            lost=int(row["lost"]),
            undetected=int(row["undetected"]),
            outside=outside,
            past_lease=past_lease,
            second_owner=forbidden,
            hung=int(row["hung"]),
        )
        results.append(FaultResult(trials[row["fault"]], row["broker"], tally))
    expected = sums(results).splitlines()
    trials_of = PAGE.partition("\n## Trials")[2].partition("\n## ")[0]
    told = [line for line in trials_of.splitlines() if line.startswith("| ")]
    assert told == expected
    killed = FAULT_TRIALS[0].group
    of_kills = [line.strip("| ").split(" | ") for line in told if line.startswith(f"| {killed} |")]
    tried = {cells[1]: int(cells[SUM_HEADINGS.index("tried")]) for cells in of_kills}
    assert tried["mosquitto"] >= 25
    assert tried["embedded"] >= 25

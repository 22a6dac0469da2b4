"""Safety and security pages: the tests that they name exist; the table has zeros where they must be."""

from __future__ import annotations

import ast
import re
import sys

import pytest

from support.doc_pages import ROOT

sys.path.insert(0, str(ROOT / "scripts"))
from safety_trials import FAULTS, LEASE_S, TOLERATED_S  # a script, no package

PAGE = (ROOT / "docs" / "safety.md").read_text(encoding="utf-8")
SECURITY = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE + SECURITY)))


def rows(heading: str) -> list[list[str]]:
    """Return the rows of the table of trials below a heading."""
    text = PAGE.partition(f"### {heading}\n")[2].partition("\n#")[0]
    table = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith("| fault")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table]


@pytest.mark.parametrize(("file", "test"), NAMED)
def test_a_test_that_proves_a_rule_exists(file: str, test: str) -> None:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    found = {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)}
    assert test in found, f"{file} has no {test}"


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


@pytest.mark.parametrize("heading", ["On mosquitto", "On the embedded broker"])
def test_the_table_has_25_kills_a_broker_and_zeros(heading: str) -> None:
    found = rows(heading)
    assert {row[0] for row in found} == set(FAULTS), "a kind of fault is missing, or is tried no more"
    assert sum(int(row[1]) for row in found if row[0].startswith("kill -9")) >= 25
    for fault, _, held_s, _, *counts in found:
        assert counts == ["0", "0 / 0 / 0 / 0", "0", "0"], fault
        assert held_s == "-" or float(held_s) <= LEASE_S + TOLERATED_S, fault

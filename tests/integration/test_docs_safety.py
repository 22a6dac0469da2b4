"""Safety and security pages: the tests that they name exist."""

from __future__ import annotations

import ast
import re

import pytest

from support.doc_pages import ROOT

PAGE = (ROOT / "docs" / "safety.md").read_text(encoding="utf-8")
SECURITY = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE + SECURITY)))


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

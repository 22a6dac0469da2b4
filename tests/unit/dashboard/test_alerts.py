"""The shipped alert rules are ones that Prometheus loads, and ask for what there is."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import Any

import promql_parser
import pytest
import yaml

from heron_mqtt.config import shipped_config
from support.metric_labels import labels_by_metric

FILE = shipped_config() / "prometheus" / "alerts.yml"
RULES: list[dict[str, Any]] = [
    rule for group in yaml.safe_load(FILE.read_text("utf-8"))["groups"] for rule in group["rules"]
]


@pytest.mark.parametrize("rule", RULES, ids=[rule["alert"] for rule in RULES])
def test_a_rule_is_promql_and_asks_for_metrics_and_labels_that_there_are(rule: dict[str, Any]) -> None:
    promql_parser.parse(rule["expr"])
    assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
    assert re.fullmatch(r"\d+[smh]", rule.get("for", "0s"))
    there = labels_by_metric()
    named = re.findall(r"\b(heron_\w+)(?:\{([^}]*)\})?", rule["expr"])
    assert named
    for name, selector in named:
        assert name in there, f"{name} is no metric"
        kept = re.findall(r"by \(([^)]*)\)", rule["expr"])
        labels = set(kept[0].split(", ")) if kept else there[name]
        asked = set(re.findall(r"(\w+)\s*=~?", selector)) | labels
        assert asked <= there[name], f"{name} has no label {asked - there[name]}"
        told = " ".join(rule["annotations"].values())
        assert set(re.findall(r"\$labels\.(\w+)", told)) <= labels, "a label that the expression drops"


def test_promtool_takes_them_where_it_is_installed() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        return  # what it would find is found above; it comes with Debian's prometheus
    done = subprocess.run(
        [promtool, "check", "rules", str(FILE)], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr

"""The shipped Grafana board asks for metrics and labels that there are, and is a board that Grafana loads."""

from __future__ import annotations

import json
import re
from typing import Any

import promql_parser
import pytest

from heron_mqtt.config import shipped_config
from support.metric_labels import labels_by_metric

BOARD = json.loads((shipped_config() / "grafana" / "heron-mqtt.json").read_text("utf-8"))
PANELS: list[dict[str, Any]] = BOARD["panels"]
EXPRESSIONS = [target["expr"] for panel in PANELS for target in panel["targets"]]
QUERIES = [one["query"]["query"] for one in BOARD["templating"]["list"] if one["type"] == "query"]


def test_every_expression_names_metrics_and_labels_that_there_are() -> None:
    there = labels_by_metric()
    for text in [*EXPRESSIONS, *QUERIES]:
        named = re.findall(r"\b(heron_\w+)(\{[^}]*\})?", text)
        assert named, text
        for name, selector in named:
            assert name in there, f"{name} is no metric"
            asked = set(re.findall(r"(\w+)\s*=~?", selector))
            asked |= {label for group in re.findall(r"by \(([^)]*)\)", text) for label in group.split(", ")}
            asked |= set(re.findall(r"label_values\([^,]+, (\w+)\)", text.replace(selector, "")))
            assert asked <= there[name], f"{name} has no label {asked - there[name]}"


def test_every_expression_is_promql() -> None:
    for text in EXPRESSIONS:
        timed = re.sub(r"\$__(?:rate_interval|interval|range)\b", "5m", text)
        try:
            promql_parser.parse(re.sub(r"\$\{?\w+\}?", "any", timed))
        except ValueError as exc:
            pytest.fail(f"{text}: {exc}")


def test_legends_name_labels_that_the_expression_keeps() -> None:
    there = labels_by_metric()
    for panel in PANELS:
        for target in panel["targets"]:
            kept = {label for by in re.findall(r"by \(([^)]*)\)", target["expr"]) for label in by.split(", ")}
            name = re.search(r"heron_\w+", target["expr"])
            assert name is not None
            labels = kept or ({"none"} if target["expr"].startswith("sum(") else there[name[0]])
            assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= labels, target


def test_every_metric_of_ours_is_on_the_board() -> None:
    shown = set(re.findall(r"heron_\w+", " ".join(EXPRESSIONS)))
    assert shown == set(labels_by_metric())


def test_it_is_a_board() -> None:
    ids = [panel["id"] for panel in PANELS]
    assert len(set(ids)) == len(ids)
    taken: set[tuple[int, int]] = set()
    for panel in PANELS:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not cells & taken, f"{panel['title']} lies over another panel"
        taken |= cells
        assert panel["type"] in {"stat", "timeseries"}
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        references = [target["refId"] for target in panel["targets"]]
        assert len(set(references)) == len(references)
    assert BOARD["uid"]
    assert BOARD["schemaVersion"] >= 36
    used = set(re.findall(r"\$(\w+)", " ".join([*EXPRESSIONS, *QUERIES])))
    assert used <= {one["name"] for one in BOARD["templating"]["list"]}

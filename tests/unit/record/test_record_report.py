"""The report: one file that needs nothing else, safe against what a record says, readable without scripts."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from heron_mqtt.record.reader import RecordFile
from heron_mqtt.record.report.figures import MAX_POINTS, Figure, Series, thinned, together
from heron_mqtt.record.report.page import report
from heron_mqtt.record.verify.finding import Finding
from support.recorded_runs import record_run, tampered

pytestmark = pytest.mark.usefixtures("built_once")

NASTY = "</script><script>alert(1)</script>"


class Page(HTMLParser):
    """Tags, attributes and texts of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "run.heron"
    record_run(path, steps=4, emulated=True)
    return path


def page_of(*paths: Path, findings: list[Finding] | None = None) -> str:
    records = [RecordFile(path) for path in paths]
    try:
        return report([(record, findings or [Finding("all is well", checked=1)]) for record in records])
    finally:
        for record in records:
            record.close()


def data_of(text: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found
    data = json.loads(found[1])
    assert isinstance(data, dict)
    return data


def test_nothing_is_loaded_from_anywhere(record: Path) -> None:
    page = Page(page_of(record))
    assert not [attributes for _, attributes in page.tags if {"src", "href"} & set(attributes)]
    assert not page.of("link")
    policy = [m["content"] for m in page.of("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    assert policy
    assert str(policy[0]).startswith("default-src 'none'")


def test_the_licence_of_the_library_is_in_the_page(record: Path) -> None:
    text = page_of(record)
    assert "The MIT License (MIT)" in text
    assert "Leon Sorokin" in text


def test_the_page_is_small(record: Path) -> None:
    assert 60_000 < len(page_of(record).encode()) < 300_000


def test_every_figure_is_a_table_as_well(record: Path) -> None:
    text = page_of(record)
    page = Page(text)
    assert len(page.of("figure")) == len(page.of("details")) == len(data_of(text)["figures"]) >= 10
    assert all("open" in attributes for attributes in page.of("details"))


def test_figures_show_what_was_recorded(record: Path) -> None:
    figures = {figure["title"]: figure for figure in data_of(page_of(record))["figures"]}
    with RecordFile(record) as run:
        prices = [row["price_per_mwh"] for row in run.query("SELECT price_per_mwh FROM steps ORDER BY id")]
        powers = run.query("SELECT p_mw FROM devices WHERE agent = 'MG1' AND device = 'gen' ORDER BY id")
    assert figures["Price"]["series"][0]["values"] == pytest.approx(prices)
    shown = {
        series["label"]: series["values"]
        for series in figures["Powers of MG1, positive = injected"]["series"]
    }
    assert shown["gen"] == pytest.approx([row["p_mw"] for row in powers], rel=1e-5)
    assert {"MG1/gen", "MG1/ess", "MG1/pv"} <= set(figures)


def test_a_stop_stands_in_every_figure(record: Path, tmp_path: Path) -> None:
    path = tampered(
        record, tmp_path / "t.heron",
        "INSERT INTO event_row (at_s, episode, step, kind, subject, what, hash) "
        "VALUES (1, 1, 2, 'stop', 'estop', 'emergency stop pressed', x'00')",
    )  # fmt: skip
    data = data_of(page_of(path))
    (mark,) = [mark for mark in data["marks"] if mark["colour"] == "stop"]
    assert mark["x"] == data["figures"][0]["x"][2]
    assert "emergency stop pressed" in mark["text"]


def test_the_verdict_is_shown_with_its_counterexample(record: Path) -> None:
    broken = Finding("energy balance")
    broken.check(False, "step 3: 1 MW came from nowhere")
    text = page_of(record, findings=[broken])
    assert "not verified" in text
    assert "1 MW came from nowhere" in text
    assert "verified: every invariant holds" in page_of(record)


@pytest.mark.parametrize(
    "statement",
    [
        f"UPDATE meta SET value = '{NASTY}' WHERE key = 'scenario'",
        f"UPDATE device_row SET device = '{NASTY}' WHERE device = 'gen'",
        f"UPDATE event_row SET what = '{NASTY}', subject = '{NASTY}'",
        f"UPDATE message_row SET type = '{NASTY}' WHERE id < 20",
        f"UPDATE agent_row SET agent = '{NASTY}' WHERE agent = 'MG2'",
        f"""UPDATE meta SET value = '["{NASTY}"]' WHERE key = 'agents'""",
    ],
)
def test_nothing_that_a_record_says_becomes_part_of_the_page(
    record: Path, tmp_path: Path, statement: str
) -> None:
    text = page_of(tampered(record, tmp_path / "t.heron", statement))
    assert "<script>alert" not in text
    assert len(Page(text).of("script")) == 3
    data_of(text)


def test_two_runs_stand_in_the_same_figures(record: Path, tmp_path: Path) -> None:
    other = tmp_path / "direct.heron"
    record_run(other, steps=4, centralized=True)
    text = page_of(other, record)
    figures = {figure["title"]: figure for figure in data_of(text)["figures"]}
    first, second = figures["Price"]["series"]
    assert (first["label"], second["label"]) == ("price A", "price B")
    assert second["dashed"]
    assert first["values"] == second["values"]
    assert "A against B" in text
    table = text.split("Difference, step by step")[1].split("</table>")[0]
    cells = re.findall(r"<td>([^<]*)</td>", table)
    assert cells[0:4] == ["power of a device, MW", "36", "0", "0"]


def test_where_two_runs_differ_is_said(record: Path, tmp_path: Path) -> None:
    other = tampered(
        record, tmp_path / "o.heron",
        "UPDATE device_row SET p_mw = p_mw + 0.25 WHERE step = 2 AND agent = 'MG2' AND device = 'ess'",
    )  # fmt: skip
    table = page_of(record, other).split("Difference, step by step")[1].split("</table>")[0]
    assert re.findall(r"<td>([^<]*)</td>", table)[0:5] == [
        "power of a device, MW", "36", "1", "0.25", "step 2 MG2/ess",
    ]  # fmt: skip


def test_a_long_run_is_thinned_and_keeps_its_peaks() -> None:
    values: list[float | None] = [0.0] * 50_000
    values[31_234] = 7.0
    figure = Figure("x", "MW", [float(i) for i in range(50_000)], [Series("p", values, 0)])
    short = thinned(figure)
    assert len(short.x) == len(short.series[0].values) <= MAX_POINTS
    assert 7.0 in short.series[0].values


def test_runs_of_different_length_share_one_axis() -> None:
    one = Figure("x", "MW", [0.0, 1.0], [Series("a", [1.0, 2.0], 0)])
    other = Figure("x", "MW", [1.0, 2.0], [Series("b", [3.0, 4.0], 0)])
    (joined,) = together([one], [other])
    assert joined.x == [0.0, 1.0, 2.0]
    assert [series.values for series in joined.series] == [[1.0, 2.0, None], [None, 3.0, 4.0]]


def test_a_run_without_a_single_step_has_a_report(tmp_path: Path) -> None:
    path = tmp_path / "empty.heron"
    record_run(path, steps=1)
    text = page_of(
        tampered(
            path,
            tmp_path / "e.heron",
            "DELETE FROM step_row",
            "DELETE FROM agent_row",
            "DELETE FROM device_row",
        )
    )
    assert data_of(text)["figures"] == []

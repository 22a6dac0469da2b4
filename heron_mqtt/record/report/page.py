"""The HTML of a report: everything in one file, safe against what a record may say."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from html import escape
from importlib import resources
from pathlib import Path

from heron_mqtt.record.reader import RecordFile
from heron_mqtt.record.report import tables
from heron_mqtt.record.report.figures import Figure, Mark, RunFigures, Series, as_json, thinned, together
from heron_mqtt.record.report.tables import ReportTable
from heron_mqtt.record.result_file import PAGE, write_result
from heron_mqtt.record.verify.finding import Finding

ROWS = 240  # of the table of a figure

Runs = Sequence[tuple[RecordFile, Sequence[Finding]]]


def report(runs: Runs) -> str:
    """Return the report of one run, or of two side by side.

    Args:
        runs: Records, each with what ``verify`` found.
    """
    names = ["", ""] if len(runs) == 1 else ["A", "B"]
    readers = [
        RunFigures(record, name, dashed=i > 0)
        for i, ((record, _), name) in enumerate(zip(runs, names, strict=False))
    ]
    figures = readers[0].all() if len(readers) == 1 else together(readers[0].all(), readers[1].all())
    figures = [thinned(figure) for figure in figures]
    marks = [mark for reader in readers for mark in reader.marks()]
    title = " and ".join(dict.fromkeys(record.meta.get("scenario", "run") for record, _ in runs))
    body = [
        f"<header><h1>{escape(title)}</h1>",
        *(_head(record, findings, name) for (record, findings), name in zip(runs, names, strict=False)),
        "</header><main>",
        *_comparison(runs),
        *_figures(figures, marks),
        *(_tables(record, findings, name) for (record, findings), name in zip(runs, names, strict=False)),
        "</main>",
    ]
    return _PAGE.format(
        title=escape(title),
        css=_asset("uPlot.min.css") + _asset("report.css"),
        licence=escape(_asset("uPlot-LICENSE.txt")).replace("--", "- -"),
        body="\n".join(body),
        data=as_json(figures, marks),
        uplot=_asset("uPlot.iife.min.js"),
        script=_asset("report.js"),
    )


def _head(record: RecordFile, findings: Sequence[Finding], name: str) -> str:
    failed = [finding for finding in findings if finding.failed]
    state, said = "ok", "verified: every invariant holds"
    if failed:
        state, said = "failed", f"not verified: {len(failed)} of {len(findings)} invariants are broken"
    label = f"<b>{name}</b> " if name else ""
    told = tables.run_facts(record)
    facts = "".join(f"<div><dt>{escape(key)}</dt><dd>{escape(value)}</dd></div>" for key, value in told)
    return f'<p>{label}<span class="badge {state}">{said}</span></p><dl class="facts">{facts}</dl>'


def _comparison(runs: Runs) -> list[str]:
    if len(runs) == 1:
        return []
    (first, _), (second, _) = runs
    parts = [_table(tables.difference(first, second)), _table(tables.step_difference(first, second))]
    return ["<section><h2>A against B</h2>", *parts, "</section>"]


def _figures(figures: Sequence[Figure], marks: Sequence[Mark]) -> list[str]:
    parts: list[str] = []
    group = None
    for i, figure in enumerate(figures):
        if figure.group != group:
            parts += ["</section>"] if group is not None else []
            key = _key(marks) if group is None else ""
            parts.append(f'<section><h2>{escape(figure.group)}</h2>{key}<div class="figures">')
            group = figure.group
        unit = f" <small>{escape(figure.unit)}</small>" if figure.unit else ""
        table = f"<details open><summary>as a table</summary>{_table(_of_figure(figure))}</details>"
        plot = f'<div class="plot" data-figure="{i}"></div>'
        caption = f"<figcaption>{escape(figure.title)}{unit}</figcaption>"
        parts.append(f"<figure>{caption}{plot}{table}</figure>")
        last = i + 1 == len(figures) or figures[i + 1].group != group
        parts += ["</div>"] if last else []
    return [*parts, "</section>"] if figures else []


def _key(marks: Sequence[Mark]) -> str:
    """Say what the vertical lines are."""
    kinds = dict.fromkeys(mark.colour for mark in marks)
    spans = "".join(f'<span class="{kind}"><i></i>{kind}</span>' for kind in kinds)
    return f'<p class="key note">{spans}</p>' if spans else ""


def _of_figure(figure: Figure) -> ReportTable:
    every = -(-len(figure.x) // ROWS)
    rows = [
        [_clock(x), *(_cell(series, i * every) for series in figure.series)]
        for i, x in enumerate(figure.x[::every])
    ]
    note = f"Every {every}th step." if every > 1 else ""
    return ReportTable("", ["time", *(series.label for series in figure.series)], rows, note)


def _cell(series: Series, i: int) -> str:
    return tables.number(series.values[i])


def _clock(x: float) -> str:
    return datetime.fromtimestamp(x, UTC).strftime("%m-%d %H:%M:%S" if x % 60 else "%m-%d %H:%M")


def _tables(record: RecordFile, findings: Sequence[Finding], name: str) -> str:
    parts = [
        _table(table)
        for table in (
            tables.verdict(findings),
            tables.agents(record),
            tables.devices(record),
            tables.messages(record),
            tables.events(record),
        )
        if table.rows or table.note
    ]
    heading = f"<h2>Run {name}: {escape(str(record.path.name))}</h2>" if name else "<h2>In numbers</h2>"
    return f"<section>{heading}{''.join(parts)}</section>"


def _table(table: ReportTable) -> str:
    head = "".join(f"<th>{escape(heading)}</th>" for heading in table.headings)
    marks = table.marks or [""] * len(table.rows)
    rows = "".join(
        f"<tr{_class(mark)}>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>"
        for row, mark in zip(table.rows, marks, strict=True)
    )
    title = f"<h3>{escape(table.title)}</h3>" if table.title else ""
    note = f'<p class="note">{escape(table.note)}</p>' if table.note else ""
    body = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>" if table.rows else ""
    return f'{title}<div class="scroll">{body}</div>{note}'


def _class(mark: str) -> str:
    return f' class="{escape(mark, quote=True)}"' if mark else ""


def _asset(name: str) -> str:
    return (resources.files("heron_mqtt.record.report") / "assets" / name).read_text(encoding="utf-8")


def write(path: Path, page: str) -> None:
    """Write a page.

    Raises:
        ConfigError: There is a file that is no earlier page.
        OSError: It cannot be written.
    """
    write_result(path, page, PAGE)


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:">
<title>{title}</title>
<style>{css}</style>
</head>
<body>
{body}
<footer>heron-mqtt. Figures are drawn by uPlot.</footer>
<script type="application/json" id="data">{data}</script>
<!-- uPlot 1.6.32, https://github.com/leeoniya/uPlot
{licence}
-->
<script>{uplot}</script>
<script>{script}</script>
</body>
</html>
"""

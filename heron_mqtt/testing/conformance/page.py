"""The results as one web page that can be printed and signed; it needs nothing from elsewhere."""

from __future__ import annotations

import re
from html import escape

from heron_mqtt.testing.conformance.promises import PROMISES, RULES
from heron_mqtt.testing.conformance.results import ConformanceResult, PromiseResult, PromiseVerdict

NOT_EXAMINED = frozenset({"not shown", "not applicable"})


def conformance_page(result: ConformanceResult) -> str:
    """Return the page: facts, a table by line of ``docs/safety.md``, each promise, fields to sign."""
    title = f"Conformance of {result.device}"
    facts = {**result.facts, "examined": result.begun.strftime("%Y-%m-%d %H:%M:%S UTC")}
    body = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="{_kind(result)}"><b>{verdict_of(result)}</b></p>',
        "<dl>",
        *(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts.items()),
        f"<dt>SHA-256 of the results</dt><dd><code>{result.digest}</code></dd>",
        "</dl>",
        *_table(result),
        *(_detail(one) for one in result.results),
        _SIGNATURE,
    ]
    page = _PAGE.format(title=escape(title), body="\n".join(body))
    return page.encode("utf-8", "backslashreplace").decode()  # a device may say half a surrogate pair


def verdict_of(result: ConformanceResult) -> str:
    """Return the outcome in one sentence; what was not shown is named."""
    not_shown = result.not_shown()
    names = f" ({', '.join(not_shown)})" if not_shown else ""
    counts = [
        f"{result.count('pass')} promises kept",
        f"{result.count('fail')} broken",
        f"{result.count('not tried')} not tried because of those",
        f"{len(not_shown)} not shown on this bench{names}",
        f"{result.count('not applicable')} not applicable",
    ]
    head = "CONFORMS" if result.conforms else "DOES NOT CONFORM"
    if result.conforms and not result.is_whole:
        head = f"KEPT AS FAR AS EXAMINED, {len(result.results)} of {len(PROMISES)} promises"
    if result.interrupted:
        head = "NOT EXAMINED TO THE END"
    return f"{head}: {', '.join(counts)}"


def _marked(verdict: PromiseVerdict) -> str:
    return f'<span class="{verdict.replace(" ", "-")}">{verdict}</span>'


def _kind(result: ConformanceResult) -> str:
    return "pass" if result.conforms else "fail"


def _table(result: ConformanceResult) -> list[str]:
    rows = ["<table><thead><tr><th>line of docs/safety.md</th><th>promise</th><th>verdict</th></tr></thead>"]
    for rule, heading in RULES.items():
        found = result.of_rule(rule)
        for i, one in enumerate(found):
            whole = f"<br>{_marked(result.verdict_of_rule(rule))}"
            first = f'<th rowspan="{len(found)}">{rule}. {escape(heading)}{whole}</th>' if i == 0 else ""
            link = f'<a href="#{one.promise.id}">{_promise(one)}</a>'
            why = f"<br><small>{escape(one.what)}</small>" if one.verdict in NOT_EXAMINED else ""
            rows.append(f"<tr>{first}<td>{link}{why}</td><td>{_marked(one.verdict)}</td></tr>")
    return [*rows, "</table>"]


def _detail(one: PromiseResult) -> str:
    if one.verdict in NOT_EXAMINED:
        return ""
    what = f"<p>{escape(one.what)}</p>" if one.what else ""
    lists = "".join(
        f"<h4>{name}</h4><pre>{escape(chr(10).join(lines))}</pre>"
        for name, lines in (("sent", one.sent), ("seen", one.seen))
        if lines
    )
    is_open = " open" if one.verdict == "fail" else ""
    return (
        f'<details id="{one.promise.id}"{is_open}><summary>{_marked(one.verdict)} '
        f"{one.promise.rule}. {_promise(one)} <small>{one.seconds:.1f} s</small></summary>"
        f"{what}{lists}</details>"
    )


_SIGNATURE = """<section class="sign"><h2>Signed</h2>
<p>The meter at the terminals has shown the sign and the size of the power that telemetry said: yes / no</p>
<p>After the end the device's own control had it again: yes / no</p>
<table><tr><th>name</th><th>place, date</th><th>signature</th></tr>
<tr><td></td><td></td><td></td></tr><tr><td></td><td></td><td></td></tr></table>
<p>Remarks:</p></section>"""

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title><style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem }}
dl {{ display: grid; grid-template-columns: max-content 1fr; gap: 0 1rem }} dd {{ margin: 0 }}
table {{ border-collapse: collapse; width: 100% }} th, td {{ border: 1px solid #999; padding: .3rem .5rem;
 text-align: left; vertical-align: top }} pre {{ overflow-x: auto; font-size: 12px; white-space: pre-wrap }}
code {{ overflow-wrap: anywhere }} details {{ margin: .3rem 0 }} h4 {{ margin: .3rem 0 }}
.pass {{ color: #06622e }} .fail {{ color: #a40019; font-weight: bold }}
.not-tried, .not-shown {{ color: #8a4b00 }} .not-applicable {{ color: #555 }}
.sign td {{ height: 2.5rem }} .sign {{ break-inside: avoid; margin-top: 2rem }}
@media print {{ body {{ margin: 0; max-width: none }} a {{ color: inherit; text-decoration: none }} }}
</style></head><body>
{body}
</body></html>
"""


def _promise(one: PromiseResult) -> str:
    """Return what is promised, names of the wire as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(one.promise.text))

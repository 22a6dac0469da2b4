"""The runs of a suite as one web page; it needs nothing from elsewhere."""

from __future__ import annotations

from html import escape

from heron_mqtt.testing.suite.outcome import SHOWN, CaseOutcome, SuiteOutcome


def suite_page(outcome: SuiteOutcome) -> str:
    """Return the page: the outcome, a row for each run with its figures, and why it failed."""
    head = "".join(
        f"<th>{escape(name)}</th>" for name in ("", "scenario", "network", "faults", "seed", *SHOWN)
    )
    rows = "".join(_row(one) for one in outcome.cases)
    body = (
        f'<h1>{escape(outcome.name)}</h1><p class="{"pass" if outcome.passed else "fail"}">'
        f"{escape(outcome.told)}</p><p>{outcome.begun:%Y-%m-%d %H:%M:%S} UTC</p>"
        f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    )
    page = _PAGE.format(title=escape(outcome.name), body=body)
    return page.encode("utf-8", "backslashreplace").decode()


def _row(one: CaseOutcome) -> str:
    case = one.case
    cells = [case.scenario, case.network, case.faults, str(case.seed)]
    texts = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
    numbers = "".join(_number(one, name) for name in SHOWN)
    css = one.verdict.replace(" ", "-")
    why = f'<tr class="why"><td></td><td colspan="{4 + len(SHOWN)}">{escape("; ".join(one.why))}</td></tr>'
    return f'<tr><td class="{css}">{one.verdict}</td>{texts}{numbers}</tr>{why if one.why else ""}'


def _number(one: CaseOutcome, name: str) -> str:
    value = one.figures.get(name)
    limit = one.case.limits.get(name)
    told = "" if limit is None else f' <small title="limit">({limit:g})</small>'
    return f"<td>{'-' if value is None else f'{value:.5g}'}{told}</td>"


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title><style>
body {{ font: 14px/1.5 system-ui, sans-serif; margin: 2rem }}
table {{ border-collapse: collapse }}
th, td {{ border: 1px solid #bbb; padding: .2rem .5rem; text-align: left }}
.pass {{ color: #06622e }} .fail, .error {{ color: #a40019; font-weight: bold }} .not-run {{ color: #8a4b00 }}
.why td {{ color: #a40019; border-top: 0 }} small {{ color: #666 }}
</style></head><body>
{body}
</body></html>
"""

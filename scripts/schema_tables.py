"""From a JSON schema to rows of a Markdown table; what the reference pages have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Schema = Mapping[str, Any]

WORDS = {
    "number": "number",
    "integer": "integer",
    "string": "text",
    "boolean": "true or false",
    "object": "table",
}


def row(*cells: str) -> str:
    """Return one row of a table."""
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def type_text(spec: Schema) -> str:
    """Say what a value may be: its type with its bounds, or the values themselves."""
    if "$ref" in spec:
        return "table"
    if "const" in spec:
        return f'`"{spec["const"]}"`'
    if "enum" in spec:
        return " or ".join(f'`"{value}"`' for value in spec["enum"])
    if "anyOf" in spec:
        return " or ".join(type_text(part) for part in spec["anyOf"] if part.get("type") != "null")
    if spec["type"] == "array":
        if "prefixItems" in spec:
            return f"[{', '.join(type_text(item) for item in spec['prefixItems'])}]"
        return f"list of {type_text(spec['items'])}"
    if spec.get("format") == "date-time":
        return "time, RFC 3339"
    return " ".join([WORDS[spec["type"]], *_bounds(spec)])


def value_text(value: object) -> str:
    """Return a default as it is written in TOML; nothing for None."""
    match value:
        case None:
            return ""
        case bool():
            return f"`{str(value).lower()}`"
        case str():
            return f'`"{value}"`'
        case float() | int():
            return f"`{_number(value)}`"
        case _:
            return f"`{value}`"


def plain(text: str) -> str:
    """Return a docstring's text in one line of Markdown; Python's None is a key left out."""
    text = " ".join(text.replace("``", "`").replace("None =", "left out:").split())
    return text[:1].upper() + text[1:]


def between(page: str, begin: str, end: str, text: str) -> str:
    """Return a page with ``text`` between two marks.

    Raises:
        SystemExit: A mark is missing.
    """
    head, _, rest = page.partition(begin)
    _, found, tail = rest.partition(end)
    if not found:
        raise SystemExit(f"the marks {begin!r} and {end!r} are missing in the page")
    return f"{head}{begin}\n\n{text}\n\n{end}{tail}"


def _bounds(spec: Schema) -> list[str]:
    low = spec.get("minimum", spec.get("exclusiveMinimum"))
    high = spec.get("maximum", spec.get("exclusiveMaximum"))
    parts = []
    if low is not None:
        parts.append(f"{'>=' if 'minimum' in spec else '>'} {_number(low)}")
    if high is not None:
        parts.append(f"{'<=' if 'maximum' in spec else '<'} {_number(high)}")
    if "maxLength" in spec:
        parts.append(f"of at most {spec['maxLength']} characters")
    return [", ".join(parts)] if parts else []


def _number(value: float) -> str:
    return f"{int(value)}" if value == int(value) else f"{value:g}"

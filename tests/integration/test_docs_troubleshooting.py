"""The texts of the troubleshooting page are those of the source: one that was reworded is noticed."""

from __future__ import annotations

import ast
import re

from support.doc_pages import ROOT

PAGE = ROOT / "docs" / "troubleshooting.md"
HOLE = "\0"
_FORMATS = re.compile(r"%(?:\.\d+)?[sdrgf]|\{[^{}]*\}")


def texts() -> list[str]:
    """Return every code span in the first column of the page's tables, but for those of commands."""
    found = []
    section = ""
    for line in PAGE.read_text("utf-8").splitlines():
        if line.startswith("## "):
            section = line[3:]
        elif line.startswith("| `") and section != "Without a text":
            found += re.findall(r"`([^`]+)`", line.split(" | ")[0])
    return found


def _longest(text: str) -> list[str]:
    return [max(re.split(r"<[^<>]+>", text), key=len)]


def templates() -> tuple[str, ...]:
    """Return the texts of the source, with a hole where a value is put in; of files that may have one."""
    found = []
    pieces = [run[i : i + 12] for text in texts() for run in _longest(text) for i in range(0, len(run), 12)]
    may_have_one = re.compile("|".join(re.escape(piece) for piece in pieces if len(piece) == 12))
    for package in ("heron_mqtt", "powergrid"):
        for file in (ROOT / package).rglob("*.py"):
            source = file.read_text("utf-8")
            if not may_have_one.search(source):
                continue
            for node in ast.walk(ast.parse(source)):
                if isinstance(node, ast.JoinedStr):
                    parts = [str(v.value) if isinstance(v, ast.Constant) else HOLE for v in node.values]
                    found.append("".join(parts))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append(_FORMATS.sub(HOLE, node.value))
    return tuple({re.sub(f"'?{HOLE}'?", HOLE, text) for text in found})


def test_every_text_of_the_page_is_in_the_source() -> None:
    source = templates()
    for text in texts():
        wanted = re.sub(r"'?<[^<>]+>'?", HOLE, text).strip(HOLE)
        assert any(wanted in template for template in source), text


def test_the_page_has_many_symptoms() -> None:
    assert len(texts()) >= 40

"""The texts of the troubleshooting page are those of the source, or are seen: a new wording is noticed."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

from support.doc_pages import ROOT
from support.symptoms import texts

HOLE = "\0"
_FORMATS = re.compile(r"%(?:\.\d+)?[sdrgf]|\{[^{}]*\}")


@functools.cache
def sources() -> dict[Path, str]:
    files = (file for package in ("heron_mqtt", "powergrid") for file in (ROOT / package).rglob("*.py"))
    return {file: file.read_text("utf-8") for file in files}


@functools.cache
def templates(file: Path) -> frozenset[str]:
    """Return the texts of a source, with a hole where a value is put in."""
    found = []
    for node in ast.walk(ast.parse(sources()[file])):
        if isinstance(node, ast.JoinedStr):
            parts = [str(v.value) if isinstance(v, ast.Constant) else HOLE for v in node.values]
            found.append("".join(parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append(_FORMATS.sub(HOLE, node.value))
    return frozenset(re.sub(f"'?{HOLE}'?", HOLE, text) for text in found)


def caused() -> set[str]:
    """Return the texts that test_troubleshooting causes: some are put together at run time."""
    tree = ast.parse(Path(__file__).with_name("test_troubleshooting.py").read_text("utf-8"))
    return {
        node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and type(node.value) is str
    }


def likeliest(text: str) -> Iterator[Path]:
    """Yield all sources, those with most of a text first: to parse all takes 2 s; a line may break in it."""
    longest = max(re.split(r"<[^<>]+>", text), key=len)
    yield from (file for file, source in sources().items() if longest in source)
    pieces = [longest[i : i + 12] for i in range(0, len(longest), 12)]
    yield from sorted(sources(), key=lambda file: -sum(piece in sources()[file] for piece in pieces))


def test_every_text_of_the_page_is_in_the_source_or_caused_by_a_test() -> None:
    for text in set(texts()) - caused():
        wanted = re.sub(r"'?<[^<>]+>'?", HOLE, text).strip(HOLE)
        assert any(wanted in template for file in likeliest(text) for template in templates(file)), text


def test_the_page_has_many_symptoms_and_half_of_them_are_caused() -> None:
    assert len(texts()) >= 90
    assert len(set(texts()) & caused()) >= 50
